"""Neighbouring groups of a convolution joined until each has at least so many channels, with zeros between what they were.

A runtime that multiplies one small matrix for each group spends more on handing out the work than on multiplying. k groups
of c channels are one of k * c whose weights are block-diagonal (Xie et al. 2016 read figure 3c so): k times the
multiplications in fewer, larger matrices, and the same sums but for their order and terms of zero.

What it brings depends on the runtime, the precision and the processor (benchmarks/recipes.py measures it):

- ONNX Runtime's int8 kernels multiply group by group: with 32 channels ResNeXt-50 32x4d takes a third less time, and nothing was
  slower; 64 gave less than 32. OpenVINO's lose by it.
- Its float32 kernels keep a grouped convolution in their blocked layout only where its groups are multiples of the
  processor's block: 16 channels with AVX-512, 8 without. 16 made ResNeXts of narrow groups 2 to 5% faster with AVX-512. A
  file does not know its processor, so that no recipe has it for float32.

Names stay. A depthwise convolution stays as it is, since runtimes have kernels for it; so does one whose groups would have too
few channels even if they were one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, join, scope
from rescompile.ir.ops import Conv
from rescompile.weights import Array, Weights


def join_groups(network: Network, weights: Weights | None, least: int) -> tuple[Network, Weights | None]:
    """The network with at least `least` channels, in and out, in each group of its convolutions. Raises UsageError for a
    number below 1."""
    if least < 1:
        raise UsageError(Diagnostic("E0802", f"groups have at least 1 channel, and join-groups is {least}"))
    joiner = _Joiner(weights, least)
    root = joiner.series(network.root, "")
    changed = None if weights is None else weights.replaced(joiner.makers)
    return replace(network, root=root), changed


class _Joiner:
    """Rewrites the tree; `makers` say what becomes of the weights."""

    def __init__(self, weights: Weights | None, least: int) -> None:
        self.weights = weights
        self.least = least
        self.makers: dict[str, Callable[[], Array]] = {}

    def series(self, series: Series, path: str) -> Series:
        inner = scope(path, series)
        return replace(series, children=tuple(self.node(child, inner) for child in series.children))

    def node(self, node: Node, path: str) -> Node:
        match node:
            case Series():
                return self.series(node, path)
            case Parallel():
                return replace(node, branches=tuple(self.series(branch, path) for branch in node.branches))
            case Side():
                return replace(node, child=self.series(node.child, path))
            case Op(kind=Conv() as conv):
                return self.conv(node, conv, join(path, node.name))
            case _:
                return node

    def conv(self, op: Op, conv: Conv, name: str) -> Op:
        count = _together(conv.groups, op.input[0] // conv.groups, conv.channels // conv.groups, self.least)
        if count == 1:
            return op
        joined = replace(conv, groups=conv.groups // count)
        before, after = (kind.parameters(op.input)[0].size for kind in (conv, joined))
        if self.weights is not None:
            make = partial(self.weights.__getitem__, f"{name}.weight")
            self.makers[f"{name}.weight"] = partial(_joined, make, conv.groups, count)
        hints = {key: hint for key, hint in op.hints.items() if key != "groups"}
        return replace(op, kind=joined, hints=hints, zeros=op.zeros + after - before)


def _together(groups: int, entering: int, leaving: int, least: int) -> int:
    """How many neighbouring groups become one: the fewest that give `least` channels; 1 where none do, and for depthwise
    convolutions."""
    if entering == 1:
        return 1
    counts = (count for count in range(1, groups + 1) if groups % count == 0)
    return next((count for count in counts if count * min(entering, leaving) >= least), 1)


def _joined(make: Callable[[], Array], groups: int, count: int) -> Array:
    """A kernel of [out, in / groups, height, width] as one of groups / count groups: block-diagonal in each of them."""
    kernel = make()
    leaving, (entering, *size) = kernel.shape[0] // groups, kernel.shape[1:]
    parts = kernel.reshape(groups // count, count, leaving, entering, *size)
    made = np.zeros((groups // count, count, leaving, count, entering, *size), kernel.dtype)
    for at in range(count):
        made[:, at, :, at] = parts[:, at]
    return made.reshape(kernel.shape[0], count * entering, *size)
