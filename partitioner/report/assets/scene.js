// The graph as it is shown now, drawn on the canvas.

let colouring = "device", selected = null, scale = null;
let scene = { frames: [], boxes: [], edges: [], byId: new Map(), width: 1, height: 1 };
const view = { x: 0, y: 0, zoom: 1, asked: false };
const canvas = $("canvas");

function compose() { // what is shown now, with places
  const found = { frames: [], boxes: [], edges: [], byId: new Map(), width: 1, height: 1 };
  const visit = (item, left, top) => {
    const shape = size(item);
    item.children.forEach((child, i) => {
      const box = size(child), place = shape.places[i];
      const told = { item: child, x: left + PAD + place.x - box.width / 2, y: top + PAD + TITLE + place.y - box.height / 2, width: box.width, height: box.height };
      found.byId.set(child.id, told);
      if (child.children && open.has(child.id)) { found.frames.push(told); visit(child, told.x, told.y); } else found.boxes.push(told);
    });
    item.edgeList.forEach((edge, k) => {
      const { points, x, y } = shape.routes[k], [dx, dy] = [left + PAD, top + PAD + TITLE];
      const total = [...edge.moved.values()].reduce((sum, n) => sum + n, 0);
      const many = edge.moved.size > 1 ? `${edge.moved.size} values, ` : "";
      const moved = points.map((p) => ({ x: p.x + dx, y: p.y + dy }));
      found.edges.push({ source: edge.source, target: edge.target, points: moved, bounds: around(moved), x: x + dx, y: y + dy, label: edge.moved.size ? many + bytes(total) : "", line: edge.to < 0 ? null : devices[edge.to].full });
    });
    if (item === root) { found.width = shape.width; found.height = shape.height; }
  };
  visit(root, 0, 0);
  return found;
}

function ask() { // draw in the next frame
  if (view.asked) return;
  view.asked = true;
  requestAnimationFrame(() => { view.asked = false; drawScene(); });
}

function drawScene() {
  const ratio = Math.min(2, devicePixelRatio || 1), width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const ctx = canvas.getContext("2d"), zoom = view.zoom;
  const [left, top, right, bottom] = [-view.x / zoom, -view.y / zoom, (width - view.x) / zoom, (height - view.y) / zoom];
  const seen = (box) => box.x < right && box.y < bottom && box.x + box.width > left && box.y + box.height > top;
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  ctx.setTransform(ratio * zoom, 0, 0, ratio * zoom, ratio * view.x, ratio * view.y);
  const hair = Math.max(1, 0.7 / zoom);
  for (const frame of scene.frames) {
    if (!seen(frame)) continue;
    ctx.fillStyle = css("--frame");
    ctx.strokeStyle = css("--frame-line");
    ctx.lineWidth = hair;
    ctx.beginPath();
    ctx.roundRect(frame.x, frame.y, frame.width, frame.height, 6);
    ctx.fill();
    ctx.stroke();
    if (13 * zoom >= 6) text(ctx, frame.item.label, frame.x + 8, frame.y + 13, css("--soft"), 13, "left", frame.width - 16);
  }
  const near = nearby();
  const edges = scene.edges.filter((edge) => seen(edge.bounds));
  ctx.lineWidth = hair;
  ctx.strokeStyle = ctx.fillStyle = css("--edge");
  drawEdges(ctx, edges.filter((edge) => !edge.label), zoom);
  ctx.lineWidth = Math.max(2.5, 1.5 / zoom);
  for (const line of new Set(edges.map((edge) => edge.line))) {
    if (!line) continue;
    ctx.strokeStyle = ctx.fillStyle = line;
    ctx.setLineDash([8, 5]);
    drawEdges(ctx, edges.filter((edge) => edge.label && edge.line === line), zoom);
    ctx.setLineDash([]);
  }
  ctx.strokeStyle = ctx.fillStyle = css("--accent");
  ctx.lineWidth = Math.max(3, 2 / zoom);
  drawEdges(ctx, edges.filter((edge) => near.edges.has(edge)), zoom);
  for (const box of scene.boxes) if (seen(box)) drawBox(ctx, box, zoom, near);
  for (const edge of edges) {
    if (!edge.label || 11 * zoom < 6) continue;
    ctx.font = "11px system-ui, sans-serif";
    const wide = ctx.measureText(edge.label).width + 8;
    ctx.fillStyle = css("--paper");
    ctx.fillRect(edge.x - wide / 2, edge.y - 8, wide, 16);
    text(ctx, edge.label, edge.x, edge.y, css("--ink"), 11, "center", wide);
  }
  const chosen = selected && scene.byId.get(shown(selected).id);
  if (chosen) outline(ctx, chosen, css("--limit"), Math.max(4, 3 / zoom));
}

