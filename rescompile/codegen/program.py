"""A network as a program of classes, independent of frameworks: entries of constructors, and statements of forward.

A program is data: liveness is computed from values, never from text, and numpy can run a program without a framework
(`tests/support/program_interpreter.py`), so that tests check lowering apart from printing.

    class plan --constructor--> entries       --|
               --forward------> statements    --+--> Program --template of a backend--> text
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import NamedTuple

from rescompile.codegen.class_plan import Class, ClassPlan
from rescompile.codegen.entries import Constructed, Make
from rescompile.codegen.statements import (
    Add,
    Expr,
    OnlyIf,
    Scaled,
    Statement,
    Survives,
    Thinned,
    Training,
    Unpack,
    Var,
)
from rescompile.records import record


class Method(NamedTuple):
    """A branch as a separate method."""

    name: str
    body: tuple[Statement, ...]


@record(slots=False)
class Code:
    """A class: the entries of its constructor, and the body of its forward on `x`."""

    of: Class
    is_root: bool
    constructor: tuple[Constructed, ...]
    methods: tuple[Method, ...]
    body: tuple[Statement, ...]

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.of.name


@record(slots=False)
class Program:
    """The classes of a network, each before those that use it; the last one is the network itself."""

    plan: ClassPlan
    classes: tuple[Code, ...]


# --- questions --------------------------------------------------------------------------------------------------------


def parts(node: object) -> Iterator[object]:
    """Yield a part of a program and all parts inside it, without entering items of the plan."""
    yield node
    if isinstance(node, tuple):
        for item in node:
            yield from parts(item)
    elif isinstance(node, Expr | Statement | Make | Constructed | Code | Program):
        for field in fields(node):
            yield from parts(getattr(node, field.name))


def mentions(node: object) -> set[str]:
    """Return the variables that a value or a statement reads or sets."""
    found = {part.name for part in parts(node) if isinstance(part, Var)}
    return found | {name for part in parts(node) for name in _targets(part)}


def _targets(node: object) -> tuple[str, ...]:
    """Return the variables that a statement sets."""
    if isinstance(node, Unpack):
        return node.targets
    target = getattr(node, "target", None)
    return (target,) if isinstance(target, str) else ()


def free_variables(body: Iterable[Statement]) -> set[str]:
    """Return the variables that statements read before setting them."""
    found: set[str] = set()
    bound: set[str] = set()
    for statement in body:
        match statement:
            case Training(inner) | OnlyIf(_, inner):
                read = free_variables(inner)
            case Survives(_, inner, otherwise):
                read = free_variables(inner) | (free_variables(otherwise) if otherwise else {*_targets(inner[-1])})
            case _:
                read = {part.name for part in parts(statement) if isinstance(part, Var)}
                read |= {*_targets(statement)} if isinstance(statement, Add | Scaled | Thinned) else set()
        found |= read - bound
        bound.update(_targets(statement.body[-1] if isinstance(statement, Survives) else statement))
    return found
