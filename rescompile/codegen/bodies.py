"""The body of a forward under construction: its statements, its current value, and the variables in use.

A variable is busy while a later statement or the current value needs it. `Body.passing` contains the variables that
only the current value reads: they are free once that value is assigned.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

from rescompile.codegen.program import mentions
from rescompile.codegen.statements import Expr, Let, Statement, Var
from rescompile.records import record

#: Variables in order of preference, after `x`, the input of a body.
LOCALS = ("y", "z", "u", "v", "w")


@record(slots=False)
class Value:
    """The current value; `fresh` if it may be overwritten: nothing else refers to it and no backward pass needs it."""

    expr: Expr
    fresh: bool = False

    @property
    def is_variable(self) -> bool:
        """Whether the value is a variable."""
        return isinstance(self.expr, Var)


@dataclass
class Body:
    """Statements under construction, and the variables in use."""

    statements: list[Statement] = field(default_factory=list)
    busy: set[str] = field(default_factory=lambda: {"x"})
    passing: set[str] = field(default_factory=set)
    again: bool = False  # recomputed for backward as a whole

    def add(self, statement: Statement) -> None:
        """Add a statement."""
        self.statements.append(statement)

    def assign(self, value: Value, name: str) -> Var:
        """Assign a value and return its variable; variables that only it read become free."""
        if value.expr != Var(name):
            self.add(Let(name, value.expr))
            free = self.passing & mentions(value.expr)
            self.passing -= free
            self.busy -= free
        return Var(name)

    def keep(self, value: Value, name: str) -> Value:
        """Return a value after its assignment."""
        return Value(self.assign(value, name), value.fresh)

    def variable(self) -> str:
        """Return a free variable, which is then busy."""
        more = (f"y{number}" for number in itertools.count(len(self.busy)))
        name = next(name for name in itertools.chain(LOCALS, more) if name not in self.busy)
        self.busy.add(name)
        return name

    def branch(self) -> Body:
        """Return a branch: it adds to the same statements, and its variables are free afterwards."""
        return replace(self, busy=set(self.busy), passing=set(self.passing))
