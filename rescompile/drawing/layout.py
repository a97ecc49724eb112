"""Where everything of an outline goes: each item becomes a box, from the inside out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rescompile.drawing import font
from rescompile.drawing.boxes import BASELINE, BESIDE, GAP, LEADING, OP, SMALL, Box, dot, label_width, nothing, stacked
from rescompile.drawing.cards import Looks, op_card, row_card
from rescompile.drawing.merges import merged
from rescompile.drawing.op_titles import size_text
from rescompile.drawing.outline import Card, Chain, Frame, Item, Split, Tap, cards
from rescompile.drawing.scene import Canvas, Line, Rect, Text
from rescompile.ir.network import LOGITS, Network
from rescompile.records import record

#: The space between a frame and what is in it, and the corners of frames.
PADDING, CORNER = 12.0, 8.0


@record
class Style:
    """How items look: the least width of the cards of rows, whether every line between them has its shape, what `--color` adds to a
    card, and the key of a frame."""

    row_width: float = 0.0
    every_shape: bool = False
    looks: Callable[[Card], Looks] = lambda card: Looks()
    frame_key: Callable[[Frame], str] = lambda frame: ""


def chain_box(chain: Chain, style: Style) -> Box:
    """Return a chain as one box."""
    return stacked(*chain_parts(chain, style))


def chain_parts(chain: Chain, style: Style) -> tuple[list[Box], list[str]]:
    """Return the boxes of a chain, and the labels between them. Cards of ops in one chain are equally wide."""
    if not chain.items:
        return [nothing()], []
    ops = [item for item in chain.items if isinstance(item, Card) and not item.is_row]
    widest = max((op_card(op, style.looks(op)).width for op in ops), default=0.0)
    boxes = [item_box(item, style, widest) for item in chain.items]
    frames = [box for item, box in zip(chain.items, boxes, strict=True) if isinstance(item, Frame)]
    if len(frames) > 1 and not style.every_shape:  # the groups of a row
        extent = max(frame.left for frame in frames), max(frame.right for frame in frames)
        boxes = [item_box(item, style, widest, extent) for item in chain.items]
    labels, before = [], chain.input
    for item in chain.items[:-1]:
        shown = style.every_shape or item.output != before
        labels.append(size_text(item.output) if shown and not isinstance(item, Tap) else "")
        before = item.output
    return boxes, labels


def item_box(item: Item, style: Style, width: float = 0.0, extent: tuple[float, float] = (0, 0)) -> Box:
    """Return an item as a box; a card of an op is at least this wide, a frame extends at least so far to both sides."""
    match item:
        case Card():
            looks = style.looks(item)
            return row_card(item, looks, style.row_width) if item.is_row else op_card(item, looks, width)
        case Split():
            lanes = [chain_box(branch, replace(style, every_shape=False)) for branch in item.branches]
            return merged(item, lanes)
        case Tap():
            return _tap(item, style)
        case Frame():
            child = chain_box(item.child, replace(style, every_shape=False))
            return framed(item.title, item.notes, item.count, child, extent=extent, key=style.frame_key(item))


def terminal(lines: Sequence[str]) -> Box:
    """Return the end of a flow: an input or an output."""
    wide = max(font.width(line, SMALL, at == 0) for at, line in enumerate(lines)) / 2 + 12
    height = 8 + LEADING * len(lines)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        canvas.add(Rect(x - wide, y, 2 * wide, height, "end", min(height / 2, 12)))
        for at, line in enumerate(lines):
            canvas.add(Text(x, y + 4 + BASELINE + LEADING * at, line, SMALL, "ink", at == 0, "middle"))

    return Box(wide, wide, height, draw)


def terminals(network: Network) -> tuple[Box, Box]:
    """Return the input and the output of a network, with their shapes."""
    return terminal(["input", size_text(network.input)]), terminal([LOGITS, size_text(network.root.output)])


def widest_row(rows: Chain, style: Style) -> float:
    """Return the width of the widest card of a row."""
    return max((item_box(card, style).width for card in cards(rows) if card.is_row), default=0.0)


def _tap(item: Tap, style: Style) -> Box:
    """Return a side branch: the value goes on, and a dashed line leaves to the right."""
    end = terminal([item.label])
    if item.child.items:
        boxes, labels = chain_parts(item.child, style)
        shown = size_text(item.child.output)
        branch = stacked([*boxes, end], [*labels, shown])
    else:
        branch = end
    away, down = BESIDE + 16 + branch.left, 12.0
    height = down + 10 + branch.height

    def draw(canvas: Canvas, x: float, y: float) -> None:
        canvas.add(Line(((x, y), (x, y + height))))
        canvas.add(Line(((x, y + down - 4), (x + away, y + down - 4), (x + away, y + down + 10)), "side", head=True))
        dot(canvas, x, y + down - 4)
        branch.draw(canvas, x + away, y + down + 10)

    return Box(3, away + branch.right, height, draw, solid=False)


def framed(
    title: str, notes: Sequence[str], count: int, child: Box, letter: str = "",
    extent: tuple[float, float] = (0, 0), key: str = "",
) -> Box:  # fmt: skip
    """Return a box with a title and a border around it, which extends at least so far to both sides; one with a letter is a
    panel."""
    many = f"× {count}" if count > 1 else ""
    side = font.width(many, OP, bold=True) + 10 if many else 0.0
    mark = 20.0 if letter else 0.0
    room = max(child.width, 150.0)
    titles = font.wrapped(title, OP, max(room - side - mark, 60.0), bold=True)
    small = [line for note in notes if note for line in font.wrapped(note, SMALL, room)]
    widths = [font.width(line, OP, bold=True) + side + mark for line in titles] + [
        font.width(line, SMALL) for line in small
    ]
    extra = max(max(widths) - child.width, 0.0)
    left = max(child.left + extra / 2 + PADDING, extent[0])
    right = max(child.right + extra / 2 + PADDING, extent[1])
    top = PADDING + LEADING * (len(titles) + len(small)) + 2
    height = top + GAP + child.height + PADDING

    def draw(canvas: Canvas, x: float, y: float) -> None:
        canvas.add(Rect(x - left, y, left + right, height, "panel" if letter else "frame", CORNER, key=key))
        start, base = x - left + PADDING, y + PADDING + BASELINE - 2
        if letter:
            canvas.add(Rect(start, base - 11.5, 15, 15, "badge", 4))
            canvas.add(Text(start + 7.5, base, letter, SMALL, "badge-ink", True, "middle"))
        for at, line in enumerate(titles):
            canvas.add(Text(start + mark, base + LEADING * at, line, OP, "ink", bold=True))
        if many:
            canvas.add(Text(x + right - PADDING, base, many, OP, "ink", True, "end"))
        for at, line in enumerate(small, len(titles)):
            canvas.add(Text(start, base + LEADING * at, line, SMALL, "muted"))
        canvas.add(Line(((x, y + top), (x, y + top + GAP)), head=child.solid))
        child.draw(canvas, x, y + top + GAP)
        canvas.add(Line(((x, y + top + GAP + child.height), (x, y + height))))

    return Box(left, right, height, draw)


def labelled_top(text: str, box: Box) -> Box:
    """Return a box below a label with the shape of what enters it."""
    wide = label_width(text) / 2

    def draw(canvas: Canvas, x: float, y: float) -> None:
        canvas.add(Text(x, y + BASELINE, text, SMALL, "muted", anchor="middle"))
        canvas.add(Line(((x, y + LEADING), (x, y + LEADING + GAP)), head=box.solid))
        box.draw(canvas, x, y + LEADING + GAP)

    return Box(max(box.left, wide), max(box.right, wide), box.height + LEADING + GAP, draw, solid=False)