function around(points) {
  const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
  return { x: Math.min(...xs), y: Math.min(...ys), width: Math.max(...xs) - Math.min(...xs), height: Math.max(...ys) - Math.min(...ys) };
}

function text(ctx, words, x, y, colour, height, align, room) {
  ctx.font = `${height}px system-ui, sans-serif`;
  ctx.textAlign = align;
  ctx.textBaseline = "middle";
  ctx.fillStyle = colour;
  ctx.fillText(words, x, y, room);
}

function outline(ctx, box, colour, width) {
  ctx.strokeStyle = colour;
  ctx.lineWidth = width;
  ctx.strokeRect(box.x - width / 2, box.y - width / 2, box.width + width, box.height + width);
}

function drawEdges(ctx, edges, zoom) {
  ctx.beginPath();
  for (const { points } of edges) {
    ctx.moveTo(points[0].x, points[0].y);
    for (let i = 1; i + 1 < points.length; i += 1) {
      const [p, q] = [points[i], points[i + 1]];
      const last = i + 2 === points.length;
      ctx.quadraticCurveTo(p.x, p.y, last ? q.x : (p.x + q.x) / 2, last ? q.y : (p.y + q.y) / 2);
    }
    if (points.length === 2) ctx.lineTo(points[1].x, points[1].y);
  }
  ctx.stroke();
  if (zoom < 0.25) return;
  ctx.setLineDash([]);
  ctx.beginPath();
  for (const { points } of edges) {
    const [tip, before] = [points[points.length - 1], points[points.length - 2]];
    const angle = Math.atan2(tip.y - before.y, tip.x - before.x);
    ctx.moveTo(tip.x, tip.y);
    for (const side of [-0.4, 0.4]) ctx.lineTo(tip.x - 8 * Math.cos(angle + side), tip.y - 8 * Math.sin(angle + side));
  }
  ctx.fill();
}

function drawBox(ctx, box, zoom, near) {
  const { item, x, y, width, height } = box, shade = box.shade;
  let left = x;
  for (const [fill, share, full] of shade.fills) {
    ctx.fillStyle = height * zoom < 5 && full ? full : fill; // what is tiny in its strongest colour
    ctx.fillRect(left, y, width * share + 0.01, height);
    left += width * share;
  }
  if (height * zoom < 5) return;
  ctx.strokeStyle = shade.line;
  ctx.lineWidth = (item.children ? 2.5 : 1.2) + 2 * (shade.again || 0);
  ctx.strokeRect(x, y, width, height);
  if (near.boxes.has(item.id)) outline(ctx, box, css("--accent"), 4);
  if (12 * zoom < 5) return;
  const [first, second] = item.texts;
  text(ctx, first, x + width / 2, y + (second ? 13 : height / 2), shade.ink, 12, "center", width - 8);
  if (second) text(ctx, second, x + width / 2, y + 28, shade.ink, 10.5, "center", width - 8);
}

function nearby() { // edges and boxes that touch what is selected
  const edges = new Set(), boxes = new Set();
  if (!selected) return { edges, boxes };
  const here = shown(selected);
  for (const edge of scene.edges) if (edge.source === here || edge.target === here) edges.add(edge);
  if (!selected.children) {
    for (const i of [...sources[selected.index], ...readers[selected.index]]) boxes.add(shown(leaves[i]).id);
    boxes.delete(here.id);
  }
  return { edges, boxes };
}
