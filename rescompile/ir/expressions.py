"""The little language of values: numbers, names, arithmetic, comparisons, `a if c else b`, `list[i]`, five functions.

    or | and | not | < <= > >= == != | + - | * / // % | unary - | ** | name  number  name[i]  f(x)  (e)

`/` of integers is an integer where it leaves no remainder, else a float; `//` and floor() round down, and round() rounds
to the nearest integer, halves to the even one. `**` groups to the right, and is an integer if both operands are and the
exponent is not negative.
Nothing here can loop, call or reach an attribute; text, nesting and magnitude are bounded.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Container, Iterator, Mapping
from functools import lru_cache
from typing import Any

from rescompile.diagnostics.errors import one_of
from rescompile.records import record

Value = Any  # int, float, bool, str (a word) or a list of them

MAX_LENGTH = 300
MAX_NESTING = 30
MAX_MAGNITUDE = 1e12

KEYWORDS = frozenset({"and", "or", "not", "if", "else", "true", "false"})
FUNCTIONS = ("floor", "length", "max", "min", "round")
_OF_ONE = ("floor", "length", "round")


class ExpressionError(Exception):
    """The expression cannot be read or evaluated; `offset` and `length` give the place in its text."""

    def __init__(self, code: str, message: str, offset: int = 0, length: int = 1, help: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.offset, self.length, self.help = code, message, offset, length, help


@record
class Token:
    kind: str  # number, name, symbol, end
    text: str
    offset: int

    def error(self, code: str, message: str, help: str | None = None) -> ExpressionError:
        """Return an error at this token."""
        return ExpressionError(code, message, self.offset, max(len(self.text), 1), help)


@record
class Term:
    """An expression: an operation, its operands, and the token it was written with; a name or a constant has a value."""

    head: str
    operands: tuple[Term, ...]
    token: Token
    value: Value = None

    @property
    def names(self) -> dict[str, Token]:
        """The names that the expression mentions, in the order of its text, with the token of the first mention."""
        found: dict[str, Token] = {}
        for term in sorted(self._mentions(), key=lambda term: term.token.offset):
            found.setdefault(term.value, term.token)
        return found

    def _mentions(self) -> Iterator[Term]:
        if self.head == "name":
            yield self
        for operand in self.operands:
            yield from operand._mentions()

    @property
    def word(self) -> str | None:
        """The name, if the expression is nothing but a name."""
        return self.value if self.head == "name" else None

    def evaluate(self, scope: Mapping[str, Value], words: Container[str] = ()) -> Value:
        """Return the value, with names from `scope`; a name that is in `words` but not in scope is a word and means itself."""
        return _evaluate(self, scope, words)


@lru_cache(maxsize=4096)
def parse(text: str) -> Term:
    """Read an expression. Raises ExpressionError."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError("E0301", f"the expression is longer than {MAX_LENGTH} characters", 0, MAX_LENGTH)
    parser = _Parser(_tokens(text))
    term = parser.ternary()
    if parser.token.kind != "end":
        parser.fail(f"unexpected '{parser.token.text}'")
    return term


_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<symbol>//|\*\*|<=|>=|==|!=|[-+*/%<>()\[\],]))"
)


