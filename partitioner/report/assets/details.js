// What is selected: its costs, and why it is where it is.

const link = (i) => h("button", { type: "button", class: "link", onclick: () => reveal(leaves[i]) }, nodes.name[i]);
const table = (rows) => h("table", {}, h("tbody", {}, ...rows.filter((row) => row[1]).map(([head, cell]) => h("tr", {}, h("th", { scope: "row" }, head), h("td", {}, cell)))));

function links(title, found) {
  if (!found.length) return null;
  const list = h("ul", {}, ...found.slice(0, 12).map((i) => h("li", {}, link(i), ` on ${nodes.device[i] < 0 ? "none" : devices[nodes.device[i]].name}`)));
  if (found.length > 12) list.append(h("li", {}, `and ${found.length - 12} more`));
  return h("div", {}, h("h3", {}, title), list);
}

function drawDetails() {
  const item = selected;
  if (item.children) { drawModule(item); return; }
  const i = item.index, device = nodes.device[i];
  $("details").replaceChildren(
    h("h3", {}, nodes.name[i]),
    table([
      ["device", device < 0 ? "none: it is the model's output" : devices[device].name],
      ["operator", nodes.operator[i]], ["role", nodes.role[i]], ["module", nodes.module[i] || "the model itself"],
      ["value", nodes.value[i]],
      ["forward", nodes.forward[i] ? seconds(nodes.forward[i]) : ""], ["backward", nodes.backward[i] ? seconds(nodes.backward[i]) : ""],
      ["weights", nodes.stateBytes[i] ? bytes(nodes.stateBytes[i]) : ""], ["value's bytes", nodes.bytes[i] ? bytes(nodes.bytes[i]) : ""],
      ["gradient's bytes", nodes.gradientBytes[i] ? bytes(nodes.gradientBytes[i]) : ""], ["FLOPs", nodes.flops[i] ? flops(nodes.flops[i]) : ""],
      ["depth", String(nodes.depth[i])],
      ["source line", nodes.line[i] || "not known: the plan does not tell"],
    ]),
    device < 0 ? null : h("h3", {}, "Why it is there"),
    device < 0 ? null : h("ul", { id: "why-there" }, ...why(i).map((text) => h("li", {}, text))),
    links("It reads", sources[i]), links("It is read by", readers[i]));
}

function drawModule(item) {
  const own = sums(item);
  const rows = [...own.byDevice].sort((a, b) => a[0] - b[0]).map(([device, part]) => [devices[device].name, `${plural(part.nodes, "operation")}, ${seconds(part.seconds)}, weights ${bytes(part.stateBytes)}`]);
  $("details").replaceChildren(
    h("h3", {}, item.path || item.label), table([["operations", String(item.nodes.length)], ["time", seconds(own.seconds)], ["weights", bytes(own.stateBytes)], ...rows]),
    h("p", {}, own.byDevice.size > 1 ? "It is split: its parts lie on several devices." : "It is whole: all of it lies on one device."),
    h("button", { type: "button", onclick: () => { toggle(item); drawDetails(); } }, open.has(item.id) ? "Fold it" : "Unfold it"));
}

function secondsOn(i, device) {
  const told = nodes.elsewhere[i];
  return Array.isArray(told) ? told[device] : told;
}

function crossingBytes(i, home) { // what moves in a step to and from one node, were it on `home`
  const of = (j) => (j === i ? home : nodes.device[j]);
  let total = 0;
  for (const value of [i, ...sources[i]]) {
    const away = new Set(readers[value].map(of).filter((device) => device >= 0 && device !== of(value)));
    total += away.size * (nodes.bytes[value] + nodes.gradientBytes[value]);
  }
  return total;
}

function why(i) {
  const device = nodes.device[i], found = [];
  for (const text of plan.pinned[nodes.name[i]] || []) found.push(`You demanded: ${text}.`);
  for (const group of plan.shared) {
    if (!group.includes(i)) continue;
    const others = group.filter((j) => j !== i).slice(0, 3).map((j) => nodes.name[j]);
    found.push(`It must share a device with ${others.join(", ")}${group.length > 4 ? ` and ${group.length - 4} more` : ""}: they use the same weights or state.`);
  }
  const here = (list) => list.filter((j) => nodes.device[j] === device).length;
  const near = [];
  if (sources[i].length) near.push(`${here(sources[i])} of ${plural(sources[i].length, "value")} that it reads`);
  const reading = readers[i].filter((j) => nodes.device[j] >= 0);
  if (reading.length) near.push(`${here(reading)} of ${plural(reading.length, "reader")} of its own`);
  if (near.length) found.push(`On ${devices[device].name} as well: ${near.join(", ")}.`);
  const others = devices.map((_, d) => d).filter((d) => d !== device);
  for (const other of others.slice(0, 4)) {
    const [now, then] = [secondsOn(i, device), secondsOn(i, other)];
    if (then === null) { found.push(`${devices[other].name} cannot run it.`); continue; }
    const [before, after] = [crossingBytes(i, device), crossingBytes(i, other)];
    const time = now === then ? `takes the same ${seconds(now)}` : `takes ${seconds(then)} instead of ${seconds(now)}`;
    const moves = before === after ? `as much would cross (${bytes(before)})` : `${bytes(after)} would cross in a step instead of ${bytes(before)}`;
    const spare = devices[other].limit === null ? null : devices[other].limit - devices[other].peak;
    const room = spare === null ? "" : nodes.stateBytes[i] > spare ? `; its weights of ${bytes(nodes.stateBytes[i])} do not fit the ${bytes(spare)} that are left` : `; ${bytes(spare)} are left there`;
    found.push(`Alone on ${devices[other].name} it ${time}, and ${moves}${room}.`);
  }
  found.push(`These figures move this node alone; the solver weighed all of them together${plan.proved ? ", and proved that no placement is better" : ""}.`);
  return found;
}
