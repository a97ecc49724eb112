"""The three recursions over the tree; every analysis, pass and backend is a table or a function for one of them.

    fold      leaves first: a value for each node, combined upwards      cost, paths, survival
    thread    in execution order: one value carried from node to node    shapes, receptive fields, ONNX nodes, evaluation
    rewrite   leaves first: other nodes in place of some                 passes

`walk` in `rescompile.ir.network` lists the nodes where no values are combined. All of them give a node's full name; a node
without a name has that of the scope around it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from rescompile.ir.network import Node, Op, Parallel, Series, Side, join, merge_shape, name_of, scope

T = TypeVar("T")


@dataclass(frozen=True)
class FoldRules(Generic[T]):
    """The value of an op, and how the values of children combine. Each rule gets the full name and the node first."""

    op: Callable[[str, Op], T]
    series: Callable[[str, Series, Sequence[T]], T]
    parallel: Callable[[str, Parallel, Sequence[T]], T]
    side: Callable[[str, Side, T], T]


def fold(node: Node, rules: FoldRules[T], path: str = "") -> T:
    """The value of a node that lives in the scope `path`, computed from those of its children."""
    full, inner = join(path, name_of(node)), scope(path, node)
    match node:
        case Op():
            return rules.op(full, node)
        case Series():
            return rules.series(full, node, [fold(child, rules, inner) for child in node.children])
        case Parallel():
            return rules.parallel(full, node, [fold(branch, rules, inner) for branch in node.branches])
        case Side():
            return rules.side(full, node, fold(node.child, rules, inner))


def _same(_: str, node: Parallel, value: T) -> list[T]:
    """Every branch gets the value that the merge gets."""
    return [value] * len(node.branches)


def _pass_by(_: str, __: Side, ___: T, ____: Callable[[T], T]) -> None:
    """A side branch that is not entered."""


@dataclass(frozen=True)
class ThreadRules(Generic[T]):
    """What becomes of a value on its way. Each rule gets the full name and the node first.

    `op` and `merge` return the value after an op and after the branches of a Parallel; `split` returns what each branch is
    given. `side` gets the value that passes by, and a function that carries a value through the side branch and returns the
    one at its end; without this rule, side branches are left out.
    """

    op: Callable[[str, Op, T], T]
    merge: Callable[[str, Parallel, list[T]], T]
    side: Callable[[str, Side, T, Callable[[T], T]], None] = _pass_by
    split: Callable[[str, Parallel, T], Sequence[T]] = _same


def thread(node: Node, value: T, rules: ThreadRules[T], path: str = "") -> T:
    """The value after a node that lives in the scope `path`, where `value` is the one before it."""
    full, inner = join(path, name_of(node)), scope(path, node)
    match node:
        case Op():
            return rules.op(full, node, value)
        case Series():
            for child in node.children:
                value = thread(child, value, rules, inner)
        case Parallel():
            given = zip(node.branches, rules.split(full, node, value), strict=True)
            return rules.merge(full, node, [thread(branch, part, rules, inner) for branch, part in given])
        case Side():
            rules.side(full, node, value, lambda start: thread(node.child, start, rules, inner))
    return value


def rewrite(root: Series, fn: Callable[[str, Node], Node | Iterable[Node]], path: str = "") -> Series:
    """The tree with each node that stands in a Series replaced by what `fn` returns for its full name and itself: a node,
    or any number of them. `fn` sees a node after those inside it. Parts in which nothing changes stay the same objects."""
    inner = scope(path, root)
    nodes: list[Node] = []
    for child in root.children:
        if isinstance(child, Series):
            child = rewrite(child, fn, inner)
        else:
            child = with_branches(child, [rewrite(each, fn, inner) for each in branches(child)])
        new = fn(join(inner, name_of(child)), child)
        nodes.extend([new] if isinstance(new, Node) else new)
    return in_series(nodes, root)


def branches(node: Op | Parallel | Side) -> tuple[Series, ...]:
    """The Series inside a node that is not one itself."""
    match node:
        case Op():
            return ()
        case Parallel():
            return node.branches
        case Side():
            return (node.child,)


def with_branches(node: Op | Parallel | Side, new: Sequence[Series]) -> Op | Parallel | Side:
    """A node that is not a Series with other Series inside; its own shapes follow from theirs."""
    if _same_objects(branches(node), new):
        return node
    match node:
        case Parallel():
            first = new[0].input
            output = merge_shape(node.merge, [branch.output for branch in new])
            given = (first[0] * len(new), *first[1:]) if node.split else first
            return replace(node, branches=tuple(new), input=given, output=output)
        case Side():
            (child,) = new
            return replace(node, child=child, input=child.input)
    return node


def in_series(nodes: Sequence[Node], like: Series) -> Series:
    """A Series of these nodes, with the shapes of their ends, and all else as in another."""
    if _same_objects(nodes, like.children):
        return like
    if not nodes:
        return replace(like, children=())
    return replace(like, children=tuple(nodes), input=nodes[0].input, output=nodes[-1].output)


def _same_objects(one: Sequence[Node], other: Sequence[Node]) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one, other))
