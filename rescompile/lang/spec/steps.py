"""The steps of a network or of a block's body: ops, groups, conditions, merges, side branches, and rows with names."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    StrictStr,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from rescompile.diagnostics.errors import clipped, nearest
from rescompile.ir import names, ops
from rescompile.ir.expressions import show
from rescompile.lang.spec.later_ops import NamedMapping
from rescompile.lang.spec.rows import Use
from rescompile.lang.spec.values import NEVER, Expression, KeptValue, Scalar, SpecModel, Template, Value, Word, refuse


class Attributes(SpecModel):
    """The attributes of an op, unevaluated. The name checker compares them with those that the op has."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Value] = Field(init=False)

    when: Expression | None = None


def _op_as_name(word: str) -> PydanticCustomError:
    help = f"choose another name, or write {{name: {word}, block: ...}} for a block with this name"
    return refuse("E0411", f"'{word}' is an op, so it cannot be the name of a step here", help)


class OpStep(RootModel[dict[str, Attributes]]):
    """An op with a mapping of attributes, or with the value of its main attribute."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, raw: dict[str, Any]) -> dict[str, Any]:
        ((word, body),) = raw.items()
        known, main = ops.attributes(word), ops.main_attribute(word)
        if isinstance(body, dict):
            if "block" in body or (set(body) & ops.WORDS.keys() and not set(body) & known.keys()):
                raise _op_as_name(word)
            return raw
        if isinstance(body, list) and (main is None or known[main].type != "size"):
            raise _op_as_name(word)
        known_first = ops.WORDS.keys() - ops.LATER  # a later word may be the name of a parameter
        if isinstance(body, str) and body in known_first and (main is None or body not in known[main].words):
            raise _op_as_name(word)
        if main is None:
            if not known:
                raise refuse("E0104", f"{word} takes no attributes", f"write '{word}' alone")
            first = next(iter(ops.required(word) or known))
            help = f"write {{{word}: {{{first}: {show(body)}}}}}"
            raise refuse("E0104", f"the attributes of {word} must be a mapping", help)
        return {word: {main: body}}

    @property
    def word(self) -> str:
        """The name of the op."""
        return next(iter(self.root))

    @property
    def given(self) -> dict[str, Any]:
        """The attributes that the step gives, unevaluated."""
        return self.root[self.word].model_extra or {}

    @property
    def when(self) -> Any:
        """The condition, or None."""
        return self.root[self.word].when


class If(SpecModel):
    """One of two steps, selected by a condition."""

    if_: Expression = Field(alias="if")
    then: Step
    else_: Step | None = Field(default=None, alias="else")


class Residual(SpecModel):
    """branch + shortcut; with a gate, gate * branch + (1 - gate) * shortcut."""

    branch: Step
    shortcut: Step | None = None
    gate: Step | None = None


class ResidualStep(SpecModel):
    """`residual:`"""

    residual: Residual


class Parallel(SpecModel):
    """Branches on the same input, or `copies` of one branch; with `split`, each on its own range of the channels: equal ones,
    or of the sizes in a list."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["branches"], "properties": {"copies": NEVER, "branch": NEVER}},
                {"required": ["copies", "branch"], "properties": {"branches": NEVER}},
            ]
        }
    )

    merge: Literal["add", "concat", "mul", "mean", "shake"]
    unit: Literal["batch", "sample"] | None = None
    split: Scalar = False
    branches: Annotated[list[Step], Field(min_length=1)] | None = None
    copies: Expression | None = None
    branch: Step | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Parallel:
        listed, copied = self.branches is not None, self.copies is not None and self.branch is not None
        if listed == copied or (listed and (self.copies is not None or self.branch is not None)):
            raise refuse("E0104", "parallel takes either 'branches', or 'copies' and 'branch'")
        if self.unit is not None and self.merge != "shake":
            raise refuse("E0104", f"merge '{self.merge}' draws no random values, so it takes no 'unit'", at=("unit",))
        return self


class ParallelStep(SpecModel):
    """`parallel:`"""

    parallel: Parallel


class Side(SpecModel):
    """A branch that does not rejoin."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"mode": {"const": "never"}, "output": NEVER}},
                {"properties": {"mode": {"enum": ["training", "always"]}}, "required": ["output"]},
            ]
        }
    )

    body: Step
    output: Word | None = None
    mode: Literal["training", "always", "never"]

    @model_validator(mode="after")
    def _output(self) -> Side:
        if (self.output is None) != (self.mode == "never"):
            what = "cannot have an 'output'" if self.output else "needs an 'output' name"
            at = ("output",) if self.output else ("mode",)
            raise refuse("E0104", f"a side branch with mode '{self.mode}' {what}", at=at)
        return self


class SideStep(SpecModel):
    """`side:`"""

    side: Side


class KeepStep(SpecModel):
    """Gives the value at this place a name."""

    keep: KeptValue


class RecallStep(SpecModel):
    """Goes on with a value that was kept, instead of the one before."""

    use: KeptValue


class AgainStep(SpecModel):
    """Runs the step of this name once more, with the same parameters."""

    again: Template


class NamedStep(RootModel[dict[Template, "Named"]]):
    """A step or a row with a name: `name: step`."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    @property
    def name(self) -> str:
        """The name, possibly a template."""
        return next(iter(self.root))

    @property
    def step(self) -> Any:
        """The step that has the name."""
        return self.root[self.name]


