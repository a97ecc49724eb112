"""Diagnostics: where, which stable code, what is wrong, what to write instead; and the exit code of each failure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

#: What ends a line in YAML 1.1, which PyYAML counts by.
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Source:
    """A text that the user wrote: a file, or the value of a `--set` option."""

    name: str
    text: str = field(repr=False)

    def line(self, number: int) -> str:
        """The text of line `number` (from 1), or an empty string past the end."""
        lines = _BREAK.split(self.text)
        return lines[number - 1] if 0 < number <= len(lines) else ""


@dataclass(frozen=True, slots=True)
class Place:
    """A span on one line of a source. Lines and columns count from 1; `end` is the column after the last character."""

    source: Source
    line: int
    column: int
    end: int

    @classmethod
    def at(cls, source: Source, index: int) -> Place:
        """The place of the character at an index of the text."""
        before = _BREAK.split(source.text[:index])
        return cls(source, len(before), len(before[-1]) + 1, len(before[-1]) + 2)

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"

    def part(self, offset: int, length: int) -> Place:
        """The span of `length` characters that starts `offset` characters into this one."""
        start = min(self.column + offset, max(self.end - 1, self.column))
        return Place(self.source, self.line, start, min(max(start + length, start + 1), max(self.end, start + 1)))


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One message for one mistake."""

    code: str
    message: str
    place: Place | None = None
    notes: tuple[str, ...] = ()
    help: str | None = None


class RescompileError(Exception):
    """Base of every error that rescompile raises on purpose; `diagnostics` says all of it, `exit_code` is the command's."""

    exit_code = 1

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]) -> None:
        self.diagnostics = (diagnostics,) if isinstance(diagnostics, Diagnostic) else tuple(diagnostics)
        super().__init__("\n".join(_line(diagnostic) for diagnostic in self.diagnostics))


class CheckFailed(RescompileError):
    """A check did not hold: an expectation, weights that do not fit. Exit code 1."""

    exit_code = 1


class UsageError(RescompileError):
    """The command was called wrongly, or there is no such input file. Exit code 2."""

    exit_code = 2


class SpecError(RescompileError):
    """The spec is wrong. Exit code 3. `rest` is the spec without its wrong rows, where one could be made of it."""

    exit_code = 3

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic], rest: Any = None) -> None:
        listed = (diagnostics,) if isinstance(diagnostics, Diagnostic) else diagnostics
        super().__init__(sorted(listed, key=_position))
        self.rest = rest


class Unavailable(RescompileError):
    """A target, runtime, device or extra is not there. Exit code 4."""

    exit_code = 4


class OutputError(RescompileError):
    """An output could not be written, or is not ours to overwrite. Exit code 5."""

    exit_code = 5