def _tokens(text: str) -> list[Token]:
    tokens, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            start = len(text) - len(text[at:].lstrip())
            help = "write '**' for a power" if text[start] == "^" else None
            raise ExpressionError("E0301", f"'{text[start]}' is not allowed in an expression", start, help=help)
        tokens.append(Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        at = match.end()
    tokens.append(Token("end", "", max(end - 1, 0)))
    return tokens


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_COMPARISONS = {*_ORDER, "==", "!="}


class _Parser:
    """Recursive descent, one method per level of binding."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def take(self, *texts: str) -> Token | None:
        token = self.token
        if token.kind in ("symbol", "name") and token.text in texts:
            self.at += 1
            return token
        return None

    def expect(self, text: str) -> None:
        if not self.take(text):
            self.fail(f"missing '{text}'" + (f" before '{self.token.text}'" if self.token.text else " at the end"))

    def fail(self, message: str) -> None:
        raise self.token.error("E0301", message)

    def ternary(self) -> Term:
        return self.nested(self.conditional)

    def conditional(self) -> Term:
        value = self.disjunction()
        if token := self.take("if"):
            condition = self.disjunction()
            self.expect("else")
            return Term("if", (condition, value, self.ternary()), token)
        return value

    def disjunction(self) -> Term:
        return self.chain(("or",), self.conjunction)

    def conjunction(self) -> Term:
        return self.chain(("and",), self.negation)

    def negation(self) -> Term:
        return self.prefix("not", self.negation, self.comparison)

    def comparison(self) -> Term:
        left = self.sum()
        if token := self.take(*_COMPARISONS):
            left = Term(token.text, (left, self.sum()), token)
            if self.token.text in _COMPARISONS:
                self.fail("comparisons cannot be chained; join them with 'and'")
        return left

    def sum(self) -> Term:
        return self.chain(("+", "-"), self.product)

    def product(self) -> Term:
        return self.chain(("*", "/", "//", "%"), self.unary)

    def chain(self, operators: tuple[str, ...], operand: Callable[[], Term]) -> Term:
        """Read operands with operators between them that group to the left."""
        left = operand()
        while token := self.take(*operators):
            left = Term(token.text, (left, operand()), token)
        return left

    def unary(self) -> Term:
        return self.prefix("-", self.unary, self.power)

    def power(self) -> Term:
        base = self.atom()
        token = self.take("**")
        return Term("**", (base, self.nested(self.unary)), token) if token else base

    def nested(self, inner: Callable[[], Term]) -> Term:
        """Read one level further down."""
        self.depth += 1
        if self.depth > MAX_NESTING:
            self.fail(f"the expression is nested more than {MAX_NESTING} levels deep")
        term = inner()
        self.depth -= 1
        return term

    def prefix(self, text: str, again: Callable[[], Term], otherwise: Callable[[], Term]) -> Term:
        token = self.take(text)
        if token is None:
            return otherwise()
        return Term("negative" if text == "-" else "not", (self.nested(again),), token)

    def atom(self) -> Term:
        token = self.token
        if token.kind == "number":
            self.at += 1
            return Term("constant", (), token, _number(token))
        if self.take("("):
            inner = self.ternary()
            self.expect(")")
            return inner
        if token.kind != "name" or token.text in KEYWORDS - {"true", "false"}:
            self.fail(f"missing value before '{token.text}'" if token.text else "missing value at the end")
        self.at += 1
        if token.text in ("true", "false"):
            return Term("constant", (), token, token.text == "true")
        if self.take("("):
            return self.call(token)
        term = Term("name", (), token, token.text)
        while self.take("["):
            term = Term("index", (term, self.ternary()), token)
            self.expect("]")
        return term

    def call(self, token: Token) -> Term:
        if token.text not in FUNCTIONS:
            help = f"the functions are {one_of(FUNCTIONS, 'and')}"
            raise token.error("E0301", f"unknown function '{token.text}'", help)
        operands = [self.ternary()]
        while self.take(","):
            operands.append(self.ternary())
        self.expect(")")
        if token.text in _OF_ONE and len(operands) != 1:
            raise token.error("E0301", f"{token.text}() takes one argument")
        return Term("call", tuple(operands), token)


def _number(token: Token) -> int | float:
    if re.match(r"0\d", token.text):
        raise token.error("E0301", f"{token.text} is ambiguous: remove the leading zero")
    return _bounded(int(token.text) if re.fullmatch(r"[\d_]+", token.text) else float(token.text), token)


def _bounded(value: int | float, token: Token) -> int | float:
    if abs(value) > MAX_MAGNITUDE:
        raise token.error("E0303", f"the value exceeds {MAX_MAGNITUDE:.0e}")
    return value


def _divide(a: int | float, b: int | float) -> int | float:
    if isinstance(a, int) and isinstance(b, int) and a % b == 0:
        return a // b
    return a / b


def _power(a: int | float, b: int | float) -> int | float:
    """Return a power, or infinity if it is too large to compute. Raises ValueError if it is not a real number."""
    if a < 0 and b % 1:
        raise ValueError
    try:
        small = abs(float(a) ** b) <= MAX_MAGNITUDE
    except OverflowError:
        small = False
    power: int | float = a**b if small else math.inf
    return power


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divide, "//": operator.floordiv, "%": operator.mod, "**": _power,
}  # fmt: skip


def _evaluate(term: Term, scope: Mapping[str, Value], words: Container[str]) -> Value:
    head = term.head
    if head == "constant":
        return term.value
    if head == "name":
        if term.value in scope:
            return scope[term.value]
        if term.value in words:
            return term.value
        raise term.token.error("E0302", f"unknown name '{term.value}'")

    def fail(message: str) -> ExpressionError:
        return term.token.error("E0303", message)

    def number(value: Value) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise fail(f"'{term.token.text}' needs numbers, not {show(value)}")
        return value

    def truth(value: Value) -> bool:
        if not isinstance(value, bool):
            raise fail(f"'{term.token.text}' needs true or false, not {show(value)}")
        return value

    if head == "if":
        condition, then, otherwise = term.operands
        return _evaluate(then if truth(_evaluate(condition, scope, words)) else otherwise, scope, words)
    if head in ("and", "or"):
        left = truth(_evaluate(term.operands[0], scope, words))
        return left if left is (head == "or") else truth(_evaluate(term.operands[1], scope, words))
    values = [_evaluate(operand, scope, words) for operand in term.operands]
    if head == "not":
        return not truth(values[0])
    if head == "negative":
        return -number(values[0])
    if head in _ARITHMETIC:
        a, b = number(values[0]), number(values[1])
        try:
            return _bounded(_ARITHMETIC[head](a, b), term.token)
        except ZeroDivisionError:
            raise fail("division by zero") from None
        except ValueError:
            raise fail(f"a root of {show(a)} is not a real number") from None
    if head in _ORDER:
        return _ORDER[head](number(values[0]), number(values[1]))
    if head in ("==", "!="):
        if len({_compared_type(value) for value in values} - {list}) > 1:
            raise fail(f"'{head}' compares {show(values[0])} with {show(values[1])}, which can never be equal")
        return (values[0] == values[1]) is (head == "==")
    if head == "index":
        items, at = values
        if not isinstance(items, list) or isinstance(at, bool) or not isinstance(at, int):
            raise fail(f"'{term.token.text}' is {show(items)}; only lists can be indexed, and only by an integer")
        if not 0 <= at < len(items):
            raise fail(f"index {at} is out of range: '{term.token.text}' has {len(items)} entries, numbered from 0")
        return items[at]
    return _call(term, values, fail, number)


def _call(
    term: Term, values: list[Value], fail: Callable[[str], ExpressionError], number: Callable[[Value], int | float]
) -> Value:
    name = term.token.text
    if name == "length":
        if not isinstance(values[0], list):
            raise fail(f"length() needs a list, not {show(values[0])}")
        return len(values[0])
    if name in ("floor", "round"):
        return (math.floor if name == "floor" else round)(number(values[0]))
    if len(values) == 1 and isinstance(values[0], list) and values[0]:
        values = values[0]
    numbers = [number(value) for value in values]
    return min(numbers) if name == "min" else max(numbers)


def _compared_type(value: Value) -> type:
    """Return the type that `==` compares by: a condition, a number and a word are never equal; a size is a number or a list."""
    return float if type(value) is int else type(value)


def show(value: Value) -> str:
    """Return a value as a spec would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(show(item) for item in value)}]"
    if value is None:
        return "nothing"
    return str(value)
