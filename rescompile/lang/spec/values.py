"""Values and names as a spec spells them: scalars, expressions, one value per copy, names and templates of names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictStr,
    Tag,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from rescompile.diagnostics.errors import clipped
from rescompile.ir import names
from rescompile.ir.expressions import KEYWORDS, ExpressionError, parse, show
from rescompile.ir.ops import AXIS_NAMES

#: The types of parameters and attributes: each in words, and whether an evaluated value that is not a word is of it.
TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("an integer", lambda value: type(value) is int),
    "real": ("a number", lambda value: type(value) in (int, float)),
    "bool": ("true or false", lambda value: type(value) is bool),
    "list": ("a list", lambda value: type(value) is list),
    "block": ("the name of a block", lambda value: False),
    "size": ("an integer or a list of one for each axis", lambda value: type(value) is int or is_per_axis(value)),
}
#: Values of a parameter of type block beside the words of blocks: no shortcut at all, and nothing in its place.
BLOCKLESS = ("none", "identity")


def is_per_axis(value: Any) -> bool:
    """Return whether a value has an integer for each axis of a map."""
    return isinstance(value, list) and len(value) in AXIS_NAMES and {type(n) for n in value} == {int}


def refuse(
    code: str, message: str, help: str | None = None, at: tuple[str | int, ...] = (), **place: int
) -> PydanticCustomError:
    """Return an error with a code of ours. Its context has the help, the path below the value (`at`), and for expressions the
    part of the text (`offset`, `length`)."""
    return PydanticCustomError(code, "{message}", {"message": message, "help": help, "at": at, **place})


class SpecModel(BaseModel):
    """Base of all models: unknown keys are errors, nothing is coerced, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


# --- values -----------------------------------------------------------------------------------------------------------


def _expression(raw: Any) -> Any:
    """Return a scalar that is a value or the text of an expression."""
    if isinstance(raw, dict | list):
        raise refuse("E0104", f"expected a single value, got a {'mapping' if isinstance(raw, dict) else 'list'}")
    if isinstance(raw, str):
        _parse(raw)
    return raw


def _parse(text: str, start: int = 0) -> None:
    """Refuse text that is not an expression; it begins at `start` in the value."""
    try:
        parse(text)
    except ExpressionError as error:
        offset = start + error.offset
        raise refuse(error.code, error.message, error.help, offset=offset, length=error.length) from None


def _scalar(raw: Any) -> Any:
    """Return a scalar, or a list of them, which is one value too."""
    if not isinstance(raw, list):
        return _expression(raw)
    for item in raw:
        _scalar(item)
    return raw


def _number(raw: Any) -> Any:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise refuse("E0104", f"expected a number, got {clipped(show(raw))}")
    return raw


NEVER: dict[str, Any] = {"not": {}}
#: The JSON Schema of one value or expression, and of one that may be a list too.
EXPRESSION: dict[str, Any] = {"type": ["boolean", "number", "string"]}
SCALAR: dict[str, Any] = {"type": ["boolean", "number", "string", "array"]}
Expression = Annotated[Any, BeforeValidator(_expression), WithJsonSchema(EXPRESSION)]
Number = Annotated[Any, BeforeValidator(_number), WithJsonSchema({"type": "number"})]
Scalar = Annotated[Any, BeforeValidator(_scalar), WithJsonSchema(SCALAR)]


class Each(SpecModel):
    """One value per copy."""

    each: Annotated[list[Scalar], Field(min_length=1)]

    def at(self, index: int) -> tuple[Any, tuple[str | int, ...]]:
        """Return the value of copy `index` and its path below this one."""
        return self.each[index], ("each", index)


class FirstRest(SpecModel):
    """One value for the first copy, one for all others."""

    first: Scalar
    rest: Scalar

    def at(self, index: int) -> tuple[Any, tuple[str | int, ...]]:
        """Return the value of copy `index` and its path below this one."""
        return (self.first, ("first",)) if index == 0 else (self.rest, ("rest",))


