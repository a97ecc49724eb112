"""What expressions may mention at some place, and the problems found there: located at what the user wrote.

A mistake often shows up inside a block of the library, far from its cause. Every value therefore remembers where it was
given, and a problem climbs from the step that failed to the argument, in the user's own file, that led to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rescompile.diagnostics.errors import Diagnostic, Place
from rescompile.ir import ops
from rescompile.ir.expressions import parse
from rescompile.ir.names import RESERVED
from rescompile.lang.spec.blocks import Block
from rescompile.lang.spec.spec import Spec
from rescompile.lang.yaml_reader import locate

Path = tuple[str | int, ...]
Value = Any


@dataclass(frozen=True, slots=True)
class Given:
    """Where a parameter's value was written, and the frame it was written in; `raw` is as written."""

    path: Path
    frame: Frame
    raw: Any


@dataclass(slots=True)
class Frame:
    """What expressions may mention: the parameters and lets of one use of a block, or the network's own."""

    values: dict[str, Value]
    path: Path  # of the definition
    use: Path  # of the step or row that uses it
    words: frozenset[str] = frozenset()
    block: Block | None = None
    word: str | None = None
    caller: Frame | None = None
    given: dict[str, Given] = field(default_factory=dict)
    nesting: int = 0

    def with_values(self, **values: Value) -> Frame:
        return replace(self, values=self.values | values)


class Problem(Exception):
    """One diagnostic; `by_shape` says that it may only follow from an earlier mistake."""

    def __init__(self, diagnostic: Diagnostic, by_shape: bool = False) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic, self.by_shape = diagnostic, by_shape


class Blame:
    """Makes problems, each at the place in the user's text that caused it."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.document = spec.document

    def problem(
        self, code: str, message: str, path: Path, help: str | None = None, key: bool = False, by_shape: bool = False
    ) -> Problem:
        return Problem(Diagnostic(code, message, locate(self.document, path, key), help=help), by_shape)

    def blamed(
        self,
        code: str,
        message: str,
        path: Path,
        frame: Frame,
        raw: Any = None,
        help: str | None = None,
        by_shape: bool = False,
        key: bool = False,
    ) -> Problem:
        """A problem inside a block, at what the user wrote to cause it; the step of the block goes into a note."""
        if frame.block is None:
            return self.problem(code, message, path, help, key, by_shape)
        place = self.cause(raw, frame) or self.use_place(frame)
        return Problem(Diagnostic(code, message, place, self.trail(path, frame, raw), help), by_shape)

    def use_place(self, frame: Frame) -> Place:
        """The outermost step that led here."""
        while frame.caller is not None and frame.caller.block is not None:
            frame = frame.caller
        return locate(self.document, frame.use, key=True)

    def cause(self, raw: Any, frame: Frame) -> Place | None:
        """Where the user wrote a value that `raw` depends on: on the command line rather than in the spec, and there rather
        than in its bases or blocks."""
        own = self.document.place.source
        return min(
            self.causes(raw, frame), key=lambda place: (place.source.name != "--set", place.source != own), default=None
        )

    def causes(self, raw: Any, frame: Frame) -> Iterable[Place]:
        for text in texts(raw):
            for name in parse(text).names:
                if frame.block is not None and name in frame.block.let:
                    yield from self.causes(frame.block.let[name], frame)
                elif name in frame.given:
                    given = frame.given[name]
                    if given.frame.block is None:
                        yield locate(self.document, given.path)
                    else:
                        yield from self.causes(given.raw, given.frame)

    def roots(self, raw: Any, frame: Frame) -> Iterable[str]:
        """The parameters of the block that an expression depends on, through lets."""
        for text in texts(raw):
            for name in parse(text).names:
                if frame.block is not None and name in frame.block.let:
                    yield from self.roots(frame.block.let[name], frame)
                else:
                    yield name

    def trail(self, path: Path, frame: Frame, raw: Any = None) -> tuple[str, ...]:
        """`in block bottleneck, step conv2 (blocks/bottleneck.yaml:9), from inner = width * ...`, innermost first."""
        notes = []
        inner: Frame | None = frame
        while inner is not None and inner.block is not None:
            place = locate(self.document, path, key=True)
            note = f"in block {inner.word}{_step_of(path[len(inner.path) :])} ({place.source.name}:{place.line})"
            for text in texts(raw):
                if (word := parse(text).word) and word in inner.block.let:
                    note += f", from {word} = {inner.block.let[word]}"
                elif not parse(text).word:
                    note += f", from {text}"
            notes.append(note)
            path, inner, raw = inner.use, inner.caller, None
        return tuple(_collapsed(notes))


def texts(raw: Any) -> Iterable[str]:
    """The expressions of a value as written."""
    if isinstance(raw, str):
        yield raw
    elif isinstance(raw, list):
        for item in raw:
            yield from texts(item)


def _collapsed(notes: list[str]) -> Iterator[str]:
    """Notes without those said before: a block that contains itself would say one thirty times."""
    for note in dict.fromkeys(notes):
        times = notes.count(note)
        yield note if times == 1 else f"{note}, {times} times"


def _step_of(path: Path) -> str:
    """The step of a block that a path below its definition leads to, in words."""
    if path[:1] == ("let",):
        return f", let {path[1]}"
    step = next((name for name in reversed(path) if isinstance(name, str) and name not in _NOT_STEPS), None)
    return f", step {step}" if step else ""


_NOT_STEPS = frozenset(
    {
        "body", "branch", "branches", "shortcut", "gate", "then", "else", "parameters", "default", "copies", "merge",
        *RESERVED, *ops.WORDS, *(name for word in ops.WORDS for name in ops.attributes(word)),
    }
)  # fmt: skip
