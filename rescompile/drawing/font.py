"""The width of text, from the advances of Helvetica, which Arial, Liberation Sans and Nimbus Sans share.

A picture is laid out before anybody knows which font will show it. Each text is therefore given its width in the file, so that
another font is fitted to it and never runs out of its card.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Advances in thousandths of the size, of the characters from space to tilde (Adobe's metrics of its core fonts).
_REGULAR = (
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556, 556,
    556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778,
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556, 556, 278, 556,
    556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
)  # fmt: skip
_BOLD = (
    278, 333, 474, 556, 556, 889, 722, 238, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556, 556,
    556, 556, 333, 333, 584, 584, 584, 611, 975, 722, 722, 722, 722, 667, 611, 778, 722, 278, 556, 722, 611, 833, 722, 778,
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 333, 278, 333, 584, 556, 333, 556, 611, 556, 611, 556, 333, 611,
    611, 278, 278, 556, 278, 889, 611, 611, 611, 611, 389, 556, 333, 611, 556, 778, 556, 556, 500, 389, 280, 389, 584,
)  # fmt: skip
_OTHERS = {"×": 584, "·": 278, "–": 556, "−": 584, "…": 1000, "→": 1000, "≠": 549}
_TABLES = {
    bold: {chr(32 + at): width for at, width in enumerate(table)} | _OTHERS
    for bold, table in ((False, _REGULAR), (True, _BOLD))
}
#: The advance of any other character: as wide as those of Chinese and Japanese.
_WIDEST = 1000
#: Where a text is broken: after a comma or a separator, and if that is not enough between two words too, but not between a number
#: and its word.
_PHRASE = re.compile(r"(?<=[,·]) ")
_BREAK = re.compile(r"(?<=[,·]) |(?<=[^\d,·]) (?![·\d])")


def width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a text in a size."""
    table = _TABLES[bold]
    return sum(table.get(character, _WIDEST) for character in text) * size / 1000


def wrapped(text: str, size: float, room: float, bold: bool = False) -> list[str]:
    """Return a text in as few lines of at most this width as it needs, broken at spaces, or inside a word that is wider than a
    line. The lines are about equally long."""
    phrases = _PHRASE.split(text)
    whole = all(width(phrase, size, bold) <= room for phrase in phrases)
    words = phrases if whole else _BREAK.split(text)
    lines = _lines(words, size, room, bold)
    widest = max(width(word, size, bold) for word in words)
    for part in (0.55, 0.7, 0.85):
        narrower = max(part * room, min(widest, room))  # no word is cut to make lines equal
        if len(lines) > 1 and len(balanced := _lines(words, size, narrower, bold)) == len(lines):
            return balanced
    return lines


def _lines(words: Sequence[str], size: float, room: float, bold: bool) -> list[str]:
    """Return words in lines of at most this width."""
    lines: list[str] = []
    line = ""
    for word in words:
        tried = f"{line} {word}" if line else word
        if width(tried, size, bold) <= room:
            line = tried
            continue
        if line and width(word, size, bold) <= room:
            lines.append(line)
            tried = word
        *whole, line = _pieces(tried, size, room, bold)
        lines += whole
    return [*lines, line] if line or not lines else lines


def _pieces(word: str, size: float, room: float, bold: bool) -> list[str]:
    """Return a word cut where it is wider than a line, after a dot or an underscore if there is one, and else after any
    character."""
    pieces = []
    while word:
        fitting = next((at for at in range(1, len(word)) if width(word[: at + 1], size, bold) > room), len(word))
        if fitting < len(word):
            fitting = max(word.rfind(".", 1, fitting), word.rfind("_", 1, fitting)) + 1 or fitting
        pieces.append(word[:fitting])
        word = word[fitting:]
    return pieces or [""]
