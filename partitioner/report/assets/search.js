// The search and the buttons above the graph; and the first picture.

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
