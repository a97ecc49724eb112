"""The contract of every tree: each shape follows from the ones before it. Checked after elaboration and each pass."""

from __future__ import annotations

from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, join, merge_shape, name_of, scope
from rescompile.ir.ops import Shape


class MalformedNetwork(Exception):
    """A shape in the tree does not follow from the ones before it, or a name is used twice: a bug in a pass."""


def verify(network: Network) -> None:
    """Infer every shape again and compare. Raises MalformedNetwork."""
    _check(network.root, network.root.input, "")


def _check(node: Node, shape: Shape, path: str) -> Shape:
    """The shape after the node, inferred from the shape before it."""
    full = join(path, name_of(node)) or "the network"
    if node.input != shape:
        raise MalformedNetwork(f"{full} expects {node.input} and is given {shape}")
    inner = scope(path, node)
    match node:
        case Op():
            output = node.kind.output(shape)
        case Series():
            _distinct(node, full)
            output = shape
            for child in node.children:
                output = _check(child, output, inner)
        case Parallel():
            if node.split and (node.residual or node.merge == "gate" or shape[0] % len(node.branches)):
                raise MalformedNetwork(f"{full} cannot split {shape[0]} channels among {len(node.branches)} branches")
            output = merge_shape(node.merge, [_check(branch, node.given, inner) for branch in node.branches])
        case Side():
            _check(node.child, shape, inner)
            output = shape
    if node.output != output:
        raise MalformedNetwork(f"{full} gives {output} and says {node.output}")
    return output


def _distinct(series: Series, full: str) -> None:
    """No two nodes of a scope share a name; children without names put theirs into the scope around them."""
    if series.name is None and full != "the network":
        return
    seen: set[str] = set()
    todo: list[Node] = list(series.children)
    while todo:
        node = todo.pop()
        if (name := name_of(node)) is not None:
            if name in seen:
                raise MalformedNetwork(f"two nodes are called '{name}' in {full}")
            seen.add(name)
        if isinstance(node, Parallel):
            todo.extend(node.branches)
        elif isinstance(node, Side):
            todo.append(node.child)
        elif isinstance(node, Series) and node.name is None:
            todo.extend(node.children)
