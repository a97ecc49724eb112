"""Problems, each located at its cause in the user's text.

A problem moves from the step that failed, often inside a block of the library, to the argument in the user's file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rescompile.diagnostics.errors import Diagnostic, Place
from rescompile.elaboration.site import Frame, Path, Problem, Site
from rescompile.ir.expressions import parse
from rescompile.lang.spec.blocks import Block
from rescompile.lang.spec.steps import NamedStep
from rescompile.lang.yaml_reader import Mapping, locate


class Reporter:
    """Makes problems for one document."""

    def __init__(self, document: Mapping) -> None:
        self.document = document

    def problem(
        self, code: str, message: str, path: Path, help: str | None = None, key: bool = False, by_shape: bool = False
    ) -> Problem:
        """Return a problem at a path of the document."""
        return Problem(Diagnostic(code, message, locate(self.document, path, key), help=help), by_shape)

    def blamed(
        self,
        code: str,
        message: str,
        site: Site,
        help: str | None = None,
        raw: Any = None,
        by_shape: bool = False,
        key: bool = False,
    ) -> Problem:
        """Return a problem with `raw` at a site; inside a block, at its cause in the user's text, with the step in a
        note."""
        frame = site.frame
        if frame.block is None:
            return self.problem(code, message, site.path, help, key, by_shape)
        place = self._cause(raw, frame) or self._use_place(frame)
        return Problem(Diagnostic(code, message, place, self._trail(site, raw), help), by_shape)

    def roots(self, raw: Any, frame: Frame) -> Iterator[str]:
        """Yield the parameters of the block that a value depends on, through lets."""
        for text in _texts(raw):
            for name in parse(text).names:
                if frame.block is not None and name in frame.block.let:
                    yield from self.roots(frame.block.let[name], frame)
                else:
                    yield name

    def _use_place(self, frame: Frame) -> Place:
        """Return the place of the outermost step that led here."""
        while frame.caller is not None and frame.caller.block is not None:
            frame = frame.caller
        return locate(self.document, frame.use, key=True)

    def _cause(self, raw: Any, frame: Frame) -> Place | None:
        """Return where the user wrote a value that `raw` depends on: on the command line rather than in the spec, and
        there rather than in its bases or blocks."""
        own = self.document.place.source
        return min(
            self._causes(raw, frame),
            key=lambda place: (place.source.name != "--set", place.source != own),
            default=None,
        )

    def _causes(self, raw: Any, frame: Frame) -> Iterator[Place]:
        for name in self.roots(raw, frame):
            if (given := frame.given.get(name)) is None:
                continue
            if given.frame.block is None:
                yield locate(self.document, given.path)
            else:
                yield from self._causes(given.raw, given.frame)

    def _trail(self, site: Site, raw: Any) -> tuple[str, ...]:
        """Return notes like `in block bottleneck, step conv2 (blocks/bottleneck.yaml:9), from inner = width * ...`,
        innermost first."""
        notes = []
        path = site.path
        frame: Frame | None = site.frame
        while frame is not None and frame.block is not None:
            place = locate(self.document, path, key=True)
            note = (
                f"in block {frame.word}{_part(frame.block, path[len(frame.path) :])} ({place.source.name}:{place.line})"
            )
            for text in _texts(raw):
                if (word := parse(text).word) and word in frame.block.let:
                    note += f", from {word} = {frame.block.let[word]}"
                elif not parse(text).word:
                    note += f", from {text}"
            notes.append(note)
            path, frame, raw = frame.use, frame.caller, None
        return tuple(_collapsed(notes))


def _texts(raw: Any) -> Iterable[str]:
    """Yield the expressions of a value as written."""
    if isinstance(raw, str):
        yield raw
    elif isinstance(raw, list):
        for item in raw:
            yield from _texts(item)


def _collapsed(notes: list[str]) -> Iterator[str]:
    """Yield each note once: a block that contains itself would repeat one thirty times."""
    for note in dict.fromkeys(notes):
        times = notes.count(note)
        yield note if times == 1 else f"{note}, {times} times"


def _part(block: Block, path: Path) -> str:
    """Return in words the let or the named step of a block that a path below its definition leads to."""
    if path[:1] == ("let",):
        return f", let {path[1]}"
    name: str | int | None = None
    part: Any = block
    for key in path:
        if isinstance(part, NamedStep):
            name, part = key, part.step
        else:
            part = part[int(key)] if isinstance(part, list) else getattr(part, _FIELDS.get(key, str(key)), None)
    return f", step {name}" if name else ""


#: The model fields whose keys are Python keywords.
_FIELDS: dict[str | int, str] = {"if": "if_", "else": "else_"}
