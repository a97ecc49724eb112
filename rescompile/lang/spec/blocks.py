"""The definition of a block: its parameters, lets and body, in the language itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictStr, model_validator

from rescompile.diagnostics.errors import one_of
from rescompile.lang.spec.mentions import sizes_among
from rescompile.lang.spec.steps import Step
from rescompile.lang.spec.values import (
    TYPES,
    Expression,
    ParameterName,
    Scalar,
    SpecModel,
    Template,
    ValueName,
    Word,
    refuse,
)


class ParameterDefinition(SpecModel):
    """A parameter of a block: its type, its default, which implies a type, and the words that it takes."""

    type: Literal["int", "real", "bool", "list", "block", "size"] | None = None
    default: Scalar | None = None
    only: Literal["first"] | None = None
    one_of: Annotated[list[Word], Field(min_length=1)] | None = None
    _is_size: bool = False  # set by the block

    @model_validator(mode="after")
    def _only_with_default(self) -> ParameterDefinition:
        if self.only and self.default is None:
            raise refuse("E0409", "'only: first' needs a default for the other blocks", at=("only",))
        if self.type is None and self.default is None and self.one_of is None:
            raise refuse("E0409", "a parameter needs a type, a default or 'one_of'", f"the types are {one_of(TYPES)}")
        return self

    @property
    def kind(self) -> str:
        """The type, declared or implied by the default: `any` for an expression, `word` with `one_of`, `size` for an integer
        that is the size of an op."""
        if self.type is not None:
            return self.type
        if isinstance(self.default, bool):
            return "bool"
        if isinstance(self.default, int):
            return "size" if self._is_size else "int"
        if isinstance(self.default, float):
            return "real"
        return "list" if isinstance(self.default, list) else "word" if self.one_of else "any"

    def fits(self, value: Any, blocks: frozenset[str]) -> bool:
        """Return whether an evaluated value is of the type, or one of the words, where `blocks` are those of blocks."""
        if isinstance(value, str):
            return value in self.words(blocks)
        kind = self.kind
        return kind == "any" or (kind in TYPES and TYPES[kind][1](value))

    def words(self, blocks: frozenset[str]) -> frozenset[str]:
        """Return the words that a value may be, where `blocks` are those of blocks."""
        return frozenset(self.one_of or ()) | (blocks if self.type == "block" else frozenset())

    @property
    def expected(self) -> str:
        """A description of the values that the parameter takes."""
        words = one_of(self.one_of) if self.one_of else ""
        typed = TYPES[self.kind][0] if self.kind in TYPES else ""
        return " or ".join(part for part in (typed, words) if part)


def _definition(raw: Any) -> Any:
    if isinstance(raw, dict):
        return raw
    return {"type": raw} if isinstance(raw, str) and raw in TYPES else {"default": raw}


class Block(SpecModel):
    """A block, defined in the language itself, so that it works in every backend and analysis."""

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
    values: Annotated[list[ValueName], Field(min_length=1)] = []
    body: list[Step]

    @model_validator(mode="after")
    def _implied_sizes(self) -> Block:
        for name in {*sizes_among(self.body)} & self.parameters.keys():
            self.parameters[name]._is_size = True
        return self

    def takes_block(self, name: str) -> bool:
        """Return whether a name is a parameter whose value may be the word of a block."""
        definition = self.parameters.get(name)
        return definition is not None and (definition.type == "block" or bool(definition.one_of))

    def words(self, blocks: frozenset[str]) -> frozenset[str]:
        """Return the words that expressions in the block may mention, where `blocks` are those of blocks."""
        return frozenset().union(*(definition.words(blocks) for definition in self.parameters.values()))
