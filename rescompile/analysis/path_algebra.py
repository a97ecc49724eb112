"""Paths through a tree, by whatever counts or lists them: products in series, sums at merges, and kept values in between.

A part that neither keeps nor uses a value of the parts around it multiplies what leads to it; such factors are multiplied by
halves, since factors of about one size are multiplied much faster than a long one by many short ones. Elsewhere the paths that
lead to a place are threaded through the tree, and a value that is used continues those that lead to its Keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rescompile.ir.network import Again, Keep, Key, Node, Op, Parallel, Recall, Series, join, name_of, scope
from rescompile.ir.values import Crossings, shared
from rescompile.records import record

T = TypeVar("T")


@record(slots=False)
class PathRules(Generic[T]):
    """`one` is the path through nothing, `op` gives the paths through an op. `product` has the paths through parts in
    series, `merge` those through a Parallel by its full name, given those that lead to the end of each branch."""

    one: T
    op: Callable[[str, Op], T]
    product: Callable[[Sequence[T]], T]
    merge: Callable[[str, Parallel, Sequence[T]], T]


def through(node: Node, rules: PathRules[T]) -> T:
    """Return the paths through a part. A value that was kept before the part begins is not a path."""
    return _Paths(rules).factor(node, "")


@dataclass
class _Paths(Generic[T]):
    """The recursion, with the values that cross the borders of parts."""

    rules: PathRules[T]
    crossings: Crossings = field(default_factory=Crossings)

    def factor(self, node: Node, path: str) -> T:
        """Return the paths from the start of a part to its end."""
        full, inner = join(path, name_of(node)), scope(path, node)
        match node:
            case Op():
                return self.rules.op(full, node)
            case Series():
                return self.series(node, inner)
            case Parallel():
                return self.rules.merge(full, node, [self.factor(branch, inner) for branch in node.branches])
            case Again():
                return self.factor(node.child, inner)
        return self.rules.one

    def series(self, node: Series, inner: str) -> T:
        """Return the paths through a Series: a product, or threaded where its children keep and use values."""
        if not any(map(self.crossings.of, node.children)):
            return self.rules.product([self.factor(child, inner) for child in node.children])
        return self.along(node.children, self.rules.one, inner, {})

    def along(self, nodes: Sequence[Node], before: T, inner: str, kept: dict[Key, T]) -> T:
        """Return the paths to the end of nodes one after the other, given those that lead to the first of them."""
        closed: list[T] = []
        for node in nodes:
            if not self.crossings.of(node):
                closed.append(self.factor(node, inner))
                continue
            before, closed = self.rules.product([before, *closed]), []
            before = self.to_end(node, before, inner, kept)
        return self.rules.product([before, *closed])

    def to_end(self, node: Node, before: T, path: str, kept: dict[Key, T]) -> T:
        """Return the paths to the end of a node that keeps or uses a value, given those that lead to it."""
        full, inner = join(path, name_of(node)), scope(path, node)
        match node:
            case Keep():
                kept[node.key] = before
            case Recall() if node.key in kept:
                return kept[node.key]
            case Series():
                known = shared(node, kept)
                before = self.along(node.children, before, inner, known)
                kept.update(shared(node, known))
            case Parallel():
                ends = [self.along(branch.children, before, inner, dict(kept)) for branch in node.branches]
                return self.rules.merge(full, node, ends)
        return before
