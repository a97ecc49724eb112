// Helpers of all scripts, the colours, the current section, tables that sort, and the table of layers.

const find = (selector, inside = document) => inside.querySelector(selector);
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const data = JSON.parse(find("#data").textContent);

/** Makes an element with attributes and children; texts stay texts. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") element.addEventListener("click", value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const grouped = (value) => value.toLocaleString("en-US");
/** `4.089 G`: four digits with a unit. */
function short(value) {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= size) return `${Number((value / size).toPrecision(4))} ${unit}`;
  }
  return String(value);
}
/** `9.19 MiB` */
function bytes(value) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))} ${unit}`;
  }
  return `${value} B`;
}

// --- colours -----------------------------------------------------------------------------------------------------

const THEMES = ["automatic", "dark", "light"];
find("#theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme || THEMES[0];
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (next === THEMES[0]) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  find("#theme-name").textContent = next;
});

// --- sections ----------------------------------------------------------------------------------------------------

const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
const seen = new Set();
const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) seen[isIntersecting ? "add" : "delete"](target.id);
  const current = [...links.keys()].find((id) => seen.has(id));
  for (const [id, link] of links) link.setAttribute("aria-current", String(id === current));
}, { rootMargin: "-130px 0px -40% 0px" });
all("main > section").forEach((section) => observer.observe(section));

// --- tables ------------------------------------------------------------------------------------------------------

const NUMBER = /^-?[\d,.]+(e[+-]?\d+)?$/;
function keyOf(cell) {
  const text = cell.dataset.v ?? cell.textContent.trim();
  return NUMBER.test(text) ? Number(text.replaceAll(",", "")) : text;
}
function sort(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const falling = head.getAttribute("aria-sort") === "none" ? head.classList.contains("number") && column > 0
    : head.getAttribute("aria-sort") === "ascending";
  const rows = [...table.tBodies[0].rows].map((row) => [keyOf(row.cells[column]), row]);
  rows.sort(([a], [b]) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1));
  if (falling) rows.reverse();
  table.tBodies[0].append(...rows.map(([, row]) => row));
  for (const cell of table.tHead.rows[0].cells) cell.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
}
for (const table of all("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    find(".sort", cell).addEventListener("click", () => sort(table, column));
  });
}

// --- layers ------------------------------------------------------------------------------------------------------

const [NAME, OP, INPUT, OUTPUT, PARAMETERS, MACS, ACTIVATIONS, PART, COPIES, ROW, FIRST, LAST] = Array(12).keys();
const layers = data.layers || [];
const layerTable = find("#layer-table");
const layerRows = layers.map((layer, at) => {
  const copies = layer[COPIES] > 1 ? ` × ${grouped(layer[COPIES])}` : "";
  const number = (value, text) => make("td", { class: "number", "data-v": value }, text);
  const show = () => select({ layer: at }, true);
  return make("tr", {}, make("td", { class: "number muted" }, String(at + 1)),
    make("th", { scope: "row" }, make("button", { type: "button", class: "link", onclick: show }, layer[NAME] + copies)),
    make("td", {}, data.texts[layer[OP]]), make("td", {}, data.texts[layer[INPUT]]), make("td", {}, data.texts[layer[OUTPUT]]),
    number(layer[PARAMETERS], layer[PARAMETERS] ? grouped(layer[PARAMETERS]) : "–"),
    number(layer[MACS], layer[MACS] ? short(layer[MACS]) : "–"), number(layer[ACTIVATIONS], bytes(layer[ACTIVATIONS])));
});
function filter() {
  const words = find("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  layers.forEach((layer, at) => {
    const text = `${layer[NAME]} ${data.texts[layer[OP]]}`.toLowerCase();
    const fits = words.every((word) => text.includes(word)) && (!find("#weighted").checked || layer[PARAMETERS] > 0);
    layerRows[at].hidden = !fits;
    shown += fits;
  });
  find("#shown-layers").textContent = `${grouped(shown)} of ${grouped(layers.length)}`;
}
if (layerTable) {
  layerTable.tBodies[0].append(...layerRows);
  find("#filter").addEventListener("input", filter);
  find("#weighted").addEventListener("change", filter);
  filter();
}
