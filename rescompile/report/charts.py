"""Charts as SVG without scripts: steps, curves, intervals and scatter plots. Colours are classes of the page's style.

Each has a title and a description, and every mark has its value as a tip; the same figures are in a table of the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rescompile.drawing import font
from rescompile.drawing.svg import escaped, number
from rescompile.records import record

WIDTH, HEIGHT = 720.0, 250.0
#: The space around the axes: left, top, right, below.
LEFT, TOP, RIGHT, BELOW = 64.0, 16.0, 16.0, 42.0
SIZE = 11.0


@record
class Axis:
    """A linear axis from 0, or a logarithmic one, with the values at its ends and the words below it."""

    low: float
    high: float
    title: str
    log: bool = False

    def at(self, value: float) -> float:
        """Return the position of a value: 0 at the lower end, 1 at the upper."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values on the axis."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(decades) < 4 else (1,)
            return [
                step * 10.0**decade
                for decade in decades
                for step in steps
                if self.low <= step * 10.0**decade <= self.high
            ]
        raw = (self.high - self.low) / most or 1.0
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(step * size for step in (1, 2, 5, 10) if step * size >= raw)
        first = math.ceil(self.low / step)
        return [step * at for at in range(first, math.floor(self.high / step + 1e-9) + 1)]


def linear(values: Sequence[float], title: str) -> Axis:
    """Return an axis from 0 to a little more than the largest value."""
    return Axis(0.0, 1.06 * max(values, default=1.0) or 1.0, title)


def around(values: Sequence[float], title: str) -> Axis:
    """Return a logarithmic axis around positive values."""
    return Axis(min(values) / 1.35, max(values) * 1.35, title, log=True)


def steps(values: Sequence[float], x: str, y: str, title: str, text: str, line: Sequence[float] = ()) -> str:
    """Return a bar of equal width for each value, from 0 on; `line` are further values as a line over them."""
    across, up = Axis(-0.5, len(values) - 0.5, x), linear([*values, *line], y)
    wide = (WIDTH - LEFT - RIGHT) / len(values)
    base, marks = _y(up, 0), []
    gap = min(wide * 0.15, 3.0)
    for at, value in enumerate(values):
        if value > up.high / 2000:
            top = _y(up, value)
            place = f'x="{number(_x(across, at) - wide / 2 + gap / 2)}" y="{number(top)}" width="{number(wide - gap)}" height="{number(base - top)}"'
            marks.append(f'<rect class="bar" {place}><title>{at}: {value:.3g}</title></rect>')
    if line:
        points = " ".join(f"{number(_x(across, at))},{number(_y(up, value))}" for at, value in enumerate(line))
        marks.append(f'<polyline class="second" points="{points}"/>')
    return _chart(across, up, marks, title, text)


def area(values: Sequence[float], x: str, y: str, title: str, text: str, marks: Sequence[tuple[int, str]] = ()) -> str:
    """Return a filled curve over numbered positions; `marks` are positions where something begins, with its label at the top if
    it fits."""
    across, up = Axis(0, max(len(values), 1), x), Axis(0.0, 1.16 * max(values, default=1.0) or 1.0, y)
    path = [f"M{number(_x(across, 0))} {number(_y(up, 0))}"]
    for at, value in enumerate(values):
        path.append(f"V{number(_y(up, value))}H{number(_x(across, at + 1))}")
    shapes = [f'<path class="area" d="{"".join(path)}V{number(_y(up, 0))}Z"/>']
    ends = [*(at for at, _ in marks[1:]), len(values)]
    for (at, words), end in zip(marks, ends, strict=False):
        left = _x(across, at)
        shapes.append(_line("grid", number(left), number(left), TOP, number(HEIGHT - BELOW)))
        if left + font.width(words, SIZE) + 6 < _x(across, end):
            shapes.append(_text(left + 4, TOP + 10, words, "start", "muted"))
    return _chart(across, up, shapes, title, text)


@record
class Span:
    """An estimate with the bounds of its interval, and its label."""

    label: str
    value: float
    low: float
    high: float


