"""The part of a dialect that is a table: the spelling of each op as a module and as a function."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from rescompile.codegen.class_plan import Layer
from rescompile.codegen.dialect import Dialect
from rescompile.codegen.terms import constant, literal, operation, python
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.expressions import Term
from rescompile.ir.network import Op
from rescompile.ir.ops import Fill, Kind, rank
from rescompile.ir.ops.op import rule
from rescompile.records import record

Arguments = tuple[Sequence[str], Mapping[str, str]]
Texts = Mapping[str, str]
ArgumentsRule = Callable[[Layer, Texts], Arguments]


def args(*positional: str, **keywords: str) -> Arguments:
    """Return the arguments of a call."""
    return positional, keywords


def by_place(*names: str) -> Callable[[Layer, Texts], Arguments]:
    """Return the rule that passes these attributes of an op by position."""
    return lambda layer, texts: args(*(texts[name] for name in names))


def by_name(*names: str) -> Callable[[Layer, Texts], Arguments]:
    """Return the rule that passes these attributes of an op by their names."""
    return lambda layer, texts: args(**{name: texts[name] for name in names})


def attribute(layer: Layer, name: str) -> Any:
    """Return an attribute that all instances share."""
    return getattr(layer.sample.kind, name)


def weight_fill(layer: Layer) -> Fill:
    """Return the initial values of a layer's weights."""
    weight, *_ = layer.sample.kind.parameters(layer.sample.input)
    return weight.fill


def per_channel(layer: Layer) -> list[str]:
    """Return the number of learned values as arguments; none for a single value, the default."""
    return [python(layer.channels)] if attribute(layer, "per") == "channel" else []


def conv_class(op: Op, plain: str) -> str:
    """Return the class of a convolution by the treatment of its weights; `plain` is that of the framework."""
    return {"plain": plain, "standardised": "StandardisedConv", "scaled": "ScaledConv"}[conv_weights(op)]


def of_weights(layer: Layer, texts: Texts) -> dict[str, str]:
    """Return the arguments of a convolution that depend on the treatment of its weights."""
    names = {"plain": (), "standardised": ("eps",), "scaled": ("eps", "gamma")}[conv_weights(layer.sample)]
    return {name: texts[name] for name in names}


def per_group(channels: Term, groups: Term) -> str:
    """Return the number of channels in a group."""
    return python(operation("//", channels, groups)) if python(groups) != "1" else python(channels)


def old_share(share: Term) -> str:
    """Return the weight of the old statistics of a norm, from that of the new ones."""
    if share.head == "constant":
        return repr(float(1 - Decimal(repr(share.value))))
    return python(operation("-", constant(1), share))


def weighted_sum(layer: Layer, texts: Texts) -> Arguments:
    """Return the arguments of a weighted sum of ranges; a softmax needs no `eps`."""
    by_softmax = variant(layer.sample) == "softmax"
    return args(texts["ranges"], softmax=literal(by_softmax), **({} if by_softmax else {"eps": texts["eps"]}))


def interpolation(op: Op) -> str:
    """Return the word of PyTorch and JAX for the interpolation of an upsampling."""
    kind = variant(op)
    return {1: "linear", 2: "bilinear", 3: "trilinear"}[rank(op.input)] if kind == "bilinear" else kind


def variant(op: Op) -> str:
    """Return the `kind` of an op."""
    return str(getattr(op.kind, "kind"))  # noqa: B009


def conv_weights(op: Op) -> str:
    """Return the treatment of the weights of a convolution."""
    return str(getattr(op.kind, "weights"))  # noqa: B009


@record(slots=False)
class By:
    """A name by an attribute of the op: `By("kind", {"batch": "nn.BatchNorm"})`. Raises Unavailable for any other
    value."""

    attribute: str
    names: Mapping[Any, str]

    def __call__(self, op: Op) -> str:
        """Return the name for an op."""
        value = getattr(op.kind, self.attribute)
        if value not in self.names:
            shown = str(value).lower() if isinstance(value, bool) else value
            message = f"the target has no rule for the op '{op.kind.word}' with '{self.attribute}: {shown}'"
            raise Unavailable.of("E0901", message, help="use another target")
        return self.names[value]


