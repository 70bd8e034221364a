// The step: who works and sends when, and how full each device is.

const charts = [];
const axis = () => ({ stroke: () => css("--soft"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { stroke: () => css("--line") }, font: "12px system-ui, sans-serif" });
const timeAxis = () => ({ ...axis(), values: (_, splits) => splits.map((value) => (value === 0 ? "0" : seconds(value))), space: 70 });
const END = plan.work.reduce((end, item) => Math.max(end, item[4]), plan.stepSeconds) || 1e-9, PAST = plan.training ? 1.02 : 1;
const sync = uPlot.sync("step");
let zooming = false;

function zoomTo(min, max) {
  const span = Math.min(Math.max(max - min, END / 1e4), END * PAST);
  min = Math.max(0, Math.min(min, END * PAST - span));
  zooming = true;
  charts.forEach((chart) => chart.setScale("x", { min, max: min + span }));
  zooming = false;
}

function follow(chart, key) {
  if (key !== "x" || zooming || charts.length < 2) return;
  zoomTo(chart.scales.x.min, chart.scales.x.max);
}

const nameOf = (what) => (typeof what === "number" ? nodes.name[what] : what);
const rows = [];

function makeRows() {
  const lanes = new Map();
  for (const [source, destination, what, phase, size, start, end, batch] of plan.sendings) {
    let track = 0;
    while ((lanes.get(`${source} ${destination} ${track}`) || { last: 0 }).last > start) track += 1;
    const key = `${source} ${destination} ${track}`;
    if (!lanes.has(key)) lanes.set(key, { source, destination, track, last: 0, spans: [] });
    const lane = lanes.get(key), device = devices.find((d) => d.name === destination);
    lane.last = end;
    const told = `${nameOf(what)}${batch === null ? "" : `, micro-batch ${batch}`}, ${phase}: ${bytes(size)} from ${source} to ${destination} in ${seconds(end - start)}`;
    lane.spans.push({ start, end, what, fill: device ? device.line : "#777777", label: "", told });
  }
  const hosts = [...lanes.values()].map((lane) => lane.source).filter((name) => !devices.some((d) => d.name === name));
  let top = 0;
  for (const name of [...devices.map((d) => d.name), ...new Set(hosts)]) {
    const at = devices.findIndex((d) => d.name === name);
    const spans = plan.work.filter((item) => item[0] === at).map(([device, what, phase, start, end, batch]) => ({
      start, end, what, fill: phase === "forward" ? devices[device].full : devices[device].fill,
      label: batch === null ? nameOf(what) : String(batch),
      told: `${nameOf(what)}${batch === null ? "" : `, micro-batch ${batch}`}, ${phase}: ${seconds(end - start)} on ${name}` }));
    rows.push({ name, top, height: 1, spans });
    top += 1.1;
    const own = [...lanes.values()].filter((lane) => lane.source === name);
    const order = own.map((lane) => lane.destination);
    own.sort((a, b) => order.indexOf(a.destination) - order.indexOf(b.destination) || a.track - b.track);
    for (const lane of own) {
      rows.push({ name: lane.track ? "" : `→ ${lane.destination}`, top, height: 0.5, spans: lane.spans });
      top += 0.55;
    }
    top += 0.35;
  }
  return top;
}

const total = makeRows();
const spansHeight = Math.min(900, total * 26 + 50);
const names = rows.filter((row) => row.name);
const gutter = Math.min($("spans").clientWidth / 3, Math.max(80, 16 + 7.5 * Math.max(...names.map((row) => row.name.length))));

function drawSpans(chart) {
  const { ctx } = chart, ratio = devicePixelRatio || 1, { left, top, width, height } = chart.bbox;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  ctx.textAlign = "center";
  for (const row of rows) {
    const y = chart.valToPos(total - row.top, "y", true), tall = chart.valToPos(total - row.top - row.height, "y", true) - y;
    let drawn = -1;
    for (const span of row.spans) {
      if (span.end < chart.scales.x.min || span.start > chart.scales.x.max) continue;
      const x = chart.valToPos(span.start, "x", true), wide = Math.max(ratio, chart.valToPos(span.end, "x", true) - x);
      if (x + wide <= drawn) continue;
      ctx.fillStyle = span.fill;
      ctx.fillRect(x, y, wide > 4 * ratio ? wide - ratio : wide, tall);
      drawn = x + wide;
      if (span.label && wide > 16 * ratio && ctx.measureText(span.label).width < wide - 6 * ratio) {
        ctx.fillStyle = INK;
        ctx.fillText(span.label, x + wide / 2, y + tall / 2);
      }
    }
  }
  ctx.restore();
}

function spanAt(chart) {
  const { left, top } = chart.cursor;
  if (left < 0 || top < 0) return null;
  const time = chart.posToVal(left, "x"), at = total - chart.posToVal(top, "y");
  const row = rows.find((r) => at >= r.top && at <= r.top + r.height);
  const slack = chart.posToVal(left + 2, "x") - time;
  return (row && row.spans.find((span) => span.start - slack <= time && time <= span.end + slack)) || null;
}

function makeTimeline() {
  const width = $("spans").clientWidth;
  const chart = new uPlot({
    width, height: spansHeight, legend: { show: false },
    cursor: { sync: { key: sync.key, setSeries: false }, y: false, points: { show: false }, drag: { x: true, y: false } },
    scales: { x: { time: false, range: (_, min, max) => [min, max] }, y: { range: [0, total] } },
    series: [{}, { show: true, stroke: "transparent", points: { show: false } }],
    axes: [timeAxis(), { ...axis(), size: gutter, grid: { show: false }, ticks: { show: false },
      splits: () => names.map((row) => total - row.top - row.height / 2).reverse(),
      values: () => names.map((row) => row.name).reverse() }],
    hooks: { draw: [drawSpans], setScale: [follow], setCursor: [(u) => { const span = spanAt(u); $("span").textContent = span ? span.told : ""; }] },
  }, [[0, END * PAST], [null, null]], $("spans"));
  chart.over.addEventListener("click", () => {
    const span = spanAt(chart);
    if (span && typeof span.what === "number") reveal(leaves[span.what]);
  });
  charts.push(chart);
}

function makeMemory(element) {
  const device = devices.find((d) => d.name === element.dataset.curve), curve = plan.curves[device.name];
  const times = [...curve.seconds, Math.max(END * PAST, curve.seconds[curve.seconds.length - 1])];
  let sum = times.map(() => 0);
  const piles = [], series = [];
  for (const [role, colour] of Object.entries(plan.roles)) {
    const values = [...curve[role], curve[role][curve[role].length - 1]];
    sum = sum.map((under, k) => under + values[k]);
    piles.unshift(sum);
    series.unshift({ label: role, stroke: colour, fill: colour, width: 0, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } });
  }
  const top = Math.max(device.peak, ...piles[0]), near = device.limit !== null && device.limit <= 3 * top;
  if (near) {
    piles.push(times.map(() => device.limit));
    series.push({ label: "limit", stroke: () => css("--limit"), width: 2, dash: [8, 5], points: { show: false } });
  }
  const highest = 1.06 * Math.max(top, near ? device.limit : 0) || 1;
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", `Memory of ${device.name} in a step: promised peak ${bytes(device.peak)}${device.limit === null ? "" : ` of ${bytes(device.limit)}`}`);
  element.before(h("p", {}, `Promised peak ${bytes(device.peak)}${device.limit === null ? ", no limit" : `, limit ${bytes(device.limit)}${near ? " (dashed)" : ", far above"}`}.`));
  const step = 2 ** Math.ceil(Math.log2(highest / 5));
  charts.push(new uPlot({
    width: element.clientWidth, height: 190, legend: { show: false },
    cursor: { sync: { key: sync.key, setSeries: false }, drag: { x: true, y: false }, points: { show: false } },
    scales: { x: { time: false, range: (_, min, max) => [min, max] }, y: { range: [0, highest] } },
    series: [{}, ...series],
    axes: [timeAxis(), { ...axis(), size: gutter, splits: () => Array.from({ length: Math.floor(highest / step) + 1 }, (_, k) => k * step), values: (_, splits) => splits.map((n) => (n ? bytes(n) : "0")) }],
    hooks: { setScale: [follow] },
  }, [times, ...piles], element));
}

