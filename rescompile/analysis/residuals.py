"""The outermost residuals: those that a survival schedule numbers and that lesions remove."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from rescompile.ir.network import Node, Parallel
from rescompile.ir.traversal import FoldRules, fold


def residuals(node: Node, path: str = "") -> list[str]:
    """Return the full names of the residuals in a node that lives in the scope `path`, in execution order: without those inside
    another residual or in a side branch. One that is run again counts once."""
    return fold(node, _RULES, path)


def _parallel(path: str, node: Parallel, inside: Sequence[list[str]]) -> list[str]:
    return [path] if node.residual else _joined(inside)


def _joined(inside: Sequence[list[str]]) -> list[str]:
    return list(chain.from_iterable(inside))


_RULES = FoldRules[list[str]](lambda *_: [], lambda *given: _joined(given[-1]), _parallel, lambda *_: [], lambda *_: [])
