"""Two networks side by side: their rows aligned, the differences marked, and listed below in the words of `explain`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from rescompile.analysis.alignment import Pairs, align
from rescompile.drawing import font
from rescompile.drawing.boxes import BASELINE, BESIDE, LABEL_GAP, LEADING, OP, SMALL, Box, label
from rescompile.drawing.cards import Looks
from rescompile.drawing.colouring import costs
from rescompile.drawing.layout import Style, item_box, terminals
from rescompile.drawing.legend import legend
from rescompile.drawing.op_titles import size_text
from rescompile.drawing.outline import SURVIVAL, Card, Item, Outline
from rescompile.drawing.page import HEADING, MARGIN, description, heading
from rescompile.drawing.scene import Canvas, Line, Rect, Scene, Text
from rescompile.drawing.structure import same
from rescompile.explain.differences import Difference, compare
from rescompile.explain.report import describe
from rescompile.explain.stages import NAMES, structure
from rescompile.ir.network import Network

#: The cost of pairing rows of the same name, of the same block or op, with the same output, and of leaving one alone.
_SAME_NAME, _SAME_BLOCK, _SAME_OUTPUT, _ALONE = 0.5, 1.0, 1.5, 1.0
_BETWEEN = 56.0


def beside(reference: Outline, subject: Outline) -> Scene:
    """Return the picture of two networks, the reference at the left."""
    left, right = reference.rows.items, subject.rows.items
    _, pairs = align(list(map(_Row, left)), list(map(_Row, right)), _distance, lambda _: _ALONE)
    notes = _differences(reference.network, subject.network)
    marks = _marks(notes)
    columns = (
        _boxes(left, [(i, j) for i, j in pairs], right, {}),
        _boxes(right, [(j, i) for i, j in pairs], left, marks),
    )
    canvas, y = Canvas(), MARGIN + HEADING
    heights = [max(one.height if one else 0, two.height if two else 0) for one, two in zip(*columns, strict=True)]
    x, bottom = MARGIN, 0.0
    for outline, boxes, order in ((reference, columns[0], 0), (subject, columns[1], 1)):
        items = [None if pair[order] is None else outline.rows.items[pair[order]] for pair in pairs]  # type: ignore[index]
        box = _column(outline.network, items, boxes, heights)
        box.draw(canvas, x + box.left, y)
        wide = heading(canvas, outline.network, x, MARGIN) - x
        bottom = max(bottom, y + box.height)
        x += max(box.width, wide) + _BETWEEN
    right_end = x - _BETWEEN
    bottom = _listed(canvas, notes, subject, reference, MARGIN, bottom + 22, right_end)
    right_end, bottom = legend(canvas, None, MARGIN, bottom + 14, right_end)
    title = f"{subject.network.name} compared with {reference.network.name}"
    described = f"{description(reference)} {description(subject)}"
    return Scene(math.ceil(right_end + MARGIN), math.ceil(bottom + MARGIN), tuple(canvas.shapes), title, described)


class _Row:
    """A row as the alignment sees it: its name, its block or op, and everything that differs."""

    def __init__(self, item: Item) -> None:
        self.name = item.title if isinstance(item, Card) else ""
        self.block = item.details[0].partition(":")[0] if isinstance(item, Card) and item.details else self.name
        self.output = item.output
        self.all = _everything(item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Row) and (self.name, self.all) == (other.name, other.all)

    __hash__ = None  # type: ignore[assignment]


def _everything(item: Item) -> object:
    """Return what two rows share that are drawn without a mark."""
    if not isinstance(item, Card):
        return repr(item.output), type(item).__name__
    chances = tuple(detail for detail in item.details if detail.startswith(SURVIVAL))
    return item.output, item.count, tuple(same(node) for _, node in item.parts), chances


def _distance(one: _Row, other: _Row) -> float:
    if one == other:
        return 0.0
    if one.name and one.name == other.name:
        return _SAME_NAME
    if one.block == other.block:
        return _SAME_BLOCK
    return _SAME_OUTPUT if one.output == other.output else 2 * _ALONE + 1


def _boxes(
    own: Sequence[Item], pairs: Pairs, others: Sequence[Item], marks: dict[str, str]
) -> list[Box | None]:  # fmt: skip
    """Return the boxes of a network by the pairs: marked where the other network has no such row, or a different one."""
    found: list[Box | None] = []
    least = max((item_box(item, Style(looks=costs)).width for item in own if isinstance(item, Card)), default=0.0)
    for mine, theirs in pairs:
        if mine is None:
            found.append(None)
            continue
        item = own[mine]
        border = "only" if theirs is None else "" if _Row(item) == _Row(others[theirs]) else "differs"
        place = NAMES["stem"] if mine == 0 else NAMES["head"] if mine == len(own) - 1 else ""
        mark = marks.get(item.title) or marks.get(place, "") if isinstance(item, Card) else ""

        def looks(card: Card, border: str = border, mark: str = mark) -> Looks:
            return replace(costs(card), border=border, mark=mark)

        found.append(item_box(item, Style(least, looks=looks)))
    return found


def _column(
    network: Network, items: Sequence[Item | None], boxes: Sequence[Box | None], heights: Sequence[float]
) -> Box:
    """Return one network from its input to its output, with a slot of the common height for each pair."""
    start, end = terminals(network)
    given = [box for box in boxes if box is not None]
    wide = [BESIDE + font.width(size_text(item.output), SMALL) for item in items if item is not None]
    height = start.height + sum(heights) + LABEL_GAP * (len(heights) + 1) + end.height

    def draw(canvas: Canvas, x: float, y: float) -> None:
        start.draw(canvas, x, y)
        y += start.height
        came, text = y, ""
        for item, box, slot in zip(items, boxes, heights, strict=True):
            if box is not None and item is not None:
                top = y + LABEL_GAP + (slot - box.height) / 2
                _joint(canvas, x, came, top, text, box.solid)
                box.draw(canvas, x, top)
                came, text = top + box.height, size_text(item.output)
            y += LABEL_GAP + slot
        _joint(canvas, x, came, y + LABEL_GAP, text, True)
        end.draw(canvas, x, y + LABEL_GAP)

    extent = max(box.left for box in [*given, start, end])
    return Box(extent, max([box.right for box in [*given, start, end]] + wide), height, draw)


def _joint(canvas: Canvas, x: float, top: float, bottom: float, text: str, solid: bool) -> None:
    """The line between two rows, with the shape just below the upper one."""
    canvas.add(Line(((x, top), (x, bottom)), head=solid))
    if text:
        label(canvas, x + BESIDE, top + LABEL_GAP / 2 - 1, text)


def _differences(reference: Network, subject: Network) -> Sequence[Difference] | None:
    """Return the differences by topic; None if the two have too little in common for a comparison."""
    return compare(structure(reference), structure(subject)).differences


def _marks(notes: Sequence[Difference] | None) -> dict[str, str]:
    """Return the numbers of the notes about each row, by its name."""
    found: dict[str, list[str]] = {}
    for number, each in enumerate(notes or (), 1):
        for name in dict.fromkeys(edit.segment for edit in each.edits):
            found.setdefault(name, []).append(str(number))
    return {name: ", ".join(numbers) for name, numbers in found.items()}


def _listed(
    canvas: Canvas, notes: Sequence[Difference] | None, subject: Outline, reference: Outline, x: float, y: float, right: float
) -> float:  # fmt: skip
    """Draw the numbered differences; returns where they end below."""
    room = max(right - x - 22, 240.0)
    ours, theirs = structure(subject.network), structure(reference.network)
    entries: list[tuple[str, str]] = []
    for number, each in enumerate(notes or (), 1):
        cost = "" if each.parameters is None else f": {each.parameters:+,} parameters, {each.macs:+,} MACs"
        entries.append((str(number), f"{describe(each, ours, theirs)}{cost}"))
    if not entries:
        entries = [
            ("", "The networks differ too much to be aligned." if notes is None else "There are no differences.")
        ]
    for mark, words in entries:
        if mark:
            wide = font.width(mark, SMALL, bold=True) + 8
            canvas.add(Rect(x, y, wide, 15, "mark", 4))
            canvas.add(Text(x + wide / 2, y + 11.5, mark, SMALL, "badge-ink", True, "middle"))
        for line in font.wrapped(words, OP, room):
            canvas.add(Text(x + 22, y + BASELINE + 1, line, OP, "ink"))
            y += LEADING + 1
        y += 6
    return y