makeTimeline();
const roles = h("div", { class: "legend" }, ...Object.entries(plan.roles).map(([role, colour]) => h("span", {}, swatch(colour), role)));
const elementsOfMemory = [...document.querySelectorAll("[data-curve]")];
if (elementsOfMemory.length) elementsOfMemory[0].closest(".device-memory").before(roles);
elementsOfMemory.forEach(makeMemory);
zoomTo(0, END * PAST);

const moveTime = (by, factor) => {
  const { min, max } = charts[0].scales.x, middle = (min + max) / 2 + by * (max - min), half = ((max - min) * factor) / 2;
  zoomTo(middle - half, middle + half);
};
$("earlier").addEventListener("click", () => moveTime(-0.3, 1));
$("later").addEventListener("click", () => moveTime(0.3, 1));
$("time-closer").addEventListener("click", () => moveTime(0, 0.5));
$("time-farther").addEventListener("click", () => moveTime(0, 2));
$("whole").addEventListener("click", () => zoomTo(0, END * PAST));
charts.forEach((chart) => chart.over.addEventListener("dblclick", () => zoomTo(0, END * PAST)));

new ResizeObserver(() => {
  charts.forEach((chart) => {
    const width = chart.root.parentElement.clientWidth;
    if (width && width !== chart.width) chart.setSize({ width, height: chart.height });
  });
  ask();
}).observe(document.querySelector("main"));
addEventListener("beforeprint", () => { fitAll(); drawScene(); });
dark.addEventListener("change", () => { theme.clear(); ask(); charts.forEach((chart) => chart.redraw()); });
