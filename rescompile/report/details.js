// The details of a part or a layer, with the lines of the spec that it came from.

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
