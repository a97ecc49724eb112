"""What a network costs, in closed form: parameters, multiply-adds, activation bytes; one fold each way over the tree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

from rescompile.ir.network import Again, Network, Node, Op, Parallel, Series, Side
from rescompile.ir.ops import Kind, Shape
from rescompile.ir.traversal import FoldRules, fold
from rescompile.records import record


@record
class Cost:
    """`parameters` are trainable values, except zeros that a pass added; `macs` are multiply-adds of convolution and linear
    layers for one input, those of zeros included; `activations` are the bytes of all op outputs in float32 for one input."""

    parameters: int = 0
    macs: int = 0
    activations: int = 0


def _op(_: str, node: Op) -> Cost:
    trainable, macs = counts(node.kind, node.input)
    return Cost(trainable - node.zeros, macs, 4 * math.prod(node.output))


@lru_cache(4096)
def counts(kind: Kind, input: Shape) -> tuple[int, int]:
    """Return the trainable values and multiply-adds of an op; cached, since a deep network repeats a few ops."""
    return sum(parameter.size for parameter in kind.parameters(input) if parameter.trainable), kind.macs(input)


def _total(costs: Iterable[Cost]) -> Cost:
    listed = list(costs)
    return Cost(sum(c.parameters for c in listed), sum(c.macs for c in listed), sum(c.activations for c in listed))


def _series(_: str, __: Series, costs: Sequence[Cost]) -> Cost:
    return _total(costs)


def _parallel(_: str, node: Parallel, costs: Sequence[Cost]) -> Cost:
    return _total([*costs, Cost(activations=4 * math.prod(node.output))])


def _side(_: str, node: Side, cost: Cost) -> Cost:
    """Parameters count in every mode; MACs and activations only where evaluation computes them."""
    return cost if node.mode == "always" else Cost(cost.parameters)


def _again(_: str, __: Again, cost: Cost) -> Cost:
    """Parameters count where they stand."""
    return Cost(0, cost.macs, cost.activations)


COST = FoldRules(_op, _series, _parallel, _side, _again)


def cost(node: Network | Node) -> Cost:
    """Return the cost of a network or of a part of it, side branches by their mode."""
    return fold(node.root if isinstance(node, Network) else node, COST)
