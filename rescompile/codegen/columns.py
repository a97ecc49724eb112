"""Corresponding nodes of the instances of a block: those that one definition step made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rescompile.ir.network import Node

T = TypeVar("T")


class Misfit(Exception):
    """Instances are too different for one class."""


def first(column: Mapping[int, T]) -> T:
    """What speaks for all instances: the nodes of one step have the same hints."""
    return next(iter(column.values()))


def aligned(lists: Mapping[int, Sequence[Node]]) -> Iterator[dict[int, Node]]:
    """Corresponding nodes of several lists: those of one definition step. Raises Misfit where orders contradict."""
    keyed = {at: _keys(nodes) for at, nodes in lists.items()}
    order: list[Any] = []
    for keys in dict.fromkeys(tuple(keys) for keys in keyed.values()):
        at = 0
        for key in keys:
            if key in order:
                found = order.index(key)
                if found < at:
                    raise Misfit
                at = found + 1
            else:
                order.insert(at, key)
                at += 1
    if any([key for key in order if key in keys] != list(keys) for keys in keyed.values()):
        raise Misfit
    for key in order:
        yield {at: keys[key] for at, keys in keyed.items() if key in keys}


def _keys(nodes: Sequence[Node]) -> dict[Any, Node]:
    """Nodes by what identifies them among their neighbours: the step they came from, and how often it gave one."""
    keyed: dict[Any, Node] = {}
    for node in nodes:
        again = 0
        step = node.origin or (type(node).__name__, getattr(node, "name", None))
        while (step, again) in keyed:
            again += 1
        keyed[step, again] = node
    return keyed
