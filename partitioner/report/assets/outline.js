// The outline: the same as the graph, for keyboard and screen reader.

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
