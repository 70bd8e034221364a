// Folding, unfolding and selecting.

function toggle(item) {
  if (!item.children || item === root) return;
  if (open.has(item.id)) open.delete(item.id); else open.add(item.id);
  drawGraph(false);
  center(item);
}

function reveal(item) {
  let changed = false;
  for (const at of ancestors(item).slice(0, -1)) {
    if (!open.has(at.id)) { open.add(at.id); changed = true; }
  }
  select(item, changed);
  if (view.zoom < READABLE) view.zoom = READABLE;
  center(item);
}

function select(item, redraw = false) {
  selected = item;
  if (redraw) drawGraph(false); else { ask(); drawOutline(); }
  drawDetails();
}

function unfoldLevel() {
  for (const { item } of scene.boxes) if (item.children) open.add(item.id);
  drawGraph(true);
}

function openFirst() { // what lies on several devices first, then what is shallow
  let boxes = root.children.length;
  const waiting = root.children.filter((child) => child.children);
  while (waiting.length) {
    waiting.sort((a, b) => (sums(b).byDevice.size > 1) - (sums(a).byDevice.size > 1));
    const next = waiting.shift();
    if (boxes - 1 + next.children.length > FIRST_BOXES) continue;
    boxes += next.children.length - 1;
    open.add(next.id);
    waiting.push(...next.children.filter((child) => child.children));
  }
}
