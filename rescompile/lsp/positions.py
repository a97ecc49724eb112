"""Converts between the positions of the reader and of the protocol.

The reader counts lines by the breaks of YAML and columns in characters; the protocol counts lines by the breaks of editors and
columns in code units of the encoding that client and server agree on, by default UTF-16.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from functools import cached_property

from lsprotocol.types import Position, Range

from rescompile.diagnostics.errors import BREAK, Place

_EDITOR_BREAK = re.compile("\r\n|[\r\n]")
#: The code units of a text in each encoding.
UNITS: dict[str, Callable[[str], int]] = {
    "utf-8": lambda text: len(text.encode("utf-8", "surrogatepass")),
    "utf-16": lambda text: len(text.encode("utf-16-le", "surrogatepass")) // 2,
    "utf-32": len,
}


class Lines:
    """The lines of one text, as both sides count them; an index counts characters from 0."""

    def __init__(self, text: str, encoding: str = "utf-16") -> None:
        self.text, self.encoding = text, encoding
        self.units = UNITS[encoding]

    @cached_property
    def _yaml(self) -> list[int]:
        return _starts(BREAK, self.text)

    @cached_property
    def _editor(self) -> list[int]:
        return _starts(_EDITOR_BREAK, self.text)

    @property
    def count(self) -> int:
        """Return the number of lines of the editor."""
        return len(self._editor)

    def line(self, number: int) -> str:
        """Return the text of a line of the editor, from 0, without its break; empty outside the text."""
        if not 0 <= number < self.count:
            return ""
        end = self._editor[number + 1] if number + 1 < self.count else len(self.text)
        return self.text[self._editor[number] : end].rstrip("\r\n")

    def index(self, position: Position) -> int:
        """Return the index of a position; one outside the text becomes the nearest inside."""
        number = min(max(position.line, 0), self.count - 1)
        line, at, used = self.line(number), 0, 0
        while at < len(line) and used < position.character:
            used += self.units(line[at])
            at += 1
        return self._editor[number] + at

    def position(self, index: int) -> Position:
        """Return the position of an index."""
        number = bisect_right(self._editor, index) - 1
        start = self._editor[number]
        return Position(number, self.units(self.text[start:index]))

    def span(self, start: int, end: int) -> Range:
        """Return the range between two indices."""
        return Range(self.position(start), self.position(end))

    def start(self, place: Place) -> int:
        """Return the index at which a place begins."""
        line = self._yaml[min(place.line, len(self._yaml)) - 1]
        return min(line + place.column - 1, len(self.text))

    def end(self, place: Place) -> int:
        """Return the index at which a place ends; the column after the last character of a line is its end."""
        start = self.start(place)
        rest = self.text[start : start + place.end - place.column]
        broken = BREAK.search(rest)
        return start + (broken.start() if broken else len(rest))

    def range(self, place: Place) -> Range:
        """Return the range of a place."""
        return self.span(self.start(place), self.end(place))

    def yaml_line(self, index: int) -> int:
        """Return the line of the reader, from 1, that an index is on."""
        return bisect_right(self._yaml, index)

    def line_start(self, index: int) -> int:
        """Return the index at which the line of the editor with this index starts."""
        return self._editor[bisect_right(self._editor, index) - 1]

    def number(self, line: int) -> int:
        """Return the line of the editor, from 0, that a line of the reader begins on."""
        return bisect_right(self._editor, self._yaml[min(line, len(self._yaml)) - 1]) - 1

    def end_of_line(self, number: int) -> Position:
        """Return the position after the last character of a line of the editor."""
        return Position(number, self.units(self.line(number)))


def _starts(breaks: re.Pattern[str], text: str) -> list[int]:
    """Return the index at which each line starts."""
    return [0, *(match.end() for match in breaks.finditer(text))]
