"""Parallel copies named 0, 1, 2 and so on, which are all modules of their class: a loop whose `index` is in their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rescompile.codegen.class_plan import INDEX
from rescompile.codegen.class_scope import ClassScope
from rescompile.codegen.columns import Column, Misfit
from rescompile.codegen.roles import Roles
from rescompile.codegen.terms import LONG, Value, constant, named, operation, size
from rescompile.ir.expressions import Term
from rescompile.ir.network import Op, Parallel, Series

#: The minimum number of copies that show a rule.
RULE = 3


def copies_of(merge: Parallel) -> list[Series]:
    """Return the copies that a merge adds or concatenates; empty if it does not consist of numbered copies of one list
    of layers."""
    copies = [child for branch in merge.branches for child in branch.children if isinstance(child, Series)]
    alike = (
        merge.merge in ("add", "concat")
        and not merge.residual
        and not merge.survival
        and not merge.sizes
        and [copy.name for copy in copies] == [str(at) for at in range(len(merge.branches))]
        and all(len(branch.children) == 1 for branch in merge.branches)
        and all(copy.call is None and copy.origin == copies[0].origin for copy in copies)
        and all(isinstance(node, Op) for copy in copies for node in copy.children)
    )
    return copies if alike else []


def are_numbered_copies(blocks: Sequence[Series], roles: Roles) -> bool:
    """Return whether blocks consist of numbered copies alone, several of them in one at least."""
    if roles.unrolled or any(block.call is None or len(block.children) != 1 for block in blocks):
        return False
    counts = [len(copies_of(node)) if isinstance(node, Parallel) else 0 for block in blocks for node in block.children]
    return min(counts) > 0 and max(counts) > 1


class CopyScope(ClassScope):
    """The scope of a class inside numbered copies. Its instances are the copies of all instances of the class: each of
    `pairs` is the number of an instance and that of a copy, which expressions call `index`."""

    def __init__(self, around: ClassScope, counts: Column[int]) -> None:
        self.around, self.registry, self.defaults = around, around.registry, around.defaults
        self.locals = around.locals
        self.pairs = [(at, copy) for at, count in counts.items() for copy in range(count)]
        self.values = [{**around.values[at], INDEX: copy} for at, copy in self.pairs]

    def _chosen(self, values: Column[Value], hints: Iterable[Term | None], name: str) -> Term:
        """Return the term that evaluates to each copy's value; one that counts up by `index` replaces longer ones."""
        chosen = super()._chosen(values, [*hints, counting := self._counting(values)], name)
        return counting if counting is not None and size(counting) < size(chosen) else chosen

    def _counting(self, values: Column[Value]) -> Term | None:
        """Return the term for integers that grow by the same step with `index` in each instance; None if they do not."""
        found = {(self.pairs[at][1], value) for at, value in values.items()}
        numbers = dict(found)
        if sorted(numbers) != list(range(len(found))) or {type(value) for value in numbers.values()} != {int}:
            return None  # the same copy has several values, or a copy has none
        if len(numbers) < RULE:  # any two numbers are a series
            return None
        start, step = numbers[0], numbers[1] - numbers[0]
        if step < 1 or any(value != start + step * copy for copy, value in numbers.items()):
            return None
        growth = operation("*", constant(step), named(INDEX))
        return operation("+", constant(start), growth) if start else growth

    def _new_name(self, values: Column[Value], name: str) -> str:
        """Return a new name of the class, whose value all copies in an instance share. Raises Misfit if they do not."""
        shared: Column[Value] = Column()
        for at, value in values.items():
            if shared.setdefault(self.pairs[at][0], value) != value:
                raise Misfit
        new = self.around._new_name(shared, name)
        for (at, _), scope in zip(self.pairs, self.values, strict=True):
            scope[new] = self.around.values[at][new]
        return new

    def mention(self, term: Term) -> None:
        """Mark the names in a term as used by the class."""
        self.around.mention(term)

    def short(self, term: Term, name: str) -> Term:
        """Return the term. Raises Misfit for a long one: a local variable of the class would not know `index`."""
        if size(term) > LONG:
            raise Misfit
        return term
