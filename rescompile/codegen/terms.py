"""Expressions in the names of a class under construction, and their Python source.

A term is a hint: an expression of the spec for a number of the tree. It is substituted, simplified and checked here. It
is printed only if Python evaluates it to the tree's number for every instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial, reduce
from types import CodeType
from typing import Any

from rescompile.ir.expressions import ExpressionError, Term, Token, parse

Value = Any
Scope = Mapping[str, Value]
_NOWHERE = Token("end", "", 0)
#: The size above which a term is named; no network of the zoo has a longer one.
LONG = 16
#: The size above which a term is discarded in favour of the values.
VERY_LONG = 64
#: The prefix of unknown names; no name of the language starts with it.
_UNKNOWN = "?"


class _EveryWord:
    """A set that contains every name: a name without a value is a word."""

    def __contains__(self, name: object) -> bool:
        return True


def constant(value: Value) -> Term:
    """Return a literal."""
    return Term("constant", (), _NOWHERE, value)


def named(name: str) -> Term:
    """Return a name."""
    return Term("name", (), _NOWHERE, name)


def unknown(name: str) -> Term:
    """Return a name of a macro whose value the surrounding class cannot express; a term that mentions it is never
    printed."""
    return named(f"{_UNKNOWN}{name}")


def is_known(term: Term) -> bool:
    """Return whether the class can express every name that a term mentions."""
    return not any(name.startswith(_UNKNOWN) for name in term.names)


def operation(head: str, *operands: Term) -> Term:
    """Return an operation of the language; constant integers are folded."""
    token = Token("symbol", head, 0)
    values = [operand.value for operand in operands if operand.head == "constant" and type(operand.value) is int]
    if head == "*" and 1 in values:
        return operands[0] if operands[1].value == 1 and operands[1].head == "constant" else operands[1]
    term = Term(head, operands, token)
    if len(values) == len(operands) == 2 and head in ("+", "-", "*"):
        folded = evaluate(term, {})
        return term if folded is None else constant(folded)
    return term


def times(count: Term, term: Term) -> Term:
    """Return a multiple of a term; a multiple of its `count`-th part is the term itself."""
    if term.head == "/" and python(term.operands[1]) == python(count):
        return term.operands[0]
    return operation("*", count, term)


def divided(term: Term, count: Term) -> Term:
    """Return a `count`-th part of a term, which must be divisible; a part of a multiple is the factor."""
    if term.head == "*":
        first, second = term.operands
        for factor, other in ((first, second), (second, first)):
            if python(factor) == python(count):
                return other
    return operation("//", term, count)


def total(terms: Iterable[Term]) -> Term:
    """Return the sum of terms, with equal ones collected; unknown if there are very many."""
    counts: dict[str, list[Term]] = {}
    for term in terms:
        counts.setdefault(python(term), []).append(term)
    if len(counts) > VERY_LONG:
        return unknown("sum")
    first, *rest = (times(constant(len(equal)), equal[0]) for equal in counts.values())
    return reduce(partial(operation, "+"), rest, first)


def size(term: Term) -> int:
    """Return the number of operations, names and constants in a term."""
    return 1 + sum(map(size, term.operands))


def evaluate(term: Term, scope: Scope) -> Value | None:
    """Return the value of a term; None if evaluation fails."""
    try:
        return term.evaluate(scope, _EveryWord())
    except ExpressionError:
        return None


def read(text: Any) -> Term | None:
    """Return the term of a value in a spec, an expression or a literal; None for text that is not an expression."""
    if isinstance(text, str):
        try:
            return parse(text)
        except ExpressionError:
            return None
    if isinstance(text, list):
        return constant(tuple(text))
    return constant(text)


def substitute(term: Term, names: Mapping[str, Term]) -> Term:
    """Return the term with the names in `names` replaced."""
    if term.head == "name":
        return names.get(term.value, term)
    operands = tuple(substitute(operand, names) for operand in term.operands)
    if operands and term.head in ("+", "-", "*"):
        return operation(term.head, *operands)
    return Term(term.head, operands, term.token, term.value)


def simplified(term: Term, scopes: Sequence[Scope]) -> Term:
    """Return the term with constant integers folded, and without conditions that have the same value in every scope."""
    if term.operands and not _mentions_names(term) and type(value := evaluate(term, {})) in (int, bool):
        return constant(value)
    if term.head in ("if", "and", "or"):
        truths = {evaluate(term.operands[0], scope) for scope in scopes}
        if truths in ({True}, {False}):
            (truth,) = truths
            if term.head == "if":
                return simplified(term.operands[1 if truth else 2], scopes)
            return simplified(term.operands[1], scopes) if truth is (term.head == "and") else constant(truth)
    operands = tuple(simplified(operand, scopes) for operand in term.operands)
    return Term(term.head, operands, term.token, term.value)


def _mentions_names(term: Term) -> bool:
    return term.head == "name" or any(map(_mentions_names, reversed(term.operands)))  # sums are deep on the left


# --- Python -----------------------------------------------------------------------------------------------------------

_BINDING = {
    "if": 1, "or": 2, "and": 3, "not": 4, "<": 5, "<=": 5, ">": 5, ">=": 5, "==": 5, "!=": 5,
    "+": 6, "-": 6, "*": 7, "/": 7, "//": 7, "%": 7, "negative": 8, "**": 9,
}  # fmt: skip
_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_FUNCTIONS = {"length": "len", "max": "max", "min": "min", "round": "round"}
_CALLABLE = {"len": len, "max": max, "min": min, "int": int, "round": round}


def literal(value: Value) -> str:
    """Return a number, boolean, word or tuple of them as Python source."""
    if isinstance(value, tuple | list):
        inside = ", ".join(literal(item) for item in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, str):
        return '"' + value + '"'
    return repr(value)


def resolved(term: Term, scopes: Sequence[Scope]) -> Term:
    """Return the term with `//` for each `/` without a remainder in any scope, so that Python computes what the
    language does."""
    operands = tuple(resolved(operand, scopes) for operand in term.operands)
    whole = term.head == "/" and all(type(evaluate(term, scope)) is int for scope in scopes)
    return Term("//" if whole else term.head, operands, term.token, term.value)


def python(term: Term) -> str:
    """Return the term as Python source."""
    return _python(term)[0]


def _python(term: Term) -> tuple[str, int]:
    head = term.head

    def part(at: int, binding: int) -> str:
        text, own = _python(term.operands[at])
        return text if own >= binding else f"({text})"

    match head:
        case "constant":
            return literal(term.value), 8 if _negative(term.value) else 10
        case "name":
            return str(term.value), 10
        case "if":
            return f"{part(1, 2)} if {part(0, 2)} else {part(2, 1)}", 1
        case "index":
            return f"{part(0, 10)}[{part(1, 1)}]", 10
        case "call" if term.token.text == "floor":
            return f"int({part(0, 1)})", 10
        case "call":
            return f"{_FUNCTIONS[term.token.text]}({', '.join(part(at, 1) for at in range(len(term.operands)))})", 10
        case "not" if term.operands[0].head in _OPPOSITE:
            inner = term.operands[0]
            return _python(Term(_OPPOSITE[inner.head], inner.operands, inner.token))
        case "not" | "negative":
            # Formatters put a power after a sign in parentheses.
            inside = part(0, 10 if term.operands[0].head == "**" else _BINDING[head])
            return f"{'not ' if head == 'not' else '-'}{inside}", _BINDING[head]
        case "**":  # groups to the right; formatters put no spaces between names and numbers
            base, exponent = part(0, 10), part(1, 8)
            spaced = set("([") & {*base, *exponent.partition("**")[0]}
            return (" ** " if spaced else "**").join((base, exponent)), 9
    binding = _BINDING[head]
    # Comparisons are not chained, and - / // % group to the left.
    left, right = part(0, binding + (binding == 5)), part(1, binding if head in ("and", "or") else binding + 1)
    return f"{left} {head} {right}", binding


def _negative(value: Value) -> bool:
    return isinstance(value, int | float) and value < 0


def means(text: str, scope: Scope, value: Value) -> bool:
    """Return whether Python evaluates a text to this value, of this type, in a scope."""
    names = {name: tuple(item) if isinstance(item, list) else item for name, item in scope.items()}
    try:
        result = eval(_compiled(text), {"__builtins__": {}, **_CALLABLE}, names)
    except (ArithmeticError, LookupError, NameError, TypeError):
        return False
    return same(result, value)


@lru_cache(maxsize=256)
def _compiled(text: str) -> CodeType:
    """Return the compiled text, which is evaluated once for each instance."""
    return compile(text, "<term>", "eval")


def has_value(term: Term, scope: Scope, value: Value) -> bool:
    """Return whether the language evaluates a term to this value, of this type, in a scope."""
    return same(evaluate(term, scope), value)


def same(one: Value, other: Value) -> bool:
    """Return whether values are equal and of one type."""
    return type(one) is type(other) and bool(one == other)
