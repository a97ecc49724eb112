"""A picture as SVG: no script, no font and nothing else from outside; light and dark by the reader's preference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from rescompile.diagnostics.errors import printable
from rescompile.drawing.palette import DARK, LIGHT, Paint
from rescompile.drawing.scene import Circle, Line, Rect, Scene, Shape, Text, corners, head
from rescompile.files.checksum import GENERATOR

FAMILY = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"
SVG_NAMESPACE = "http://www.w3.org/2000/svg"
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
#: The class of every picture, so that its style touches nothing else of a page.
ROOT = "rescompile-drawing"


def svg(scene: Scene) -> str:
    """Return the picture as a document, or as a part of a page: the same text serves both."""
    return "\n".join([*_lines(scene), ""])


def escaped(text: str) -> str:
    """Text that means itself in XML and in HTML, in content and in attributes; control characters are shown as escapes."""
    return "".join(_ESCAPES.get(c, c if c.isascii() else f"&#{ord(c)};") for c in printable(text))


def _lines(scene: Scene) -> Iterator[str]:
    wide, high = number(scene.width), number(scene.height)
    yield (
        f'<svg xmlns="{SVG_NAMESPACE}" class="{ROOT}" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" '
        f'role="img" aria-label="{escaped(scene.title)}" font-family="{FAMILY}">'
    )
    yield f"<!-- {GENERATOR} -->"
    yield f"<title>{escaped(scene.title)}</title>"
    yield f"<desc>{escaped(scene.description)}</desc>"
    yield "<style>"
    yield from rules(LIGHT)
    yield f".{ROOT} text{{white-space:pre}}"
    yield "@media (prefers-color-scheme:dark){"
    yield from rules(DARK)
    yield "}"
    yield "</style>"
    yield from printed(scene.shapes)
    yield "</svg>"


def printed(shapes: Iterable[Shape]) -> Iterator[str]:
    """Shapes as the elements of an SVG, from the bottom to the top."""
    for shape in shapes:
        yield _PRINT[type(shape)](shape)


def rules(paints: Mapping[str, Paint], scope: str = "") -> Iterator[str]:
    """Yield the style of each class of shapes, in pictures that are in an element of the `scope`."""
    for name, paint in paints.items():
        stroke = f";stroke:{paint.stroke};stroke-width:{number(paint.width)}" if paint.stroke != "none" else ""
        dash = f";stroke-dasharray:{' '.join(map(number, paint.dash))}" if paint.dash else ""
        yield f"{scope}.{ROOT} .{name}{{fill:{paint.fill}{stroke}{dash}}}"


def _rect(shape: Rect) -> str:
    fill = f' style="fill:{shape.fill}"' if shape.fill else ""
    radius = f' rx="{number(shape.radius)}"' if shape.radius else ""
    place = f'x="{number(shape.x)}" y="{number(shape.y)}" width="{number(shape.width)}" height="{number(shape.height)}"'
    tip = f"><title>{escaped(shape.tip)}</title></rect>" if shape.tip else "/>"
    key = f' data-key="{escaped(shape.key)}"' if shape.key else ""
    return f'<rect class="{shape.paint}" {place}{radius}{fill}{key}{tip}'


def _circle(shape: Circle) -> str:
    return f'<circle class="{shape.paint}" cx="{number(shape.x)}" cy="{number(shape.y)}" r="{number(shape.radius)}"/>'


def _line(shape: Line) -> str:
    steps = [f"M{_point(shape.points[0])}"]
    for before, at, after in corners(shape):
        steps.append(f"L{_point(before)}Q{_point(at)} {_point(after)}")
    steps.append(f"L{_point(shape.points[-1])}")
    drawn = f'<path class="{shape.paint}" d="{"".join(steps)}"/>'
    if not shape.head:
        return drawn
    paint = f"{shape.paint}-head" if f"{shape.paint}-head" in LIGHT else "head"
    return f'{drawn}<path class="{paint}" d="M{"L".join(map(_point, head(shape)))}Z"/>'


def _text(shape: Text) -> str:
    anchor = f' text-anchor="{shape.anchor}"' if shape.anchor != "start" else ""
    bold = ' font-weight="bold"' if shape.bold else ""
    width = f' textLength="{number(shape.width)}" lengthAdjust="spacingAndGlyphs"'
    place = f'x="{number(shape.x)}" y="{number(shape.y)}" font-size="{number(shape.size)}"'
    return f'<text class="{shape.paint}" {place}{anchor}{bold}{width}>{escaped(shape.text)}</text>'


_PRINT: Mapping[type[Shape], Callable[..., str]] = {Rect: _rect, Circle: _circle, Line: _line, Text: _text}


def number(value: float) -> str:
    """Return a number with at most two digits after the point."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def _point(point: tuple[float, float]) -> str:
    return f"{number(point[0])} {number(point[1])}"
