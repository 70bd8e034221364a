// Moving over the graph and pointing at it.

function drawGraph(fit) {
  scene = compose();
  canvas.dataset.boxes = scene.boxes.length;
  paint();
  if (fit) fitGraph();
  ask();
  drawOutline();
}

function fitAll() {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  view.zoom = Math.min(1.2, (width - 24) / scene.width, (height - 24) / scene.height);
  view.x = (width - scene.width * view.zoom) / 2;
  view.y = (height - scene.height * view.zoom) / 2;
  ask();
}

function fitGraph() { // all of it, or where that is too small to read, its begin
  fitAll();
  if (view.zoom >= READABLE) return;
  const first = scene.boxes.reduce((best, box) => (box.y < best.y ? box : best));
  view.zoom = READABLE;
  center(first.item);
  view.y = 12;
}

function center(item) {
  const box = scene.byId.get(shown(item).id) || scene.byId.get(item.id);
  if (!box) return;
  view.x = canvas.clientWidth / 2 - (box.x + box.width / 2) * view.zoom;
  view.y = canvas.clientHeight / 2 - (box.y + Math.min(box.height / 2, canvas.clientHeight / 3 / view.zoom)) * view.zoom;
  ask();
}

function zoomBy(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const zoom = Math.min(4, Math.max(0.005, view.zoom * factor));
  view.x = x - ((x - view.x) * zoom) / view.zoom;
  view.y = y - ((y - view.y) * zoom) / view.zoom;
  view.zoom = zoom;
  ask();
}

function itemAt(x, y) {
  const [at, down] = [(x - view.x) / view.zoom, (y - view.y) / view.zoom];
  const hit = (box) => at >= box.x && at <= box.x + box.width && down >= box.y && down <= box.y + box.height;
  const found = scene.boxes.find(hit) || [...scene.frames].reverse().find(hit);
  return found ? found.item : null;
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

const pointers = new Map();
let travelled = 0;

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, place(event));
  if (pointers.size === 1) travelled = 0;
});
canvas.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = place(event), other = [...pointers].find(([id]) => id !== event.pointerId);
  if (other) {
    const [, fixed] = other, length = (p) => Math.hypot(p.x - fixed.x, p.y - fixed.y) || 1;
    zoomBy(length(now) / length(before), (now.x + fixed.x) / 2, (now.y + fixed.y) / 2);
    travelled = 99;
  } else {
    view.x += now.x - before.x;
    view.y += now.y - before.y;
    travelled += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
    ask();
  }
  pointers.set(event.pointerId, now);
});
for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => pointers.delete(event.pointerId));
canvas.addEventListener("click", (event) => {
  const { x, y } = place(event), item = itemAt(x, y);
  if (item && travelled < 6) select(item);
});
canvas.addEventListener("dblclick", (event) => {
  const { x, y } = place(event), item = itemAt(x, y);
  if (item) toggle(item);
});
canvas.addEventListener("wheel", (event) => { // once it is clicked on; before, the page scrolls
  if (document.activeElement !== canvas && !event.ctrlKey) return;
  event.preventDefault();
  const { x, y } = place(event);
  zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), x, y);
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const pan = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
  if (pan) { view.x += pan[0]; view.y += pan[1]; ask(); } else if (event.key === "+" || event.key === "=") zoomBy(1.3);
  else if (event.key === "-") zoomBy(1 / 1.3);
  else if (event.key === "Enter" && selected) toggle(selected);
  else return;
  event.preventDefault();
});
canvas.positionOf = (name) => { // where a node or module stands in the window
  const item = items.get(`m:${name}`) || leaves[nodes.name.indexOf(name)], box = scene.byId.get(shown(item).id), at = canvas.getBoundingClientRect();
  return { x: at.left + view.x + (box.x + box.width / 2) * view.zoom, y: at.top + view.y + (box.y + Math.min(12, box.height / 2)) * view.zoom };
};
