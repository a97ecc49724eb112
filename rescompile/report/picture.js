// The picture: rows that fold, and a window that pans and zooms.

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
