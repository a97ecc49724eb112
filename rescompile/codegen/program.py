"""A network as a program of classes, independent of frameworks: entries of constructors, and statements of forward.

A program is data: liveness is computed from values, never from text, and numpy can run a program without a framework
(`tests/support/program_interpreter.py`), so that tests check lowering apart from printing.

    class plan --constructor--> entries       --|
               --forward------> statements    --+--> Program --template of a backend--> text
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Literal, NamedTuple

from rescompile.codegen.class_plan import Class, ClassPlan, Layer, Scan, Stage
from rescompile.codegen.naming import Counted
from rescompile.ir.expressions import Term
from rescompile.ir.network import DropPath, Unit
from rescompile.records import record

Rescale = Literal["train", "test"]

# --- values -----------------------------------------------------------------------------------------------------------


@record(slots=False)
class Var:
    """A variable."""

    name: str


@record(slots=False)
class Stored:
    """An attribute with the number of the class's own modules, which are named 0, 1 and so on."""

    name: str


@record(slots=False)
class Part:
    """One of the parts of a value's channels, by its number."""

    of: Var
    at: int


@record(slots=False)
class Call:
    """A call of a module of the class; `outputs` is passed on if outputs come from inside the module, and `kept` are
    kept values, or dicts of them, that the module reads or changes."""

    module: str
    value: Expr
    outputs: bool = False
    kept: tuple[Expr, ...] = ()


@record(slots=False)
class Apply:
    """An op without parameters applied as a function; `in_place` if it may overwrite the value."""

    layer: Layer
    value: Expr
    in_place: bool


@record(slots=False)
class Merged:
    """A merge of values, by a module if it has a name. `carry` is the part of the old value that a gate passes: old -
    gate * old, for (gate, old); `unit` is the unit for which `shake` draws."""

    how: Literal["add", "concat", "mul", "gate", "mean", "shake", "carry"]
    values: tuple[Expr, ...]
    unit: Unit | None = None
    module: str = ""

    @property
    def is_call(self) -> bool:
        """Whether the merge is the call of a function or a module."""
        return self.how in ("concat", "shake") or bool(self.module)


@record(slots=False)
class Beside:
    """The concatenated results of parallel copies, or of the class's own modules, each applied to the value, or with
    `split` to its part of it."""

    copies: str | Stored
    value: Var
    split: bool


@record(slots=False)
class Element:
    """A kept value in a dict, by its index or the attribute with the index."""

    of: Var
    index: int | str


Expr = Var | Part | Call | Apply | Merged | Beside | Element

# --- statements -------------------------------------------------------------------------------------------------------


@record(slots=False)
class Let:
    """An assignment."""

    target: str
    value: Expr


@record(slots=False)
class Add:
    """An in-place addition to a variable."""

    target: str
    value: Expr


@record(slots=False)
class Unpack:
    """An assignment of the parts of a value's channels to variables: equal ones, or of these sizes, each a number or an
    attribute with one."""

    targets: tuple[str, ...]
    value: Expr
    sizes: tuple[int | str, ...] = ()


@record(slots=False)
class Parts:
    """An assignment of the list of a value's channel ranges: `count` of them, or one for each of the named copies or of
    the class's own modules; equal ones, or of these sizes."""

    target: str
    value: Expr
    count: int | str | Stored
    sizes: tuple[int | str, ...] = ()


@record(slots=False)
class Sum:
    """An assignment of the sum of parallel copies, or of the class's own modules, each applied to the value, or to its
    own part."""

    target: str
    copies: str | Stored
    value: Var
    parts: Var | None


@record(slots=False)
class Collection:
    """An empty dict for kept values."""

    target: str


@record(slots=False)
class Through:
    """A variable passed through the modules of a sequence, each of which receives the `kept` values."""

    target: str
    module: str
    kept: tuple[Var, ...]


@record(slots=False)
class Store:
    """An assignment to a kept value in a dict."""

    target: Element
    value: Expr


@record(slots=False)
class Output:
    """An output besides the result."""

    name: str
    value: Expr


@record(slots=False)
class Return:
    """The result of a body; None for the dict of outputs."""

    value: Expr | None


@record(slots=False)
class Training:
    """Statements that run only in training."""

    body: tuple[Statement, ...]


@record(slots=False)
class OnlyIf:
    """Statements that run in instances whose attribute is true."""

    attribute: str
    body: tuple[Statement, ...]


@record(slots=False)
class Survives:
    """A residual that may be dropped: `body` in evaluation, and in training with probability `kept`; else
    `otherwise`."""

    kept: str
    body: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


@record(slots=False)
class Scaled:
    """A kept branch multiplied by its survival probability in evaluation, or divided by it in training."""

    target: str
    kept: str
    rescale: Rescale


@record(slots=False)
class Thinned:
    """In training, a variable set to zero: samples of it independently of each other, or the whole batch. It is scaled
    as by `Scaled`."""

    target: str
    kept: str
    rescale: Rescale
    unit: Unit = "sample"


@record(slots=False)
class ChooseColumns:
    """The start of a network whose merges drop branches in training: its `method` chooses one of its columns, or
    none."""

    method: str
    columns: int
    how: DropPath


@record(slots=False)
class Recomputed:
    """An assignment of the result of a method whose activations are recomputed in the backward pass."""

    target: str
    method: str
    value: Expr


