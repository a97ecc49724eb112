"""The part of a dialect that is a table: how each op is written as a module and as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rescompile.codegen.class_plan import Layer
from rescompile.codegen.dialect import PythonDialect
from rescompile.codegen.terms import python
from rescompile.ir.expressions import Term
from rescompile.ir.network import Op
from rescompile.ir.ops import Kind

Arguments = tuple[Sequence[str], Mapping[str, str]]
Texts = Mapping[str, str]


def args(*positional: str, **keywords: str) -> Arguments:
    """The arguments of a call."""
    return positional, keywords


@dataclass(frozen=True)
class Spelling:
    """An op as a module and as a function, and the arguments of both, from a layer and the texts of its attributes."""

    module: str | Callable[[Op], str]
    function: str | Callable[[Op], str] | None = None
    arguments: Callable[[Layer, Texts], Arguments] = lambda layer, texts: args()
    #: The arguments of the function after its input, where they differ from those of the module.
    applied: Callable[[Layer, Texts], Arguments] | None = None
    #: Whether the next op may overwrite the result: nothing else refers to it and no backward needs it.
    fresh: bool = False
    #: The keywords that let the op overwrite its input; none if it cannot.
    in_place: Callable[[Layer], Mapping[str, str]] = lambda layer: {}


class TableDialect(PythonDialect):
    """A dialect with a table of ops; `defaults` are the framework's, and arguments at their default are left out."""

    defaults: Mapping[str, str]

    def spelling(self, kind: type[Kind]) -> Spelling:
        """The row of an op. Raises Unavailable for an op without one."""
        raise NotImplementedError

    def is_fresh(self, kind: type[Kind]) -> bool:
        """Whether the next op may overwrite the result of an op."""
        return self.spelling(kind).fresh

    def applies(self, layer: Layer) -> bool:
        """Whether an op is applied as a function: it has one, and its arguments are literals."""
        has_function = self.spelling(layer.kind).function is not None
        return has_function and layer.when is None and all(map(_is_literal, layer.attributes.values()))

    def module(self, layer: Layer, in_place: bool) -> str:
        """The call that builds the module of an op."""
        spelling = self.spelling(layer.kind)
        return self._call(layer, spelling.module, (), spelling.arguments, in_place)

    def function(self, layer: Layer, value: str, in_place: bool) -> str:
        """The call that applies an op."""
        spelling = self.spelling(layer.kind)
        assert spelling.function is not None
        return self._call(layer, spelling.function, (value,), spelling.applied or spelling.arguments, in_place)

    def _call(
        self,
        layer: Layer,
        name: str | Callable[[Op], str],
        values: Sequence[str],
        arguments: Callable[[Layer, Texts], Arguments],
        in_place: bool,
    ) -> str:
        positional, keywords = arguments(layer, {key: python(term) for key, term in layer.attributes.items()})
        if in_place:
            keywords = {**keywords, **self.spelling(layer.kind).in_place(layer)}
        given = [f"{key}={value}" for key, value in keywords.items() if self.defaults.get(key) != value]
        text = name if isinstance(name, str) else name(layer.sample)
        return f"{text}({', '.join([*values, *positional, *given])})"


def _is_literal(term: Term) -> bool:
    """Whether a value is a literal."""
    return (term.operands[0] if term.head == "negative" else term).head == "constant"
