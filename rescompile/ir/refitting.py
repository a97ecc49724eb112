"""The same nodes for an input of another shape, as where a step is run again; their parameters stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.network import (
    Again,
    Keep,
    Key,
    Node,
    Op,
    Parallel,
    Recall,
    Series,
    Side,
    join,
    merge_shape,
    name_of,
    walk,
)
from rescompile.ir.ops import Shape
from rescompile.ir.values import shared


def refitted(nodes: Sequence[Node], shape: Shape) -> Series:
    """Return the nodes one after the other, for an input of this shape. Raises ShapeError where an op cannot take its input, or
    would have parameters of other shapes."""
    listed: list[Node] = []
    kept: dict[Key, Shape] = {}
    value = shape
    for node in nodes:
        listed.append(_node(node, value, kept))
        value = listed[-1].output
    return Series(tuple(listed), shape, value)


def parts_of(again: Again) -> Iterator[Op | Series | Parallel]:
    """Return the named nodes that an Again runs, each of which stands earlier in its scope."""
    return _named(again.child)


def repeated(root: Series) -> frozenset[str]:
    """Return the full names of the steps that run again."""
    agains = ((path, node) for path, node in walk(root) if isinstance(node, Again))
    return frozenset(join(path, name_of(part)) for path, node in agains for part in parts_of(node))


def runs_again(root: Series) -> Callable[[str], bool]:
    """Return whether a full name is that of a step that runs again, or of a part of one."""
    names = repeated(root)
    return lambda path: bool(names) and any(path == name or path.startswith(f"{name}.") for name in names)


def _named(series: Series) -> Iterator[Op | Series | Parallel]:
    for node in series.children:
        if isinstance(node, Series) and node.name is None:
            yield from _named(node)
        elif isinstance(node, Op | Series | Parallel) and name_of(node) is not None:
            yield node


def _node(node: Node, shape: Shape, kept: dict[Key, Shape]) -> Node:
    """Return a node for an input of this shape; `kept` are the shapes of the values that it may use."""
    match node:
        case Op():
            return _op(node, shape)
        case Series():
            return _series(node, shape, kept)
        case Parallel():
            given = zip(node.branches, node.given_of(shape), strict=True)
            branches = tuple(_series(branch, part, dict(kept)) for branch, part in given)
            output = merge_shape(node.merge, [branch.output for branch in branches])
            return replace(node, branches=branches, input=shape, output=output)
        case Side():
            return replace(node, child=_series(node.child, shape, dict(kept)), input=shape)
        case Keep():
            kept[node.key] = shape
            return replace(node, input=shape)
        case Recall():
            return replace(node, input=shape, output=kept.get(node.key, node.output))
        case Again():
            return replace(node, child=_series(node.child, shape, {}))


def _series(node: Series, shape: Shape, kept: dict[Key, Shape]) -> Series:
    if node.input == shape and not kept:
        return node
    known, nodes, value = shared(node, kept), [], shape
    for child in node.children:
        nodes.append(_node(child, value, known))
        value = nodes[-1].output
    if known is not kept:
        kept.update(shared(node, known))
    return replace(node, children=tuple(nodes), input=shape, output=value)


def _op(op: Op, shape: Shape) -> Op:
    """Return an op on another input. Raises ShapeError."""
    output = op.kind.output(shape)
    pairs = zip(op.kind.parameters(op.input), op.kind.parameters(shape), strict=True)
    for before, after in pairs:
        if before.shape != after.shape:
            message = f"'{op.name}' has a {before.name} of shape {list(before.shape)}, but an input of {list(shape)} needs one of shape {list(after.shape)}"
            raise ShapeError("E0414", message)
    return replace(op, input=shape, output=output)
