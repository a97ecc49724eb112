"""Where something is elaborated: its place in the document, the names that its expressions may mention, the shape before it.

Every value remembers where it was given, since a mistake often shows up inside a block of the library, far from its cause.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rescompile.diagnostics.errors import Diagnostic
from rescompile.elaboration.kept import Kept
from rescompile.ir.network import Node
from rescompile.ir.ops import Shape
from rescompile.lang.spec.blocks import Block
from rescompile.records import record

Path = tuple[str | int, ...]
Value = Any
#: The nodes of a step and the shape after them.
Built = tuple[list[Node], Shape]


@record
class Given:
    """Where a parameter's value was written, and the frame it was written in; `raw` is as written."""

    path: Path
    frame: Frame
    raw: Any


@dataclass(slots=True)
class Frame:
    """The values that expressions may mention: the parameters and lets of one use of a block, or the network's own."""

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
        """A copy in which expressions may mention these too."""
        return Frame(
            self.values | values, self.path, self.use, self.words, self.block, self.word, self.caller, self.given, self.nesting
        )  # fmt: skip

    @property
    def copy(self) -> dict[str, int]:
        """`index` and `depth` where a block is repeated, else nothing."""
        return {key: self.values[key] for key in ("index", "depth") if key in self.values}


class Names:
    """The names of one scope. In a numbered scope, steps without a name count from 0; elsewhere ops are called by their
    word. A step with a name of its own takes no number."""

    def __init__(self, numbered: bool = False, given: frozenset[str] = frozenset()) -> None:
        self.numbered = numbered
        self.given = given  # names that the spec gives further on; automatic ones keep clear of them
        self.count = 0
        self.again: dict[str, int] = {}  # how often a word has named a step
        self.taken: dict[str, Path] = {}
        self.built: dict[str, tuple[Node, ...]] = {}  # what steps with names of their own became, to be run again
        self.unsure: dict[str, str] = {}  # those that may not run, with the reason
        self.has_named = self.has_unnamed = self.mixed = False
        self.merges: Names | None = None

    def unnumbered(self, merges: Names | None = None) -> Names:
        """The same scope for a shortcut or a gate, whose steps take no number, or for a macro whose merges alone take one from
        the list that `merges` is."""
        names = Names(given=self.given)
        names.taken, names.again, names.merges = self.taken, self.again, merges
        names.built, names.unsure = self.built, self.unsure
        return names

    def remember(self, name: str, built: Built) -> Built:
        """Remember what the step of a name became, and return it."""
        self.built[name] = tuple(built[0])
        return built


class Site(NamedTuple):  # made for every value: half the time of a frozen dataclass
    """Where a step or a value is elaborated. `name` is the one that the step was given, already claimed in `names`;
    `kept` are the values that steps may use here."""

    path: Path
    frame: Frame
    shape: Shape
    names: Names
    kept: Kept
    name: str | None = None

    def at(self, *below: str | int) -> Site:
        """The part of the step at a path below it."""
        return Site((*self.path, *below), self.frame, self.shape, self.names, self.kept, self.name)

    def after(self, shape: Shape) -> Site:
        """The same site with another shape before it."""
        return Site(self.path, self.frame, shape, self.names, self.kept, self.name)

    def branch(self) -> Site:
        """The same site at the start of a branch, which keeps values of its own."""
        return Site(self.path, self.frame, self.shape, self.names, self.kept.branch(), self.name)

    def called(self, name: str | None) -> Site:
        """The same site with a name claimed."""
        return Site(self.path, self.frame, self.shape, self.names, self.kept, name)

    def scoped(self, names: Names) -> Site:
        """The same site in another scope of names, in which it has none."""
        return Site(self.path, self.frame, self.shape, names, self.kept)

    def within(self, frame: Frame, path: Path | None = None) -> Site:
        """The same site with another frame, and at another place of the document if one is given."""
        return Site(self.path if path is None else path, frame, self.shape, self.names, self.kept, self.name)


class Problem(Exception):
    """One diagnostic; `by_shape` is set where it may only follow from an earlier mistake."""

    def __init__(self, diagnostic: Diagnostic, by_shape: bool = False) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic, self.by_shape = diagnostic, by_shape
