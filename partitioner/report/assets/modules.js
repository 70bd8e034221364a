// The tree of modules, with every edge at the innermost module around both of its ends.

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
