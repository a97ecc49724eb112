"""Kept values in classes: each name is one variable per value, or a dict of values if an inner class changes them.

A class that only reads a value receives it as a tensor. If a class keeps values for surrounding classes, or an index
differs among its instances, the values of the name are in a dict, which the owning class creates and passes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from rescompile.codegen.class_plan import Class, Keeping, KeptValues, Recalling, Row, Use
from rescompile.codegen.class_scope import ClassScope, Flow, Here
from rescompile.codegen.columns import Column, Misfit
from rescompile.codegen.planned_classes import Registry
from rescompile.codegen.terms import constant
from rescompile.ir.expressions import Term
from rescompile.ir.network import Keep, Recall, Series
from rescompile.ir.provenance import Call

#: Variables of a forward that no kept value may use.
_TAKEN = re.compile(r"x|part|parts[0-9]*|branch|at")


class ValueScope:
    """The kept values of one class by their names in the spec, where they are known; `arguments` come from surrounding
    classes."""

    def __init__(self, registry: Registry, instances: Column[Series]) -> None:
        self.registry = registry
        self.taken: set[str] = set()
        self.channels: dict[tuple[int, str], Term] = {}  # of a value when it was last kept
        self.known = {name: self._new(name, many) for name, many in sorted(_crossing(registry, instances).items())}
        self.arguments = list(self.known.values())

    def _new(self, name: str, many: bool = False) -> KeptValues:
        """Return a new name for values of this class."""
        wanted = self.registry.python_name(name)
        while _TAKEN.fullmatch(wanted) or wanted in self.taken or wanted in self.registry.reserved:
            wanted += "_"
        self.taken.add(wanted)
        return KeptValues(wanted, name, many)

    def values_of(self, name: str) -> KeptValues:
        """Return the values of a name that is kept or used here."""
        if name not in self.known:
            self.known[name] = self._new(name)
        return self.known[name]

    @contextmanager
    def inside(self, call: Call | None) -> Iterator[None]:
        """Enter a macro, which knows only the values that it names."""
        before = self.known
        if call is not None:
            self.known = {name: self.values_of(name) for name in call.values}
        try:
            yield
        finally:
            self.known = before

    # --- items

    def keeping(self, column: Column[Keep], here: Here, scope: ClassScope) -> Keeping:
        """Return the item of a column of Keeps. Raises Misfit."""
        item = Keeping(*self._value(column, here, scope))
        self.channels[id(item.values), item.index_text] = here.flow.term
        return item

    def recalling(self, column: Column[Recall], here: Here, scope: ClassScope) -> tuple[Recalling, Flow]:
        """Return the item of a column of Recalls, and the channels after it. Raises Misfit."""
        item = Recalling(*self._value(column, here, scope))
        guess = self.channels.get((id(item.values), item.index_text), here.flow.term)
        numbers = Column({**here.flow.numbers, **column.map(lambda node: node.output[0])})
        return item, scope.flow(numbers, [guess, here.flow.term])

    def _value(
        self, column: Column[Keep] | Column[Recall], here: Here, scope: ClassScope
    ) -> tuple[KeptValues, Term | None]:
        """Return the name that a column refers to, and its index."""
        values = self.values_of(column.only(lambda node: node.key[0]))
        indices = column.map(lambda node: node.key[1])
        if not column.share(lambda node: node.key[1] is None):
            raise Misfit
        if indices.first is None:
            return values, None
        if indices.share(lambda index: index):
            return values, constant(indices.first)
        values.many = True
        hints = scope.hints(column.first.hints, "index", here)
        return values, scope.printed(scope.express(indices, hints, f"{values.name}_index"), column)

    def passed(self, use: Use) -> Use:
        """Return the use of a class with the values passed to it."""
        return replace(use, values=self._given(use.of))

    def passed_on(self, row: Row) -> Row:
        """Return a row with the values passed to each of its copies. Raises Misfit for a value that may be
        missing."""
        first = row.parts[0]
        of = first.of if isinstance(first, Use) else first.stage.of
        if of.values and row.when is not None:
            raise Misfit
        return replace(row, values=self._given(of))

    def _given(self, of: Class) -> tuple[KeptValues, ...]:
        """Return the values for a class, in its order."""
        given = []
        for inner in of.values:
            own = self.values_of(inner.word)
            own.many = own.many or inner.many
            given.append(own)
        return tuple(given)


def _crossing(registry: Registry, instances: Column[Series]) -> dict[str, bool]:
    """Return the names that cross the boundary of a class, and whether they are passed in a dict."""
    call = instances.first.call
    if instances.first is registry.network.root:
        return {}
    if call is not None:
        return registry.roles.shared.get(call.block, {})
    crossings = [registry.roles.crossings.of(node) for node in instances.values()]
    names = {name for crossing in crossings for name in crossing.names}
    return {name: any(crossing.is_changed(name) for crossing in crossings) for name in names}
