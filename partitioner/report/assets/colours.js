// Colours of boxes, by device or along a ramp, and their legend.

const measure = { time: (item) => sums(item).seconds, memory: (item) => sums(item).stateBytes + sums(item).bytes, depth: (item) => sums(item).depth };

function rampColour(share) {
  const at = Math.min(RAMP.length - 1.001, Math.max(0, share) * (RAMP.length - 1)), low = Math.floor(at);
  const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  const mixed = [0, 1, 2].map((k) => Math.round(part(RAMP[low], k) * (1 - at + low) + part(RAMP[low + 1], k) * (at - low)));
  const light = 0.2126 * mixed[0] + 0.7152 * mixed[1] + 0.0722 * mixed[2] > 120;
  return { fill: `rgb(${mixed.join()})`, ink: light ? INK : "#ffffff" };
}

function colours(item) {
  if (colouring !== "device") {
    const value = measure[colouring](item);
    const { fill, ink } = rampColour(scale.most ? value / scale.most : 0);
    return { fills: [[fill, 1]], ink, line: "#777777" };
  }
  const parts = [...sums(item).byDevice].sort((a, b) => a[0] - b[0]);
  if (!parts.length) return { fills: [[NEUTRAL, 1]], line: "#555555", ink: INK };
  const total = parts.reduce((sum, [, part]) => sum + part.nodes, 0), first = devices[parts[0][0]];
  return {
    fills: parts.map(([device, part]) => [devices[device].fill, part.nodes / total, devices[device].full]), ink: INK,
    line: parts.length > 1 ? "#555555" : first.line, again: parts.length > 1 ? 0 : first.again,
  };
}

function paint() {
  if (colouring !== "device") scale = { most: Math.max(...scene.boxes.map((box) => measure[colouring](box.item))) };
  for (const box of scene.boxes) box.shade = colours(box.item);
  drawLegend();
}

function drawLegend() {
  const legend = $("legend");
  if (colouring === "device") {
    legend.replaceChildren(
      ...devices.map((device) => h("span", {}, swatch(device.fill), `${device.name}: ${bytes(device.peak)}${device.limit ? ` of ${bytes(device.limit)}` : ""}`)),
      h("span", {}, h("span", { class: "swatch", style: { borderTop: "3px dashed currentColor", borderWidth: "3px 0 0 0", height: "0", width: "2em" } }), "moves to another device"));
    return;
  }
  const format = { time: seconds, memory: bytes, depth: String }[colouring];
  const what = { time: "seconds of a box, forward and backward", memory: "weights and value of a box", depth: "steps from the inputs, the longest way" }[colouring];
  const ramp = h("span", { class: "ramp", style: { background: `linear-gradient(to right, ${RAMP.join()})` } });
  legend.replaceChildren(h("span", {}, "0", ramp, format(scale.most)), h("span", {}, what));
}

function shown(item) { // the box in which it stands now
  for (const at of ancestors(item)) if (!at.children || !open.has(at.id)) return at;
  return item;
}
