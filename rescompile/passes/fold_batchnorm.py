"""BatchNorm that is the only reader of a convolution or linear layer, and test-time survival factors, folded into the weights
of that layer. Standardised weights are computed first.

Exact up to rounding: norm(conv(x)) = s * conv(x) + (bias - s * mean), s = scale / sqrt(var + eps), computed in float64.
The convolution keeps its name and gains a bias; the norm is removed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import CheckFailed
from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, Survival, scope_of
from rescompile.ir.ops import Conv, Identity, Linear, Norm, Scale
from rescompile.ir.traversal import FoldRules, ThreadRules, fold, rewrite, runs, thread
from rescompile.passes.plain_weights import plain_weights
from rescompile.weights import Array, Weights


def fold_batchnorm(network: Network, weights: Weights | None, _: Any = True) -> tuple[Network, Weights | None]:
    """Return the network with every such norm and factor folded; others stay as they are."""
    network, weights = plain_weights(network, weights)
    times = runs(network.root)
    folder = _Folder(weights, _norm_of_layer(network, times), times)
    root = rewrite(network.root, folder.node)
    changed = None if weights is None else weights.replaced(folder.makers, folder.dropped)
    return replace(network, root=root), changed


def _norm_of_layer(network: Network, times: Counter[str]) -> dict[str, str]:
    """Return which norm is the only reader of which convolution or linear layer, by full names. Where one of the two runs several
    `times`, the other must run as often, and stand beside it each time.

    The value threaded is the layer that computes it, None if no norm can be folded into that, as where it was kept.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    read: set[str | None] = set()

    def op(name: str, node: Op, layer: str | None) -> str | None:
        match node.kind:
            case Conv() | Linear():
                return name
            case Identity():
                return layer
            case Norm(kind="batch") if layer not in read and layer is not None:
                pairs[layer, name] += 1  # the statistics of a group norm depend on its input, so it cannot be folded
        return None

    def side(_: str, node: Side, layer: str | None, through: Callable[[str | None], str | None]) -> None:
        through(None)
        if node.mode != "never":
            read.add(layer)

    def split(_: str, node: Parallel, __: str | None) -> list[None]:
        return [None] * len(node.branches)  # all branches read the input

    thread(network.root, None, ThreadRules[str | None](op, lambda *_: None, side, split, lambda *_: None))
    return {layer: norm for (layer, norm), beside in pairs.items() if beside == times[layer] == times[norm]}


class _Folder:
    """Rewrites the tree; `makers` and `dropped` are the changes of the weights."""

    def __init__(self, weights: Weights | None, pairs: dict[str, str], times: Counter[str]) -> None:
        self.weights, self.pairs, self.times = weights, pairs, times
        self.layers = {norm: layer for layer, norm in pairs.items()}
        self.had_bias: dict[str, bool] = {}
        self.makers: dict[str, Callable[[], Array]] = {}
        self.dropped: list[str] = []

    def node(self, name: str, node: Node) -> Node | tuple[()]:
        """Return the node or nodes that replace a node; a norm is visited after its layer."""
        match node:
            case Op(kind=Norm() as norm) if name in self.layers:
                self.fold(node, norm, self.layers[name], name)
                return ()
            case Op(kind=Conv() | Linear() as layer) if name in self.pairs:
                self.had_bias[name] = layer.bias
                return replace(node, kind=replace(layer, bias=True))
            case Parallel(survival=Survival(rescale="test", probability=factor)):
                branch = self.scale_last(node.branches[0], scope_of(name), factor, self.times[name])
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
            with np.errstate(divide="ignore", invalid="ignore"):  # `narrowed` reports it
                return np.asarray(scale() / np.sqrt(var() + norm.eps))

        def narrowed(values: Array) -> Array:
            with np.errstate(over="ignore"):
                narrow = np.asarray(values, np.float32)
            if not np.isfinite(narrow).all():
                message = f"{norm_name} cannot be folded into {name}: float32 cannot represent the result. {norm_name}.running_var has values down to {var().min():.3g}, and eps is {norm.eps:g}"
                raise CheckFailed.of("E0707", message, help="build without --fold-batchnorm")
            return narrow

        def weight() -> Array:
            values = kernel()
            return narrowed(values * factor().reshape(-1, *(1,) * (values.ndim - 1)))

        def bias() -> Array:
            offset = old_bias() - mean() if had_bias else -mean()
            return narrowed(shift() + offset * factor())

        self.makers |= {f"{name}.weight": weight, f"{name}.bias": bias}

    def before(self, name: str) -> Callable[[], Array]:
        """Return a function that computes the current value of a tensor, before the next fold, in float64."""
        made, weights = self.makers.get(name), self.weights

        def read() -> Array:
            assert weights is not None
            return np.asarray(made() if made else weights[name], np.float64)

        return read

    def scale_last(self, series: Series, path: str, factor: float, times: int) -> Series | None:
        """Return the series with its last op multiplied by a factor, or None if that op is not linear in its weights, or runs
        elsewhere too: not as many `times` as the series."""
        last = fold(series, _LAST, path)
        if last is None:
            return None
        name, op = last
        if self.times[name] != times:
            return None
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


#: The last op of a series with its full name; None if a merge, a side branch or a step that runs again is last.
_LAST = FoldRules[tuple[str, Op] | None](
    lambda name, op: (name, op),
    lambda _, __, ends: ends[-1] if ends else None,
    lambda *_: None,
    lambda *_: None,
    lambda *_: None,
)


def _times(source: Callable[[], Array], factor: float) -> Callable[[], Array]:
    return lambda: np.asarray(source() * factor, np.float32)
