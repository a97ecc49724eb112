"""The names that are sizes in the body of a block: kernels, strides and the like of its ops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rescompile.ir import ops
from rescompile.ir.expressions import ExpressionError, Term, parse
from rescompile.lang.spec.steps import OpStep, parts


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
