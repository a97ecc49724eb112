"""A network on one page: a heading, its rows in columns, the panels that open its blocks, and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rescompile.analysis.cost import cost
from rescompile.analysis.tree_table import count
from rescompile.drawing.boxes import BESIDE, GAP, LABEL_GAP, LEADING, Box, label, label_width, stacked
from rescompile.drawing.colouring import Painting, costs
from rescompile.drawing.layout import Style, chain_box, chain_parts, framed, labelled_top, terminals, widest_row
from rescompile.drawing.legend import legend
from rescompile.drawing.op_titles import size_text
from rescompile.drawing.outline import Outline, Panel, cards
from rescompile.drawing.scene import Canvas, Line, Scene, Text
from rescompile.ir.network import Network
from rescompile.records import record

MARGIN, HEADING, GUTTER, PANEL_GAP = 28.0, 58.0, 34.0, 18.0
#: Rows in one column may be so high; else they are broken into columns that fit on the smallest page with this ratio of sides.
TALLEST, RATIO, MOST_COLUMNS = 1150.0, 1.5, 12


@record
class Column:
    """Boxes of the flow below one another, and whether the flow goes on in another column."""

    box: Box
    last: str | None


def page(outline: Outline, painting: Painting | None = None) -> Scene:
    """Return the picture of a network."""
    looks = painting.looks if painting else costs
    width = widest_row(outline.rows, Style(looks=looks))
    opened = [_panel(panel, _opened(panel)) for panel in outline.panels]
    columns = flow(outline, Style(width, every_shape=True, looks=looks), opened)
    canvas = Canvas()
    x, y = MARGIN, MARGIN + HEADING
    bottom = _draw_flow(canvas, columns, x, y)
    x += sum(column.box.width for column in columns) + GUTTER * (len(columns) - 1)
    if outline.panels:
        x, bottom = _draw_panels(canvas, outline.panels, x + GUTTER, y, bottom)
    right = max(x, heading(canvas, outline.network, MARGIN, MARGIN))
    right, bottom = legend(canvas, painting, MARGIN, bottom + 24, right)
    return Scene(
        math.ceil(right + MARGIN), math.ceil(bottom + MARGIN), tuple(canvas.shapes), outline.network.name, description(outline)
    )  # fmt: skip


def heading(canvas: Canvas, network: Network, x: float, y: float) -> float:
    """Draw the name of a network and its totals; returns where they end."""
    total = cost(network)
    facts = [
        f"{size_text(network.input)} → {size_text(network.root.output)}",
        f"{count(total.parameters)} parameters", f"{count(total.macs)} MACs", *network.passes,
    ]  # fmt: skip
    title = Text(x, y + 16, network.name, 20, "ink", bold=True)
    below = Text(x, y + 36, " · ".join(facts), 12, "muted")
    canvas.add(title, below)
    return x + max(title.width, below.width)


def flow(outline: Outline, style: Style, panels: Sequence[Box] = ()) -> list[Column]:
    """Return the rows between the input and the output, in columns of nearly equal height, for a page that has these panels
    too."""
    start, end = terminals(outline.network)
    boxes, labels = chain_parts(outline.rows, style)
    boxes, labels = [start, *boxes, end], ["", *labels, ""]
    heights = [box.height + (LABEL_GAP if text else GAP) for box, text in zip(boxes, [*labels, ""], strict=True)]
    if sum(heights) <= TALLEST:
        return [Column(stacked(boxes, labels), None)]
    choices = [_columns(boxes, labels, heights, number) for number in range(1, MOST_COLUMNS + 1)]
    return min(choices, key=lambda columns: _side(columns, panels))


def _columns(boxes: Sequence[Box], labels: Sequence[str], heights: Sequence[float], most: int) -> list[Column]:
    """Return the rows in at most this many columns, with the smallest height."""
    limit = max(sum(heights) / most, *heights)
    while len(ends := _ends(heights, limit)) > most:
        limit *= 1.02
    return [
        Column(stacked(boxes[start:end], labels[start : end - 1]), None if end == len(boxes) else labels[end - 1])
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def _side(columns: Sequence[Column], panels: Sequence[Box]) -> float:
    """Return the height of a page that the columns and panels fit on, or its width by the ratio of its sides."""
    high = max(box.height for box in (*(column.box for column in columns), *panels))
    wide = sum(column.box.width + GUTTER for column in columns) + _area(panels) / high
    return max(wide / RATIO, high)


def _area(panels: Sequence[Box]) -> float:
    """Return the area of panels with the space between them."""
    return sum((box.width + PANEL_GAP) * (box.height + PANEL_GAP) for box in panels)


def _ends(heights: Sequence[float], limit: float) -> list[int]:
    """Where columns of at most this height end."""
    ends, height = [], 0.0
    for at, each in enumerate(heights):
        if (
            height and height + each > limit and at < len(heights) - 1
        ):  # the last is the output, which stays with its row
            ends.append(at)
            height = 0.0
        height += each
    return [*ends, len(heights)]


def _draw_flow(canvas: Canvas, columns: Sequence[Column], x: float, y: float) -> float:
    """Draw columns from the left to the right; returns where the longest ends."""
    tallest = max(column.box.height for column in columns)
    broken = len(columns) > 1
    top = y + (GAP if broken else 0)
    came: float | None = None
    for column in columns:
        axis = x + column.box.left
        if came is not None:
            canvas.add(Line(((came, y), (axis, y), (axis, top)), head=column.box.solid))
        column.box.draw(canvas, axis, top)
        if column.last is not None:
            end, low, gutter = top + column.box.height, top + tallest + LABEL_GAP, x + column.box.width + GUTTER / 2
            canvas.add(Line(((axis, end), (axis, low), (gutter, low), (gutter, y), (gutter + GUTTER / 2, y))))
            came = gutter + GUTTER / 2
            if column.last:
                label(canvas, axis + BESIDE, end + LABEL_GAP / 2 - 1, column.last)
        x += column.box.width + GUTTER
    return top + tallest + (LABEL_GAP if broken else 0)


def _draw_panels(canvas: Canvas, panels: Sequence[Panel], x: float, y: float, bottom: float) -> tuple[float, float]:
    """Draw panels in columns that are not much longer than the rows; returns where they end at the right and below."""
    children = [_opened(panel) for panel in panels]
    boxes = [_panel(panel, child) for panel, child in zip(panels, children, strict=True)]
    limit = max(bottom - y, *(box.height for box in boxes), math.sqrt(_area(boxes) / 1.7))
    columns: list[list[int]] = []
    for at, box in enumerate(boxes):
        heights = [sum(boxes[each].height + PANEL_GAP for each in column) for column in columns]
        fitting = [column for column, height in zip(columns, heights, strict=True) if height + box.height <= limit + 1]
        if fitting:
            fitting[0].append(at)
        else:
            columns.append([at])
    for column in columns:
        width, top = max(boxes[at].width for at in column), y
        for at in column:
            extra = (width - boxes[at].width) / 2
            box = _panel(panels[at], children[at], (boxes[at].left + extra, boxes[at].right + extra))
            box.draw(canvas, x + box.left, top)
            top += box.height + PANEL_GAP
        x, bottom = x + width + PANEL_GAP, max(bottom, top - PANEL_GAP)
    return x - PANEL_GAP, bottom


def _opened(panel: Panel) -> Box:
    """Return what a panel shows: a block, with the shapes of what enters and leaves it."""
    child = panel.child
    box = stacked([chain_box(child, Style()), _bottom(size_text(child.output))], [""])
    return labelled_top(size_text(child.input), box)


def _bottom(text: str) -> Box:
    """Return the shape at the end of a panel."""
    half = label_width(text) / 2

    def draw(canvas: Canvas, x: float, y: float) -> None:
        label(canvas, x, y + 7, text, "middle")

    return Box(half, half, LEADING, draw)


def _panel(panel: Panel, child: Box, extent: tuple[float, float] = (0, 0)) -> Box:
    return framed(panel.title, panel.notes, 1, child, panel.letter, extent)


def description(outline: Outline) -> str:
    """Return the picture in words."""
    network, total = outline.network, cost(outline.network)
    rows = [
        f"{f'{card.count} x ' if card.count > 1 else ''}{card.title}"
        + (f" ({card.details[0]})" if card.details else "")
        for card in cards(outline.rows)
        if card.is_row
    ]
    return (
        f"{network.name}: input {size_text(network.input)}, output {size_text(network.root.output)}, "
        f"{total.parameters:,} parameters, {total.macs:,} multiply-adds. In order: {'; '.join(rows)}."
    )
