"""The constructor of a class as data: the modules and numbers that it builds, and under which conditions."""

from __future__ import annotations

from rescompile.codegen.class_plan import Layer, Repeated, Scan, Use
from rescompile.codegen.naming import Counted
from rescompile.ir.expressions import Term
from rescompile.ir.network import DropPath
from rescompile.records import record


@record(slots=False)
class MakeLayer:
    """An op as a module; `in_place` if it may overwrite its input."""

    layer: Layer
    in_place: bool = False


@record(slots=False)
class MakeDropPath:
    """A mean of branches, some of which training drops; `columns` is the number of columns of the network."""

    columns: int
    how: DropPath


@record(slots=False)
class Entry:
    """A named module of a class or of a list; if `when` is false, it is replaced by `otherwise` (None: the identity)."""

    name: str
    make: Make
    when: Term | None = None
    otherwise: Make | None = None


@record(slots=False)
class Listing:
    """Modules in sequence."""

    parts: tuple[Entry, ...]

    @property
    def numbered(self) -> bool:
        """Whether the names are the positions."""
        return [part.name for part in self.parts] == [str(at) for at in range(len(self.parts))]

    @property
    def named(self) -> bool:
        """Whether the names are words, so that they may be attributes."""
        return bool(self.parts) and all(part.name.isidentifier() for part in self.parts)


@record(slots=False)
class Joined:
    """Modules in sequence from stages and single instances; `numbered` if their names are the positions."""

    parts: tuple[Use | Repeated, ...]
    numbered: bool


@record(slots=False)
class Scanned:
    """Modules in sequence, of which the equal ones of a scan are one module with stacked weights."""

    row: Joined | Repeated
    scan: Scan

    @property
    def numbered(self) -> bool:
        """Whether the names of the modules are their positions."""
        return self.row.numbered if isinstance(self.row, Joined) else self.row.stage.member is None


@record(slots=False)
class Separate:
    """Modules in a list, numbered from 0, from stages and single instances: forward calls each of them."""

    parts: tuple[Use | Repeated, ...]


Make = MakeLayer | MakeDropPath | Use | Repeated | Listing | Joined | Scanned | Separate


@record(slots=False)
class Number:
    """A number, or a condition, that forward reads; `differs` if it may differ among equal copies."""

    name: str
    value: Term
    differs: bool = False


@record(slots=False)
class Filled:
    """A sequence filled module by module, each under its name."""

    name: str
    parts: tuple[Entry, ...]


@record(slots=False)
class Looped:
    """A sequence that repeats a few modules `depth` times under counting names."""

    name: str
    depth: int
    parts: tuple[tuple[Counted, Entry], ...]


@record(slots=False)
class Copied:
    """`count` parallel copies of a module; if `own`, they are the class's own modules, named 0, 1 and so on, their numbers
    may depend on INDEX, and `name` is the attribute with the count."""

    name: str
    make: Use | Listing
    count: Term
    own: bool = False


Constructed = Number | Entry | Filled | Looped | Copied
