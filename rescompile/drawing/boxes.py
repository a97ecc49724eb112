"""Boxes: parts of a picture with their size, drawn once their place is known.

Everything stands on a vertical axis along which values flow down: a box extends to the left and to the right of it, and its
first and last point are on it. Series-parallel trees need no other layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rescompile.drawing import font
from rescompile.drawing.scene import Canvas, Circle, Line, Text
from rescompile.records import record

#: Sizes of text: titles of rows, of ops and frames, and everything else.
TITLE, OP, SMALL = 13.0, 11.5, 10.5
#: The height of a line of small text, and from its top to its baseline.
LEADING, BASELINE = 14.0, 10.5
#: The distance between two boxes without and with a label between them, and between neighbours side by side.
GAP, LABEL_GAP, LANE = 14.0, 26.0, 18.0
#: The distance of a label from the axis.
BESIDE = 7.0


@record
class Box:
    """A part of a picture. `draw` gets its place: the axis, and its top. A line that enters it has a head if it is `solid`."""

    left: float
    right: float
    height: float
    draw: Callable[[Canvas, float, float], None]
    solid: bool = True

    @property
    def width(self) -> float:
        """From its left to its right end."""
        return self.left + self.right


def nothing() -> Box:
    """Return a box without a size: the identity."""
    return Box(0, 0, 0, lambda *_: None, solid=False)


def label(canvas: Canvas, x: float, middle: float, text: str, anchor: str = "start") -> None:
    """A label beside a line, centred on a height."""
    canvas.add(Text(x, middle + SMALL * 0.35, text, SMALL, "muted", anchor=anchor))


def label_width(text: str) -> float:
    """Return the width of a label."""
    return font.width(text, SMALL)


def stacked(boxes: Sequence[Box], labels: Sequence[str]) -> Box:
    """Boxes below one another, joined by lines; `labels` has the text beside the line after each but the last, or nothing."""
    gaps = [LABEL_GAP if text else GAP for text in labels]
    wide = [BESIDE + label_width(text) for text in labels if text]
    height = sum(box.height for box in boxes) + sum(gaps)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for at, box in enumerate(boxes):
            box.draw(canvas, x, y)
            y += box.height
            if at < len(gaps):
                canvas.add(Line(((x, y), (x, y + gaps[at])), head=boxes[at + 1].solid))
                if labels[at]:
                    label(canvas, x + BESIDE, y + gaps[at] / 2 - (1 if boxes[at + 1].solid else 0), labels[at])
                y += gaps[at]

    first = boxes[0].solid if boxes else False
    return Box(
        max((box.left for box in boxes), default=0), max([box.right for box in boxes] + wide, default=0), height, draw, first
    )  # fmt: skip


def dot(canvas: Canvas, x: float, y: float) -> None:
    """The point where a value is used more than once."""
    canvas.add(Circle(x, y, 2.6, "head"))


def beside(lanes: Sequence[Box]) -> tuple[list[float], float, float]:
    """Places for boxes side by side: the axis of each, from the middle between the outermost axes, and the extent to both sides."""
    axes, x = [], 0.0
    for lane in lanes:
        x += lane.left
        axes.append(x)
        x += lane.right + LANE
    middle = (axes[0] + axes[-1]) / 2
    return [axis - middle for axis in axes], middle, x - LANE - middle
