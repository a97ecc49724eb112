"""The scope of a class under construction: its names, their values in each instance, and expressions for other values.

Every value in a class is chosen here. A hint is used if it evaluates to each instance's number; else a number that all
instances share becomes a literal; else the class has a new argument.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rescompile.codegen.class_plan import IN, Argument
from rescompile.codegen.columns import Column, Misfit
from rescompile.codegen.planned_classes import Registry
from rescompile.codegen.terms import (
    LONG,
    VERY_LONG,
    Value,
    constant,
    evaluate,
    is_known,
    means,
    named,
    operation,
    python,
    read,
    resolved,
    same,
    simplified,
    size,
    substitute,
    unknown,
)
from rescompile.ir.expressions import Term
from rescompile.ir.provenance import Definition
from rescompile.records import record


@record(slots=False)
class Flow:
    """The channels at some point: as a term, and as the number in every instance that is present there."""

    term: Term
    numbers: Column[int]


@record(slots=False)
class Here:
    """A point in the body of a class: the names that expressions may mention there, as terms, and the channels."""

    env: Mapping[str, Term]
    flow: Flow

    def after(self, flow: Flow) -> Here:
        """Return the same names with the channels after an item."""
        return replace(self, flow=flow)

    def inside(self, env: Mapping[str, Term]) -> Here:
        """Return the same channels with other names."""
        return replace(self, env=env)

    def of(self, instances: Iterable[int]) -> Here:
        """Return the same point in some of the instances."""
        return self.after(Flow(self.flow.term, self.flow.numbers.of(instances)))


class ClassScope:
    """The names of a class, and those among them that its text uses.

    `values` contains the values of all names in each instance, including new arguments; `locals` are the names that the
    constructor computes first.
    """

    def __init__(self, definition: Definition, names: Sequence[Mapping[str, Value]], registry: Registry) -> None:
        self.registry = registry
        self.values: list[dict[str, Value]] = [
            {registry.python_name(name): value for name, value in each.items()} for each in names
        ]
        self.locals: dict[str, Term] = {}
        self.shortened: dict[str, str] = {}  # the locals for long terms, by the text of the term
        self.used: set[str] = set()
        self.defaults = {registry.python_name(name): value for name, value in definition.parameters.items()}

    # --- terms

    def hint(self, raw: Any, here: Here) -> Term | None:
        """Return an expression of the definition in the names of this class; a name without any value is a
        word."""
        term = read(raw)
        if term is None:
            return None
        others = set(term.names) - set(here.env) - {IN}
        if others & self.registry.variables:
            return None
        words = {name: constant(name) for name in others}
        return substitute(term, {**words, **here.env, IN: here.flow.term})

    def hints(self, listed: Mapping[str, Any], name: str, here: Here) -> list[Term | None]:
        """Return the hint for a property of a node, from those `listed` for it; empty without one."""
        return [self.hint(listed[name], here)] if name in listed else []

    def express(self, values: Column[Value], hints: Iterable[Term | None], name: str) -> Term:
        """Return the term for the text of the class that evaluates to each instance's value."""
        term = self._chosen(values, hints, name)
        self.mention(term)
        return term

    def _chosen(self, values: Column[Value], hints: Iterable[Term | None], name: str) -> Term:
        """Return the term that evaluates to each instance's value: a hint, else the value that all share, else a new
        argument."""
        for term in self._matching(values, hints):
            if self._is_plain(term) and all(evaluate(term, self.values[at]) is not None for at in values):
                return term
        if all(same(value, values.first) for value in values.values()):
            return constant(values.first)
        return named(self._new_name(values, name))

    def condition(self, present: Column[bool], hints: Iterable[Term | None]) -> Term | None:
        """Return the condition under which an item is present (None: always). Raises Misfit if it matches no hint."""
        if all(present.values()):
            return None
        when = self.hinted(present, hints)
        if when is None:
            raise Misfit
        return when

    def hinted(self, present: Column[bool], hints: Iterable[Term | None]) -> Term | None:
        """Return the hint for the condition under which an item is present, as it is printed; None if none matches."""
        for term in self._matching(present, hints):
            self.mention(term)
            return self.printed(term, present)
        return None

    def _matching(self, values: Column[Value], hints: Iterable[Term | None]) -> Iterator[Term]:
        """Yield the simplified hints that Python evaluates to the value of each instance."""
        scopes = [self.values[at] for at in values]
        for hint in hints:
            term = None if hint is None else simplified(hint, scopes)
            if term is None or not is_known(term):
                continue
            text = python(resolved(term, scopes))
            if all(means(text, self.values[at], value) for at, value in values.items()):
                yield term

    def _new_name(self, values: Column[Value], name: str) -> str:
        """Return a new name with these values; an instance without a value has the first one."""
        first = values.first
        wanted = new = self.registry.python_name(name)
        again = itertools.count(2)
        while any(new in scope for scope in self.values):
            new = f"{wanted}{next(again)}"
        for at, scope in enumerate(self.values):
            scope[new] = values.get(at, first)
        return new

    def _is_plain(self, term: Term) -> bool:
        """Return whether every name in an operation has values of one type: only then do Python and the language
        agree."""
        for name in term.names if term.operands else ():
            types = {type(scope[name]) for scope in self.values if name in scope}
            default = self.defaults.get(name)
            if default is not None and not isinstance(default, str):
                types.add(type(default))
            if not (types <= {int, float, bool} or len(types) == 1):
                return False
        return True

    def mention(self, term: Term) -> None:
        """Mark the names in a term as used."""
        self.used |= term.names.keys()

    def printed(self, term: Term, at: Iterable[int]) -> Term:
        """Return the term as it is printed for some instances."""
        return resolved(term, [self.values[i] for i in at])

    # --- long terms

    def short(self, term: Term, name: str) -> Term:
        """Return the term, or a local variable for a long one, since terms in which later ones mention it several times
        would grow exponentially; an unknown name if not all instances have a value."""
        if size(term) <= LONG:
            return term
        values = Column({at: evaluate(term, scope) for at, scope in enumerate(self.values)})
        if None in values.values():
            return unknown(name)
        found = next(self._matching(values, [term]), None)
        if found is None or not self._is_plain(found):
            return unknown(name)
        text = python(found)
        if text not in self.shortened:
            self.shortened[text] = self._new_name(values, name)
            self.locals[self.shortened[text]] = found
        return named(self.shortened[text])

    def outside(self, term: Term) -> Term | None:
        """Return the term in the names of the arguments alone, for surrounding classes; None if it is very long."""
        for name in reversed(self.locals):  # each may mention earlier ones
            if name in term.names:
                term = substitute(term, {name: self.locals[name]})
            if size(term) > VERY_LONG:
                return None
        return term

    # --- channels

    def flow(self, numbers: Column[int], guesses: Iterable[Term]) -> Flow:
        """Return the channels after an item; a guess is used if it is right for all instances."""
        term = self.short(self._chosen(numbers, guesses, "channels"), "channels")
        return Flow(term if is_known(term) else self._chosen(numbers, (), "channels"), numbers)

    def shared(self, flow: Flow, count: Term, counts: Column[int]) -> Flow:
        """Return the channels of each of `count` equal ranges; 1 if every channel is a range."""
        numbers = Column({at: flow.numbers[at] // ranges for at, ranges in counts.items()})
        return self.flow(numbers, [constant(1), operation("/", flow.term, count)])

    # --- the head of the class

    def lets(self) -> list[tuple[str, Term]]:
        """Return the names that the constructor computes first, if the class uses them."""
        for name in reversed(self.locals):
            if name in self.used:
                self.mention(self.locals[name])
        return [(name, resolved(term, self.values)) for name, term in self.locals.items() if name in self.used]

    def arguments(self) -> list[Argument]:
        """Return the arguments that the class uses: first those of the definition, then new ones; defaults last."""
        order = dict.fromkeys([IN, *self.defaults, *self.values[0]])
        listed = [self._argument(name) for name in order if name in self.used and name not in self.locals]
        return sorted(listed, key=lambda argument: argument.default is not None)

    def _argument(self, name: str) -> Argument:
        """Return one argument. A text default is kept only if some instance has it: it may be an expression."""
        values = [scope[name] for scope in self.values]
        default = self.defaults.get(name)
        if isinstance(default, list):
            default = tuple(default)
        if default is None or (isinstance(default, str) and default not in values):
            return Argument(name, python_type(values))
        return Argument(name, python_type([*values, default]), constant(default))


def python_type(values: Sequence[Value]) -> str:
    """Return the type of an argument with these values."""
    types = {type(value) for value in values}
    if types <= {list, tuple}:
        inner = python_type([item for value in values for item in value] or [0])
        lengths = {len(value) for value in values}
        sizes = [inner] * lengths.pop() if lengths in ({2}, {3}) else [inner, "..."]  # two or three axes
        return f"tuple[{', '.join(sizes)}]"
    if types == {int, float}:
        return "float"
    if len(types) == 1:
        return types.pop().__name__
    return " | ".join(sorted({python_type([value]) for value in values}))
