"""Corresponding parts of all instances of a block: nodes that one definition step made, and properties of these.

The recursion that turns instances into one class never examines a single instance: a rule reads from a column the value
that all share, or maps it to a column of numbers, for which the class then finds an expression or an argument.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rescompile.ir.network import Node

T = TypeVar("T")
U = TypeVar("U")


class Misfit(Exception):
    """Raised if the instances differ too much for one class."""


class Column(dict[int, T]):
    """One object of each instance, by the number of the instance; an instance that lacks it has no entry."""

    @property
    def first(self) -> T:
        """The object of the first instance that has it. Its hints stand for all: their values are checked for each."""
        return next(iter(self.values()))

    def map(self, fn: Callable[[T], U]) -> Column[U]:
        """Return the column of a function's results."""
        return Column({at: fn(thing) for at, thing in self.items()})

    def share(self, fn: Callable[[T], Any]) -> bool:
        """Return whether a function returns the same value for all."""
        value = fn(self.first)
        return all(fn(thing) == value for thing in self.values())

    def only(self, fn: Callable[[T], U]) -> U:
        """Return the one value that a function returns for all. Raises Misfit if the values differ."""
        if not self.share(fn):
            raise Misfit
        return fn(self.first)

    def of(self, instances: Iterable[int]) -> Column[T]:
        """Return the column of some of the instances."""
        return Column({at: self[at] for at in instances})


def aligned(lists: Mapping[int, Sequence[Node]]) -> Iterator[Column[Node]]:
    """Yield the corresponding nodes of several lists: those of one definition step. Raises Misfit if their orders
    contradict."""
    keyed = {at: _keys(nodes) for at, nodes in lists.items()}
    order: list[Any] = []
    for keys in dict.fromkeys(tuple(keys) for keys in keyed.values()):
        order = _merged(order, keys)
    for key in order:
        yield Column({at: keys[key] for at, keys in keyed.items() if key in keys})


def _merged(order: list[Any], keys: Sequence[Any]) -> list[Any]:
    """Return an order merged with the keys of one more list, in which new keys follow the key before them. Raises
    Misfit."""
    place = {key: at for at, key in enumerate(order)}
    merged: list[Any] = []
    done = 0
    for key in keys:
        at = place.get(key)
        if at is None:
            merged.append(key)
        elif at < done:
            raise Misfit
        else:
            merged += order[done : at + 1]
            done = at + 1
    return merged + order[done:]


def _keys(nodes: Sequence[Node]) -> dict[Any, Node]:
    """Return nodes by what identifies them among their neighbours: their step, and the number of earlier nodes from
    it."""
    keyed: dict[Any, Node] = {}
    again: Counter[Any] = Counter()
    for node in nodes:
        step = node.origin or (type(node).__name__, getattr(node, "name", None))
        keyed[step, again[step]] = node
        again[step] += 1
    return keyed
