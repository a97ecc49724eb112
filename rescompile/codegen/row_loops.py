"""The rows of a network -> one loop per class: derives the arguments of a copy from its index."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from rescompile.codegen.class_plan import IN, Argument, Class, Stage
from rescompile.codegen.class_scope import python_type
from rescompile.codegen.naming import Counted, counted
from rescompile.codegen.planned_classes import Planned, ids
from rescompile.codegen.roles import Roles
from rescompile.codegen.terms import (
    Value,
    constant,
    evaluate,
    means,
    named,
    operation,
    python,
    resolved,
    same,
    substitute,
)
from rescompile.ir.expressions import Term
from rescompile.ir.network import Parallel, Series
from rescompile.records import record

Matrix = list[list[Value]]  # by row and position


@record(slots=False)
class Schedule:
    """The survival probability of a residual by its position in the network, `position + index`.

    `positions` are the positions of the residuals, by the id of the instance that contains one.
    """

    probability: Term
    positions: Mapping[int, int]


def plan_stage(
    name: str,
    of: Planned[Class],
    rows: Sequence[Sequence[Series]],
    rule: Counted,
    schedules: Sequence[Schedule],
) -> Planned[Stage]:
    """Return the loop for all rows of a class whose copies are named by one rule."""
    loop = _Loop(of, rows, schedules)
    arguments = of.plan.arguments
    passed = {argument.name: loop.passed(argument) for argument in arguments}
    after = None  # the channels after a copy, if they are the input of the next copy
    if IN in passed and passed[IN].word == IN:
        after = substitute(of.out, passed)
        if not loop.chains(after):
            passed[IN] = loop.form(IN, None, loop.matrix(IN))
            after = None
    shown = {a.name: loop.printed(passed[a.name]) for a in arguments if not _is_default(a, passed[a.name])}
    then = None if after is None or after.word == IN else loop.printed(after)
    own = [Argument("depth", "int"), *sorted(loop.arguments, key=lambda argument: argument.default is not None)]
    stage = Stage(name, of.plan, own, shown, then, rule if rule.prefix else None)
    if of.out.word or IN in of.out.names:
        out = _total(of, passed)
    elif after is None:
        out = constant(None)
    else:  # the channels do not depend on earlier ones, so they are those after the last copy
        out = substitute(after, {"index": operation("-", named("depth"), constant(1))})
    return Planned(stage, loop.values(), out)


def _total(of: Planned[Class], passed: Mapping[str, Term]) -> Term:
    """Return the channels after a row whose copies each add a constant number of channels."""
    if of.out.head == "+" and of.out.operands[0].word == IN and IN not in of.out.operands[1].names:
        growth = substitute(of.out.operands[1], passed)
        return operation("+", named(IN), operation("*", named("depth"), growth))
    return named(IN) if of.out.word == IN else constant(None)


class _Loop:
    """The rows of one class, and the arguments that a stage for them requires; `scopes` contains their values in each
    row."""

    def __init__(self, of: Planned[Class], rows: Sequence[Sequence[Series]], schedules: Sequence[Schedule]) -> None:
        self.of, self.rows, self.schedules = of, rows, schedules
        self.scopes: list[dict[str, Value]] = [{"depth": len(row)} for row in rows]
        self.arguments: list[Argument] = []

    def matrix(self, name: str) -> Matrix:
        """Return the values of one argument of the class."""
        return [[self.of.values[id(node)][name] for node in row] for row in self.rows]

    def values(self) -> dict[tuple[int, ...], dict[str, Value]]:
        """Return the values of the arguments of the stage in each row, by the ids of its copies."""
        return {ids(row): scope for row, scope in zip(self.rows, self.scopes, strict=True)}

    def passed(self, argument: Argument) -> Term:
        """Return the value of one argument for a copy."""
        values = self.matrix(argument.name)
        if argument.name == IN:
            return self.own_argument(IN, None, [row[0] for row in values])
        return self.form(argument.name, argument.default, values)

    def form(self, name: str, default: Term | None, values: Matrix) -> Term:
        """Return the simplest expression for the values of all copies: one number, one per row, a different first one,
        an arithmetic series, a schedule, a list."""
        every = [value for row in values for value in row]
        if default is not None and _equal(every):
            return constant(every[0])
        firsts = [row[0] for row in values]
        if all(_equal(row) for row in values):
            return self.own_argument(name, default, firsts)
        rests = [value for row in values for value in row[1:]]
        if _equal(rests):
            own = self.own_argument(name, constant(rests[0]), firsts, rests[0])
            return operation("if", _is_first(), own, constant(rests[0]))
        if all(_equal(row[1:]) for row in values):
            rest = self.own_argument(name, None, [row[1] if len(row) > 1 else row[0] for row in values])
            return operation("if", _is_first(), self.own_argument(f"first_{name}", None, firsts), rest)
        if (survival := self.scheduled(values)) is not None:
            return survival
        if (step := _step(values)) is not None:
            start = self.own_argument(name, None, firsts)
            return operation("+", start, operation("*", constant(step), named("index")))
        listed = self.own_argument(f"{name}s", None, [tuple(row) for row in values])
        return operation("index", listed, named("index"))

    def scheduled(self, values: Matrix) -> Term | None:
        """Return the values of a schedule by the position among all residuals of the network."""
        for schedule in self.schedules:
            places = [[schedule.positions.get(id(node)) for node in row] for row in self.rows]
            starts = [row[0] for row in places if row[0] is not None]
            if len(starts) < len(places):
                continue
            text = python(schedule.probability)
            if all(
                place == start + at and means(text, {"position": start, "index": at}, value)
                for start, row, given in zip(starts, places, values, strict=True)
                for at, (place, value) in enumerate(zip(row, given, strict=True))
            ):
                position = self.own_argument("position", None, starts)
                return substitute(schedule.probability, {"position": position})
        return None

    def own_argument(self, name: str, default: Term | None, values: Sequence[Value], *also: Value) -> Term:
        """Return a new argument of the stage, with its value in each row."""
        while any(argument.name == name for argument in self.arguments) or name in ("depth", "index"):
            name += "_"
        for scope, value in zip(self.scopes, values, strict=True):
            scope[name] = value
        if default is not None and all(python(constant(value)) != python(default) for value in values):
            default = None
        of_class = next((a.type for a in self.of.plan.arguments if a.name == name), None)
        self.arguments.append(Argument(name, of_class or python_type([*values, *also]), default))
        return named(name)

    def chains(self, after: Term) -> bool:
        """Return whether the channels after each copy are the input channels of the next one."""
        for row, own in zip(self.rows, self.scopes, strict=True):
            scope = dict(own)
            for at, node in enumerate(row):
                if self.of.values[id(node)][IN] != scope[IN]:
                    return False
                scope[IN] = evaluate(after, {**scope, "index": at})
                if scope[IN] is None:
                    return False
        return True

    def printed(self, term: Term) -> Term:
        """Return the term as printed in the loop, in which Python evaluates it for every copy."""
        last = 1 if "index" not in term.names else None
        scopes = zip(self.scopes, self.rows, strict=True)
        return resolved(term, [{**own, "index": at} for own, row in scopes for at in range(len(row))[:last]])


def _is_default(argument: Argument, term: Term) -> bool:
    """Return whether the call of a copy can omit this argument."""
    return argument.default is not None and term.head == "constant" and python(term) == python(argument.default)


def _is_first() -> Term:
    return operation("==", named("index"), constant(0))


def _equal(values: Sequence[Value]) -> bool:
    """Return whether values are equal and of one type."""
    return all(same(value, values[0]) for value in values)


def _step(values: Matrix) -> int | None:
    """Return the common difference of integers in all rows; None if there is none."""
    if any(type(value) is not int for row in values for value in row):
        return None
    steps = {b - a for row in values for a, b in itertools.pairwise(row)}
    return steps.pop() if len(steps) == 1 else None


def survival_schedules(roles: Roles) -> list[Schedule]:
    """Return the formulas of survival schedules, with the position of each residual that may be dropped.

    linear: 1 - l / L * (1 - p_L), l from 1; linear_zero_based: 1 - l / (L - 1) * (1 - p_L), l from 0.
    """
    owners: list[Series] = []
    probabilities: list[float] = []

    def visit(series: Series, owner: Series) -> None:
        for child in series.children:
            if isinstance(child, Series):
                visit(child, child if roles.is_class(child) else owner)
            elif isinstance(child, Parallel):
                if child.survival is not None:
                    owners.append(owner)
                    probabilities.append(child.survival.probability)
                else:
                    for branch in child.branches:
                        visit(branch, owner)

    visit(roles.network.root, roles.network.root)
    count = len(owners)
    if count < 2:
        return []
    place = operation("+", named("position"), named("index"))
    fall = operation("-", constant(1), constant(probabilities[-1]))
    return [
        Schedule(
            operation("-", constant(1), operation("*", operation("/", place, constant(whole)), fall)),
            {id(node): first + at for at, node in enumerate(owners)},
        )
        for first, whole in ((1, count), (0, count - 1))
    ]


def member_rule(copies: Sequence[Series]) -> Counted | None:
    """Return the rule for the names of copies that count up by one, or None if there is none; plain numbers may start
    anywhere."""
    rule = counted([copy.name or "" for copy in copies])
    if rule is None or rule.step != 1:
        return None
    return rule if rule.prefix else Counted("", 0)
