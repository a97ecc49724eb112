"""The three recursions over the tree; every analysis, pass and backend is a table or a function for one of them.

    fold      leaves first: a value for each node, combined upwards      cost, paths, survival
    thread    in execution order: one value carried from node to node    shapes, receptive fields, ONNX nodes, evaluation
    rewrite   leaves first: other nodes in place of some                 passes

`walk` in `rescompile.ir.network` lists the nodes where no values are combined. All of them give a node's full name; a node
without a name has that of the scope around it.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Generic, NoReturn, TypeVar

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
    scope,
    value_name,
)
from rescompile.ir.refitting import refitted
from rescompile.ir.values import shared
from rescompile.records import record

T = TypeVar("T")


def _same_value(_: str, __: Keep | Again, value: T) -> T:
    """Keep a value unchanged; a step that runs again has the value that it had before."""
    return value


@record(slots=False)
class FoldRules(Generic[T]):
    """The value of an op, and how the values of children combine. Each rule gets the full name and the node first.

    Leaves that keep and recall a value count as an empty Series: use `thread` to follow values. `again` gets the value of a step
    that runs again, and by default returns it.
    """

    op: Callable[[str, Op], T]
    series: Callable[[str, Series, Sequence[T]], T]
    parallel: Callable[[str, Parallel, Sequence[T]], T]
    side: Callable[[str, Side, T], T]
    again: Callable[[str, Again, T], T] = _same_value


def fold(node: Node, rules: FoldRules[T], path: str = "") -> T:
    """Return the value of a node that lives in the scope `path`, computed from those of its children."""
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
        case Again():
            return rules.again(full, node, fold(node.child, rules, inner))
        case Keep() | Recall():
            return rules.series(full, Series((), node.input, node.output), ())


def _same(_: str, node: Parallel, value: T) -> list[T]:
    """Every branch gets the value that the merge gets."""
    return [value] * len(node.branches)


def _pass_by(_: str, __: Side, ___: T, ____: Callable[[T], T]) -> None:
    """A side branch that is not entered."""


def _as_before(_: str, __: Again, value: T, through: Callable[[T], T]) -> T:
    """A step that runs again does what it did where it stands."""
    return through(value)


class NotKept(Exception):
    """A value is recalled that was not kept before, or only in another branch or block."""


def _not_kept(full: str, node: Recall) -> NoReturn:
    """Every value is kept in the part that is threaded."""
    raise NotKept(f"{value_name(node.key)} is used in {full or 'the network'}, but was not kept before")


@record(slots=False)
class ThreadRules(Generic[T]):
    """What becomes of a value on its way. Each rule gets the full name and the node first.

    `op` and `merge` return the value after an op and after the branches of a Parallel; `split` returns what each branch is
    given. `side` gets the value that passes by, and a function that carries a value through the side branch and returns the
    one at its end; without this rule, side branches are left out. `again` gets the value before a step that runs again, and a
    function that carries it through the step. `keep` returns what a Keep remembers, which is also the value
    after it; `outside` the value of a Recall whose Keep is not in the part that is threaded, which raises NotKept without it.
    """

    op: Callable[[str, Op, T], T]
    merge: Callable[[str, Parallel, list[T]], T]
    side: Callable[[str, Side, T, Callable[[T], T]], None] = _pass_by
    split: Callable[[str, Parallel, T], Sequence[T]] = _same
    keep: Callable[[str, Keep, T], T] = _same_value
    outside: Callable[[str, Recall], T] = _not_kept
    again: Callable[[str, Again, T, Callable[[T], T]], T] = _as_before


def thread(node: Node, value: T, rules: ThreadRules[T], path: str = "") -> T:
    """Return the value after a node that lives in the scope `path`, where `value` is the one before it."""
    return _threaded(node, value, rules, path, {})


def _threaded(node: Node, value: T, rules: ThreadRules[T], path: str, kept: dict[Key, T]) -> T:
    """Return the value after a node; `kept` are the values that it may recall, to which it adds those that it keeps."""
    full, inner = join(path, name_of(node)), scope(path, node)
    match node:
        case Op():
            return rules.op(full, node, value)
        case Series():
            known = shared(node, kept)
            for child in node.children:
                value = _threaded(child, value, rules, inner, known)
            if known is not kept:
                kept.update(shared(node, known))
        case Parallel():
            given = zip(node.branches, rules.split(full, node, value), strict=True)
            ends = [_threaded(branch, part, rules, inner, dict(kept)) for branch, part in given]
            return rules.merge(full, node, ends)
        case Side():
            rules.side(full, node, value, lambda start: _threaded(node.child, start, rules, inner, dict(kept)))
        case Again():
            return rules.again(full, node, value, lambda start: _threaded(node.child, start, rules, inner, {}))
        case Keep():
            kept[node.key] = value = rules.keep(full, node, value)
        case Recall():
            return kept[node.key] if node.key in kept else rules.outside(full, node)
    return value


def runs(root: Node) -> Counter[str]:
    """How often each op and each merge runs, by full name: once, unless it is in a step that runs again."""
    times: Counter[str] = Counter()

    def count(name: str, _: Node, __: object) -> None:
        times[name] += 1

    def side(_: str, __: Side, ___: None, through: Callable[[None], None]) -> None:
        through(None)

    thread(root, None, ThreadRules[None](count, count, side))
    return times


def rewrite(root: Series, fn: Callable[[str, Node], Node | Iterable[Node]], path: str = "") -> Series:
    """Return the tree with each node that stands in a Series replaced by what `fn` returns for its full name and itself: a
    node, or any number of them. `fn` sees a node after those inside it. Parts in which nothing changes stay the same objects.

    A step that is run again is replaced there by what replaced it where it stands, so `fn` sees it once.
    """
    return _rewritten(root, fn, path, {})


def _rewritten(
    root: Series,
    fn: Callable[[str, Node], Node | Iterable[Node]],
    path: str,
    done: dict[str, tuple[Node, Sequence[Node]]],
) -> Series:
    """Return the tree rewritten; `done` are the named nodes so far, before and after."""
    inner = scope(path, root)
    nodes: list[Node] = []
    for child in root.children:
        before = child
        if isinstance(child, Series):
            child = _rewritten(child, fn, inner, done)
        elif isinstance(child, Again):
            child = _once_more(child, *done.get(join(inner, child.name), (None, ())))
            if not child.child.children:
                continue  # the step is gone
        elif isinstance(child, Op | Parallel | Side):
            child = with_branches(child, [_rewritten(each, fn, inner, done) for each in branches(child)])
        name = name_of(child)
        new = fn(join(inner, name), child)
        listed = (new,) if isinstance(new, Node) else tuple(new)
        if name is not None:
            done[join(inner, name)] = before, listed
        nodes.extend(listed)
    return in_series(nodes, root)


def _once_more(again: Again, before: Node | None, after: Sequence[Node]) -> Again:
    """Return the same step once more after it became other nodes; unchanged where it stands outside of what is rewritten."""
    if before is None or _same_objects(after, (before,)):
        return again
    return replace(again, child=refitted(after, again.input))


def branches(node: Op | Parallel | Side) -> tuple[Series, ...]:
    """Return the Series inside a node that is not one itself."""
    match node:
        case Op():
            return ()
        case Parallel():
            return node.branches
        case Side():
            return (node.child,)


def with_branches(node: Op | Parallel | Side, new: Sequence[Series]) -> Op | Parallel | Side:
    """Return a node that is not a Series with other Series inside; its own shapes follow from theirs."""
    if _same_objects(branches(node), new):
        return node
    match node:
        case Parallel():
            first = new[0].input
            output = merge_shape(node.merge, [branch.output for branch in new])
            widths = [branch.input[0] for branch in new]
            given = (sum(widths), *first[1:]) if node.split else first
            uneven = node.split and len(set(widths)) > 1
            sizes = tuple(widths) if node.sizes or uneven else ()
            return replace(node, branches=tuple(new), input=given, output=output, sizes=sizes)
        case Side():
            (child,) = new
            return replace(node, child=child, input=child.input)
    return node


def in_series(nodes: Sequence[Node], like: Series) -> Series:
    """Return a Series of these nodes, with the shapes of their ends, and all else as in another."""
    if _same_objects(nodes, like.children):
        return like
    if not nodes:
        return replace(like, children=())
    return replace(like, children=tuple(nodes), input=nodes[0].input, output=nodes[-1].output)


def _same_objects(one: Sequence[Node], other: Sequence[Node]) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one, other))
