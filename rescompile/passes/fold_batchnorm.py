"""Batch norm that reads a convolution or linear layer which nothing else reads, and test-time survival factors, folded
into that layer's weights.

Exact up to rounding: norm(conv(x)) = s * conv(x) + (bias - s * mean), s = scale / sqrt(var + eps), computed in float64.
The convolution keeps its name and gains a bias; the norm goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, join, scope
from rescompile.ir.ops import Conv, Identity, Linear, Norm, Scale
from rescompile.weights import Array, Weights


def fold_batchnorm(network: Network, weights: Weights | None, _: Any = True) -> tuple[Network, Weights | None]:
    """The network with every such norm and factor folded; others stay as they are."""
    pairs: dict[str, str] = {}
    _find(network.root, "", None, pairs)
    folder = _Folder(weights, pairs)
    root = folder.series(network.root, "")
    changed = None if weights is None else weights.replaced(folder.makers, folder.dropped)
    return replace(network, root=root), changed


def _find(node: Node, path: str, source: str | None, pairs: dict[str, str]) -> str | None:
    """Note which norm reads which convolution or linear layer and nothing else does.

    `source` is the layer whose value comes in, if it has no other reader; what comes back is that for the value going out.
    """
    match node:
        case Op(kind=Conv() | Linear()):
            return join(path, node.name)
        case Op(kind=Norm(kind="batch")):  # a group norm measures what it is given, so no weight can stand for it
            if source is not None:
                pairs[source] = join(path, node.name)
            return None
        case Op(kind=Identity()):
            return source
        case Series():
            inner = scope(path, node)
            for child in node.children:
                source = _find(child, inner, source, pairs)
            return source
        case Parallel():
            for branch in node.branches:  # all of them read what comes in
                _find(branch, path, None, pairs)
            return None
        case Side():
            _find(node.child, path, None, pairs)
            return source if node.mode == "never" else None
        case _:
            return None


class _Folder:
    """Rewrites the tree; `makers` and `dropped` say what becomes of the weights."""

    def __init__(self, weights: Weights | None, pairs: dict[str, str]) -> None:
        self.weights = weights
        self.pairs = pairs
        self.norms = set(pairs.values())
        self.layers: dict[str, str] = {norm: layer for layer, norm in pairs.items()}
        self.had_bias: dict[str, bool] = {}
        self.makers: dict[str, Callable[[], Array]] = {}
        self.dropped: list[str] = []

    def series(self, series: Series, path: str) -> Series:
        inner = scope(path, series)
        children: list[Node] = []
        for child in series.children:
            name = join(inner, child.name) if isinstance(child, Op) else ""
            if isinstance(child, Op) and name in self.norms:
                assert isinstance(child.kind, Norm)
                self.fold(child, child.kind, self.layers[name], name)
            elif isinstance(child, Op) and name in self.pairs:
                assert isinstance(child.kind, Conv | Linear)
                self.had_bias[name] = child.kind.bias
                children.append(replace(child, kind=replace(child.kind, bias=True)))
            else:
                children.append(self.node(child, inner))
        return replace(series, children=tuple(children))

    def node(self, node: Node, path: str) -> Node:
        match node:
            case Series():
                return self.series(node, path)
            case Parallel():
                return self.parallel(node, path)
            case Side():
                return replace(node, child=self.series(node.child, path))
            case _:
                return node

    def fold(self, op: Op, norm: Norm, name: str, norm_name: str) -> None:
        """Put the norm `norm_name` into the layer `name`, which comes before it in the walk."""
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
        """Makes a tensor as it is now, before what comes next is folded into it, in float64."""
        made, weights = self.makers.get(name), self.weights

        def read() -> Array:
            assert weights is not None
            return np.asarray(made() if made else weights[name], np.float64)

        return read

    def parallel(self, node: Parallel, path: str) -> Parallel:
        branches = [self.series(branch, path) for branch in node.branches]
        survival = node.survival
        if survival is not None and survival.rescale == "test":
            scaled = self.scale_last(branches[0], path, survival.probability)
            if scaled is not None:
                branches[0], survival = scaled, None
        return replace(node, branches=tuple(branches), survival=survival)

    def scale_last(self, series: Series, path: str, factor: float) -> Series | None:
        """The series with its last op multiplied by a factor, or None where that op is not linear in its weights."""
        if not series.children:
            return None
        inner, last = scope(path, series), series.children[-1]
        new: Node | None = None
        if isinstance(last, Series):
            new = self.scale_last(last, inner, factor)
        elif isinstance(last, Op) and isinstance(last.kind, Conv | Linear | Norm):
            name = join(inner, last.name)
            for part in ("weight", "bias"):
                if part in {parameter.name for parameter in last.kind.parameters(last.input)}:
                    self.makers[f"{name}.{part}"] = _times(self.before(f"{name}.{part}"), factor)
            new = last
        elif isinstance(last, Op) and isinstance(last.kind, Scale) and math.isfinite(last.kind.factor * factor):
            new = replace(last, kind=replace(last.kind, factor=last.kind.factor * factor))
        return None if new is None else replace(series, children=(*series.children[:-1], new))


def _times(source: Callable[[], Array], factor: float) -> Callable[[], Array]:
    return lambda: np.asarray(source() * factor, np.float32)