Statement = (
    Let
    | Add
    | Unpack
    | Parts
    | Sum
    | Collection
    | Through
    | Store
    | Output
    | Return
    | Training
    | OnlyIf
    | Survives
    | Scaled
    | Thinned
    | ChooseColumns
    | Recomputed
)

# --- entries of a constructor -----------------------------------------------------------------------------------------


@record(slots=False)
class MakeLayer:
    """An op as a module; `in_place` if it may overwrite its input."""

    layer: Layer
    in_place: bool = False


@record(slots=False)
class MakeDropPath:
    """A mean of branches, some of which training drops, in a network with so many columns."""

    columns: int
    how: DropPath


@record(slots=False)
class New:
    """An instance of a class."""

    of: Class
    arguments: Mapping[str, Term]


@record(slots=False)
class NewStage:
    """The copies that a stage builds."""

    stage: Stage
    arguments: Mapping[str, Term]


@record(slots=False)
class Listed:
    """A module in a list; if `when` is false, it is replaced by `otherwise` (None: the identity)."""

    name: str
    make: Make
    when: Term | None = None
    otherwise: Make | None = None


@record(slots=False)
class Listing:
    """Modules in sequence."""

    parts: tuple[Listed, ...]

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

    parts: tuple[tuple[str, New] | NewStage, ...]
    numbered: bool


@record(slots=False)
class Scanned:
    """Modules in sequence, of which the equal ones of a scan are one module with stacked weights."""

    row: Joined | NewStage
    scan: Scan

    @property
    def numbered(self) -> bool:
        """Whether the names of the modules are their positions."""
        return self.row.numbered if isinstance(self.row, Joined) else self.row.stage.member is None


@record(slots=False)
class Separate:
    """Modules in a list, numbered from 0, from stages and single instances: forward calls each of them."""

    parts: tuple[New | NewStage, ...]


Make = MakeLayer | MakeDropPath | New | NewStage | Listing | Joined | Scanned | Separate


@record(slots=False)
class Number:
    """A number, or a condition, that forward reads; `differs` if it may differ among equal copies."""

    name: str
    value: Term
    differs: bool = False


@record(slots=False)
class Entry:
    """A named module; if `when` is false, `otherwise` (None: the identity)."""

    name: str
    make: Make
    when: Term | None = None
    otherwise: Make | None = None


@record(slots=False)
class Filled:
    """A sequence filled module by module, each under its name."""

    name: str
    parts: tuple[Listed, ...]


@record(slots=False)
class Looped:
    """A sequence that repeats a few modules `depth` times under counting names."""

    name: str
    depth: int
    parts: tuple[tuple[Counted, Listed], ...]


@record(slots=False)
class Copied:
    """`count` parallel copies of a module; if `own`, they are the class's own modules, named 0, 1 and so on, their numbers
    may depend on INDEX, and `name` is the attribute with the count."""

    name: str
    make: New | Listing
    count: Term
    own: bool = False


Constructed = Number | Entry | Filled | Looped | Copied

# --- the whole --------------------------------------------------------------------------------------------------------


class Method(NamedTuple):
    """A branch as a separate method."""

    name: str
    body: tuple[Statement, ...]


@record(slots=False)
class Code:
    """A class: the entries of its constructor, and the body of its forward on `x`."""

    of: Class
    is_root: bool
    constructor: tuple[Constructed, ...]
    methods: tuple[Method, ...]
    body: tuple[Statement, ...]

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.of.name


@record(slots=False)
class Program:
    """The classes of a network, each before those that use it; the last one is the network itself."""

    plan: ClassPlan
    classes: tuple[Code, ...]


# --- questions --------------------------------------------------------------------------------------------------------


def parts(node: object) -> Iterator[object]:
    """Yield a part of a program and all parts inside it, without entering items of the plan."""
    yield node
    if isinstance(node, tuple):
        for item in node:
            yield from parts(item)
    elif isinstance(node, Expr | Statement | Make | Constructed | Listed | Code | Program):
        for field in fields(node):
            yield from parts(getattr(node, field.name))


def mentions(node: object) -> set[str]:
    """Return the variables that a value or a statement reads or sets."""
    found = {part.name for part in parts(node) if isinstance(part, Var)}
    return found | {name for part in parts(node) for name in _targets(part)}


def _targets(node: object) -> Iterable[str]:
    if isinstance(node, Unpack):
        return node.targets
    if isinstance(node, Let | Add | Parts | Sum | Collection | Through | Scaled | Thinned | Recomputed):
        return (node.target,)
    return ()


def free_variables(body: Iterable[Statement]) -> set[str]:
    """Return the variables that statements read before setting them."""
    found: set[str] = set()
    bound: set[str] = set()
    for statement in body:
        match statement:
            case Training(inner) | OnlyIf(_, inner):
                read = free_variables(inner)
            case Survives(_, inner, otherwise):
                read = free_variables(inner) | (free_variables(otherwise) if otherwise else {*_targets(inner[-1])})
            case _:
                read = {part.name for part in parts(statement) if isinstance(part, Var)}
                read |= {*_targets(statement)} if isinstance(statement, Add | Scaled | Thinned) else set()
        found |= read - bound
        bound.update(_targets(statement.body[-1] if isinstance(statement, Survives) else statement))
    return found
