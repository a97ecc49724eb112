"""Diagnostics, each with a place, a stable code, a message and help, and the exceptions that carry them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import field, replace
from functools import lru_cache
from itertools import islice
from typing import Any, Self

from rescompile.diagnostics import codes
from rescompile.records import record

#: The line breaks of YAML 1.1, with which PyYAML counts lines.
BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
#: The number of errors collected in one spec, and the number that the text format shows, so that work and output stay bounded.
MAX_FOUND, MAX_SHOWN = 100, 20


@lru_cache(maxsize=8)
def _lines(text: str) -> list[str]:
    return BREAK.split(text)


@record
class Source:
    """A text that the user wrote: a file, or the value of a `--set` option."""

    name: str
    text: str = field(repr=False)

    def line(self, number: int) -> str:
        """Return the text of line `number` (from 1), or an empty string past the end."""
        lines = _lines(self.text)
        return lines[number - 1] if 0 < number <= len(lines) else ""


@record
class Place:
    """A span on one line of a source. Lines and columns count from 1; `end` is the column after the last character."""

    source: Source
    line: int
    column: int
    end: int

    @classmethod
    def at(cls, source: Source, index: int) -> Place:
        """Return the place of the character at an index of the text."""
        before = BREAK.split(source.text[:index])
        return cls(source, len(before), len(before[-1]) + 1, len(before[-1]) + 2)

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"

    def part(self, offset: int, length: int) -> Place:
        """Return the span of `length` characters that starts `offset` characters into this one."""
        start = min(self.column + offset, max(self.end - 1, self.column))
        return Place(self.source, self.line, start, min(max(start + length, start + 1), max(self.end, start + 1)))


@record
class Diagnostic:
    """A message about one error. Its text never contains control characters, whatever it quotes."""

    code: str
    message: str
    place: Place | None = None
    notes: tuple[str, ...] = ()
    help: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message, keep="\n"))
        object.__setattr__(self, "notes", tuple(map(printable, self.notes)))
        object.__setattr__(self, "help", self.help and printable(self.help, keep="\n"))


class RescompileError(Exception):
    """Base of all errors that rescompile raises on purpose, with their diagnostics and the exit code of the command."""

    exit_code = codes.CHECK_FAILED

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]) -> None:
        self.diagnostics = (diagnostics,) if isinstance(diagnostics, Diagnostic) else tuple(diagnostics)
        super().__init__("\n".join([*map(_line, self.diagnostics[:MAX_SHOWN]), *not_shown(self.diagnostics)]))

    @classmethod
    def of(
        cls,
        code: str,
        message: str,
        place: Place | None = None,
        notes: tuple[str, ...] = (),
        help: str | None = None,
    ) -> Self:
        """Return the error with one diagnostic."""
        return cls(Diagnostic(code, message, place, notes, help))


class CheckFailed(RescompileError):
    """A check failed, such as an expectation, or weights that do not match. Exit code 1."""

    exit_code = codes.CHECK_FAILED


class UsageError(RescompileError):
    """Wrong usage, or an input file that does not exist. Exit code 2."""

    exit_code = codes.WRONG_USAGE


class SpecError(RescompileError):
    """The spec is invalid. Exit code 3. `rest` is the spec without its invalid rows, if the rest is valid."""

    exit_code = codes.INVALID_SPEC

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic], rest: Any = None) -> None:
        listed = (diagnostics,) if isinstance(diagnostics, Diagnostic) else islice(diagnostics, MAX_FOUND)
        super().__init__(sorted(map(with_lookalike, listed), key=_position))
        self.rest = rest


class Unavailable(RescompileError):
    """A target, runtime, device or extra is not available. Exit code 4."""

    exit_code = codes.NOT_AVAILABLE


class OutputError(RescompileError):
    """An output cannot be written, or must not be overwritten. Exit code 5."""

    exit_code = codes.NOT_WRITTEN


class ShapeError(Exception):
    """The input of an op or a merge does not fit. The elaborator turns it into a located diagnostic."""

    def __init__(self, code: str, message: str, attribute: str | None = None, help: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.attribute, self.help = code, message, attribute, help


def with_lookalike(diagnostic: Diagnostic) -> Diagnostic:
    """Return the diagnostic, moved to a lookalike character within its place, with help about it, if there is one."""
    place = diagnostic.place
    if place is None:
        return diagnostic
    marked = place.source.line(place.line)[place.column - 1 : place.end - 1]
    if marked.isascii():
        return diagnostic
    from rescompile.diagnostics.lookalikes import explained  # imported only for such an error

    for at, character in enumerate(marked):
        if about := explained(character):
            return replace(diagnostic, place=place.part(at, 1), help=about)
    return diagnostic


def not_shown(diagnostics: Sequence[Diagnostic]) -> list[str]:
    """Return a line with the number of errors that the text format does not show; none if it shows all."""
    more = len(diagnostics) - MAX_SHOWN
    least = "at least " if len(diagnostics) >= MAX_FOUND else ""
    return [f"... and {least}{more} more mistake{'s' if more > 1 else ''}"] if more > 0 else []


def printable(text: str, keep: str = "") -> str:
    """Return the text with control characters escaped, so that a file cannot control the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return `did you mean 'width'?` if a known word is similar, or None."""
    return None if len(word) > 64 else _nearest(word, tuple(sorted(known)))


@lru_cache(maxsize=256)  # cached, since errors are often repeated
def _nearest(word: str, known: tuple[str, ...]) -> str | None:
    import difflib  # imported only for errors

    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{matches[0]}'?" if matches else None


def clipped(word: str, length: int = 60) -> str:
    """Return a user's word as messages quote it: on one line and of limited length."""
    word = printable(word)
    return word if len(word) <= length else f"{word[: length - 3]}..."


def one_of(words: Iterable[str], conjunction: str = "or") -> str:
    """Return `a, b or c`: a list of alternatives, or of everything with the conjunction `and`."""
    *head, last = words
    return f"{', '.join(head)} {conjunction} {last}" if head else last


def _position(diagnostic: Diagnostic) -> tuple[str, int, int]:
    place = diagnostic.place
    return (place.source.name, place.line, place.column) if place else ("", 0, 0)


def _line(diagnostic: Diagnostic) -> str:
    where = f"{printable(str(diagnostic.place))}: " if diagnostic.place else ""
    return f"{where}{diagnostic.code}: {diagnostic.message}"
