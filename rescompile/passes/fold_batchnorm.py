"""BatchNorm that is the only reader of a convolution or linear layer, and test-time survival factors, folded into the weights
of that layer.

Exact up to rounding: norm(conv(x)) = s * conv(x) + (bias - s * mean), s = scale / sqrt(var + eps), computed in float64.
The convolution keeps its name and gains a bias; the norm is removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, Survival, scope_of
from rescompile.ir.ops import Conv, Identity, Linear, Norm, Scale
from rescompile.ir.traversal import FoldRules, ThreadRules, fold, rewrite, thread
from rescompile.weights import Array, Weights


def fold_batchnorm(network: Network, weights: Weights | None, _: Any = True) -> tuple[Network, Weights | None]:
    """The network with every such norm and factor folded; others stay as they are."""
    folder = _Folder(weights, _norm_of_layer(network))
    root = rewrite(network.root, folder.node)
    changed = None if weights is None else weights.replaced(folder.makers, folder.dropped)
    return replace(network, root=root), changed


def _norm_of_layer(network: Network) -> dict[str, str]:
    """Which norm is the only reader of which convolution or linear layer, by full names.

    The value threaded is the layer that computes it, None where no norm can be folded into that.
    """
    pairs: dict[str, str] = {}
    read: set[str | None] = set()

    def op(name: str, node: Op, layer: str | None) -> str | None:
        match node.kind:
            case Conv() | Linear():
                return name
            case Identity():
                return layer
            case Norm(kind="batch") if layer not in read and layer is not None:
                pairs[layer] = name  # the statistics of a group norm depend on its input, so no weight can replace it
        return None

    def side(_: str, node: Side, layer: str | None, through: Callable[[str | None], str | None]) -> None:
        through(None)
        if node.mode != "never":
            read.add(layer)

    def split(_: str, node: Parallel, __: str | None) -> list[None]:
        return [None] * len(node.branches)  # all of them read what comes in

    thread(network.root, None, ThreadRules[str | None](op, lambda *_: None, side, split))
    return pairs


class _Folder:
    """Rewrites the tree; `makers` and `dropped` are the changes of the weights."""

    def __init__(self, weights: Weights | None, pairs: dict[str, str]) -> None:
        self.weights = weights
        self.pairs = pairs
        self.layers = {norm: layer for layer, norm in pairs.items()}
        self.had_bias: dict[str, bool] = {}
        self.makers: dict[str, Callable[[], Array]] = {}
        self.dropped: list[str] = []

    def node(self, name: str, node: Node) -> Node | tuple[()]:
        """What becomes of a node; a norm comes after its layer."""
        match node:
            case Op(kind=Norm() as norm) if name in self.layers:
                self.fold(node, norm, self.layers[name], name)
                return ()
            case Op(kind=Conv() | Linear() as layer) if name in self.pairs:
                self.had_bias[name] = layer.bias
                return replace(node, kind=replace(layer, bias=True))
            case Parallel(survival=Survival(rescale="test", probability=factor)):
                branch = self.scale_last(node.branches[0], scope_of(name), factor)
                if branch is not None:
                    return replace(node, branches=(branch, *node.branches[1:]), survival=None)
        return node

    def fold(self, op: Op, norm: Norm, name: str, norm_name: str) -> None:
        """Fold the norm `norm_name` into the layer `name`, which was rewritten before it."""
        had_bias = self.had_bias[name]
        self.dropped += [f"{norm_name}.{parameter.name}" for parameter in norm.parameters(op.input)]
        read = self.before
        scale, shift, mean, var = (
            read(f"{norm_name}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
        )
        kernel, old_bias = read(f"{name}.weight"), read(f"{name}.bias")

        def factor() -> Array:
            return scale() / np.sqrt(var() + norm.eps)

        def weight() -> Array:
            values = kernel()
            return np.asarray(values * factor().reshape(-1, *(1,) * (values.ndim - 1)), np.float32)

        def bias() -> Array:
            offset = old_bias() - mean() if had_bias else -mean()
            return np.asarray(shift() + offset * factor(), np.float32)

        self.makers |= {f"{name}.weight": weight, f"{name}.bias": bias}

    def before(self, name: str) -> Callable[[], Array]:
        """A function that computes a tensor as it is now, before the next fold, in float64."""
        made, weights = self.makers.get(name), self.weights

        def read() -> Array:
            assert weights is not None
            return np.asarray(made() if made else weights[name], np.float64)

        return read

    def scale_last(self, series: Series, path: str, factor: float) -> Series | None:
        """The series with its last op multiplied by a factor, or None where that op is not linear in its weights."""
        last = fold(series, _LAST, path)
        if last is None:
            return None
        name, op = last
        kind = op.kind
        if isinstance(kind, Scale) and math.isfinite(kind.factor * factor):
            scaled = replace(op, kind=replace(kind, factor=kind.factor * factor))
            return rewrite(series, lambda full, node: scaled if node is op and full == name else node, path)
        if not isinstance(kind, Conv | Linear | Norm):
            return None
        for parameter in kind.parameters(op.input):
            if parameter.name in ("weight", "bias"):
                full = f"{name}.{parameter.name}"
                self.makers[full] = _times(self.before(full), factor)
        return series


#: The last op of a series with its full name; None where a merge or a side branch is last.
_LAST = FoldRules[tuple[str, Op] | None](
    lambda name, op: (name, op),
    lambda _, __, ends: ends[-1] if ends else None,
    lambda *_: None,
    lambda *_: None,
)


def _times(source: Callable[[], Array], factor: float) -> Callable[[], Array]:
    return lambda: np.asarray(source() * factor, np.float32)
