// What all parts of the page use: the plan, texts for numbers, and elements.

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
