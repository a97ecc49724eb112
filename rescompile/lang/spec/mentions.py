"""The names that the expressions of a step or a value mention, and those among them that are sizes: kernels, strides and the like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rescompile.ir import ops
from rescompile.ir.expressions import ExpressionError, Term, parse
from rescompile.lang.spec.rows import Use
from rescompile.lang.spec.steps import (
    AgainStep,
    If,
    KeepStep,
    NamedStep,
    OpStep,
    ParallelStep,
    RecallStep,
    parts,
    step_value,
)
from rescompile.lang.spec.values import Each, FirstRest, kept_name, template_parts


def mentions(item: Any) -> Iterator[str]:
    """Yield every mention, those in names included. A value per copy depends on `index` without mentioning it."""
    match item:
        case str():
            yield from parse(item).names
        case dict():
            yield from mentions(list(item.values()))
        case Each() | FirstRest():
            yield "index"
            yield from mentions(item.each if isinstance(item, Each) else [item.first, item.rest])
        case OpStep():
            yield from mentions([item.when, item.given])
        case Use():
            yield from mentions([item.depth, item.when, item.arguments, *_in_name(item.name), *_in_name(item.members)])
        case list():
            for part in item:
                yield from mentions(part)
        case NamedStep():
            yield from mentions([*_in_name(item.name), item.step])
        case KeepStep() | RecallStep():
            _, index = kept_name(step_value(item))
            yield from mentions(index)
        case AgainStep():
            yield from mentions(_in_name(item.again))
        case If():
            yield from mentions([item.if_, item.then, item.else_])
        case ParallelStep():
            yield from mentions([item.parallel.copies, item.parallel.split, *parts(item)])
        case _:
            yield from mentions(list(parts(item)))


def strides(step: Any) -> set[str]:
    """Return the names that the strides of a step, or of the steps inside it, mention."""
    given = step.given if isinstance(step, OpStep) else step.arguments if isinstance(step, Use) else {}
    return {*mentions(given.get("stride")), *(name for part in parts(step) for name in strides(part))}


def sizes_among(step: Any) -> Iterator[str]:
    """Yield each name that alone is the value of an attribute of type size, or one of the values of a conditional there."""
    if isinstance(step, OpStep):
        for attribute, facts in ops.attributes(step.word).items():
            if facts.type == "size" and isinstance(raw := step.given.get(attribute), str):
                yield from _alone(raw)
    for part in parts(step):
        yield from sizes_among(part)


def _alone(text: str) -> Iterator[str]:
    try:
        todo = [parse(text)]
    except ExpressionError:  # reported where it stands
        return
    while todo:
        term: Term = todo.pop()
        if term.word is not None:
            yield term.word
        todo += term.operands[1:] if term.head == "if" else ()


def _in_name(template: str | None) -> list[str]:
    """Return the expressions in a name."""
    return template_parts(template)[1::2] if template else []
