// Where boxes stand: each open module is laid out by itself.

const PAD = 12, TITLE = 20, MARGIN = 20, TALL = 8;

function boxTexts(item) {
  const own = sums(item);
  const first = item.children || item.label !== nodes.operator[item.index] ? item.label : nodes.operator[item.index];
  const told = [];
  if (item.children) told.push(plural(item.nodes.length, "operation"));
  else if (nodes.role[item.index] !== "operator") told.push(nodes.role[item.index]);
  else if (nodes.operator[item.index] !== item.label) told.push(nodes.operator[item.index]);
  if (own.seconds) told.push(seconds(own.seconds));
  else if (own.stateBytes) told.push(bytes(own.stateBytes));
  return [first, told.join(" · ")];
}

function size(item) {
  if (item.children && open.has(item.id)) return layout(item);
  if (!item.box) {
    item.texts = boxTexts(item);
    const letters = Math.max(item.texts[0].length * 7.4, item.texts[1].length * 6.2);
    item.box = { width: Math.max(56, Math.min(260, letters + 18)), height: item.texts[1] ? 40 : 28 };
  }
  return item.box;
}

const layouts = new Map(); // modules that look alike are laid out once

function layout(item) {
  const sizes = item.children.map(size);
  item.edgeList = item.edgeList || [...(item.edges || new Map()).values()];
  item.places = item.places || new Map(item.children.map((child, i) => [child.id, i]));
  const ends = item.edgeList.map((edge) => [item.places.get(edge.source.id), item.places.get(edge.target.id), edge.moved.size > 0]);
  const key = `${sizes.map((s) => `${s.width}x${s.height}`).join()} ${ends.join(";")}`;
  if (!layouts.has(key)) {
    const made = inColumns((sizes.length > WIDE ? inRows : byDagre)(sizes, ends), sizes, ends);
    let width = 0, height = 0;
    made.places.forEach((place, i) => {
      width = Math.max(width, place.x + sizes[i].width / 2);
      height = Math.max(height, place.y + sizes[i].height / 2);
    });
    for (const route of made.routes) for (const point of route.points) { width = Math.max(width, point.x); height = Math.max(height, point.y); }
    layouts.set(key, { ...made, width: width + 2 * PAD, height: height + 2 * PAD + TITLE });
  }
  return layouts.get(key);
}

function byDagre(sizes, ends) {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "TB", nodesep: 18, ranksep: 34, marginx: 0, marginy: 0 });
  sizes.forEach((box, i) => graph.setNode(String(i), { width: box.width, height: box.height }));
  for (const [source, target, moves] of ends) {
    graph.setEdge(String(source), String(target), moves ? { width: 64, height: 14, labelpos: "c" } : {});
  }
  dagre.layout(graph);
  return {
    places: sizes.map((_, i) => { const { x, y } = graph.node(String(i)); return { x, y }; }),
    routes: ends.map(([source, target]) => { const { points, x, y } = graph.edge(String(source), String(target)); return { points, x, y }; }),
  };
}

function inRows(sizes, ends) { // too many for dagre: by the longest way from the first ones
  const rank = sizes.map(() => 0), out = sizes.map(() => []);
  for (const [source, target] of ends) if (source < target) out[source].push(target);
  sizes.forEach((_, i) => { for (const target of out[i]) rank[target] = Math.max(rank[target], rank[i] + 1); });
  const heights = [], tops = [], lengths = [];
  sizes.forEach((box, i) => { heights[rank[i]] = Math.max(heights[rank[i]] || 0, box.height); });
  heights.reduce((top, height, at) => { tops[at] = top; return top + height + 34; }, 0);
  const places = sizes.map((box, i) => {
    const left = lengths[rank[i]] || 0;
    lengths[rank[i]] = left + box.width + 18;
    return { x: left + box.width / 2, y: tops[rank[i]] + heights[rank[i]] / 2 };
  });
  const routes = ends.map(([source, target]) => {
    const from = places[source], to = places[target], down = from.y <= to.y ? 1 : -1;
    const points = [{ x: from.x, y: from.y + (down * sizes[source].height) / 2 }, { x: to.x, y: to.y - (down * sizes[target].height) / 2 }];
    return { points, x: (points[0].x + points[1].x) / 2, y: (points[0].y + points[1].y) / 2 };
  });
  return { places, routes };
}

function inColumns(made, sizes, ends) { // what is far taller than wide goes on beside itself
  const right = Math.max(...made.places.map((place, i) => place.x + sizes[i].width / 2));
  const bottom = Math.max(...made.places.map((place, i) => place.y + sizes[i].height / 2));
  if (sizes.length < 12 || bottom < TALL * right) return made;
  const count = Math.round(Math.sqrt(bottom / right / 1.5)), tall = bottom / count, step = right + 4 * MARGIN;
  const top = (i) => made.places[i].y - sizes[i].height / 2;
  const column = sizes.map((_, i) => Math.min(count - 1, Math.floor(top(i) / tall)));
  const tops = Array.from({ length: count }, () => Infinity), ended = Array(count).fill(0);
  column.forEach((at, i) => { tops[at] = Math.min(tops[at], top(i) - MARGIN); });
  const moved = (point, at) => ({ x: point.x + at * step, y: point.y - tops[at] });
  const places = made.places.map((place, i) => moved(place, column[i]));
  places.forEach((place, i) => { ended[column[i]] = Math.max(ended[column[i]], place.y + sizes[i].height / 2 + MARGIN); });
  const routes = ends.map(([source, target], k) => {
    const [from, to] = [column[source], column[target]];
    if (from === to) {
      const { points, x, y } = made.routes[k];
      return { points: points.map((point) => moved(point, from)), ...moved({ x: x || 0, y: y || 0 }, from) };
    }
    const begin = { x: places[source].x, y: places[source].y + sizes[source].height / 2 };
    const end = { x: places[target].x, y: places[target].y - sizes[target].height / 2 };
    const between = to * step - 2 * MARGIN; // down, along, up between the columns, and in from above
    const points = [begin, { x: begin.x, y: ended[from] }, { x: between, y: ended[from] }, { x: between, y: 0 }, { x: end.x, y: 0 }, end];
    return { points, x: between, y: (ended[from] + MARGIN) / 2 };
  });
  return { places, routes };
}