def _value_tag(raw: Any) -> str:
    if isinstance(raw, dict):
        first_rest = "first" in raw or "rest" in raw
        return "<mapping>" if first_rest == ("each" in raw) else "<first>" if first_rest else "<each>"
    return "<each>" if isinstance(raw, Each) else "<first>" if isinstance(raw, FirstRest) else "<scalar>"


def _no_mapping(raw: Any) -> Any:
    if "each" in raw:
        raise refuse("E0104", "use either 'each' alone, or 'first' and 'rest' together")
    help = "for one value per block, write {each: [a, b, ...]} or {first: a, rest: b}"
    raise refuse("E0104", "expected a value, got a mapping", help)


Value = Annotated[
    Annotated[Scalar, Tag("<scalar>")]
    | Annotated[Each, Tag("<each>")]
    | Annotated[FirstRest, Tag("<first>")]
    | Annotated[Any, BeforeValidator(_no_mapping), WithJsonSchema(NEVER), Tag("<mapping>")],
    Discriminator(_value_tag),
]


def _name(raw: str) -> str:
    if reason := names.refusal(raw):
        raise refuse("E0109", f"'{clipped(raw)}' is not a valid name: {reason}")
    return raw


def _identifier(raw: str) -> str:
    if len(raw) > 64:
        reason = "a name has at most 64 characters"
    elif not names.IDENTIFIER.fullmatch(raw):
        reason = "use a-z, A-Z, 0-9 and _, and do not start with a digit"
    else:
        return raw
    raise refuse("E0109", f"'{clipped(raw)}' is not a valid name: {reason}")


#: Reserved words in values: a parameter with such a name would hide them.
TAKEN = frozenset({*names.RESERVED, *names.BUILTINS, *KEYWORDS, "none"})


def _name_of(what: str) -> Callable[[str], str]:
    """Return a validator of the names of parameters or values."""

    def check(raw: str) -> str:
        if _identifier(raw) in TAKEN:
            raise refuse("E0409", f"'{raw}' is a reserved word and cannot be the name of {what}")
        return raw

    return check


_value_name = _name_of("a value")


def _template(raw: str) -> str:
    if not names.TEMPLATE.fullmatch(raw) or len(raw) > 100:
        reason = "use a-z, A-Z, 0-9, _ and {expressions}"
        raise refuse("E0109", f"'{clipped(raw)}' is not a valid name: {reason}")
    if "{" not in raw:
        return _name(raw)
    for match in names.BRACES.finditer(raw):
        _parse(match[1], match.start(1))
    return raw


def template_parts(text: str) -> list[str]:
    """`conv{index + 1}` -> ['conv', 'index + 1', '']: text and expressions in turn."""
    return names.BRACES.split(text)


def kept_name(text: str) -> tuple[str, str | None]:
    """Return the name of a kept value, and the expression of its index: `y[i - 1]` -> ('y', 'i - 1')."""
    name, bracket, index = text.strip().partition("[")
    return name.strip(), index[:-1] if bracket else None


def _kept_value(raw: str) -> str:
    name, index = kept_name(raw)
    if index is not None and not (raw.rstrip().endswith("]") and index.strip()):
        raise refuse("E0109", f"'{clipped(raw)}' is not the name of a value", "write 'y' or 'y[index]'")
    _value_name(name)
    if index is not None:
        _parse(index, raw.index("[") + 1)
    return raw


Word = Annotated[StrictStr, AfterValidator(_identifier)]
ParameterName = Annotated[StrictStr, AfterValidator(_name_of("a parameter"))]
Template = Annotated[StrictStr, AfterValidator(_template)]
#: The name of a kept value, and a mention of one, with an index or without.
ValueName = Annotated[StrictStr, AfterValidator(_value_name)]
KeptValue = Annotated[StrictStr, AfterValidator(_kept_value)]
