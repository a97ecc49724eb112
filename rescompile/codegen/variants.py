"""Variants of a block that fit into one class: residuals without a shortcut in some instances, and one of two modules."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rescompile.codegen.class_plan import Either, Group, Item, Module, body_items, scope_names
from rescompile.codegen.columns import Column, aligned
from rescompile.ir.network import Node, Op, Parallel, Series


def with_residuals(lists: Column[tuple[Node, ...]]) -> Column[tuple[Node, ...]]:
    """Return lists in which the branch of a residual without a shortcut is a merge of one branch, if other instances
    have the shortcut."""
    found = lists.map(lambda nodes: {_path(node): node for node in nodes if _is_residual(node)})
    for path, residual in {path: node for own in found.values() for path, node in own.items()}.items():
        if not all(path in own for own in found.values()):
            lists = Column({at: _with_residual(nodes, path, residual) for at, nodes in lists.items()})
    return lists


def _is_residual(node: Node) -> bool:
    """Return whether a node is the sum of a branch and a shortcut."""
    return isinstance(node, Parallel) and node.residual and node.merge == "add" and not node.survival


def _with_residual(nodes: tuple[Node, ...], path: str, residual: Node) -> tuple[Node, ...]:
    """Return nodes in which those of the branch of a residual, at a path, are a merge of this branch alone."""
    assert isinstance(residual, Parallel)
    at = [number for number, node in enumerate(nodes) if _path(node).startswith(f"{path}.branch")]
    if not at or len(at) <= at[-1] - at[0]:
        return nodes
    branch = nodes[at[0] : at[-1] + 1]
    start, end = branch[0].input, branch[-1].output
    merge = replace(residual, branches=(Series(branch, start, end),), input=start, output=end)
    return (*nodes[: at[0]], merge, *nodes[at[-1] + 1 :])


def _path(node: Node) -> str:
    """Return the path of the step that a node came from."""
    return node.origin.path if node.origin else ""


def alternatives(lists: Column[tuple[Node, ...]]) -> Iterator[tuple[Column[Node], ...]]:
    """Yield the columns of corresponding lists; two of one name, of which each instance has one, are together. Raises
    Misfit."""
    left = deque(aligned(lists))
    while left:
        column = left.popleft()
        if left and _exclude(column, left[0], lists):
            yield column, left.popleft()
        else:
            yield (column,)


def _exclude(one: Column[Node], other: Column[Node], lists: Iterable[int]) -> bool:
    """Return whether two columns are modules of one name, of which each instance has one."""
    first, second = one.first, other.first
    return (
        isinstance(first, Op | Series)
        and isinstance(second, Op | Series)
        and first.name is not None
        and first.name == second.name
        and not one.keys() & other.keys()
        and one.keys() | other.keys() == set(lists)
    )


def has_unique_names(items: Sequence[Item]) -> bool:
    """Return whether every module has one position: not different ones in different instances."""
    names = list(scope_names(items))
    groups = [item for item in body_items(items) if isinstance(item, Group)]
    return len(set(names)) == len(names) and all(has_unique_names(group.items) for group in groups)


def is_readable(items: Sequence[Item]) -> bool:
    """Return whether a class has at least as many modules that all instances share as modules of which it has two."""
    listed = list(body_items(items))
    varied = sum(isinstance(item, Either) for item in listed)
    shared = sum(isinstance(item, Module) and getattr(item, "when", None) is None for item in listed)
    return varied <= shared
