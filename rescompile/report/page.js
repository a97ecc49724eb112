"use strict";
(() => {
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

  // --- the picture: rows that fold, a window that moves ------------------------------------------------------------

  const view = find("#view"), picture = find("#picture");
  const items = picture ? all(".item", picture).map((group) => {
    const heights = group.dataset.heights.split(" ").map(Number);
    const parts = new Set(all("[data-key]", group).map((card) => Number(card.dataset.key)));
    return { group, heights, parts, open: false, y: 0 };
  }) : [];
  const full = picture ? picture.viewBox.baseVal : null;
  const whole = full && { x: full.x, y: 0, width: full.width, height: full.height };
  const margin = items.length ? Number(items[0].group.getAttribute("transform").split(" ").at(-1).replace(")", "")) : 0;
  let port = whole && { ...whole };

  function showPort() {
    picture.setAttribute("viewBox", `${port.x} ${port.y} ${port.width} ${port.height}`);
  }
  /** Puts each row below the one before, folded or not. */
  function arrange() {
    let y = margin;
    for (const item of items) {
      item.y = y;
      item.group.classList.toggle("open", item.open);
      item.group.setAttribute("transform", `translate(0 ${y})`);
      y += item.heights[item.open ? 1 : 0];
    }
    whole.height = y + margin;
    roving();
  }
  function fold(chosen, open) {
    for (const item of chosen) item.open = open && item.heights.length > 1;
    arrange();
  }
  function fit() {
    port = { ...whole };
    showPort();
  }
  /** One unit of the picture is one pixel, from its top. */
  function actual() {
    const middle = whole.x + whole.width / 2;
    port = { x: Math.min(-view.clientWidth / 2, middle - view.clientWidth / 2), y: 0, width: view.clientWidth, height: view.clientHeight };
    if (whole.width < view.clientWidth) port.x = middle - view.clientWidth / 2;
    showPort();
  }
  /** Everything, if it is legible then, else its beginning. */
  function legible() {
    fit();
    if (scale() < 0.6) actual();
  }
  /** The scale of the picture on the screen, in pixels. */
  const scale = () => Math.min(view.clientWidth / port.width, view.clientHeight / port.height);
  function zoom(factor, at) {
    const next = Math.min(Math.max(scale() / factor, 0.02), 6);
    const wide = { width: view.clientWidth / next, height: view.clientHeight / next };
    const box = shown();
    const spot = at || { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    const share = { x: (spot.x - box.x) / box.width, y: (spot.y - box.y) / box.height };
    port = { x: spot.x - share.x * wide.width, y: spot.y - share.y * wide.height, ...wide };
    showPort();
  }
  /** What the window shows: the port, enlarged to the sides of the window. */
  function shown() {
    const size = { width: view.clientWidth / scale(), height: view.clientHeight / scale() };
    return { x: port.x + (port.width - size.width) / 2, y: port.y + (port.height - size.height) / 2, ...size };
  }
  function pan(dx, dy) {
    const box = shown();
    port = { x: box.x + dx / scale(), y: box.y + dy / scale(), width: box.width, height: box.height };
    showPort();
  }
  function pointAt(event) {
    const box = shown(), frame = view.getBoundingClientRect();
    return { x: box.x + (event.clientX - frame.left) / scale(), y: box.y + (event.clientY - frame.top) / scale() };
  }
  /** Cards that can be reached now. */
  const cards = () => all("[data-key]", picture).filter((card) => card.closest(".unfolded") ? card.closest(".open") : !card.closest(".open"));
  function roving(chosen) {
    const listed = cards();
    const first = chosen || listed.find((card) => card.classList.contains("selected")) || listed[0];
    for (const card of all("[data-key]", picture)) card.setAttribute("tabindex", card === first ? 0 : -1);
  }
  function centre(card) {
    const item = items.find(({ group }) => group.contains(card));
    const box = card.getBBox();
    const now = shown();
    const inside = box.x > now.x && box.x + box.width < now.x + now.width && item.y + box.y > now.y && item.y + box.y + box.height < now.y + now.height;
    if (inside && scale() > 0.55) return;
    const size = Math.max(scale(), 0.9);
    const wide = { width: view.clientWidth / size, height: view.clientHeight / size };
    port = { x: box.x + box.width / 2 - wide.width / 2, y: item.y + box.y + Math.min(box.height / 2, wide.height / 3) - wide.height / 2, ...wide };
    showPort();
  }

  // --- details -----------------------------------------------------------------------------------------------------

  const specLines = all("#spec-text code > span");
  function marked(ranges) {
    for (const line of specLines) line.classList.remove("on");
    for (const [first, last] of ranges) for (let at = first; at <= last; at++) specLines[at - 1]?.classList.add("on");
  }
  /** Lines of the spec without the indentation that all of them have. */
  function excerpt(first, last) {
    const lines = specLines.slice(first - 1, last);
    const indent = Math.min(...lines.map((line) => line.textContent.search(/\S/)));
    return lines.flatMap((line) => {
      const copy = line.cloneNode(true);
      if (indent > 0) copy.firstChild.textContent = copy.firstChild.textContent.slice(indent);
      return [...copy.childNodes];
    });
  }
  function pairs(numbers) {
    const found = [];
    for (let at = 0; at + 1 < numbers.length; at += 2) if (numbers[at]) found.push([numbers[at], numbers[at + 1]]);
    return found;
  }
  /** The facts of a layer or of a part of the picture, in one form. */
  function factsOf({ layer, part }) {
    if (layer !== undefined) {
      const row = layers[layer];
      return { name: row[NAME], what: data.texts[row[OP]], input: data.texts[row[INPUT]], output: data.texts[row[OUTPUT]], parameters: row[PARAMETERS],
        macs: row[MACS], activations: row[ACTIVATIONS], copies: 1, lines: pairs([row[FIRST], row[LAST]]), row: data.texts[row[ROW]], part: row[PART] };
    }
    const [name, what, input, output, parameters, macs, activations, copies, lines] = data.parts[part];
    return { name, what: data.texts[what], input: data.texts[input], output: data.texts[output], parameters, macs, activations, copies,
      lines: pairs(lines), row: "", part };
  }
  function describe(facts) {
    const list = make("dl");
    const add = (term, text) => list.append(make("dt", {}, term), make("dd", {}, text));
    if (facts.row && facts.row !== facts.name) add("row", facts.row);
    add("input", facts.input);
    add("output", facts.output);
    add("parameters", grouped(facts.parameters));
    add("MACs", grouped(facts.macs));
    add("activations", bytes(facts.activations));
    if (facts.copies > 1) add("blocks", grouped(facts.copies));
    const total = layers.reduce((sum, layer) => sum + layer[MACS] * layer[COPIES], 0);
    if (facts.macs && total) add("of all MACs", `${(100 * facts.macs / total).toFixed(1)}%`);
    const actions = make("div", { class: "actions" });
    const item = items.find(({ parts }) => parts.has(facts.part));
    if (item && item.heights.length > 1) {
      const text = () => (item.open ? "Fold the row" : "Unfold the row");
      const button = make("button", { type: "button", class: "tool", onclick: () => {
        fold([item], !item.open);
        button.textContent = text();
        reveal(facts.part);
      } }, text());
      actions.append(button);
    }
    const details = find("#details");
    details.replaceChildren(make("h3", {}, facts.name || facts.what), make("p", { class: "muted" }, facts.name ? facts.what : ""), list);
    for (const [first, last] of facts.lines) {
      const code = make("code");
      code.append(...excerpt(first, Math.min(last, first + 40)));
      details.append(make("p", { class: "muted" }, `Spec, line${last > first ? `s ${first} to ${last}` : ` ${first}`}`), make("pre", { tabindex: 0 }, code));
    }
    if (facts.lines.length) {
      const go = () => specLines[facts.lines[0][0] - 1].scrollIntoView({ block: "center" });
      actions.append(make("button", { type: "button", class: "tool", onclick: go }, "Show in the spec"));
    }
    details.append(actions);
  }
  /** Marks the card of a part; of the two drawings of a row, the one that is shown. */
  function reveal(part) {
    for (const card of all(".selected", picture)) card.classList.remove("selected");
    const item = items.find(({ parts }) => parts.has(part));
    if (!item) return null;
    const found = all(`[data-key="${part}"]`, item.group);
    for (const card of found) card.classList.add("selected");
    const visible = found.find((card) => cards().includes(card));
    if (visible) roving(visible);
    return visible;
  }
  function select(target, move = false) {
    const facts = factsOf(target);
    if (picture) {
      const item = items.find(({ parts }) => parts.has(facts.part));
      if (item && move && !all(`[data-key="${facts.part}"]`, item.group).some((card) => cards().includes(card))) fold([item], !item.open);
      const card = reveal(facts.part);
      describe(facts);
      if (card && move) {
        find("#network").scrollIntoView({ block: "start" });
        centre(card);
      }
    }
    marked(facts.lines);
    layerRows.forEach((row, at) => row.classList.toggle("current", at === target.layer));
  }

  if (picture) {
    for (const card of all("[data-key]", picture)) {
      card.setAttribute("role", "button");
      card.setAttribute("aria-label", factsOf({ part: Number(card.dataset.key) }).name || data.texts[data.parts[Number(card.dataset.key)][1]]);
    }
    items.forEach((item) => all(".switch", item.group).forEach((toggle) => {
      toggle.setAttribute("tabindex", "0");
      const flip = () => {
        fold([item], !item.open);
        find(item.open ? ".unfolded .switch" : ".folded .switch", item.group).focus({ preventScroll: true });
      };
      toggle.addEventListener("click", (event) => { event.stopPropagation(); flip(); });
      toggle.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); flip(); }
      });
    }));
    find("#unfold").addEventListener("click", () => { fold(items, true); legible(); });
    find("#fold").addEventListener("click", () => { fold(items, false); legible(); });
    find("#zoom-in").addEventListener("click", () => zoom(1 / 1.3));
    find("#zoom-out").addEventListener("click", () => zoom(1.3));
    find("#fit").addEventListener("click", fit);
    find("#width").addEventListener("click", actual);
    let start = null, moved = false;
    view.addEventListener("pointerdown", (event) => {
      if (event.button === 0) { start = { x: event.clientX, y: event.clientY }; moved = false; }
    });
    view.addEventListener("pointermove", (event) => {
      if (!start || !(event.buttons & 1)) return;
      if (!moved && Math.hypot(event.clientX - start.x, event.clientY - start.y) < 4) return;
      if (!moved) view.setPointerCapture(event.pointerId);
      moved = true;
      view.classList.add("dragging");
      pan(start.x - event.clientX, start.y - event.clientY);
      start = { x: event.clientX, y: event.clientY };
    });
    view.addEventListener("pointerup", () => { start = null; view.classList.remove("dragging"); });
    view.addEventListener("click", (event) => {
      const card = event.target.closest("[data-key]");
      if (card && !moved) select({ part: Number(card.dataset.key) });
      moved = false;
    });
    view.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoom(Math.exp(event.deltaY / 300), pointAt(event));
    }, { passive: false });
    const MOVES = { ArrowLeft: [-60, 0], ArrowRight: [60, 0], ArrowUp: [0, -60], ArrowDown: [0, 60] };
    view.addEventListener("keydown", (event) => {
      const card = event.target.closest("[data-key]");
      if (card && (event.key === "Enter" || event.key === " ")) select({ part: Number(card.dataset.key) });
      else if (card && ["ArrowUp", "ArrowDown"].includes(event.key)) {
        const listed = cards();
        const next = listed[listed.indexOf(card) + (event.key === "ArrowDown" ? 1 : -1)];
        if (next) { roving(next); next.focus({ preventScroll: true }); centre(next); }
      } else if (event.key in MOVES) pan(...MOVES[event.key]);
      else if (event.key === "+" || event.key === "=") zoom(1 / 1.3);
      else if (event.key === "-") zoom(1.3);
      else if (event.key === "0") fit();
      else return;
      event.preventDefault();
    });
    addEventListener("beforeprint", fit);
    arrange();
    legible();
    for (const button of all("button[data-part]")) button.addEventListener("click", () => select({ part: Number(button.dataset.part) }, true));
  }

  // --- search ------------------------------------------------------------------------------------------------------

  const search = find("#search"), matches = find("#matches");
  if (search) {
    let current = -1;
    const options = () => all("li", matches);
    const choose = (at) => {
      current = at;
      options().forEach((option, index) => option.setAttribute("aria-selected", String(index === at)));
      const option = options()[at];
      if (option) { search.setAttribute("aria-activedescendant", option.id); option.scrollIntoView({ block: "nearest" }); }
      else search.removeAttribute("aria-activedescendant");
    };
    const close = () => {
      matches.hidden = true;
      search.setAttribute("aria-expanded", "false");
      choose(-1);
    };
    const take = (option) => {
      const part = option.dataset.part, layer = option.dataset.layer;
      search.value = option.firstChild.textContent;
      close();
      select(part === undefined ? { layer: Number(layer) } : { part: Number(part) }, true);
    };
    const offer = () => {
      const text = search.value.trim().toLowerCase();
      if (!text) { close(); return; }
      const rank = (name) => (name === text ? 0 : name.startsWith(text) ? 1 : name.includes(text) ? 2 : 3);
      const found = [];
      (data.parts || []).forEach((part, at) => { if (part[0]) found.push([rank(part[0].toLowerCase()), part[0], data.texts[part[1]], { "data-part": at }]); });
      const named = new Set(found.map(([, name]) => name));
      layers.forEach((layer, at) => { if (!named.has(layer[NAME])) found.push([rank(layer[NAME].toLowerCase()), layer[NAME], data.texts[layer[OP]], { "data-layer": at }]); });
      const best = found.filter(([order]) => order < 3).sort(([a], [b]) => a - b).slice(0, 30);
      matches.replaceChildren(...best.map(([, name, what, target], at) => {
        const option = make("li", { role: "option", id: `match-${at}`, "aria-selected": "false", ...target }, make("span", {}, name), make("span", {}, what));
        option.addEventListener("mousedown", (event) => { event.preventDefault(); take(option); });
        return option;
      }));
      if (!best.length) matches.replaceChildren(make("li", { role: "option", "aria-disabled": "true" }, make("span", {}, "No layer has this name."), make("span")));
      matches.hidden = false;
      search.setAttribute("aria-expanded", "true");
      choose(best.length ? 0 : -1);
    };
    search.addEventListener("input", offer);
    search.addEventListener("focus", offer);
    search.addEventListener("blur", close);
    search.addEventListener("keydown", (event) => {
      const listed = options();
      if (event.key === "ArrowDown" && listed.length) choose((current + 1) % listed.length);
      else if (event.key === "ArrowUp" && listed.length) choose((current - 1 + listed.length) % listed.length);
      else if (event.key === "Enter" && listed[current]) take(listed[current]);
      else if (event.key === "Escape") { search.value = ""; close(); }
      else return;
      event.preventDefault();
    });
    addEventListener("keydown", (event) => {
      if (event.key === "/" && !event.target.closest("input")) { event.preventDefault(); search.focus(); search.select(); }
    });
  }
})();
