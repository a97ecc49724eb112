"""What a user may write: the pydantic models of spec format 1. The JSON Schema comes from them.

A value may be an expression wherever a scalar stands, so attributes are typed when they are evaluated (elaboration),
not here; here is the form: which keys, which combinations, which words.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    RootModel,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from rescompile.diagnostics.errors import Diagnostic, UsageError, clipped, nearest, one_of
from rescompile.ir import names, ops
from rescompile.ir.expressions import FUNCTIONS, KEYWORDS, ExpressionError, parse, show
from rescompile.lang.yaml_reader import Mapping as LocatedMapping
from rescompile.lang.yaml_reader import plain

TYPE_NAMES = {
    "int": "a whole number", "real": "a number", "bool": "true or false", "list": "a list", "block": "the word of a block",
    "size": "a whole number or [height, width]",
}  # fmt: skip
TYPES = tuple(TYPE_NAMES)
#: Values of a parameter of type block beside the words of blocks: no shortcut at all, and nothing in its place.
BLOCKLESS = ("none", "identity")


def refuse(
    code: str, message: str, help: str | None = None, at: tuple[str | int, ...] = (), **place: int
) -> PydanticCustomError:
    """An error with a code of our own. Its context holds the help, where below the value it stands (`at`), and for
    expressions which part of the text is meant (`offset`, `length`)."""
    return PydanticCustomError(code, "{message}", {"message": message, "help": help, "at": at, **place})


class Model(BaseModel):
    """Base of all models: unknown keys are errors, nothing is coerced, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


# --- values -----------------------------------------------------------------------------------------------------------


def _expression(raw: Any) -> Any:
    """A scalar that is a value or the text of an expression."""
    if isinstance(raw, dict | list):
        raise refuse("E0104", f"one value is wanted here, not a {'mapping' if isinstance(raw, dict) else 'list'}")
    if isinstance(raw, str):
        try:
            parse(raw)
        except ExpressionError as error:
            raise refuse(error.code, error.message, error.help, offset=error.offset, length=error.length) from None
    return raw


def _scalar(raw: Any) -> Any:
    """A scalar, or a list of them, which is one value too."""
    if not isinstance(raw, list):
        return _expression(raw)
    for item in raw:
        _scalar(item)
    return raw


def _number(raw: Any) -> Any:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise refuse("E0104", f"a number is wanted here, and this is {clipped(str(raw))}")
    return raw


_NEVER: dict[str, Any] = {"not": {}}
#: The JSON Schema of one value or expression, and of one that may be a list too.
EXPRESSION: dict[str, Any] = {"type": ["boolean", "number", "string"]}
SCALAR: dict[str, Any] = {"type": ["boolean", "number", "string", "array"]}
Expression = Annotated[Any, BeforeValidator(_expression), WithJsonSchema(EXPRESSION)]
Number = Annotated[Any, BeforeValidator(_number), WithJsonSchema({"type": "number"})]
Scalar = Annotated[Any, BeforeValidator(_scalar), WithJsonSchema(SCALAR)]


class Each(Model):
    """One value per copy."""

    each: Annotated[list[Scalar], Field(min_length=1)]

    def at(self, index: int) -> tuple[Any, tuple[str | int, ...]]:
        """The value of copy `index`, and where it stands below this one."""
        return self.each[index], ("each", index)


class FirstRest(Model):
    """One value for the first copy, one for all others."""

    first: Scalar
    rest: Scalar

    def at(self, index: int) -> tuple[Any, tuple[str | int, ...]]:
        """The value of copy `index`, and where it stands below this one."""
        return (self.first, ("first",)) if index == 0 else (self.rest, ("rest",))


def _value_tag(raw: Any) -> str:
    if isinstance(raw, dict):
        first_rest = "first" in raw or "rest" in raw
        return "<mapping>" if first_rest == ("each" in raw) else "<first>" if first_rest else "<each>"
    return "<each>" if isinstance(raw, Each) else "<first>" if isinstance(raw, FirstRest) else "<scalar>"