class ShapeError(Exception):
    """Raised by an op or a merge whose input does not fit. The elaborator turns it into a located diagnostic."""

    def __init__(self, code: str, message: str, attribute: str | None = None, help: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.attribute, self.help = code, message, attribute, help


def nearest(word: str, known: Iterable[str]) -> str | None:
    """`did you mean 'width'?` for a misspelt word, or None."""
    if len(word) > 64:
        return None
    import difflib  # only a mistake needs it

    matches = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"did you mean '{matches[0]}'?" if matches else None


def clipped(word: str, length: int = 60) -> str:
    """A user's word as a message may quote it: on one line, and not endless."""
    word = word if word.isprintable() else repr(word)[1:-1]
    return word if len(word) <= length else f"{word[: length - 3]}..."


def one_of(words: Iterable[str]) -> str:
    """`a, b or c`: alternatives as a person would say them."""
    *head, last = words
    return f"{', '.join(head)} or {last}" if head else last


def _position(diagnostic: Diagnostic) -> tuple[str, int, int]:
    place = diagnostic.place
    return (place.source.name, place.line, place.column) if place else ("", 0, 0)


def _line(diagnostic: Diagnostic) -> str:
    where = f"{diagnostic.place}: " if diagnostic.place else ""
    return f"{where}{diagnostic.code}: {diagnostic.message}"


CODES: dict[str, str] = {
    # reading
    "E0101": "the text is not valid YAML",
    "E0102": "unknown key",
    "E0103": "a required key is missing",
    "E0104": "a value of the wrong form",
    "E0105": "a key is given twice",
    "E0106": "a feature of YAML that specs do not use",
    "E0107": "a limit on the size of a spec is exceeded",
    "E0108": "the spec format version is missing or not known",
    "E0109": "not a usable name",
    "E0110": "not a step",
    "E0111": "the file cannot be read as text",
    "E0112": "an ambiguous or unusable number",
    # shapes
    "E0201": "the branches of a merge have different shapes",
    "E0202": "a kernel, stride or size does not fit the map",
    "E0203": "channels cannot be divided into groups or branches",
    "E0204": "an op is given input of the wrong rank",
    "E0205": "padding that cannot be",
    "E0206": "channels would shrink",
    "E0207": "a gate that is not between 0 and 1",
    "E0208": "the network is too large",
    # expressions and values
    "E0301": "an expression cannot be read",
    "E0302": "unknown name in an expression",
    "E0303": "an expression cannot be evaluated",
    "E0304": "a value of the wrong type",
    "E0305": "a word that is not allowed here",
    "E0306": "a list where one value is wanted",
    "E0307": "a list with the wrong number of entries",
    "E0308": "a per-block value where nothing is repeated",
    "E0309": "a value out of range",
    # blocks and rows
    "E0401": "unknown op or block",
    "E0402": "unknown argument or attribute",
    "E0403": "a required argument or attribute is missing",
    "E0404": "a block needs a name",
    "E0405": "a wrong or missing depth",
    "E0406": "two steps have one name",
    "E0407": "a list mixes named and numbered steps",
    "E0408": "a block contains itself",
    "E0409": "a block is defined wrongly",
    "E0410": "defaults that nothing uses",
    "E0411": "the word of an op used as a name",
    # inheritance
    "E0501": "the base spec cannot be found",
    "E0502": "specs extend one another in a circle or too deeply",
    "E0503": "a base spec outside the folder of the spec",
    "E0504": "a `set` path that names nothing",
    "E0505": "a `set` path that names several rows",
    "E0506": "a `set` that cannot be applied",
    # the network as a whole
    "E0601": "a survival schedule that does not fit",
    "E0602": "a feature that names no part of the network",
    "E0603": "a network that does nothing",
    "E0604": "two outputs have one name",
    # checks, usage, environment, output
    "E0701": "an expectation is not met",
    "E0702": "weights do not fit the network",
    "E0703": "a spec recorded in a model cannot be trusted",
    "E0704": "a naming profile of other networks",
    "E0705": "a file is not what its spec gives",
    "E0720": "activations that cannot be timed",
    "E0721": "a timed network computes something else",
    "E0722": "a network became slower",
    "E0723": "no way to run a network is exact enough",
    "E0730": "an image that cannot be used",
    "E0740": "a network that cannot be quantised",
    "E0801": "no such spec or file",
    "E0802": "an option that cannot be used so",
    "E0803": "a checkpoint that cannot be read",
    "E0804": "a form of grouped convolutions, and there are none",
    "E0806": "a lesion that names no part",
    "E0807": "a lesion of a part that allows none",
    "E0808": "blocks that cannot change places",
    "E0809": "an axis of the image that cannot be free",
    "E0820": "a result file that cannot be read",
    "E0821": "results that cannot be compared",
    "E0830": "images that a network does not take",
    "E0831": "labels that do not fit",
    "E0840": "calibration data that cannot be used",
    "E0901": "a target, runtime or device is not available",
    "E0902": "an extra is not installed",
    "E1001": "the output file is not ours to overwrite",
    "E1002": "the output cannot be written",
}