def spans(listed: Sequence[Span], x: str, title: str, text: str) -> str:
    """Return a line for each interval with a point at its estimate, below one another."""
    across = linear([each.high for each in listed], x)
    room = min(max(font.width(each.label, SIZE) for each in listed) + 20, WIDTH / 2)
    height, shapes = TOP + 24 * len(listed), []

    def place(value: float) -> str:
        return number(room + across.at(value) * (WIDTH - room - RIGHT))

    for tick in across.ticks():
        shapes.append(_line("grid", place(tick), place(tick), TOP - 6, number(height)))
        shapes.append(_text(float(place(tick)), height + 16, _tick(tick), "middle", "muted"))
    for at, each in enumerate(listed):
        y = TOP + 24 * at + 12
        shapes.append(_text(room - 10, y + 4, font.wrapped(each.label, SIZE, room - 16)[0], "end", "ink"))
        shapes.append(_line("span", place(each.low), place(each.high), y, y))
        tip = f"{each.label}: {each.value:.4g}, 95% interval {each.low:.4g} to {each.high:.4g}"
        shapes.append(
            f'<circle class="point" cx="{place(each.value)}" cy="{y}" r="4.5"><title>{escaped(tip)}</title></circle>'
        )
    shapes.append(_text((room + WIDTH) / 2, height + 34, x, "middle", "muted"))
    return _framed(shapes, WIDTH, height + 42, title, text)


@record
class Point:
    """A network in a scatter plot."""

    label: str
    x: float
    y: float


def scatter(points: Sequence[Point], x: str, y: str, title: str, text: str) -> str:
    """Points with their labels on logarithmic axes; a label that would cover another one is left to the tip."""
    across, up = around([point.x for point in points], x), around([point.y for point in points], y)
    shapes, taken = [], [(_x(across, p.x) - 5, _y(up, p.y) - 5, _x(across, p.x) + 5, _y(up, p.y) + 5) for p in points]
    for at, point in enumerate(points):
        left, top = _x(across, point.x), _y(up, point.y)
        tip = f"{point.label}: {point.x:.4g} {x}, {point.y:.4g} {y}"
        shapes.append(
            f'<circle class="point p{at % 6}" cx="{number(left)}" cy="{number(top)}" r="5"><title>{escaped(tip)}</title></circle>'
        )
        wide = font.width(point.label, SIZE)
        for place, base, anchor, share in (
            (left + 9, top + 4, "start", 0.0),
            (left - 9, top + 4, "end", 1.0),
            (left, top - 10, "middle", 0.5),
            (left, top + 18, "middle", 0.5),
        ):
            start = place - share * wide
            box = start, base - 10, start + wide, base + 3
            inside = start > LEFT and start + wide < WIDTH - 4 and base - 10 > TOP and base < HEIGHT - BELOW
            if inside and not any(_overlap(box, other) for other in taken[:at] + taken[at + 1 :]):
                shapes.append(_text(place, base, point.label, anchor, "ink"))
                taken.append(box)
                break
    return _chart(across, up, shapes, title, text)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.at(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BELOW - axis.at(value) * (HEIGHT - BELOW - TOP)


def _chart(across: Axis, up: Axis, marks: Sequence[str], title: str, text: str) -> str:
    """Marks between two axes with their ticks."""
    shapes, low = [], HEIGHT - BELOW
    for tick in up.ticks(4):
        y = number(_y(up, tick))
        shapes.append(_line("grid", LEFT, WIDTH - RIGHT, y, y))
        shapes.append(_text(LEFT - 8, float(y) + 4, _tick(tick), "end", "muted"))
    shapes += [_text(_x(across, tick), low + 16, _tick(tick), "middle", "muted") for tick in across.ticks(10)]
    shapes += marks
    shapes.append(_line("axis", LEFT, WIDTH - RIGHT, low, low))
    shapes.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, across.title, "middle", "muted"))
    middle = number((TOP + low) / 2)
    shapes.append(
        f'<text class="muted" font-size="{SIZE}" text-anchor="middle" transform="translate(13 {middle}) rotate(-90)">{escaped(up.title)}</text>'
    )
    return _framed(shapes, WIDTH, HEIGHT, title, text)


def _framed(shapes: Sequence[str], width: float, height: float, title: str, text: str) -> str:
    head = (
        f'<svg class="chart" viewBox="0 0 {number(width)} {number(height)}" role="img" aria-label="{escaped(title)}">'
    )
    return f"{head}<desc>{escaped(text)}</desc>{''.join(shapes)}</svg>"


def _line(paint: str, x1: float | str, x2: float | str, y1: float | str, y2: float | str) -> str:
    return f'<line class="{paint}" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"/>'


def _text(x: float, y: float, text: str, anchor: str, paint: str) -> str:
    """Return a text with the width that its place was computed with, so that it fits in any font of the reader."""
    width = f'textLength="{number(font.width(text, SIZE))}" lengthAdjust="spacingAndGlyphs"'
    place = f'x="{number(x)}" y="{number(y)}" font-size="{SIZE}" text-anchor="{anchor}" {width}'
    return f'<text class="{paint}" {place}>{escaped(text)}</text>'


def _tick(value: float) -> str:
    """`0.25`, `40`, `2 M`"""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