def _no_mapping(raw: Any) -> Any:
    if "each" in raw:
        raise refuse("E0104", "'each' stands alone; 'first' and 'rest' belong together")
    help = "a value per block is {each: [a, b, ...]} or {first: a, rest: b}"
    raise refuse("E0104", "a value is wanted here, not a mapping", help)


Value = Annotated[
    Annotated[Scalar, Tag("<scalar>")]
    | Annotated[Each, Tag("<each>")]
    | Annotated[FirstRest, Tag("<first>")]
    | Annotated[Any, BeforeValidator(_no_mapping), WithJsonSchema(_NEVER), Tag("<mapping>")],
    Discriminator(_value_tag),
]


def _name(raw: str) -> str:
    if reason := names.refusal(raw):
        raise refuse("E0109", f"'{clipped(raw)}' cannot be a name: {reason}")
    return raw


def _identifier(raw: str) -> str:
    if len(raw) > 64 or not names.IDENTIFIER.fullmatch(raw):
        reason = "it is made of a-z, A-Z, 0-9 and _, and begins with no digit"
        if len(raw) > 64:
            reason = "a name has at most 64 characters"
        raise refuse("E0109", f"'{clipped(raw)}' cannot be a name: {reason}")
    return raw


#: Words with a meaning of their own in values, which a parameter of that name would hide.
TAKEN = frozenset(
    {
        *names.RESERVED, *names.BUILTINS, *KEYWORDS, *FUNCTIONS, "none",
        *(word for op in ops.WORDS for attribute in ops.attributes(op).values() for word in attribute.words),
    }
)  # fmt: skip


def _parameter_name(raw: str) -> str:
    _identifier(raw)
    if raw in TAKEN:
        raise refuse("E0409", f"'{raw}' has a meaning of its own in the language, so no parameter can be called so")
    return raw


def _template(raw: str) -> str:
    if not names.TEMPLATE.fullmatch(raw) or len(raw) > 100:
        reason = "a-z, A-Z, 0-9, _ and {expressions} are allowed"
        raise refuse("E0109", f"'{clipped(raw)}' cannot be a name: {reason}")
    if "{" not in raw:
        return _name(raw)
    for match in names.BRACES.finditer(raw):
        try:
            parse(match[1])
        except ExpressionError as error:
            offset = match.start(1) + error.offset
            raise refuse(error.code, error.message, error.help, offset=offset, length=error.length) from None
    return raw


def template_parts(text: str) -> list[str]:
    """`conv{index + 1}` -> ['conv', 'index + 1', '']: text and expressions in turn."""
    return names.BRACES.split(text)


Word = Annotated[StrictStr, AfterValidator(_identifier)]
ParameterName = Annotated[StrictStr, AfterValidator(_parameter_name)]
Template = Annotated[StrictStr, AfterValidator(_template)]

# --- steps ------------------------------------------------------------------------------------------------------------


class Attributes(Model):
    """The attributes of an op, unevaluated. Which ones an op has is checked where all words are (scoping)."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, defer_build=True)
    __pydantic_extra__: dict[str, Value] = Field(init=False)

    when: Expression | None = None


def _op_as_name(word: str) -> PydanticCustomError:
    return refuse(
        "E0411",
        f"'{word}' is the word of an op, so it cannot name a step this way",
        f"choose another name, or write {{name: {word}, block: ...}} for a block of that name",
    )


class OpStep(RootModel[dict[str, Attributes]]):
    """An op with attributes: a word of the closed list, and a mapping or the value of its main attribute."""

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
        if main is None:
            if not known:
                raise refuse("E0104", f"{word} has no attributes", f"write '{word}' alone")
            first = next(iter(ops.required(word) or known))
            raise refuse(
                "E0104", f"the attributes of {word} are a mapping", f"write {{{word}: {{{first}: {show(body)}}}}}"
            )
        return {word: {main: body}}

    @property
    def word(self) -> str:
        """The word of the op."""
        return next(iter(self.root))

    @property
    def given(self) -> dict[str, Any]:
        """The attributes that the step gives, unevaluated."""
        return self.root[self.word].model_extra or {}

    @property
    def when(self) -> Any:
        """The condition, or None."""
        return self.root[self.word].when


class Use(Model):
    """A block with arguments, once or `depth` times. In a row without `block`, the spec's own `block` is meant."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, defer_build=True)
    __pydantic_extra__: dict[str, Value] = Field(init=False)

    block: Word | None = None
    name: Template | None = None
    depth: Expression | None = None
    members: Template | None = None
    when: Expression | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments for the block's parameters, unevaluated."""
        return self.model_extra or {}


