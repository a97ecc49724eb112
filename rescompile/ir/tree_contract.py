"""The contract of every tree: each shape follows from the ones before it. Checked after elaboration and each pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, merge_shape, name_of, walk
from rescompile.ir.ops import Shape


class MalformedNetwork(Exception):
    """A shape in the tree does not follow from the ones before it, or a name is used twice: a bug in a pass."""


def verify(network: Network) -> None:
    """Infer every shape again and compare. Raises MalformedNetwork."""
    names: set[str] = set()
    for path, node in reversed(list(walk(network.root))):  # a node before the one around it
        full = path or "the network"
        output = _OUTPUT[type(node)](full, node)
        if node.output != output:
            raise MalformedNetwork(f"{full}: inferred {output}, declared {node.output}")
        if name_of(node) is not None:
            if path in names:
                raise MalformedNetwork(f"two nodes are called {path}")
            names.add(path)


def _given(full: str, child: Node, shape: Shape) -> Shape:
    """The shape after a child that is given `shape`."""
    if child.input != shape:
        part = f"{name_of(child) or 'a part'} in {full}"
        raise MalformedNetwork(f"{part} expects {child.input} and is given {shape}")
    return child.output


def _series(full: str, node: Series) -> Shape:
    shape = node.input
    for child in node.children:
        shape = _given(full, child, shape)
    return shape


def _parallel(full: str, node: Parallel) -> Shape:
    if node.split and (node.residual or node.merge == "gate" or node.input[0] % len(node.branches)):
        raise MalformedNetwork(f"{full} cannot split {node.input[0]} channels among {len(node.branches)} branches")
    return merge_shape(node.merge, [_given(full, branch, node.given) for branch in node.branches])


def _side(full: str, node: Side) -> Shape:
    _given(full, node.child, node.input)
    return node.input


#: The shape after a node of each kind, inferred from its own input and from the shapes that its children declare.
_OUTPUT: dict[type[Node], Callable[[str, Any], Shape]] = {
    Op: lambda _, node: node.kind.output(node.input),
    Series: _series,
    Parallel: _parallel,
    Side: _side,
}
