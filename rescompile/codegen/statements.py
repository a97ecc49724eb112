"""The body of a forward as data: values, and the statements that compute them and pass them on."""

from __future__ import annotations

from typing import Literal

from rescompile.codegen.class_plan import Layer
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
    """One of several values in a variable: a part of a value's channels by its number, or a kept value by its index or
    by the attribute with the index."""

    of: Var
    index: int | str


Expr = Var | Call | Apply | Merged | Beside | Element

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