class If(Model):
    """Steps that depend on a condition."""

    if_: Expression = Field(alias="if")
    then: Step
    else_: Step | None = Field(default=None, alias="else")


class Residual(Model):
    """branch + shortcut; with a gate, gate * branch + (1 - gate) * shortcut."""

    branch: Step
    shortcut: Step | None = None
    gate: Step | None = None


class ResidualStep(Model):
    """`residual:`"""

    residual: Residual


class Parallel(Model):
    """Branches on the same input, or `copies` of one branch; with `split`, each on its own range of the channels."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["branches"], "properties": {"copies": _NEVER, "branch": _NEVER}},
                {"required": ["copies", "branch"], "properties": {"branches": _NEVER}},
            ]
        }
    )

    merge: Literal["add", "concat", "mul"]
    split: StrictBool = False
    branches: Annotated[list[Step], Field(min_length=1)] | None = None
    copies: Expression | None = None
    branch: Step | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Parallel:
        listed, copied = self.branches is not None, self.copies is not None and self.branch is not None
        if listed == copied or (listed and (self.copies is not None or self.branch is not None)):
            raise refuse("E0104", "parallel takes either 'branches', or 'copies' and 'branch'")
        return self


class ParallelStep(Model):
    """`parallel:`"""

    parallel: Parallel


class Side(Model):
    """A branch that does not rejoin."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {"mode": {"const": "never"}, "output": _NEVER}},
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
            what = "has no output" if self.output else "needs a name for its 'output'"
            at = ("output",) if self.output else ("mode",)
            raise refuse("E0104", f"a side branch of mode {self.mode} {what}", at=at)
        return self


class SideStep(Model):
    """`side:`"""

    side: Side


