"""The kept values of one class in its forward: one variable each, or the elements of a dict."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from rescompile.codegen.class_plan import ALONE, Class, Item, Keeping, KeptValues, Recalling, Row, Use, body_items
from rescompile.codegen.constructor import Names
from rescompile.codegen.statements import Element, Expr, Var


class ValueVariables:
    """`now` maps names to the variables of the values kept last, `owned` contains the dicts that this class creates,
    `taken` the names that no other variable may have."""

    def __init__(self, of: Class, names: Names) -> None:
        self.names = names
        self.now: dict[tuple[KeptValues, str], Var] = {}
        mentioned = dict.fromkeys(_mentioned(of))
        self.owned = [values.name for values in mentioned if values.many and values not in of.values]
        self.taken = {values.name for values in mentioned}
        self.variables: dict[int, Var] = {}
        for values in of.values:
            if not values.many:
                self.now[values, ""] = Var(values.name)
        for item in body_items(of.items):
            if isinstance(item, Keeping) and not item.values.many:
                self.variables[id(item)] = Var(self._variable(item, item.values in of.values))

    def _variable(self, item: Keeping, is_argument: bool) -> str:
        """Return a variable for one value: `y` or `y2`, with a letter if that is taken."""
        wanted = f"{item.values.name}{item.index_text}"
        if wanted not in self.taken or (wanted == item.values.name and not is_argument and wanted not in self._used()):
            name = wanted
        else:
            name = next(new for n in itertools.count(2) if (new := f"{wanted}_{n}") not in self.taken)
        self.taken.add(name)
        return name

    def _used(self) -> set[str]:
        return {var.name for var in self.variables.values()}

    def next_variable(self, left: Sequence[Item]) -> str | None:
        """Return the variable of the value that the next item keeps, the last one left, or None."""
        item = left[-1] if left else None
        return self.variables[id(item)].name if isinstance(item, Keeping) and not item.values.many else None

    def place(self, item: Keeping) -> Var | Element:
        """Return where a value is kept."""
        if not item.values.many:
            return self.variables[id(item)]
        return self._element(item)

    def read(self, item: Recalling) -> Var | Element:
        """Return where a recalled value was kept."""
        if not item.values.many:
            return self.now[item.values, item.index_text]
        return self._element(item)

    def passed(self, inner: KeptValues, own: KeptValues) -> Expr:
        """Return the argument of a class for one of its own names."""
        if inner.many:
            return Var(own.name)
        return Element(Var(own.name), ALONE) if own.many else self.now[own, ""]

    def _element(self, item: Keeping | Recalling) -> Element:
        """Return an element of a dict, by the attribute with its index, or by a number."""
        return Element(Var(item.values.name), self.names.of(item) or (int(item.index_text) if item.index else ALONE))


def _mentioned(of: Class) -> Iterator[KeptValues]:
    """Yield the names of kept values in a class."""
    yield from of.values
    for item in body_items(of.items):
        if isinstance(item, Keeping | Recalling):
            yield item.values
        elif isinstance(item, Use | Row):
            yield from item.values
