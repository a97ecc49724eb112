"""From the rows of a network to one loop per class: how the arguments of a copy follow from its place."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rescompile.codegen.class_plan import Argument, Stage
from rescompile.codegen.grouping import Kinds, Made, MadeStage
from rescompile.codegen.naming import Counted, counted
from rescompile.codegen.spelling import IN, python_type
from rescompile.codegen.terms import (
    constant,
    evaluate,
    literal,
    means,
    mentioned,
    named,
    operation,
    python,
    resolved,
    substitute,
)
from rescompile.ir.expressions import ExpressionError, Term
from rescompile.ir.network import Parallel, Series

Matrix = list[list[Any]]  # by row and place


def make_stage(name: str, made: Made, rows: Sequence[Sequence[Series]], rule: Counted, kinds: Kinds) -> MadeStage:
    """The loop for all rows of a class whose copies are called by one rule."""
    loop = _Loop(made, rows, kinds)
    passed: dict[str, Term] = {}
    for argument in made.text.arguments:
        passed[argument.name] = loop.passed(argument)
    chained = IN in passed and passed[IN].head == "name" and passed[IN].value == IN
    after = substitute(made.out, passed) if chained else constant(None)
    if chained and not loop.chains(after):
        passed[IN] = loop.form(IN, None, loop.matrix(IN))
        after = constant(None)
    scopes = loop.scopes(0)
    text = {
        argument.name: resolved(passed[argument.name], scopes)
        for argument in made.text.arguments
        if not loop.is_default(argument, passed[argument.name])
    }
    then = None
    if (chained and not (after.head == "name" and after.value == IN) and after.value is not None) or after.operands:
        then = resolved(after, scopes)
    arguments = [Argument("depth", "int"), *sorted(loop.arguments, key=lambda a: a.default is not None)]
    used = {a.name for a in arguments}
    values = {
        id(row[0]): {k: v for k, v in scope.items() if k in used} for row, scope in zip(rows, loop.own, strict=True)
    }
    # Where the channels after a copy do not depend on its place, those after the row are known outside.
    out = substitute(after, {"index": operation("-", named("depth"), constant(1))})
    if made.out.head == "name" or "in_channels" in mentioned(made.out):
        out = _total(made, passed)
    return MadeStage(Stage(name, made.text, arguments, text, then, rule if rule.prefix else None), values, out)


def _total(made: Made, passed: Mapping[str, Term]) -> Term:
    """The channels after a row whose copies each add a constant number of channels."""
    if made.out.head == "+" and made.out.operands[0].value == IN and IN not in mentioned(made.out.operands[1]):
        growth = substitute(made.out.operands[1], passed)
        return operation("+", named(IN), operation("*", named("depth"), growth))
    return named(IN) if made.out.value == IN else constant(None)


class _Loop:
    """The rows of one class, and the arguments that a stage for them needs."""

    def __init__(self, made: Made, rows: Sequence[Sequence[Series]], kinds: Kinds) -> None:
        self.made, self.rows = made, rows
        self.own: list[dict[str, Any]] = [{"depth": len(row)} for row in rows]
        self.arguments: list[Argument] = []
        self.numbers = schedule(kinds)

    def matrix(self, name: str) -> Matrix:
        """The values of one argument of the class."""
        return [[self.made.values[id(node)][name] for node in row] for row in self.rows]

    def passed(self, argument: Argument) -> Term:
        """What a copy is given for one argument."""
        if argument.name == IN:
            return self.own_argument(IN, None, [row[0] for row in self.matrix(IN)])
        return self.form(argument.name, argument.default, self.matrix(argument.name))

    def form(self, name: str, default: Term | None, values: Matrix) -> Term:
        """The simplest way to say the values of all copies: one number, one per row, another for the first, an arithmetic
        series, a schedule, a list."""
        every = [value for row in values for value in row]
        if default is not None and all(_same(value, every[0]) for value in every):
            return constant(every[0])
        firsts = [row[0] for row in values]
        if all(_same(value, row[0]) for row in values for value in row):
            return self.own_argument(name, default, firsts)
        rests = [value for row in values for value in row[1:]]
        if all(_same(value, row[1]) for row in values for value in row[1:]) and not all(
            _same(v, rests[0]) for v in rests
        ):
            rest = self.own_argument(name, None, [row[1] if len(row) > 1 else row[0] for row in values])
            return operation("if", _first(), self.own_argument(f"first_{name}", None, firsts), rest)
        if all(_same(value, rests[0]) for value in rests):
            own = self.own_argument(name, constant(rests[0]), firsts, rests[0])
            return operation("if", _first(), own, constant(rests[0]))
        if (survival := self.scheduled(name, values)) is not None:
            return survival
        steps = {
            type(row[0]) is int and b - a
            for row in values
            for a, b in itertools.pairwise(row)
            if type(a) is type(b) is int
        }
        if len(steps) == 1 and all(type(value) is int for value in every):
            (step,) = steps
            start = self.own_argument(name, None, firsts)
            return operation("+", start, operation("*", constant(step), named("index")))
        listed = self.own_argument(f"{name}s", None, [tuple(row) for row in values])
        return operation("index", listed, named("index"))

    def scheduled(self, name: str, values: Matrix) -> Term | None:
        """Values as a schedule gives them by the place among all residuals of the network."""
        for term, first in self.numbers:
            text = python(term)
            places = [[first.get(id(node)) for node in row] for row in self.rows]
            if all(
                place is not None
                and place == row[0] + at
                and means(text, {"position": row[0], "index": at}, values[r][at])
                for r, row in enumerate(places)
                for at, place in enumerate(row)
                if row[0] is not None
            ) and all(row[0] is not None for row in places):
                self.own_argument("position", None, [row[0] for row in places])
                return term
        return None

    def own_argument(self, name: str, default: Term | None, values: Sequence[Any], *also: Any) -> Term:
        """A new argument of the stage, with its value in each row."""
        while any(argument.name == name for argument in self.arguments) or name in ("depth", "index"):
            name += "_"
        for scope, value in zip(self.own, values, strict=True):
            scope[name] = value
        if default is not None and all(literal(value) != python(default) for value in values):
            default = None
        of_class = next((a.type for a in self.made.text.arguments if a.name == name), None)
        self.arguments.append(Argument(name, of_class or python_type([*values, *also]), default))
        return named(name)

    def chains(self, after: Term) -> bool:
        """Whether the channels after each copy are those that the next one gets."""
        for row, own in zip(self.rows, self.own, strict=True):
            scope = dict(own)
            for at, node in enumerate(row):
                if self.made.values[id(node)][IN] != scope[IN]:
                    return False
                try:
                    scope[IN] = evaluate(after, {**scope, "index": at})
                except ExpressionError:
                    return False
        return True

    def scopes(self, index: int) -> list[dict[str, Any]]:
        """What the texts of a loop mention, in each row."""
        return [{**own, "index": index} for own in self.own]

    def is_default(self, argument: Argument, term: Term) -> bool:
        """Whether a copy need not be given this argument."""
        return argument.default is not None and term.head == "constant" and python(term) == python(argument.default)


def schedule(kinds: Kinds) -> list[tuple[Term, dict[int, int]]]:
    """The formulas of survival schedules, with the number of the residual in each instance by id.

    linear: 1 - l / L * (1 - p_L), l from 1; linear_zero_based: 1 - l / (L - 1) * (1 - p_L), l from 0.
    """
    found: list[Series] = []
    probabilities: list[float] = []

    def visit(series: Series, owner: Series) -> None:
        for child in series.children:
            if isinstance(child, Series):
                visit(child, child if id(child) in kinds.made else owner)
            elif isinstance(child, Parallel):
                if child.survival is not None:
                    found.append(owner)
                    probabilities.append(child.survival.probability)
                else:
                    for branch in child.branches:
                        visit(branch, owner)

    visit(kinds.network.root, kinds.network.root)
    count = len(found)
    if count < 2:
        return []
    place = operation("+", named("position"), named("index"))
    last = probabilities[-1]
    rest: Term = operation("-", constant(1), constant(last))
    return [
        (
            operation("-", constant(1), operation("*", operation("/", place, constant(whole)), rest)),
            {id(node): first + at for at, node in enumerate(found)},
        )
        for first, whole in ((1, count), (0, count - 1))
    ]


def _first() -> Term:
    return operation("==", named("index"), constant(0))


def member(copies: Sequence[Series]) -> Counted | None:
    """How the copies of a row are called where they count by one; wherever plain numbers begin, that is one rule."""
    rule = counted([copy.name or "" for copy in copies])
    if rule is None or rule.step != 1:
        return None
    return rule if rule.prefix else Counted("", 0)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)
