"""Standardised weights of convolutions computed once, so that other passes can change them as they change any weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from rescompile.ir.network import Network, Node, Op, walk
from rescompile.ir.ops import Conv
from rescompile.ir.traversal import rewrite
from rescompile.ir.window_evaluation import with_plain_weights
from rescompile.weights import Array, Weights


def is_standardised(network: Network) -> bool:
    """Return whether any convolution standardises its weights."""
    kinds = (node.kind for _, node in walk(network.root) if isinstance(node, Op))
    return any(isinstance(kind, Conv) and not kind.is_plain for kind in kinds)


def plain_weights(network: Network, weights: Weights | None) -> tuple[Network, Weights | None]:
    """Return the network whose convolutions have the weights that they multiply with, computed in float64; gains are
    removed."""
    if not is_standardised(network):
        return network, weights
    makers: dict[str, Callable[[], Array]] = {}
    dropped: list[str] = []

    def plain(name: str, node: Node) -> Node:
        if not (isinstance(node, Op) and isinstance(conv := node.kind, Conv) and not conv.is_plain):
            return node
        if weights is not None:
            makers[f"{name}.weight"] = partial(_weight, conv, weights, name)
            dropped.extend([f"{name}.gain"] if conv.is_scaled else [])
        return replace(node, kind=replace(conv, weights="plain", eps=Conv.eps, gamma=Conv.gamma))

    root = rewrite(network.root, plain)
    return replace(network, root=root), None if weights is None else weights.replaced(makers, dropped)


def _weight(conv: Conv, weights: Weights, name: str) -> Array:
    """Return the weights that a convolution multiplies with."""
    parts = ("weight", "gain") if conv.is_scaled else ("weight",)
    tensors = {part: np.asarray(weights[f"{name}.{part}"], np.float64) for part in parts}
    return np.asarray(with_plain_weights(conv, tensors)[1]["weight"], np.float32)
