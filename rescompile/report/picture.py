"""The picture of a report: each row drawn twice, as a card and with all of its ops, of which the page shows one.

All rows are boxes on one axis, so a page that unfolds a row only moves those below it: nothing is laid out in a browser. Each
card and frame has the number of the part that it stands for, and by these numbers the page knows what to say about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rescompile.drawing.boxes import BESIDE, LABEL_GAP, Box, label, label_width
from rescompile.drawing.cards import Looks
from rescompile.drawing.colouring import costs
from rescompile.drawing.layout import Style, chain_box, item_box, terminals, widest_row
from rescompile.drawing.op_titles import size_text
from rescompile.drawing.outline import MOST, Card, Chain, Frame, Item, Outline, cards, outline, unfolded
from rescompile.drawing.page import description
from rescompile.drawing.scene import Canvas, Line, Rect
from rescompile.drawing.svg import FAMILY, ROOT, escaped, number, printed
from rescompile.ir.network import Network, Node, walk
from rescompile.records import record

#: The space around the picture, with room for the switches of rows; their radius, and their distance from the row.
MARGIN, RADIUS, APART = 36.0, 8.0, 16.0


@record
class View:
    """One drawing of a row, from the line above it to its end: its height, and its elements of SVG."""

    height: float
    svg: str


@record
class PictureRow:
    """A row of the picture. `views` are the card and, if there is more to show, the row with all of its ops; `parts` are the numbers
    of the parts inside."""

    views: tuple[View, ...]
    parts: tuple[int, ...]


@record
class Picture:
    """The rows from the input to the output, and the extent of the widest on both sides of the axis. `parts` are the nodes that each
    number stands for, with their scopes; the picture in words is `description`."""

    rows: tuple[PictureRow, ...]
    left: float
    right: float
    parts: tuple[tuple[tuple[str, Node], ...], ...]
    description: str

    @property
    def owners(self) -> Mapping[str, int]:
        """The smallest part that contains each node, by the node's full name."""
        found: dict[str, int] = {}
        sized = []
        for at, part in enumerate(self.parts):
            names = [name for scope, node in part for name, _ in walk(node, scope)]
            sized.append((len(names), at, names))
        for _, at, names in sorted(sized, key=lambda each: (-each[0], each[1])):
            found.update(dict.fromkeys(names, at))
        return found


def picture(network: Network) -> Picture:
    """Return the picture of a network. Rows stay folded where the whole would have more cards than a picture can show. Raises
    UsageError where even the rows are too many."""
    return _Painter(outline(network, "rows")).picture()


