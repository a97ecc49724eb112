"""The stride of feature maps: how many positions of the input lie between two neighbours on a map.

Windows multiply it and upsampling divides it, so it does not depend on the size of the input, as the ratio of sizes does.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from rescompile.ir.network import LOGITS, Network, Op, Parallel, Side
from rescompile.ir.ops import Conv, MaxPool, Subsample, Upsample, rank
from rescompile.ir.traversal import ThreadRules, thread

#: By the axes of the map; None where positions are not evenly spaced, or where the whole map becomes one.
Stride = tuple[Fraction, ...] | None


def strides(network: Network) -> dict[str, Stride]:
    """Return the stride of every output that is computed in evaluation, by its name."""
    found: dict[str, Stride] = {}

    def side(path: str, node: Side, given: Stride, carry: Callable[[Stride], Stride]) -> None:
        if node.mode == "always":
            found[node.output_name or path] = carry(given)

    start = (Fraction(1),) * rank(network.input) or None
    return {LOGITS: thread(network.root, start, ThreadRules[Stride](_op, _merge, side)), **found}


def _op(_: str, node: Op, given: Stride) -> Stride:
    kind = node.kind
    if given is None:
        return None
    if isinstance(kind, Conv | MaxPool | Subsample):
        by = kind.steps if isinstance(kind, MaxPool) else kind.stride
        return tuple(side * n for side, n in zip(given, by, strict=True))
    if isinstance(kind, Upsample):
        return tuple(side / n for side, n in zip(given, kind.factor, strict=True))
    return given if node.input[1:] == node.output[1:] else None


def _merge(_: str, node: Parallel, strides: list[Stride]) -> Stride:
    """Return the stride that the branches share, except for factors of another size."""
    whole = {
        stride for branch, stride in zip(node.branches, strides, strict=True) if branch.output[1:] == node.output[1:]
    }
    return whole.pop() if len(whole) == 1 else None