_STEPS: dict[str, type[BaseModel]] = {"residual": ResidualStep, "parallel": ParallelStep, "side": SideStep}
_REFERENCES: dict[str, type[BaseModel]] = {"keep": KeepStep, "use": RecallStep, "again": AgainStep}


def _step_tag(raw: Any) -> str:
    """Return the construct that a step is, decided by its keys alone, so that errors refer to this construct only."""
    if isinstance(raw, str):
        return "<word>"
    if isinstance(raw, list):
        return "<group>"
    if not isinstance(raw, dict):
        return "<wrong>"
    if "block" in raw:
        return "<use>"
    if "if" in raw:
        return "<if>"
    if len(raw) != 1:
        return "<wrong>"
    ((key, value),) = raw.items()
    if key in _STEPS:
        return f"<{key}>"
    if key in names.REFERENCES and not isinstance(raw, NamedMapping):
        return f"<{key} name>"
    if key in ops.WORDS and not isinstance(raw, NamedMapping):
        return "<op>"
    nameable = key not in names.RESERVED and isinstance(value, str | list | dict)
    return "<named>" if nameable else "<wrong>"


def _named_tag(raw: Any) -> str:
    return "<use>" if isinstance(raw, dict) and any(key in raw for key in names.ROW_KEYS) else _step_tag(raw)


ATTRIBUTES = frozenset(attribute for word in ops.WORDS for attribute in ops.attributes(word))
DO_NOTHING = "for a step that does nothing, write 'identity'"


def _wrong_step(raw: Any) -> Any:
    if not isinstance(raw, dict):
        raise refuse("E0110", "a step must be a word, a list of steps, or a mapping", DO_NOTHING)
    listed = ", ".join(str(key) for key in raw)
    if not raw:
        raise refuse("E0110", "expected a step, got an empty mapping", DO_NOTHING)
    if listed in names.ROW_KEYS:
        raise refuse("E0110", f"'{listed}' alone is not a step", "give the row a name: '- layer1: {depth: ..., ...}'")
    if len(raw) == 1 and isinstance(raw[listed], bool | int | float):
        help = ops.similar(listed, ops.WORDS) or "docs/language.md lists all ops"
        raise refuse("E0110", f"unknown op '{clipped(listed)}'", help)
    if len(raw) == 1:
        other = f"for a row write {{depth: ..., {listed}: ...}}, for another block {{block: ..., {listed}: ...}}"
        raise refuse("E0110", f"'{clipped(listed)}' alone is not a step", other)
    message = f"a step must have one key, but this one has {len(raw)}: {clipped(listed)}"
    if "when" in raw:
        raise refuse("E0110", message, "put 'when' inside an op or a block; elsewhere write {if: ..., then: ...}")
    for key in raw:
        if key in names.COMBINATORS:
            raise refuse("E0110", message, f"put the other keys inside '{key}'")
        if key not in ATTRIBUTES and (hint := nearest(str(key), [*names.ROW_KEYS, *names.COMBINATORS])):
            raise refuse("E0110", message, f"'{key}': {hint}")
    raise refuse("E0110", message, "write {block: ..., argument: value}, or - name: step")


def _check_word(raw: str) -> str:
    if not names.IDENTIFIER.fullmatch(raw) or len(raw) > 64:
        help = "a step is one word, or a mapping such as {conv: {...}}"
        raise refuse("E0401", f"unknown op or block '{clipped(raw)}'", help)
    return raw


_Wrong = Annotated[Any, BeforeValidator(_wrong_step), WithJsonSchema(NEVER)]
_STEP_FORMS: tuple[Any, ...] = (
    Annotated[Annotated[StrictStr, AfterValidator(_check_word)], Tag("<word>")],
    Annotated[list["Step"], Tag("<group>")],
    Annotated[Use, Tag("<use>")],
    Annotated[If, Tag("<if>")],
    Annotated[NamedStep, Tag("<named>")],
    Annotated[_Wrong, Tag("<wrong>")],
    Annotated[OpStep, Tag("<op>")],
    *(Annotated[model, Tag(f"<{word}>")] for word, model in _STEPS.items()),
    *(Annotated[model, Tag(f"<{word} name>")] for word, model in _REFERENCES.items()),
)


_ANY_FORM: Any = reduce(or_, _STEP_FORMS)

if TYPE_CHECKING:
    Step = Any
    Named = Any
else:
    Step = TypeAliasType("Step", Annotated[_ANY_FORM, Discriminator(_step_tag)])
    Named = TypeAliasType("Named", Annotated[_ANY_FORM, Discriminator(_named_tag)])


def step_value(step: KeepStep | RecallStep) -> str:
    """Return the mention of the value that a step keeps or recalls."""
    return step.keep if isinstance(step, KeepStep) else step.use


def parts(step: Any) -> tuple[Any, ...]:
    """Return the steps directly inside a step; None for an optional one that is omitted."""
    match step:
        case list():
            return tuple(step)
        case NamedStep():
            return (step.step,)
        case If():
            return step.then, step.else_
        case ResidualStep():
            return step.residual.branch, step.residual.gate, step.residual.shortcut
        case ParallelStep():
            return *(step.parallel.branches or ()), step.parallel.branch
        case SideStep():
            return (step.side.body,)
    return ()
