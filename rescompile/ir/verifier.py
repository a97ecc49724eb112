"""Verifies a tree after elaboration and after each pass: shapes follow from each other, names are unique, and a value that is
used was kept before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.network import (
    Again,
    Keep,
    Network,
    Node,
    Op,
    Parallel,
    Recall,
    Series,
    Side,
    children,
    join,
    merge_shape,
    name_of,
    scope,
)
from rescompile.ir.ops import Shape
from rescompile.ir.refitting import parts_of, refitted
from rescompile.ir.traversal import NotKept, ThreadRules, thread


class MalformedNetwork(Exception):
    """A shape in the tree does not follow from the ones before it, a name is used twice, or a value is used that was not kept
    before: a bug in a pass."""


def verify(network: Network) -> None:
    """Infer every shape again and compare; nodes that copies share are checked once. Raises MalformedNetwork."""
    todo: list[tuple[str, Node]] = [("", network.root)]
    seen: set[int] = set()
    recalls = repeats = False
    while todo:
        path, node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        recalls |= isinstance(node, Recall)
        repeats |= isinstance(node, Again)
        full = join(path, name_of(node)) or "the network"
        output = _OUTPUT[type(node)](full, node)
        if node.output != output:
            raise MalformedNetwork(f"{full}: inferred {output}, declared {node.output}")
        if isinstance(node, Series) and (node.name is not None or node is network.root):
            twice = [name for name, times in Counter(_names(node)).items() if times > 1]
            if twice:
                raise MalformedNetwork(f"two nodes are called {join(scope(path, node), twice[0])}")
        todo.extend((scope(path, node), child) for child in children(node))
    if recalls:
        _check_values(network)
    if repeats:
        _check_repeats(network.root, "", {})


def _check_values(network: Network) -> None:
    """Check that every value that is recalled was kept before, with the shape that the Recall declares. Raises MalformedNetwork."""

    def expect(full: str, declared: Shape, shape: Shape) -> None:
        if shape != declared:
            raise MalformedNetwork(f"{full or 'the network'}: kept {shape}, used as {declared}")

    def op(full: str, node: Op, shape: Shape) -> Shape:
        expect(full, node.input, shape)
        return node.output

    def merge(full: str, node: Parallel, shapes: list[Shape]) -> Shape:
        for branch, shape in zip(node.branches, shapes, strict=True):
            expect(full, branch.output, shape)
        return node.output

    def side(full: str, node: Side, _: Shape, through: Callable[[Shape], Shape]) -> None:
        expect(full, node.child.output, through(node.input))

    def split(_: str, node: Parallel, __: Shape) -> list[Shape]:
        return list(node.given)

    def keep(full: str, node: Keep, shape: Shape) -> Shape:
        expect(full, node.input, shape)
        return shape

    try:
        end = thread(network.root, network.input, ThreadRules(op, merge, side, split, keep))
    except NotKept as problem:
        raise MalformedNetwork(str(problem)) from None
    expect("", network.root.output, end)


def _check_repeats(node: Node, path: str, known: dict[str, Node]) -> None:
    """Check that every step that is run again stands before, in the same scope, with parameters of the same shapes; `known` are
    the named nodes so far. Raises MalformedNetwork."""
    inner = scope(path, node)
    if isinstance(node, Again):
        for part in parts_of(node):
            first = known.get(join(inner, name_of(part)))
            if first is None or not _is_once_more(first, part):
                raise MalformedNetwork(f"{join(inner, node.name)} is run again as other nodes")
    for child in children(node):
        _check_repeats(child, inner, known)
    if name_of(node) is not None:
        known[join(path, name_of(node))] = node


def _is_once_more(first: Node, part: Node) -> bool:
    """Return whether a node is another one with the shapes of its own place."""
    try:
        return refitted((first,), part.input).children == (part,)
    except ShapeError:
        return False


def _names(node: Node) -> Iterator[str]:
    """Yield the names in a scope, without those in the scopes inside it."""
    for child in children(node):
        if (name := name_of(child)) is not None:
            yield name
        if not isinstance(child, Series) or child.name is None:
            yield from _names(child)


def _given(full: str, child: Node, shape: Shape) -> Shape:
    """Return the shape after a child that is given `shape`."""
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
    sizes = node.sizes or (node.input[0] // len(node.branches),) * len(node.branches)
    wrong = len(sizes) != len(node.branches) or sum(sizes) != node.input[0] or min(sizes) < 1
    if node.split and (node.residual or node.merge == "gate" or wrong):
        raise MalformedNetwork(f"{full} cannot split {node.input[0]} channels among {len(node.branches)} branches")
    pairs = zip(node.branches, node.given, strict=True)
    return merge_shape(node.merge, [_given(full, branch, shape) for branch, shape in pairs])


def _side(full: str, node: Side) -> Shape:
    _given(full, node.child, node.input)
    return node.input


#: The shape after a node of each kind, inferred from its own input and from the shapes that its children declare.
_OUTPUT: dict[type[Node], Callable[[str, Any], Shape]] = {
    Op: lambda _, node: node.kind.output(node.input),
    Series: _series,
    Parallel: _parallel,
    Side: _side,
    Keep: lambda _, node: node.input,
    Recall: lambda _, node: node.output,
    Again: lambda full, node: _series(full, node.child),
}