@record(slots=False)
class Spelling:
    """An op as a module and as a function, and the arguments of both, from a layer and the texts of its attributes. A
    function that begins with a dot is a method of the array."""

    module: str | Callable[[Op], str] = ""
    function: str | Callable[[Op], str | None] | None = None
    arguments: ArgumentsRule = lambda layer, texts: args()
    #: The arguments of the function after its input, if they differ from those of the module.
    applied: ArgumentsRule | None = None
    #: Whether the next op may overwrite the result: nothing else refers to it and no backward pass needs it.
    fresh: bool = False
    #: The keywords with which the op overwrites its input; none if it cannot.
    in_place: Callable[[Layer], Mapping[str, str]] = lambda layer: {}


class TableDialect(Dialect):
    """A dialect with a table of ops; `defaults` are the framework's, and arguments equal to their default are
    omitted."""

    target: str
    table: Mapping[type[Kind], Spelling]
    defaults: Mapping[str, str]

    def spelling(self, kind: type[Kind]) -> Spelling:
        """Return the row of an op. Raises Unavailable for an op without one."""
        return rule(self.table, kind, self.target)

    def is_fresh(self, kind: type[Kind]) -> bool:
        """Return whether the next op may overwrite the result of an op."""
        return self.spelling(kind).fresh

    def function_name(self, layer: Layer) -> str | None:
        """Return the name of the function of an op; None for an op without a function."""
        return _name(self.spelling(layer.kind).function, layer.sample)

    def module_name(self, layer: Layer) -> str:
        """Return the class name of the module of an op; empty for an op without a module."""
        return _name(self.spelling(layer.kind).module, layer.sample) or ""

    def spelled(self, op: Op) -> tuple[str | None, ...]:
        """Return the names of the module and of the function of an op, which may depend on the shape of its input."""
        spelling = self.spelling(type(op.kind))
        return _name(spelling.module, op), _name(spelling.function, op)

    def applies(self, layer: Layer) -> bool:
        """Return whether an op is applied as a function: it has one, and its arguments are literals."""
        has_function = self.function_name(layer) is not None and not layer.as_module
        return has_function and layer.when is None and all(map(_is_literal, layer.attributes.values()))

    def module(self, layer: Layer, in_place: bool) -> str:
        """Return the call that builds the module of an op; without a module, its function with all arguments except the
        first."""
        arguments = self.spelling(layer.kind).arguments
        if name := self.module_name(layer):
            return self._call(layer, name, (), arguments, in_place)
        function = self.function_name(layer)
        assert function is not None
        function = f"{self.array}{function}" if function.startswith(".") else function
        positional, keywords = self._arguments(layer, arguments, in_place)
        assert not positional, f"{function} would take {positional[0]} for the value: give it by keyword"
        return f"partial({', '.join([function, *keywords])})" if keywords else function

    def function(self, layer: Layer, value: str, in_place: bool) -> str:
        """Return the call that applies an op."""
        spelling, name = self.spelling(layer.kind), self.function_name(layer)
        assert name is not None
        arguments = spelling.applied or spelling.arguments
        if name.startswith("."):
            return self._call(layer, f"{_operand(value)}{name}", (), arguments, in_place)
        return self._call(layer, name, (value,), arguments, in_place)

    def _call(self, layer: Layer, name: str, values: Sequence[str], arguments: ArgumentsRule, in_place: bool) -> str:
        """Return a call with the values, and with arguments that differ from their default."""
        positional, keywords = self._arguments(layer, arguments, in_place)
        return f"{name}({', '.join([*values, *positional, *keywords])})"

    def _arguments(self, layer: Layer, arguments: ArgumentsRule, in_place: bool) -> tuple[Sequence[str], Sequence[str]]:
        """Return the positional arguments of a call, and the keyword arguments that differ from their default."""
        positional, keywords = arguments(layer, {key: python(term) for key, term in layer.attributes.items()})
        if in_place:
            keywords = {**keywords, **self.spelling(layer.kind).in_place(layer)}
        return positional, [f"{key}={value}" for key, value in keywords.items() if self.defaults.get(key) != value]


def _name(given: str | Callable[[Op], str | None] | None, op: Op) -> str | None:
    """Return the name of a module or function, which may depend on the op."""
    return given(op) if callable(given) else given


def _operand(text: str) -> str:
    """Return an expression as the object of a method: parenthesised, unless it is a name, a call or part of one."""
    atom = isinstance(ast.parse(text, mode="eval").body, ast.Name | ast.Call | ast.Attribute | ast.Subscript)
    return text if atom else f"({text})"


def _is_literal(term: Term) -> bool:
    """Return whether a value is a literal."""
    return (term.operands[0] if term.head == "negative" else term).head == "constant"