class NamedStep(RootModel[dict[Template, "Named"]]):
    """`name: step`: a step or a row with a name."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    @property
    def name(self) -> str:
        """The name, possibly a template."""
        return next(iter(self.root))

    @property
    def step(self) -> Any:
        """What is named."""
        return self.root[self.name]


_STEPS: dict[str, type[BaseModel]] = {"residual": ResidualStep, "parallel": ParallelStep, "side": SideStep}
#: What makes a use of a block of a mapping that has a name; without a name only `block` does.
ROW_KEYS = ("block", "depth", "members")


def _step_tag(raw: Any) -> str:
    """Which construct a step is, from its keys alone; so errors are about that construct only."""
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
    if key in ops.WORDS:
        return "<op>"
    nameable = key not in names.RESERVED and isinstance(value, str | list | dict)
    return "<named>" if nameable else "<wrong>"


def _named_tag(raw: Any) -> str:
    return "<use>" if isinstance(raw, dict) and any(key in raw for key in ROW_KEYS) else _step_tag(raw)


def _wrong_step(raw: Any) -> Any:
    if not isinstance(raw, dict):
        raise refuse("E0110", "a step is a word, a list of steps, or a mapping", "the empty step is 'identity'")
    listed = ", ".join(str(key) for key in raw)
    if not raw:
        raise refuse("E0110", "a step has one word, and this mapping is empty", "the empty step is 'identity'")
    if listed in ROW_KEYS:
        raise refuse("E0110", f"'{listed}' alone is not a step", "a row has a name: '- layer1: {depth: ..., ...}'")
    if len(raw) == 1:
        other = f"a row is {{depth: ..., {listed}: ...}}, another block {{block: ..., {listed}: ...}}"
        raise refuse("E0110", f"'{clipped(listed)}' alone is not a step", other)
    message = f"a step has one word, and this has {len(raw)} keys: {clipped(listed)}"
    if "when" in raw:
        raise refuse(
            "E0110", message, "'when' stands inside an op or a use of a block; elsewhere write {if: ..., then: ...}"
        )
    for key in raw:
        if key in names.COMBINATORS:
            raise refuse("E0110", message, f"what belongs to '{key}' stands inside it")
        if hint := nearest(str(key), [*ROW_KEYS, *names.COMBINATORS]):
            raise refuse("E0110", message, f"'{key}': {hint}")
    raise refuse("E0110", message, "write {block: ..., argument: value}, or - name: step")


def _check_word(raw: str) -> str:
    if not names.IDENTIFIER.fullmatch(raw) or len(raw) > 64:
        raise refuse(
            "E0401",
            f"there is no op or block '{clipped(raw)}'",
            "a step is one word, or a mapping such as {conv: {...}}",
        )
    return raw


_Wrong = Annotated[Any, BeforeValidator(_wrong_step), WithJsonSchema(_NEVER)]
_STEP_FORMS: tuple[Any, ...] = (
    Annotated[Annotated[StrictStr, AfterValidator(_check_word)], Tag("<word>")],
    Annotated[list["Step"], Tag("<group>")],
    Annotated[Use, Tag("<use>")],
    Annotated[If, Tag("<if>")],
    Annotated[NamedStep, Tag("<named>")],
    Annotated[_Wrong, Tag("<wrong>")],
    Annotated[OpStep, Tag("<op>")],
    *(Annotated[model, Tag(f"<{word}>")] for word, model in _STEPS.items()),
)


def _union(forms: tuple[Any, ...]) -> Any:
    union = forms[0]
    for form in forms[1:]:
        union = union | form
    return union


if TYPE_CHECKING:
    Step = Any
    Named = Any
else:
    Step = TypeAliasType("Step", Annotated[_union(_STEP_FORMS), Discriminator(_step_tag)])
    Named = TypeAliasType("Named", Annotated[_union(_STEP_FORMS), Discriminator(_named_tag)])


def parts(step: Any) -> tuple[Any, ...]:
    """The steps directly inside a step; None where an optional one is left out."""
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


# --- blocks -----------------------------------------------------------------------------------------------------------


class ParameterDefinition(Model):
    """A parameter of a block: its type, or its default, which gives the type; and what may be said to it."""

    type: Literal["int", "real", "bool", "list", "block", "size"] | None = None
    default: Scalar | None = None
    only: Literal["first"] | None = None
    one_of: Annotated[list[Word], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _only_with_default(self) -> ParameterDefinition:
        if self.only and self.default is None:
            raise refuse("E0409", "'only: first' needs a default for the other blocks", at=("only",))
        if self.type is None and self.default is None and self.one_of is None:
            raise refuse("E0409", "a parameter needs a type, a default or 'one_of'", f"the types are {one_of(TYPES)}")
        return self

    @property
    def kind(self) -> str:
        """The type: as given, or as the default has it; `any` where the default is an expression, `word` of one_of."""
        if self.type is not None:
            return self.type
        if isinstance(self.default, bool):
            return "bool"
        if isinstance(self.default, int | float):
            return "int" if isinstance(self.default, int) else "real"
        return "list" if isinstance(self.default, list) else "word" if self.one_of else "any"

    def fits(self, value: Any, blocks: Container[str]) -> bool:
        """Whether an evaluated value is of the type, or one of the words."""
        if isinstance(value, str):
            return value in (self.one_of or ()) or (self.kind == "block" and value in blocks)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        match self.kind:
            case "int":
                return number and isinstance(value, int)
            case "real":
                return number
            case "bool":
                return isinstance(value, bool)
            case "list":
                return isinstance(value, list)
            case "size":
                pair = value if isinstance(value, list) else [value, value]
                return len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in pair)
            case "any":
                return True
            case _:
                return False

    @property
    def wanted(self) -> str:
        """What a value must be, in words."""
        words = one_of(self.one_of) if self.one_of else ""
        typed = TYPE_NAMES.get(self.kind, "")
        return " or ".join(part for part in (typed, words) if part)


def _definition(raw: Any) -> Any:
    if isinstance(raw, dict):
        return raw
    return {"type": raw} if isinstance(raw, str) and raw in TYPES else {"default": raw}


class Block(Model):
    """A block: data in the language itself, so that it works at once in every backend and analysis."""

    description: StrictStr | None = None
    reference: StrictStr | None = None
    parameters: dict[
        ParameterName,
        Annotated[
            ParameterDefinition, BeforeValidator(_definition, json_schema_input_type=ParameterDefinition | Scalar)
        ],
    ] = {}
    let: dict[ParameterName, Scalar] = {}
    when: Expression | None = None
    inline: StrictBool = False
    stage: StrictBool = False
    members: Template | None = None
    body: list[Step]


# --- the spec ---------------------------------------------------------------------------------------------------------


class ProbabilityList(Model):
    """One survival probability per residual."""

    each: Annotated[list[Number], Field(min_length=1)]


SCHEDULES = ("linear", "linear_zero_based", "uniform")


def _schedule(raw: Any) -> Any:
    if raw not in SCHEDULES:
        wanted = f"{one_of(SCHEDULES)}, or {{each: [...]}}"
        raise refuse("E0104", f"'schedule' must be {wanted}, and this is {show(raw)}", nearest(str(raw), SCHEDULES))
    return raw


def _schedule_tag(raw: Any) -> str:
    return "<each>" if isinstance(raw, dict | ProbabilityList) else "<scalar>"


class Survival(Model):
    """Stochastic depth (Huang et al. 2016): how likely each residual branch is kept in training."""

    schedule: Annotated[
        Annotated[Any, BeforeValidator(_schedule), WithJsonSchema({"enum": list(SCHEDULES)}), Tag("<scalar>")]
        | Annotated[ProbabilityList, Tag("<each>")],
        Discriminator(_schedule_tag),
    ]
    last: Number | None = None
    unit: Literal["batch", "sample"]
    rescale: Literal["test", "train"]

    @model_validator(mode="after")
    def _probabilities(self) -> Survival:
        if isinstance(self.schedule, ProbabilityList):
            if self.last is not None:
                raise refuse("E0601", "'last' has no meaning beside a list of probabilities", at=("last",))
            listed = self.schedule.each
            given: dict[tuple[str | int, ...], Any] = {("schedule", "each", at): p for at, p in enumerate(listed)}
        elif self.last is None:
            raise refuse("E0601", "the schedule needs 'last', the survival probability of the last residual")
        else:
            given = {("last",): self.last}
        for at, p in given.items():
            if not 0 < p <= 1:
                raise refuse("E0601", f"a survival probability is above 0 and at most 1, and this one is {p}", at=at)
        return self


def _figure(raw: Any) -> Any:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise refuse(
            "E0104", f"a figure is a whole number or text, and this is {show(raw)}", f'write "{show(raw)}", in quotes'
        )
    if isinstance(raw, str) and not names.FIGURE.fullmatch(raw):
        raise refuse(
            "E0104", f"'{clipped(raw)}' is not a figure", 'write a whole number, or text such as "25.6M" or "4.1e9"'
        )
    return raw


Figure = Annotated[Any, BeforeValidator(_figure), WithJsonSchema({"type": ["integer", "string"]})]


class Expect(Model):
    """Published figures. An integer is exact; text such as "25.6M" allows one unit of its last digit."""

    parameters: Figure | None = None
    macs: Figure | None = None
    output: list[StrictInt] | None = None


class Preprocess(Model):
    """How images become inputs: the shorter side resized to `resize`, centre-cropped to `crop`, scaled to 0..1, then
    (x - mean) / std. `interpolation` is that of the resizing, bilinear if it is not said; all but nearest are antialiased."""

    mean: Annotated[list[Number], Field(min_length=1)]
    std: Annotated[list[Number], Field(min_length=1)]
    resize: Annotated[StrictInt, Field(ge=1)] | None = None
    crop: Annotated[StrictInt, Field(ge=1)] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None

    @model_validator(mode="after")
    def _channels(self) -> Preprocess:
        if len(self.mean) != len(self.std):
            raise refuse(
                "E0104",
                f"'mean' has {len(self.mean)} numbers and 'std' {len(self.std)}: one each per channel",
                at=("std",),
            )
        for at, deviation in enumerate(self.std):
            if deviation <= 0:
                raise refuse("E0104", f"a standard deviation is above 0, and this is {show(deviation)}", at=("std", at))
        return self


def _pattern(pattern: str, what: str) -> AfterValidator:
    """Text of a certain form, described in words."""

    def check(raw: str) -> str:
        if not re.fullmatch(pattern, raw):
            raise refuse("E0104", f"'{clipped(raw)}' is not {what}")
        return raw

    return AfterValidator(check)


_NOT_TWO: dict[str, Any] = {"not": {"minItems": 2, "maxItems": 2}}
Dimension = Annotated[StrictInt, Field(ge=1, le=ops.MAX_SIDE)]
Text = Annotated[StrictStr, Field(max_length=4000)]
Family = Annotated[StrictStr, _pattern("[a-z0-9-]+", "a family: lower-case letters, digits and -")]
Path = Annotated[
    StrictStr,
    _pattern(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", "the name of a part, such as layer2 or features.denseblock1"),
]


class Spec(Model):
    """A network as its paper's table says it.

    `rescompile.load` returns one with `extends`, `set` and the library's blocks resolved.
    """

    rescompile: Literal[1]
    name: Word
    reference: Text | None = None
    family: Family | None = None
    description: Text | None = None
    notes: list[Text] = []
    unverified: list[Text] = []
    extends: StrictStr | None = None
    input: Annotated[list[Dimension], Field(min_length=1, max_length=3, json_schema_extra=_NOT_TWO)] | None = None
    preprocess: Preprocess | None = None
    parameters: dict[ParameterName, Scalar] = {}
    init: Literal["he_normal_fan_out", "he_normal_fan_in", "torch_default"] | None = None
    block: Word | None = None
    defaults: dict[Word, dict[Word, Value]] = {}
    blocks: dict[Word, Block] = {}
    network: Annotated[list[Step], Field(min_length=1)] | None = None
    survival: Survival | None = None
    features: Annotated[list[Path], Field(min_length=1)] | None = None
    checkpoint: StrictBool = False
    set: dict[StrictStr, Any] | None = None
    expect: Expect | None = None

    _document: LocatedMapping | None = PrivateAttr(default=None)
    _changed: bool = PrivateAttr(default=False)

    @classmethod
    def resolved(cls, document: LocatedMapping, changed: bool) -> Spec:
        """The Spec of a merged document. `changed` says that `--set` was at work, so what the file says may go unused.
        Raises pydantic's ValidationError."""
        spec = cls.model_validate(plain(document))
        spec._document, spec._changed = document, changed
        return spec

    @property
    def document(self) -> LocatedMapping:
        """The text that this was read from, with the place of every key and value."""
        if self._document is None:
            raise UsageError(
                Diagnostic("E0802", "this Spec was not read from a text", help="make one with rescompile.load()")
            )
        return self._document

    @property
    def changed(self) -> bool:
        """Whether settings from outside the file were applied."""
        return self._changed

    def model_copy(self, **options: Any) -> Spec:
        """Refused: a changed copy would no longer be what its text says."""
        raise UsageError(
            Diagnostic("E0802", "a Spec does not change", help='use rescompile.load(..., set=["path=value"])')
        )

    @model_validator(mode="after")
    def _input_rank(self) -> Spec:
        if self.input is not None and len(self.input) == 2:
            raise refuse("E0104", "an input is [channels, height, width] or [features]", at=("input",))
        return self
