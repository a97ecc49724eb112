"""A picture as shapes with coordinates: what every format prints. Units are CSS pixels, y grows downwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from rescompile.drawing import font
from rescompile.records import record

Point: TypeAlias = tuple[float, float]


@record
class Rect:
    """A rectangle with rounded corners. `fill` replaces that of its class; `tip` is shown beside the pointer; by its `key` a page
    knows what it stands for."""

    x: float
    y: float
    width: float
    height: float
    paint: str
    radius: float = 0.0
    fill: str | None = None
    tip: str = ""
    key: str = ""


@record
class Circle:
    """A circle around a point."""

    x: float
    y: float
    radius: float
    paint: str


@record
class Line:
    """A line through points, with rounded corners; its end may have a head."""

    points: tuple[Point, ...]
    paint: str = "line"
    head: bool = False
    radius: float = 7.0


@record
class Text:
    """One line of text. `x` is its start, middle or end, by `anchor`; `y` its baseline."""

    x: float
    y: float
    text: str
    size: float
    paint: str = "ink"
    bold: bool = False
    anchor: str = "start"

    @property
    def width(self) -> float:
        """The width that the text has in every font."""
        return font.width(self.text, self.size, self.bold)

    @property
    def left(self) -> float:
        """Where it starts."""
        return self.x - {"start": 0.0, "middle": self.width / 2, "end": self.width}[self.anchor]


Shape: TypeAlias = Rect | Circle | Line | Text


@dataclass(slots=True)
class Canvas:
    """Shapes, from the bottom to the top."""

    shapes: list[Shape] = field(default_factory=list)

    def add(self, *shapes: Shape) -> None:
        """Put shapes on top; a text without characters is none."""
        self.shapes.extend(shape for shape in shapes if not isinstance(shape, Text) or shape.text)


@record
class Scene:
    """A finished picture: its size, its shapes, and what it shows, for those who cannot see it."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    title: str
    description: str


#: The length and half the width of the head of a line.
HEAD = (6.0, 3.4)


def head(line: Line) -> tuple[Point, Point, Point]:
    """Return the triangle at the end of a line, which is horizontal or vertical there."""
    (x0, y0), (x, y) = line.points[-2:]
    long, half = HEAD
    if x0 == x:
        back = y - long if y > y0 else y + long
        return (x, y), (x - half, back), (x + half, back)
    back = x - long if x > x0 else x + long
    return (x, y), (back, y - half), (back, y + half)


def corners(line: Line) -> list[tuple[Point, Point, Point]]:
    """Where a line turns: the points before and after the corner, and the corner between them."""
    found = []
    for before, at, after in zip(line.points, line.points[1:], line.points[2:], strict=False):
        one, other = abs(at[0] - before[0]) + abs(at[1] - before[1]), abs(after[0] - at[0]) + abs(after[1] - at[1])
        radius = min(line.radius, one / 2, other / 2)
        found.append((_towards(at, before, radius), at, _towards(at, after, radius)))
    return found


def _towards(start: Point, end: Point, distance: float) -> Point:
    """Return the point at this distance from `start` on the way to `end`, which is straight up, down, left or right of it."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = abs(dx) + abs(dy) or 1.0
    return start[0] + dx / length * distance, start[1] + dy / length * distance
