"""Merges with their branches: a shortcut is a line around the branch, other branches stand side by side.

residual, or one branch of two is the identity    the branch on the axis, the shortcut at its right
gate                                              the gate at the left, the branch on the axis, the shortcut at the right
any other                                         branches side by side, or the first and the last of many equal ones
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rescompile.drawing import font
from rescompile.drawing.boxes import BESIDE, LANE, LEADING, SMALL, Box, beside, dot, label, label_width
from rescompile.drawing.outline import Split
from rescompile.drawing.scene import Canvas, Circle, Line, Point, Rect, Text

#: From the top of a merge to its dot, to its branches, and from them to the middle of its sign.
DOT, TOP, BELOW = 4.0, 18.0, 24.0
#: The sign of a merge in a circle, or its word.
SIGNS = {"add": "+", "mul": "×"}
WORDS = {"concat": "concat", "mean": "mean", "shake": "shake", "gate": "g · h + (1 − g) · x"}


def merged(split: Split, lanes: Sequence[Box]) -> Box:
    """Return the box of a merge; `lanes` are those of its branches."""
    empty = [not branch.items for branch in split.branches]
    if split.merge == "gate":
        return _around(split, lanes[0], lanes[2], lanes[1])
    if not split.copies and len(lanes) == 2 and sum(empty) == 1:
        return _around(split, lanes[empty.index(False)], lanes[empty.index(True)])
    if not split.copies and len(lanes) == 2 and split.is_residual:
        return _around(split, *lanes)
    return _side_by_side(split, lanes)


def _sign_width(merge: str) -> float:
    """Half the width of a merge's sign."""
    return 9.0 if merge in SIGNS else font.width(WORDS[merge], SMALL, bold=True) / 2 + 8


def _sign(canvas: Canvas, x: float, y: float, merge: str) -> None:
    """A merge's sign, centred: a circle with + or ×, or a word."""
    half = _sign_width(merge)
    if merge in SIGNS:
        canvas.add(Circle(x, y, half, "merge"))
        for ends in _strokes(x, y, merge):
            canvas.add(Line(ends, "merge"))
        return
    canvas.add(Rect(x - half, y - 9, 2 * half, 18, "merge", 9))
    canvas.add(Text(x, y + SMALL * 0.35, WORDS[merge], SMALL, "ink", True, "middle"))


def _strokes(x: float, y: float, merge: str) -> tuple[tuple[Point, Point], ...]:
    """Return the two strokes of + or ×."""
    if merge == "add":
        return ((x - 5, y), (x + 5, y)), ((x, y - 5), (x, y + 5))
    return ((x - 3.6, y - 3.6), (x + 3.6, y + 3.6)), ((x - 3.6, y + 3.6), (x + 3.6, y - 3.6))


def _reach(split: Split) -> float:
    """Return how far a merge's sign with its notes extends to the left."""
    return _sign_width(split.merge) + max((6 + label_width(note) for note in split.notes), default=0.0)


def _end(canvas: Canvas, x: float, y: float, start: float, merge_at: float, split: Split) -> None:
    """The end of a merge, whose top is at `y`: a line into the sign, with the notes at its left; and the dot at the beginning."""
    canvas.add(Line(((x, y + start), (x, y + merge_at - 9)), head=True))
    dot(canvas, x, y + DOT)
    _sign(canvas, x, y + merge_at, split.merge)
    for at, note in enumerate(split.notes):
        label(canvas, x - _sign_width(split.merge) - 6, y + merge_at + LEADING * at, note, "end")


def _around(split: Split, main: Box, skip: Box, gate: Box | None = None) -> Box:
    """Return a branch on the axis with its shortcut at the right, and a gate at the left."""
    half = _sign_width(split.merge)
    inner = max(main.height, skip.height, gate.height if gate else 0)
    right = max(main.right, half + 12) + LANE - 4 + skip.left
    left = max(main.left, half + 12) + LANE - 4 + gate.right if gate else 0.0
    merge_at = TOP + inner + BELOW
    height = merge_at + 9

    def draw(canvas: Canvas, x: float, y: float) -> None:
        canvas.add(Line(((x, y), (x, y + TOP)), head=main.solid))
        main.draw(canvas, x, y + TOP)
        _lane(canvas, x, y, right, skip, merge_at, half, "skip")
        if gate is not None:
            _lane(canvas, x, y, -left, gate, merge_at, half, "gate")
        _end(canvas, x, y, TOP + main.height, merge_at, split)

    extent = max(left + (gate.left if gate else 0), main.left, _reach(split))
    return Box(extent, max(right + skip.right + 2, main.right), height, draw, solid=False)


def _lane(
    canvas: Canvas, x: float, y: float, away: float, box: Box, merge_at: float, half: float, paint: str
) -> None:  # fmt: skip
    """A line from the dot around the branch to the side of the merge's sign, through a box in its middle if that has ops."""
    end = x + (half if away > 0 else -half)
    if not box.height:
        canvas.add(
            Line(((x, y + DOT), (x + away, y + DOT), (x + away, y + merge_at), (end, y + merge_at)), paint, head=True)
        )
        return
    top = y + TOP + max(0.0, (merge_at - BELOW - TOP - box.height) / 2)
    canvas.add(Line(((x, y + DOT), (x + away, y + DOT), (x + away, top)), paint, head=box.solid))
    box.draw(canvas, x + away, top)
    canvas.add(Line(((x + away, top + box.height), (x + away, y + merge_at), (end, y + merge_at)), paint, head=True))


def _side_by_side(split: Split, lanes: Sequence[Box]) -> Box:
    """Branches beside one another, between a line that spreads the value and one that collects the results."""
    placed = [lane if lane.height else replace(lane, left=LANE / 2, right=LANE / 2) for lane in lanes]
    if split.copies:
        placed[1:1] = [_ellipsis(split, lanes[0].height)]
    axes, left, right = beside(placed)
    inner = max(lane.height for lane in placed)
    collect = TOP + inner + 12
    merge_at = collect + 22

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for axis, lane in zip(axes, placed, strict=True):
            place = x + axis
            if split.copies and lane is placed[1]:
                lane.draw(canvas, place, y + TOP + inner / 2)
                continue
            paint = "line" if lane.height or not inner else "skip"
            down = ((x, y), (x, y + DOT), (place, y + DOT), (place, y + TOP)) if axis else ((x, y), (x, y + TOP))
            canvas.add(Line(down, paint, head=lane.solid))
            lane.draw(canvas, place, y + TOP)
            start, meet = (place, y + TOP + lane.height), y + collect
            canvas.add(Line((start, (place, meet), (x, meet), (x, meet + 4)) if axis else (start, (x, meet)), paint))
        _end(canvas, x, y, collect, merge_at, split)

    return Box(max(left, _reach(split)), max(right, _sign_width(split.merge)), merge_at + 9, draw, solid=False)


def _ellipsis(split: Split, height: float) -> Box:
    """Return the words between the first and the last of equal branches."""
    lines = ["· · ·", f"{split.copies} paths", *([f"{split.share} channels each"] if split.share else [])]
    wide = max(map(label_width, lines)) / 2

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for at, line in enumerate(lines):
            label(canvas, x, y + LEADING * (at - (len(lines) - 1) / 2), line, "middle")

    return Box(max(wide, BESIDE), wide, 0, draw, solid=False)
