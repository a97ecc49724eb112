"""The site of an elaboration: its place in the document, the names visible to its expressions, the shape before it.

Every value records where it was written, since a mistake often shows up inside a block of the library, far from its
cause.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
    """The place where a parameter's value was written, and its frame; `raw` is the value as written."""

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
        """Return a copy in which expressions may also mention these values."""
        return replace(self, values=self.values | values)

    @property
    def copy(self) -> dict[str, int]:
        """`index` and `depth` if a block is repeated, else nothing."""
        return {key: self.values[key] for key in ("index", "depth") if key in self.values}


class Names:
    """The names of one scope. In a numbered scope, steps without a name count from 0; elsewhere ops are named after
    their word. A step with an explicit name is not numbered."""

    def __init__(self, numbered: bool = False, given: frozenset[str] = frozenset()) -> None:
        self.numbered = numbered
        self.given = given  # names that occur later in the spec; automatic names avoid them
        self.count = 0
        self.again: dict[str, int] = {}  # the number of steps that a word has named
        self.taken: dict[str, Path] = {}
        self.built: dict[str, tuple[Node, ...]] = {}  # results of steps with explicit names, for running them again
        self.unsure: dict[str, str] = {}  # steps that may not run again, with the reason
        self.has_named = self.has_unnamed = self.mixed = False
        self.merges: Names | None = None

    def unnumbered(self, merges: Names | None = None) -> Names:
        """Return the same scope for a shortcut or a gate, whose steps are not numbered, or for a macro whose merges
        alone are numbered, from the list `merges`."""
        names = Names(given=self.given)
        names.taken, names.again, names.merges = self.taken, self.again, merges
        names.built, names.unsure = self.built, self.unsure
        return names

    def remember(self, name: str, built: Built) -> Built:
        """Record the result of a named step, and return it."""
        self.built[name] = tuple(built[0])
        return built


class Site(NamedTuple):  # created for every value: takes half the time of a frozen dataclass
    """The place where a step or a value is elaborated. `name` is the name of the step, already claimed in `names`;
    `kept` contains the values that steps may use here."""

    path: Path
    frame: Frame
    shape: Shape
    names: Names
    kept: Kept
    name: str | None = None

    def at(self, *below: str | int) -> Site:
        """Return the site of a part of the step, at a path below it."""
        return Site((*self.path, *below), self.frame, self.shape, self.names, self.kept, self.name)

    def after(self, shape: Shape) -> Site:
        """Return the same site with another shape before it."""
        return Site(self.path, self.frame, shape, self.names, self.kept, self.name)

    def branch(self) -> Site:
        """Return the same site at the start of a branch, which has its own kept values."""
        return Site(self.path, self.frame, self.shape, self.names, self.kept.branch(), self.name)

    def called(self, name: str | None) -> Site:
        """Return the same site with a name claimed."""
        return Site(self.path, self.frame, self.shape, self.names, self.kept, name)

    def scoped(self, names: Names) -> Site:
        """Return the same site in another scope of names, without a name in it."""
        return Site(self.path, self.frame, self.shape, names, self.kept)

    def within(self, frame: Frame, path: Path | None = None) -> Site:
        """Return the same site with another frame, and at another place in the document if one is given."""
        return Site(self.path if path is None else path, frame, self.shape, self.names, self.kept, self.name)


class Problem(Exception):
    """One diagnostic; `by_shape` is set if it may only follow from an earlier mistake."""

    def __init__(self, diagnostic: Diagnostic, by_shape: bool = False) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic, self.by_shape = diagnostic, by_shape
