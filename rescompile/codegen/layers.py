"""One op in all instances -> a layer of their class, with its attributes and channels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields

from rescompile.codegen.class_plan import Layer
from rescompile.codegen.class_scope import ClassScope, Flow, Here
from rescompile.codegen.columns import Column
from rescompile.codegen.planned_classes import INITIAL
from rescompile.codegen.terms import Value, constant, divided, operation
from rescompile.ir import ops
from rescompile.ir.expressions import Term
from rescompile.ir.network import Op, Parallel, Series

#: Attributes that are the channels after an op, by op.
_OUT: Mapping[str, tuple[type[ops.Kind], ...]] = {
    "channels": (ops.Conv, ops.ConvTranspose, ops.PadChannels),
    "features": (ops.Linear,),
}


def layer(column: Column[Op], when: Term | None, here: Here, scope: ClassScope) -> tuple[Layer, Flow]:
    """Return the layer of a column of ops, and the channels after it. Raises Misfit."""
    column.only(scope.registry.skeleton)
    sample, flow = column.first, here.flow
    kind = type(sample.kind)
    terms = _attributes(column, here, scope)
    shown = {name: scope.printed(term, column) for name, term in terms.items()}
    if sample.kind.parameters(sample.input):
        scope.mention(flow.term)
    item = Layer(sample.name, kind, shown, scope.printed(flow.term, column), sample, when)
    after = Column({**flow.numbers, **column.map(lambda op: op.output[0])})
    guesses = [terms[name] for name in _OUT if name in terms and issubclass(kind, _OUT[name])]
    for part, count in ((ops.Part, "of"), (ops.WeightedSum, "ranges")):
        if issubclass(kind, part):
            guesses = [divided(flow.term, terms[count])]
    if column.share(_factor) and _factor(sample) != (1, 1):
        guesses = [_scaled(flow.term, *_factor(sample))]
    return item, scope.flow(after, [*guesses, flow.term])


def _attributes(column: Column[Op], here: Here, scope: ClassScope) -> dict[str, Term]:
    """Return the attributes of an op as terms: from its definition, or derived from other attributes and the
    channels."""
    sample = column.first
    kind = type(sample.kind)
    terms: dict[str, Term] = {}
    for attribute in sorted(fields(kind), key=lambda f: f.name == "padding"):  # derived from the others
        name = attribute.name
        facts = attribute.metadata["attribute"]
        if name in INITIAL or facts.type == "word":  # part of the identity of the op
            continue
        values = Column({at: getattr(op.kind, name) for at, op in column.items()})
        if facts.type == "size":
            values = _flat(values)
        hints = scope.hints(sample.hints, name, here)
        if kind is ops.Conv and name == "padding":
            hints += _same_padding(terms)
        if issubclass(kind, ops.MaxPool) and name == "stride":
            hints.append(terms["kernel"])
        if issubclass(kind, _OUT.get(name, ())) and name == "channels":
            hints.append(here.flow.term)
        if kind is ops.Subsample and isinstance(values.first, tuple):  # its module takes one argument for each axis
            terms[name] = constant(values.only(lambda value: value))
        else:
            terms[name] = scope.express(values, hints, new_name(sample, name))
    return terms


def _factor(op: Op) -> tuple[int, int]:
    """Return the ratio of an op's output channels to its input channels, as a fraction."""
    match op.kind:
        case ops.Flatten():
            return math.prod(op.input[1:]), 1
        case ops.SpaceToDepth(block):
            return block**2, 1
        case ops.DepthToSpace(block):
            return 1, block**2
    return 1, 1


def _scaled(channels: Term, times: int, by: int) -> Term:
    """Return a number of channels multiplied by a fraction with an integer result."""
    scaled = channels if times == 1 else operation("*", channels, constant(times))
    return scaled if by == 1 else operation("//", scaled, constant(by))


def _flat(values: Column[Value]) -> Column[Value]:
    """Return sizes as one number if all axes are equal in all instances."""
    if all(isinstance(value, tuple) and len(set(value)) == 1 for value in values.values()):
        return values.map(lambda value: value[0])
    return values


def _same_padding(terms: Mapping[str, Term]) -> list[Term]:
    """Return terms for the padding that keeps the size of a feature map, from kernel and dilation."""
    kernel, dilation = terms["kernel"], terms.get("dilation", constant(1))
    if kernel.head == "constant" and isinstance(kernel.value, int):
        half = constant(kernel.value // 2)
        return [operation("*", half, dilation), half] if kernel.value > 1 else [half]
    if kernel.head == "constant":
        return []
    half = operation("//", kernel, constant(2))
    return [operation("*", half, dilation), half]


def new_name(node: Op | Series | Parallel, attribute: str) -> str:
    """Return the name of a new argument for a property of a node."""
    word = node.name if node.name and not node.name[0].isdigit() else _word(node)
    return f"{word}_{attribute}"


def _word(node: Op | Series | Parallel) -> str:
    match node:
        case Op():
            return node.kind.word
        case Parallel():
            return node.merge
    return node.call.block if node.call else "part"
