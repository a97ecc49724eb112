"""The boxes of an SVG picture: its texts, with their declared widths, its cards, and the segments of its lines."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SVG = "{http://www.w3.org/2000/svg}"
#: The classes of boxes that contain text, which nothing may cross.
CARDS = ("card", "chip", "end")
FRAMES = ("panel", "frame")
LINES = ("line", "skip", "gate", "side")
#: The ascent and descent of letters relative to the font size; those of Helvetica are 0.72 and 0.21.
ABOVE, BELOW = 0.74, 0.22


@dataclass(frozen=True)
class Area:
    """A rectangle with its label."""

    left: float
    top: float
    right: float
    bottom: float
    what: str = ""

    def overlaps(self, other: Area, slack: float = 0.05) -> bool:
        """Return whether the two areas share more than an edge."""
        return (
            self.left < other.right - slack
            and other.left < self.right - slack
            and self.top < other.bottom - slack
            and other.top < self.bottom - slack
        )

    def contains(self, other: Area, slack: float = 0.05) -> bool:
        """Return whether the other area is inside."""
        return (
            self.left <= other.left + slack
            and other.right <= self.right + slack
            and self.top <= other.top + slack
            and other.bottom <= self.bottom + slack
        )


@dataclass(frozen=True)
class Drawing:
    """The parts of a picture."""

    page: Area
    texts: tuple[Area, ...]
    cards: tuple[Area, ...]
    frames: tuple[Area, ...]
    segments: tuple[Area, ...]


def parse(svg: str) -> Drawing:
    """Return the boxes of a picture, which must be well-formed XML."""
    root = ElementTree.fromstring(svg)
    rects = [(each.get("class"), _rect(each)) for each in root.iter(f"{SVG}rect")]
    segments = [
        segment
        for each in root.iter(f"{SVG}path")
        if each.get("class") in LINES
        for segment in _segments(str(each.get("d")), str(each.get("class")))
    ]
    return Drawing(
        Area(0, 0, float(str(root.get("width"))), float(str(root.get("height")))),
        tuple(_text(each) for each in root.iter(f"{SVG}text")),
        tuple(area for kind, area in rects if kind in CARDS and area.what != "sample"),
        tuple(area for kind, area in rects if kind in FRAMES),
        tuple(segments),
    )


def _rect(element: ElementTree.Element) -> Area:
    x, y, width, height = (float(str(element.get(name))) for name in ("x", "y", "width", "height"))
    title = element.find(f"{SVG}title")
    what = "sample" if element.get("rx") is None else title.text or "" if title is not None else ""
    return Area(x, y, x + width, y + height, what)


def _text(element: ElementTree.Element) -> Area:
    x, y, size = (float(str(element.get(name))) for name in ("x", "y", "font-size"))
    width = float(str(element.get("textLength")))
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[element.get("text-anchor", "start")]
    return Area(left, y - ABOVE * size, left + width, y + BELOW * size, element.text or "")


def _segments(path: str, kind: str) -> Iterator[Area]:
    """Yield the straight segments between the points of a path; rounded corners lie inside them."""
    points = [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        yield Area(min(x0, x1) - 0.6, min(y0, y1) - 0.6, max(x0, x1) + 0.6, max(y0, y1) + 0.6, kind)


def mistakes(drawing: Drawing) -> list[str]:
    """Return a message for each text that overlaps another one, leaves its card or the page, or is crossed by a line,
    and for each pair of cards that overlap."""
    found = [f"{text.what!r} leaves the page" for text in drawing.texts if not drawing.page.contains(text)]
    found += [f"{one.what!r} overlaps {two.what!r}" for one, two in _overlapping(drawing.texts)]
    found += [f"the card {one.what!r} overlaps {two.what!r}" for one, two in _overlapping(drawing.cards)]
    areas = (*drawing.cards, *drawing.frames)
    for text in drawing.texts:
        found += [
            f"{text.what!r} leaves {area.what!r}" for area in areas if area.overlaps(text) and not area.contains(text)
        ]
        found += [f"{text.what!r} is crossed by a {each.what}" for each in drawing.segments if each.overlaps(text)]
    for card in drawing.cards:
        found += [
            f"{card.what!r} leaves its frame"
            for area in drawing.frames
            if area.overlaps(card) and not area.contains(card)
        ]
    return found


def _overlapping(areas: Sequence[Area]) -> Iterator[tuple[Area, Area]]:
    """Yield the pairs that overlap, from top to bottom."""
    ordered = sorted(areas, key=lambda area: area.top)
    for at, one in enumerate(ordered):
        for two in ordered[at + 1 :]:
            if two.top >= one.bottom:
                break
            if one.overlaps(two):
                yield one, two
