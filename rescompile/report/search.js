// The search field: parts and layers by name.

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
