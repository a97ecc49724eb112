"""Joins neighbouring groups of a convolution until each has at least the given number of channels, with zeros between the
original groups.

A runtime that multiplies one small matrix for each group spends more time on dispatch than on multiplication. k groups of c
channels equal one group of k * c channels whose weights are block-diagonal (Xie et al. 2016, figure 3c): k times the
multiplications in fewer, larger matrices, and the same sums up to their order and terms of zero.

The gain depends on the runtime, the precision and the CPU (benchmarks/recipes.py measures it):

- ONNX Runtime's int8 kernels multiply group by group: with 32 channels ResNeXt-50 32x4d takes a third less time, and no network
  was slower; 64 gained less than 32. OpenVINO's int8 kernels become slower.
- Its float32 kernels keep a grouped convolution in their blocked layout only where its groups are multiples of the CPU's block:
  16 channels with AVX-512, 8 without. 16 made ResNeXts with narrow groups 2 to 5% faster with AVX-512. A file is not tied to a
  CPU, so no recipe uses this for float32.

Names do not change. A depthwise convolution is not changed, since runtimes have kernels for it; neither is one whose groups
together would have too few channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from rescompile.ir.network import Network, Node, Op
from rescompile.ir.ops import Conv
from rescompile.ir.traversal import rewrite
from rescompile.passes.plain_weights import plain_weights
from rescompile.weights import Array, Weights


def join_groups(network: Network, weights: Weights | None, least: int) -> tuple[Network, Weights | None]:
    """Return the network with at least `least` channels, in and out, in each group of its convolutions."""
    network, weights = plain_weights(network, weights)
    makers: dict[str, Callable[[], Array]] = {}

    def join(name: str, node: Node) -> Node:
        if not (isinstance(node, Op) and isinstance(conv := node.kind, Conv)):
            return node
        count = _together(conv.groups, node.input[0] // conv.groups, conv.channels // conv.groups, least)
        if count == 1:
            return node
        joined = replace(conv, groups=conv.groups // count)
        before, after = (kind.parameters(node.input)[0].size for kind in (conv, joined))
        if weights is not None:
            make = partial(weights.__getitem__, f"{name}.weight")
            makers[f"{name}.weight"] = partial(_joined, make, conv.groups, count)
        hints = {key: hint for key, hint in node.hints.items() if key != "groups"}
        return replace(node, kind=joined, hints=hints, zeros=node.zeros + after - before)

    root = rewrite(network.root, join)
    return replace(network, root=root), None if weights is None else weights.replaced(makers)


def _together(groups: int, entering: int, leaving: int, least: int) -> int:
    """Return the number of neighbouring groups that become one: the smallest number with `least` channels; 1 if there is
    none, and for depthwise convolutions."""
    if entering == 1:
        return 1
    counts = (count for count in range(1, groups + 1) if groups % count == 0)
    return next((count for count in counts if count * min(entering, leaving) >= least), 1)


def _joined(make: Callable[[], Array], groups: int, count: int) -> Array:
    """Return a kernel of [out, in / groups, ...] as one of groups / count groups: block-diagonal in each of them."""
    kernel = make()
    leaving, (entering, *size) = kernel.shape[0] // groups, kernel.shape[1:]
    parts = kernel.reshape(groups // count, count, leaving, entering, *size)
    made = np.zeros((groups // count, count, leaving, count, entering, *size), kernel.dtype)
    for at in range(count):
        made[:, at, :, at] = parts[:, at]
    return made.reshape(kernel.shape[0], count * entering, *size)
