"""What functions of a Keras file contain besides the values and statements of a program: layers where they are called."""

from __future__ import annotations

from typing import Any

from rescompile.codegen.class_plan import Repeated, Use
from rescompile.codegen.entries import MakeDropPath, MakeLayer
from rescompile.codegen.statements import Expr, Let
from rescompile.codegen.terms import python
from rescompile.ir.expressions import Term
from rescompile.records import record


@record(slots=False)
class How:
    """How a module is called. `label` is the name of its layer, in an f-string of the `name` of the function that builds
    it; with `again`, the layer is built once for several calls; the rest is as in `Call`."""

    label: str
    outputs: bool = False
    kept: tuple[Expr, ...] = ()
    again: bool = False

    def inside(self, name: str | Term) -> How:
        """Return how a module in a sequence is called, by its name or by the number that it has there."""
        if isinstance(name, Term):
            name = python(name) if name.head == "constant" else f"{{{python(name)}}}"
        return How(f"{self.label}_{name}", False, self.kept, self.again)


@record(slots=False)
class Built:
    """A value passed through a layer, or through the `function` with several; `first` is the number of the first copy
    of a stage."""

    make: MakeLayer | Use | Repeated
    value: Expr
    how: How
    function: str = ""
    first: Term | None = None


@record(slots=False)
class Averaged:
    """A mean of values, some of which training drops."""

    make: MakeDropPath
    values: tuple[Expr, ...]


@record(slots=False)
class BuiltBeside:
    """The concatenated results of `count` copies that are built in parallel, each applied to the value or to its
    part."""

    built: Built
    count: Term


@record(slots=False)
class BuiltCopies:
    """An assignment of the sum of `count` copies that are built in parallel, or of the list of their results. The steps
    assign the result of one to `part`."""

    target: str
    steps: tuple[Let, ...]
    count: Term
    listed: bool


@record(slots=False)
class Concatenated:
    """The concatenation of a list of values."""

    name: str


@record(slots=False)
class Choice:
    """Statements under a condition, at least one, and the alternative statements."""

    when: Term
    body: tuple[Any, ...]
    otherwise: tuple[Any, ...]


@record(slots=False)
class Repeat:
    """Statements that run `depth` times, for `index` from 0."""

    depth: int
    body: tuple[Any, ...]
