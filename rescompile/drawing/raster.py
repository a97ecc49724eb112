"""A picture as PNG or PDF, painted by matplotlib in the light colours.

matplotlib is what the other figures of rescompile need too, comes as a wheel without system libraries, and brings its own font
(DejaVu Sans). Each text is drawn as outlines of that font, fitted to its width, so that the same picture is the same bytes on
every machine.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rescompile.drawing.palette import LIGHT
from rescompile.drawing.scene import Circle, Line, Point, Rect, Scene, Shape, Text, corners, head
from rescompile.files.checksum import GENERATOR
from rescompile.files.plotting import matplotlib_or_error

#: Pixels of PNG, and points of PDF, in one unit of a picture; the most pixels of one side of a PNG.
_SCALE, _POINTS, _MOST = 2.0, 0.75, 16_000
_METADATA = {
    "png": {"Software": None, "Description": GENERATOR},
    "pdf": {"CreationDate": None, "Producer": GENERATOR, "Creator": None},
}
#: The comment by which a PDF is known as ours; readers accept lines after the end.
_PDF_END = f"% {GENERATOR}\n".encode()


def raster(scene: Scene, form: str) -> bytes:
    """Return the bytes of a `png` or `pdf` file. Raises Unavailable where matplotlib is missing."""
    matplotlib_or_error()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    scale = min(_SCALE, _MOST / max(scene.width, scene.height))
    figure = Figure(
        (scene.width * _POINTS / 72, scene.height * _POINTS / 72),
        dpi=72 / _POINTS * scale,
        facecolor=LIGHT["page"].fill,
    )
    canvas = FigureCanvasAgg(figure) if form == "png" else FigureCanvasPdf(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, scene.width)
    axes.set_ylim(scene.height, 0)
    axes.axis("off")
    for order, shape in enumerate(scene.shapes):
        for patch in _PAINT[type(shape)](shape):
            patch.set_zorder(order)
            axes.add_artist(patch)
    buffer = io.BytesIO()
    canvas.print_figure(buffer, format=form, metadata=_METADATA[form], facecolor=figure.get_facecolor())
    return buffer.getvalue() + (_PDF_END if form == "pdf" else b"")


def _style(paint: str, fill: str | None = None) -> dict[str, Any]:
    """How matplotlib paints a class of shapes; widths are in points."""
    found = LIGHT[paint]
    dash = (0, tuple(each / found.width for each in found.dash)) if found.dash else "solid"
    return {
        "facecolor": fill or found.fill, "edgecolor": found.stroke,
        "linewidth": found.width * _POINTS if found.stroke != "none" else 0, "linestyle": dash,
    }  # fmt: skip


def _rect(shape: Rect) -> Sequence[Any]:
    from matplotlib.patches import FancyBboxPatch

    radius = min(shape.radius, shape.width / 2, shape.height / 2)
    box = f"round,pad=0,rounding_size={radius}" if radius else "square,pad=0"
    style = _style(shape.paint, shape.fill)
    return [FancyBboxPatch((shape.x, shape.y), shape.width, shape.height, boxstyle=box, mutation_aspect=1, **style)]


def _circle(shape: Circle) -> Sequence[Any]:
    from matplotlib.patches import Circle as CirclePatch

    return [CirclePatch((shape.x, shape.y), shape.radius, **_style(shape.paint))]


def _line(shape: Line) -> Sequence[Any]:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    points: list[Point] = [shape.points[0]]
    codes = [Path.MOVETO]
    for before, at, after in corners(shape):
        points += [before, at, after]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    style = _style(shape.paint) | {"facecolor": "none", "capstyle": "butt"}
    drawn = [PathPatch(Path([*points, shape.points[-1]], [*codes, Path.LINETO]), **style)]
    if not shape.head:
        return drawn
    paint = f"{shape.paint}-head" if f"{shape.paint}-head" in LIGHT else "head"
    return [*drawn, Polygon(head(shape), closed=True, **_style(paint))]


def _text(shape: Text) -> Sequence[Any]:
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    if not shape.text.strip():
        return []
    properties = FontProperties(family="DejaVu Sans", weight="bold" if shape.bold else "normal")
    outlines = TextPath((0, 0), shape.text, size=shape.size, prop=properties, usetex=False, _interpolation_steps=1)
    wide = outlines.get_extents().x1 or 1.0
    fitted = Affine2D().scale(min(shape.width / wide, 1.0), -1).translate(shape.left, shape.y)
    return [
        PathPatch(fitted.transform_path(outlines), facecolor=LIGHT[shape.paint].fill, edgecolor="none", linewidth=0)
    ]


_PAINT: Mapping[type[Shape], Callable[..., Sequence[Any]]] = {Rect: _rect, Circle: _circle, Line: _line, Text: _text}
