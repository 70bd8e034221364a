"use strict";
(() => {
  const plan = JSON.parse(document.getElementById("plan").textContent);
  const nodes = plan.nodes, count = nodes.name.length, devices = plan.devices;
  const $ = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = new Map(); // what the style sheet says, until light and dark change
  const css = (name) => {
    if (!theme.has(name)) theme.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
    return theme.get(name);
  };
  const FIRST_BOXES = 48, READABLE = 0.7, FOUND = 50, WIDE = 300, NEUTRAL = "#f4f4f4", INK = "#1f2328";
  const RAMP = ["#00204d", "#31446b", "#666970", "#958f78", "#cbba69", "#ffea46"]; // cividis

  // --- texts -----------------------------------------------------------------------------------

  function scaled(value, units, base) {
    let unit = 0;
    while (unit + 1 < units.length && value >= base * 0.9995) { value /= base; unit += 1; }
    const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2;
    return `${Number(value.toFixed(unit || units[0] !== "B" ? digits : 0))} ${units[unit]}`;
  }
  const bytes = (n) => scaled(n, ["B", "KiB", "MiB", "GiB", "TiB"], 1024);
  const seconds = (s) => (s ? scaled(s * 1e9, ["ns", "us", "ms", "s"], 1000) : "0 s");
  const flops = (n) => scaled(n, ["", "thousand", "million", "billion", "trillion"], 1000).trim();
  const plural = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

  function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (key === "style") Object.assign(element.style, value);
      else if (value !== null && value !== undefined) element.setAttribute(key, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }
  const swatch = (colour) => h("span", { class: "swatch", style: { background: colour } });

  // --- the tree of modules ---------------------------------------------------------------------

  const totalSeconds = (i) => nodes.forward[i] + nodes.backward[i];
  const root = { id: "m:", path: "", label: "the whole model", parent: null, children: [], nodes: [] };
  const items = new Map([[root.id, root]]);
  const leaves = new Array(count);
  const open = new Set([root.id]);

  function build() {
    const sizes = new Map();
    for (const path of nodes.module) {
      for (let at = path; at; at = at.slice(0, Math.max(0, at.lastIndexOf(".")))) {
        sizes.set(at, (sizes.get(at) || 0) + 1);
      }
    }
    const module = (path) => {
      const found = items.get(`m:${path}`);
      if (found) return found;
      const cut = path.lastIndexOf(".");
      const parent = module(cut < 0 ? "" : path.slice(0, cut));
      const made = { id: `m:${path}`, path, label: path.slice(cut + 1), parent, children: [], nodes: [] };
      items.set(made.id, made);
      parent.children.push(made);
      return made;
    };
    for (let i = 0; i < count; i += 1) {
      const path = nodes.module[i], cut = path.lastIndexOf(".");
      const alone = path && sizes.get(path) === 1;
      const parent = module(alone ? (cut < 0 ? "" : path.slice(0, cut)) : path);
      const label = alone ? path.slice(cut + 1) : nodes.name[i];
      leaves[i] = { id: `n:${i}`, index: i, path, label, parent, children: null, nodes: [i] };
      items.set(leaves[i].id, leaves[i]);
      parent.children.push(leaves[i]);
    }
    joinChains(root);
    for (const leaf of leaves) {
      for (let at = leaf.parent; at; at = at.parent) at.nodes.push(leaf.index);
    }
  }

  function joinChains(item) { // a module that holds one module only is one with it
    item.children.forEach((child, i) => {
      while (child.children && child.children.length === 1 && child.children[0].children) {
        const only = child.children[0];
        items.delete(child.id);
        only.label = `${child.label}.${only.label}`;
        only.parent = item;
        item.children[i] = child = only;
      }
      if (child.children) joinChains(child);
    });
  }

  function ancestors(item) {
    const found = [];
    for (let at = item; at; at = at.parent) found.unshift(at);
    return found;
  }

  function liftEdges() { // every edge to the innermost module around both of its ends
    const chains = leaves.map(ancestors);
    for (let k = 0; k < plan.edges.length; k += 2) {
      const [source, target] = [plan.edges[k], plan.edges[k + 1]];
      const [a, b] = [chains[source], chains[target]];
      let depth = 0;
      while (a[depth + 1] && a[depth + 1] === b[depth + 1]) depth += 1;
      const around = a[depth], key = `${a[depth + 1].id} ${b[depth + 1].id}`;
      around.edges = around.edges || new Map();
      if (!around.edges.has(key)) {
        around.edges.set(key, { source: a[depth + 1], target: b[depth + 1], moved: new Map(), to: -1 });
      }
      const home = nodes.device[source], away = nodes.device[target];
      if (away >= 0 && home !== away && nodes.bytes[source]) {
        const edge = around.edges.get(key);
        edge.moved.set(`${source} ${away}`, nodes.bytes[source]);
        edge.to = away;
      }
    }
  }

  const readers = Array.from({ length: count }, () => []);
  const sources = Array.from({ length: count }, () => []);
  for (let k = 0; k < plan.edges.length; k += 2) {
    readers[plan.edges[k]].push(plan.edges[k + 1]);
    sources[plan.edges[k + 1]].push(plan.edges[k]);
  }

  function sums(item) {
    if (item.sums) return item.sums;
    const found = { seconds: 0, stateBytes: 0, bytes: 0, depth: Infinity, byDevice: new Map() };
    for (const i of item.nodes) {
      found.seconds += totalSeconds(i);
      found.stateBytes += nodes.stateBytes[i];
      found.bytes += nodes.bytes[i];
      found.depth = Math.min(found.depth, nodes.depth[i]);
      const device = nodes.device[i];
      if (device < 0) continue;
      const part = found.byDevice.get(device) || { nodes: 0, seconds: 0, stateBytes: 0 };
      part.nodes += 1;
      part.seconds += totalSeconds(i);
      part.stateBytes += nodes.stateBytes[i];
      found.byDevice.set(device, part);
    }
    item.sums = found;
    return found;
  }

  // --- layout: each open module by itself --------------------------------------------------------

  const PAD = 12, TITLE = 20;

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
      const made = (sizes.length > WIDE ? inRows : byDagre)(sizes, ends);
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

  // --- the graph ---------------------------------------------------------------------------------

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
    for (const [fill, share] of shade.fills) {
      ctx.fillStyle = fill;
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
      fills: parts.map(([device, part]) => [devices[device].fill, part.nodes / total]), ink: INK,
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

  // --- folding and selecting -----------------------------------------------------------------------

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

  // --- the outline: the same as the graph, for keyboard and screen reader ----------------------------

  function drawOutline() {
    const focused = document.activeElement && document.activeElement.closest("#outline [role=treeitem]");
    const id = focused ? focused.dataset.id : null;
    const current = selected || root.children[0];
    const row = (item) => {
      const many = item.children !== null, parts = [...sums(item).byDevice.keys()].sort();
      const where = parts.map((d) => devices[d].name).join(", ");
      const element = h("div", {
        role: "treeitem", "data-id": item.id, tabindex: item === current ? "0" : "-1",
        "aria-selected": String(item === selected), "aria-expanded": many ? String(open.has(item.id)) : null,
        "aria-label": `${item.label}${many ? `, ${plural(item.nodes.length, "operation")}` : ""}${where ? `, on ${where}` : ""}`,
      }, h("div", { class: "row" },
        h("span", { class: "twist", "aria-hidden": "true" }, many ? (open.has(item.id) ? "▾" : "▸") : ""),
        ...parts.slice(0, 3).map((d) => swatch(devices[d].fill)), item.label));
      if (many && open.has(item.id)) element.append(h("ul", { role: "group" }, ...item.children.map(row)));
      return element;
    };
    $("outline").replaceChildren(h("ul", { role: "group" }, ...root.children.map(row)));
    const again = id && $("outline").querySelector(`[data-id="${CSS.escape(id)}"]`);
    if (again) again.focus({ preventScroll: true });
    const chosen = $("outline").querySelector("[aria-selected=true]");
    if (chosen) {
      const box = $("outline"), top = chosen.offsetTop - box.offsetTop;
      if (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 24) box.scrollTop = top - box.clientHeight / 2;
    }
  }

  function outlineItem(event) {
    const element = event.target.closest("[role=treeitem]");
    return element ? items.get(element.dataset.id) : null;
  }

  function focusItem(item) {
    const element = $("outline").querySelector(`[data-id="${CSS.escape(item.id)}"]`);
    if (element) element.focus();
  }

  $("outline").addEventListener("click", (event) => {
    const item = outlineItem(event);
    if (!item) return;
    if (event.target.closest(".twist") && item.children) toggle(item); else reveal(item);
    focusItem(item);
  });
  $("outline").addEventListener("dblclick", (event) => { const item = outlineItem(event); if (item) toggle(item); });
  $("outline").addEventListener("keydown", (event) => {
    const item = outlineItem(event);
    if (!item) return;
    const rows = [...$("outline").querySelectorAll("[role=treeitem]")];
    const at = rows.findIndex((row) => row.dataset.id === item.id);
    const go = (row) => { if (row) { const to = items.get(row.dataset.id); select(to); center(to); focusItem(to); } };
    const actions = {
      ArrowDown: () => go(rows[at + 1]),
      ArrowUp: () => go(rows[at - 1]),
      Home: () => go(rows[0]),
      End: () => go(rows[rows.length - 1]),
      ArrowRight: () => { if (item.children && !open.has(item.id)) toggle(item); else if (item.children) go(rows[at + 1]); },
      ArrowLeft: () => {
        if (item.children && open.has(item.id)) toggle(item);
        else if (item.parent !== root) { select(item.parent); focusItem(item.parent); }
      },
      Enter: () => (item.children ? toggle(item) : reveal(item)),
      " ": () => reveal(item),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
    focusItem(selected && event.key !== "Enter" ? selected : item);
  });

  // --- what is selected --------------------------------------------------------------------------------

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

  // --- search --------------------------------------------------------------------------------------------

  let hay = null;

  function search() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const list = $("found");
    if (!words.length) { list.hidden = true; list.replaceChildren(); $("found-count").textContent = ""; return []; }
    hay = hay || [...items.values()].filter((item) => item !== root).map((item) => [item, (item.children ? item.path : [nodes.name[item.index], nodes.operator[item.index], nodes.module[item.index], nodes.line[item.index]].join(" ")).toLowerCase()]);
    const found = hay.filter(([, text]) => words.every((word) => text.includes(word))).map(([item]) => item);
    $("found-count").textContent = found.length ? `${plural(found.length, "match").replace("matchs", "matches")}${found.length > FOUND ? `, the first ${FOUND} are shown` : ""}` : "Nothing was found.";
    list.hidden = !found.length;
    list.replaceChildren(...found.slice(0, FOUND).map((item) => h("li", {}, h("button", { type: "button", onclick: () => reveal(item) },
      item.children ? `${item.path} ` : `${nodes.name[item.index]} `, h("small", {}, item.children ? plural(item.nodes.length, "operation") : `${nodes.operator[item.index]} ${nodes.line[item.index]}`)))));
    return found;
  }

  $("search").addEventListener("input", search);
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") { const found = search(); if (found.length) reveal(found[0]); }
    if (event.key === "Escape") { $("search").value = ""; search(); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { event.preventDefault(); $("search").focus(); }
  });
  $("colour").addEventListener("change", () => { colouring = $("colour").value; paint(); ask(); });
  $("fold").addEventListener("click", () => { open.clear(); open.add(root.id); drawGraph(true); });
  $("unfold").addEventListener("click", unfoldLevel);
  $("fit").addEventListener("click", fitAll);
  $("closer").addEventListener("click", () => zoomBy(1.4));
  $("farther").addEventListener("click", () => zoomBy(1 / 1.4));

  build();
  liftEdges();
  openFirst();
  drawGraph(true);

  // --- the step ------------------------------------------------------------------------------------------

  const charts = [];
  const axis = () => ({ stroke: () => css("--soft"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { stroke: () => css("--line") }, font: "12px system-ui, sans-serif" });
  const timeAxis = () => ({ ...axis(), values: (_, splits) => splits.map((value) => (value === 0 ? "0" : seconds(value))), space: 70 });
  const END = Math.max(plan.stepSeconds, ...plan.work.map((item) => item[4])) || 1e-9, PAST = plan.training ? 1.02 : 1;
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
  const roles = h("p", {}, ...Object.entries(plan.roles).flatMap(([role, colour]) => [swatch(colour), ` ${role}   `]));
  roles.style.whiteSpace = "pre-wrap";
  roles.querySelectorAll(".swatch").forEach((element) => Object.assign(element.style, { display: "inline-block", width: "0.8em", height: "0.8em" }));
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
})();
