"""A network as a program of Python classes, before any framework's words: what constructors make, and what forward does.

A program is data. Which variables a value mentions is asked of it, never of its text, and it can be run without a framework
(`tests/support/program_interpreter.py`), so that lowering is tested apart from printing.

    class plan --constructor--> entries       --|
               --forward------> statements    --+--> Program --template of a backend--> text
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from rescompile.codegen.class_plan import Class, ClassPlan, Layer, Stage
from rescompile.codegen.naming import Counted
from rescompile.ir.expressions import Term
from rescompile.ir.ops import Kind

Rescale = Literal["train", "test"]

# --- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Var:
    """A variable."""

    name: str


@dataclass(frozen=True)
class Part:
    """One of the equal parts of a value's channels: by its number, or by the variable of a loop."""

    of: Var
    at: int


@dataclass(frozen=True)
class Call:
    """A module of the class called with a value, and with the outputs where some come from inside."""

    module: str
    value: Expr
    outputs: bool = False


@dataclass(frozen=True)
class Apply:
    """An op that owns nothing, applied as a function; `in_place` where it may overwrite the value."""

    layer: Layer
    value: Expr
    in_place: bool


@dataclass(frozen=True)
class Merged:
    """Values merged. `carry` is what a gate leaves of the old value: of (gate, old), old - gate * old."""

    how: Literal["add", "concat", "mul", "gate", "carry"]
    values: tuple[Expr, ...]


@dataclass(frozen=True)
class Beside:
    """The concatenated results of copies side by side, each on the value, or on its part of it where it was split."""

    copies: str
    value: Var
    split: bool


Expr = Var | Part | Call | Apply | Merged | Beside

# --- statements -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Let:
    """A variable is set."""

    target: str
    value: Expr


@dataclass(frozen=True)
class Add:
    """A value is added to a variable in place."""

    target: str
    value: Expr


@dataclass(frozen=True)
class Unpack:
    """Variables are set to the equal parts of a value's channels."""

    targets: tuple[str, ...]
    value: Expr


@dataclass(frozen=True)
class Parts:
    """A variable is set to the list of the equal parts of a value's channels: so many, or one for each of the copies."""

    target: str
    value: Expr
    count: int | str


@dataclass(frozen=True)
class Sum:
    """A variable is set to the sum of copies side by side, each on the value, or on its part of it where it was split."""

    target: str
    copies: str
    value: Var
    parts: Var | None


@dataclass(frozen=True)
class Output:
    """A value is given out beside the result."""

    name: str
    value: Expr


@dataclass(frozen=True)
class Return:
    """The result; None where the outputs are."""

    value: Expr | None


@dataclass(frozen=True)
class Training:
    """What is done in training alone."""

    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Survives:
    """In evaluation, or in training with the probability `kept`, the body; the other statements where it is dropped."""

    kept: str
    body: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


@dataclass(frozen=True)
class Scaled:
    """A branch that survived is multiplied by its probability in evaluation, or divided by it in training."""

    target: str
    kept: str
    rescale: Rescale


@dataclass(frozen=True)
class Thinned:
    """In training each sample of a variable is dropped by itself, and the variable scaled as for `Scaled`."""

    target: str
    kept: str
    rescale: Rescale


@dataclass(frozen=True)
class Recomputed:
    """A variable is set by a method of the class, whose inside training computes again for backward."""

    target: str
    method: str
    value: Expr


Statement = Let | Add | Unpack | Parts | Sum | Output | Return | Training | Survives | Scaled | Thinned | Recomputed

# --- what a constructor makes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MakeLayer:
    """An op as a module; `in_place` where it may overwrite what it is given."""

    layer: Layer
    in_place: bool = False


@dataclass(frozen=True)
class New:
    """An instance of a class."""

    of: Class
    arguments: Mapping[str, Term]


@dataclass(frozen=True)
class NewStage:
    """The copies that a stage makes."""

    stage: Stage
    arguments: Mapping[str, Term]


@dataclass(frozen=True)
class Listed:
    """A module in a list; without `when` it is always there, else the identity may stand for it."""

    name: str
    make: Make
    when: Term | None = None


@dataclass(frozen=True)
class Listing:
    """A list of modules, one after the other."""

    parts: tuple[Listed, ...]

    @property
    def numbered(self) -> bool:
        """Whether modules are called by their places."""
        return [part.name for part in self.parts] == [str(at) for at in range(len(self.parts))]


@dataclass(frozen=True)
class Joined:
    """A list of modules made of stages and single instances, which by their names are numbered or not."""

    parts: tuple[tuple[str, New] | NewStage, ...]
    numbered: bool


Make = MakeLayer | New | NewStage | Listing | Joined


@dataclass(frozen=True)
class Number:
    """A number that forward needs."""

    name: str
    value: Term


@dataclass(frozen=True)
class Entry:
    """A module by its name; with `when`, the identity where that is false."""

    name: str
    make: Make
    when: Term | None = None


@dataclass(frozen=True)
class Filled:
    """A list of modules that is filled one by one, by their names."""

    name: str
    parts: tuple[Listed, ...]


@dataclass(frozen=True)
class Looped:
    """A list of modules that are `depth` times the same few, with names that count."""

    name: str
    depth: int
    parts: tuple[tuple[Counted, Listed], ...]


@dataclass(frozen=True)
class Copied:
    """Copies side by side, `count` of them."""

    name: str
    make: New
    count: Term


Constructed = Number | Entry | Filled | Looped | Copied

# --- the whole --------------------------------------------------------------------------------------------------------


class Method(NamedTuple):
    """A branch as a method of its own."""

    name: str
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Code:
    """A class: what its constructor makes, and what it does with `x`."""

    of: Class
    is_root: bool
    constructor: tuple[Constructed, ...]
    methods: tuple[Method, ...]
    body: tuple[Statement, ...]

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.of.name


@dataclass(frozen=True)
class Program:
    """A network: its classes, each before those that use it, the last one being the network itself."""

    plan: ClassPlan
    classes: tuple[Code, ...]


# --- questions --------------------------------------------------------------------------------------------------------


def parts(node: object) -> Iterator[object]:
    """A value, statement or entry, and all others inside it; the plan's own items are not entered."""
    yield node
    if isinstance(node, tuple):
        for item in node:
            yield from parts(item)
    elif isinstance(node, Expr | Statement | Make | Constructed | Listed | Code | Program):
        for field in fields(node):
            yield from parts(getattr(node, field.name))


def mentions(node: object) -> set[str]:
    """The variables that a value or a statement reads or sets."""
    found = {part.name for part in parts(node) if isinstance(part, Var)}
    return found | {name for part in parts(node) for name in _targets(part)}


def _targets(node: object) -> Iterable[str]:
    if isinstance(node, Unpack):
        return node.targets
    if isinstance(node, Let | Add | Parts | Sum | Scaled | Thinned | Recomputed):
        return (node.target,)
    return ()


def layers(program: Program) -> Iterator[type[Kind]]:
    """The kinds of the ops that constructors make as modules, once for each place in the text."""
    for part in parts(program.classes):
        if isinstance(part, MakeLayer):
            yield part.layer.kind
