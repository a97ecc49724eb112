"""The legend: what the colours and lines that occur in a picture mean."""

from __future__ import annotations

from collections.abc import Callable

from rescompile.drawing.boxes import label, label_width
from rescompile.drawing.colouring import Painting
from rescompile.drawing.scene import Canvas, Line, Rect, Shape

_SAMPLE, _BETWEEN, _LINE = 20.0, 18.0, 20.0
#: Each class of shapes with its meaning, and how its sample is drawn from the left end and the middle of a line.
_ENTRIES: dict[str, tuple[str, Callable[[float, float, str], Shape]]] = {
    "weighted": ("has parameters", lambda x, y, paint: Rect(x + 12, y - 6, 4, 12, paint, 2)),
    "resizing": ("pooling, resizing", lambda x, y, paint: Rect(x + 12, y - 6, 4, 12, paint, 2)),
    "pointwise": ("norm, activation, dropout", lambda x, y, paint: Rect(x + 12, y - 6, 4, 12, paint, 2)),
    "value": ("keeps or uses a value", lambda x, y, paint: Rect(x + 12, y - 6, 4, 12, paint, 2)),
    "skip": ("shortcut", lambda x, y, paint: Line(((x, y), (x + _SAMPLE, y)), paint, head=True)),
    "gate": ("gate", lambda x, y, paint: Line(((x, y), (x + _SAMPLE, y)), paint, head=True)),
    "side": ("side branch", lambda x, y, paint: Line(((x, y), (x + _SAMPLE, y)), paint, head=True)),
    "differs": ("differs", lambda x, y, paint: Rect(x + 3, y - 6, 14, 12, paint, 3)),
    "only": ("only in one", lambda x, y, paint: Rect(x + 3, y - 6, 14, 12, paint, 3)),
}


def legend(canvas: Canvas, painting: Painting | None, x: float, y: float, right: float) -> tuple[float, float]:
    """Draw the legend in lines that end before `right`, if they can; returns where it ends at the right and below."""
    used = {shape.paint for shape in canvas.shapes}
    start, widest = x, right
    if painting is not None:
        widest = max(widest, _samples(canvas, painting, x, y + _LINE / 2))
        y += _LINE + 6
    for paint, (words, sample) in _ENTRIES.items():
        if paint not in used:
            continue
        needed = _SAMPLE + 6 + label_width(words)
        if x > start and x + needed > right:
            x, y = start, y + _LINE
        canvas.add(sample(x, y + _LINE / 2, paint))
        label(canvas, x + _SAMPLE + 6, y + _LINE / 2, words)
        widest = max(widest, x + needed)
        x += needed + _BETWEEN
    return widest, y + _LINE


def _samples(canvas: Canvas, painting: Painting, x: float, middle: float) -> float:
    """Draw the samples of a painting after its title; returns where they end."""
    for colours, words in [((), f"{painting.title}:"), *painting.samples]:
        for step, colour in enumerate(colours):
            canvas.add(Rect(x + 26 * step, middle - 6, 26, 12, "card", 0, colour))
        x += 26 * len(colours) + (8 if colours else 0)
        label(canvas, x, middle, words)
        x += label_width(words) + 8
    return x
