"""The two kinds of cards: a row with its name, block and cost, and an op with those that it absorbs."""

from __future__ import annotations

from rescompile.drawing import font
from rescompile.drawing.boxes import LEADING, OP, SMALL, TITLE, Box
from rescompile.drawing.outline import Card
from rescompile.drawing.scene import Canvas, Circle, Line, Rect, Text
from rescompile.records import record

#: The coloured edge of a card, and the space between the border of a card and its text.
EDGE, PADDING = 4.0, 10.0
#: The width of a row's text, unless one of its words is wider, and of a card of an op.
ROW_TEXT, OP_TEXT = 232.0, 160.0
#: The size of a letter's badge, and the width of the little drawing of a shortcut, by its merge.
BADGE, GLYPH = 15.0, {"add": 22.0, "concat": 22.0, "mean": 22.0, "shake": 22.0, "gate": 30.0}


@record
class Looks:
    """What is added to a card: a line below its text, a colour with the ink that is legible on it, a border, a mark, which is the
    number of a note, and the key of its rectangle."""

    line: str = ""
    fill: str | None = None
    ink: str = ""
    border: str = ""
    mark: str = ""
    key: str = ""


def row_card(card: Card, looks: Looks, least: float = 0.0) -> Box:
    """Return the card of a row: at the right the number of copies, and how their shortcut merges."""
    many = f"× {card.count}" if card.count > 1 else ""
    badges = sum(
        font.width(letter, SMALL, bold=True) + BADGE - 4 for letter in (*card.letters, *filter(None, [looks.mark]))
    )
    glyph = GLYPH[card.shortcut] + (8 if looks.fill else 0) if card.shortcut else 0.0
    side = (font.width(many, TITLE, bold=True) + 8 if many else 0.0) + glyph
    text = max(ROW_TEXT, least - side - EDGE - 2 * PADDING)
    titles = font.wrapped(card.title, TITLE, max(text - badges, 80.0), bold=True)
    small = [line for detail in (*card.details, looks.line) if detail for line in font.wrapped(detail, SMALL, text)]
    longest = max(
        [font.width(titles[0], TITLE, bold=True) + badges, *(font.width(line, TITLE, bold=True) for line in titles)]
        + [font.width(line, SMALL) for line in small]
    )
    width = max(longest + side + EDGE + 2 * PADDING, least)
    height = 14 + 16 * len(titles) + LEADING * len(small)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        left = x - width / 2
        ink, muted = (looks.ink or "ink"), (looks.ink or "muted")
        canvas.add(*_body(card, looks, left, y, width, height))
        start, base = left + EDGE + PADDING, y + 7 + 12
        for at, line in enumerate(titles):
            canvas.add(Text(start, base + 16 * at, line, TITLE, ink, bold=True))
        for at, line in enumerate(small):
            canvas.add(Text(start, base + 16 * (len(titles) - 1) + 15 + LEADING * at, line, SMALL, muted))
        badge = start + font.width(titles[0], TITLE, bold=True) + 7
        for letter, paint in [
            *((each, "badge") for each in card.letters),
            *([(looks.mark, "mark")] if looks.mark else []),
        ]:
            wide = font.width(letter, SMALL, bold=True) + BADGE - 7
            canvas.add(Rect(badge, base - 11.5, wide, BADGE, paint, 4))
            canvas.add(Text(badge + wide / 2, base, letter, SMALL, "badge-ink", True, "middle"))
            badge += wide + 3
        end = left + width - PADDING
        if card.shortcut:
            if looks.fill:  # lines are legible on a plain ground only
                canvas.add(Rect(end - glyph + 4, y + height / 2 - 15, glyph, 31, "ground", 4))
            axis = end + 4 - glyph / 2 - (0 if card.shortcut == "gate" else 4) if looks.fill else end - 9
            _glyph(canvas, axis, y + height / 2, card.shortcut)
            end -= glyph
        if many:
            canvas.add(Text(end, y + height / 2 + TITLE * 0.35, many, TITLE, ink, True, "end"))

    return Box(width / 2, width / 2, height, draw)


def op_card(card: Card, looks: Looks, least: float = 0.0) -> Box:
    """Return the card of an op, with the ops that it absorbs below; a pointwise op alone is a slim one."""
    slim = card.tint == "pointwise" and not card.details
    size = SMALL if slim else OP
    titles = font.wrapped(card.title, size, OP_TEXT, bold=not slim)
    small = [line for detail in (*card.details, looks.line) if detail for line in font.wrapped(detail, SMALL, OP_TEXT)]
    longest = max(
        [font.width(line, size, bold=not slim) for line in titles] + [font.width(line, SMALL) for line in small]
    )
    width = max(longest + EDGE + 2 * PADDING, least)
    height = (6 if slim else 10) + 15 * len(titles) + LEADING * len(small)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        left, middle = x - width / 2, x + EDGE / 2
        canvas.add(*_body(card, looks, left, y, width, height, "chip" if slim else "card"))
        base = y + (3 if slim else 5) + 11.5
        for at, line in enumerate(titles):
            canvas.add(Text(middle, base + 15 * at, line, size, looks.ink or "ink", not slim, "middle"))
        for at, line in enumerate(small):
            below = base + 15 * (len(titles) - 1) + LEADING * (at + 1)
            canvas.add(Text(middle, below, line, SMALL, looks.ink or "muted", anchor="middle"))

    return Box(width / 2, width / 2, height, draw)


def _body(
    card: Card, looks: Looks, left: float, top: float, width: float, height: float, paint: str = "card"
) -> list[Rect]:
    """Return the rectangle of a card with its coloured edge, and its border where it is marked."""
    tip = " · ".join([card.title, *card.details])
    shapes = [
        Rect(left, top, width, height, paint, 5, looks.fill, tip, looks.key),
        Rect(left, top + 4, EDGE, height - 8, card.tint, 2),
    ]
    return [*shapes, Rect(left - 2, top - 2, width + 4, height + 4, looks.border, 6)] if looks.border else shapes


def _glyph(canvas: Canvas, x: float, y: float, merge: str) -> None:
    """A little drawing of a shortcut around a branch; a gate has its own line at the other side."""
    canvas.add(Line(((x, y - 12), (x, y + 13))))
    canvas.add(Line(((x, y - 8), (x + 8, y - 8), (x + 8, y + 5), (x + 3, y + 5)), "skip", radius=4))
    if merge == "gate":
        canvas.add(Line(((x, y - 8), (x - 8, y - 8), (x - 8, y + 5), (x - 3, y + 5)), "gate", radius=4))
    canvas.add(Circle(x, y + 5, 3.2, "merge"))
