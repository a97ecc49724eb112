"""The values of all instances of a class in the names of that class: what its text says, and which arguments it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rescompile.codegen.class_plan import Argument
from rescompile.codegen.columns import Misfit
from rescompile.codegen.grouping import Kinds
from rescompile.codegen.terms import (
    Value,
    constant,
    evaluate,
    is_known,
    means,
    mentioned,
    named,
    python,
    read,
    resolved,
    simplified,
    substitute,
)
from rescompile.ir.expressions import ExpressionError, Term
from rescompile.ir.provenance import Definition

IN = "in_channels"


class Speller:
    """Says values as a class under construction can: by its names, of which each instance has its own values.

    `scopes` are those values, `locals` what the class computes first, and `used` the names that its text mentions.
    """

    def __init__(self, definition: Definition | None, names: Sequence[Mapping[str, Value]], kinds: Kinds) -> None:
        self.definition, self.kinds = definition, kinds
        self.scopes: list[dict[str, Value]] = [
            {kinds.python_name(name): value for name, value in values.items()} for values in names
        ]
        self.locals: dict[str, Term] = {}
        self.used: set[str] = set()

    def translated(self, raw: Any, env: Mapping[str, Term], channels: Term) -> Term | None:
        """A hint in the names of this class; names that stand for no value are words."""
        try:
            term = read(raw)
        except ExpressionError:
            return None
        unknown = mentioned(term) - set(env) - {IN}
        if unknown & self.kinds.variables:
            return None
        words = {name: constant(name) for name in unknown}
        return substitute(term, {**words, **env, IN: channels})

    def spell(self, values: Mapping[int, Value], hints: Iterable[Term | None], name: str) -> Term:
        """The term that gives each instance its value: a hint that does, else the value they share, else a new argument."""
        scopes = [self.scopes[at] for at in values]
        for hint in hints:
            if hint is None:
                continue
            term = simplified(hint, scopes)
            if not (is_known(term) and self.is_plain(term)):
                continue
            text = python(resolved(term, scopes))
            if all(
                means(text, self.scopes[at], value) and _has_value(term, self.scopes[at])
                for at, value in values.items()
            ):
                self.mention(term)
                return term
        first = next(iter(values.values()))
        if all(type(value) is type(first) and value == first for value in values.values()):
            return constant(first)
        if len(values) < len(self.scopes):
            values = {at: values.get(at, first) for at in range(len(self.scopes))}
        new = self.kinds.python_name(name)
        while any(new in scope for scope in self.scopes):
            new += "_"
        for at, value in values.items():
            self.scopes[at][new] = value
        self.used.add(new)
        return named(new)

    def is_plain(self, term: Term) -> bool:
        """Whether what a term mentions has one type, where it does more than hand a value on."""
        defaults = self.definition.parameters if self.definition else {}
        for name in mentioned(term) if term.operands else ():
            types = {type(scope[name]) for scope in self.scopes if name in scope}
            types |= {
                type(d)
                for n, d in defaults.items()
                if d is not None and self.kinds.python_name(n) == name and not isinstance(d, str)
            }
            if not (types <= {int, float, bool} or len(types) == 1):
                return False
        return True

    def mention(self, term: Term) -> None:
        """Note the names in a term as used."""
        self.used |= mentioned(term)

    def written(self, term: Term, at: Iterable[int]) -> Term:
        """The term as it is printed, where these instances mention it."""
        return resolved(term, [self.scopes[i] for i in at])

    def condition(self, present: Mapping[int, bool], hints: Iterable[Term | None]) -> Term | None:
        """The condition under which something is there; None where it always is. Raises Misfit where no hint says it."""
        if all(present.values()):
            return None
        scopes = [self.scopes[at] for at in present]
        for hint in hints:
            if hint is None:
                continue
            term = simplified(hint, scopes)
            if not is_known(term):
                continue
            shown = resolved(term, scopes)
            if all(means(python(shown), self.scopes[at], there) for at, there in present.items()):
                self.mention(term)
                return shown
        raise Misfit

    def says(self, present: Mapping[int, bool], hints: Iterable[Term | None]) -> bool:
        """Whether a hint says when something is there."""
        try:
            self.condition(present, hints)
        except Misfit:
            return False
        return True

    def lets(self) -> list[tuple[str, Term]]:
        """What the class computes first, as far as its text mentions it."""
        for name in reversed(self.locals):
            if name in self.used:
                self.mention(self.locals[name])
        return [(name, resolved(term, self.scopes)) for name, term in self.locals.items() if name in self.used]

    def arguments(self) -> list[Argument]:
        """The arguments that the text mentions: those of the definition in its order, then the new ones."""
        defaults = self.definition.parameters if self.definition else {}
        given = {self.kinds.python_name(name): default for name, default in defaults.items()}
        order = [IN, *given, *(name for name in self.scopes[0] if name not in given and name != IN)]
        listed = []
        for name in dict.fromkeys(order):
            if name not in self.used or name in self.locals:
                continue
            values = [scope[name] for scope in self.scopes]
            default = given.get(name)
            if isinstance(default, list):
                default = tuple(default)
            takes_default = (
                name in given and default is not None and (not isinstance(default, str) or default in values)
            )
            listed.append(
                Argument(
                    name,
                    python_type([*values, default] if takes_default else values),
                    constant(default) if takes_default else None,
                )
            )
        return sorted(listed, key=lambda argument: argument.default is not None)


def python_type(values: Sequence[Value]) -> str:
    """The type of an argument that takes these values."""
    types = {type(value) for value in values}
    if types <= {list, tuple}:
        inner = python_type([item for value in values for item in value] or [0])
        return f"tuple[{inner}, {inner}]" if {len(value) for value in values} == {2} else f"tuple[{inner}, ...]"
    if types == {int, float}:
        return "float"
    if len(types) == 1:
        return types.pop().__name__
    return " | ".join(sorted({python_type([value]) for value in values}))


def _has_value(term: Term, scope: Mapping[str, Value]) -> bool:
    """Whether the language itself allows an expression: Python knows the length of a word too."""
    try:
        evaluate(term, scope)
    except ExpressionError:
        return False
    return True


def is_value(term: Term, scope: Mapping[str, Value], value: Value) -> bool:
    """Whether the language finds this value, of this type."""
    try:
        found = evaluate(term, scope)
    except ExpressionError:
        return False
    return type(found) is type(value) and bool(found == value)