class _Painter:
    """Draws an outline; `numbers` are those of the parts so far, by the objects that they consist of, each with its scope: blocks
    that are equal share the objects inside."""

    def __init__(self, rows: Outline) -> None:
        self.network, self.rows, self.whole = rows.network, rows.rows, rows
        self.numbers: dict[tuple[tuple[str, int], ...], int] = {}
        self.parts: list[tuple[tuple[str, Node], ...]] = []
        self.inside = Style(looks=self._looks, frame_key=self._frame_key)
        self.style = replace(self.inside, row_width=widest_row(self.rows, self.inside), every_shape=True)

    def picture(self) -> Picture:
        """Return the rows with their extent."""
        network, shown = self.network, list(self._boxes())
        ends = terminals(network)
        labels = ["", *(size_text(item.output) for item in self.rows.items)]
        every = [*ends, *(box for boxes in shown for box in boxes)]
        wide = max(BESIDE + label_width(text) for text in labels)
        rows = [PictureRow((self._view(ends[0], None),), ())]
        for text, boxes in zip(labels, shown, strict=False):
            signs = ("+", "−") if len(boxes) > 1 else ("",)
            views = tuple(self._view(box, text, sign) for box, sign in zip(boxes, signs, strict=True))
            rows.append(PictureRow(views, tuple(sorted({each for box in boxes for each in _keys(box)}))))
        rows.append(PictureRow((self._view(ends[1], labels[-1]),), ()))
        return Picture(
            tuple(rows), MARGIN + max(box.left for box in every), MARGIN + max(wide, *(box.right for box in every)),
            tuple(self.parts), description(self.whole),
        )  # fmt: skip

    def _boxes(self) -> Iterator[list[Box]]:
        """Yield the boxes of each row: folded, and unfolded while there is room for its cards."""
        room = MOST - sum(1 for _ in cards(self.rows))
        for item in self.rows.items:
            boxes, inside = [item_box(item, self.style)], self._inside(item)
            size = 0 if inside is None else sum(1 for _ in cards(inside))
            if inside is not None and 0 < size <= room:
                room -= size
                boxes.append(chain_box(inside, self.inside))
            yield boxes

    def _inside(self, item: Item) -> Chain | None:
        """Return an item with all of its ops; None where that shows no more than its card."""
        chain = unfolded(item)
        only = chain.items[0] if len(chain.items) == 1 else None
        return None if isinstance(only, Card) and not (isinstance(item, Card) and len(item.parts) > 1) else chain

    def _looks(self, card: Card) -> Looks:
        return replace(costs(card), key=self._number(card.parts))

    def _frame_key(self, frame: Frame) -> str:
        return self._number(frame.parts)

    def _number(self, parts: tuple[tuple[str, Node], ...]) -> str:
        """Return the number of these nodes, as the key of a rectangle."""
        if not parts:
            return ""
        own = tuple((path, id(node)) for path, node in parts)
        if own not in self.numbers:
            self.numbers[own] = len(self.parts)
            self.parts.append(parts)
        return str(self.numbers[own])

    def _view(self, box: Box, text: str | None, sign: str = "") -> View:
        """Return a box below the line that leads to it, which has a label; the first has no line. A box that can be folded or
        unfolded has a switch with the sign at its left."""
        canvas, top = Canvas(), 0.0
        if text is not None:
            top = LABEL_GAP
            canvas.add(Line(((0, 0), (0, top)), head=box.solid))
            if text:
                label(canvas, BESIDE, top / 2 - 1, text)
        box.draw(canvas, 0, top)
        switch = _switch(-box.left - APART, top + min(box.height / 2, 2 * RADIUS), sign) if sign else ""
        return View(top + box.height, "".join(printed(canvas.shapes)) + switch)


def _switch(x: float, y: float, sign: str) -> str:
    """Return what unfolds a row, or folds it."""
    bars = f"M{number(x - 4)} {number(y)}h8" + (f"M{number(x)} {number(y - 4)}v8" if sign == "+" else "")
    shape = f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(RADIUS)}"/><path d="{bars}"/>'
    return f'<g class="switch" role="button" aria-label="{"unfold" if sign == "+" else "fold"}">{shape}</g>'


def _keys(box: Box) -> Iterator[int]:
    """Yield the parts that a box shows."""
    canvas = Canvas()
    box.draw(canvas, 0, 0)
    yield from (int(shape.key) for shape in canvas.shapes if isinstance(shape, Rect) and shape.key)


def markup(shown: Picture) -> str:
    """Return the groups of all rows, folded: each moved to its place, and the size of the whole as the view box of an SVG."""
    y, groups = MARGIN, []
    for row in shown.rows:
        heights = " ".join(number(view.height) for view in row.views)
        views = "".join(
            f'<g class="{"unfolded" if at else "folded"}">{view.svg}</g>' for at, view in enumerate(row.views)
        )
        groups.append(f'<g class="item" data-heights="{heights}" transform="translate(0 {number(y)})">{views}</g>')
        y += row.views[0].height
    box = f"{number(-shown.left)} 0 {number(shown.left + shown.right)} {number(y + MARGIN)}"
    return (
        f'<svg class="{ROOT}" id="picture" viewBox="{box}" font-family="{FAMILY}" role="group" aria-labelledby="picture-title">'
        f'<title id="picture-title">{escaped(shown.description)}</title>{"".join(groups)}</svg>'
    )
