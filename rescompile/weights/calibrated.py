"""Weights for networks that were never trained, with the statistics of a batch in their norms: nothing overflows or vanishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from rescompile.ir import interpreter
from rescompile.ir.network import Network, Op, parameters, walk
from rescompile.ir.ops import Norm
from rescompile.weights import Array, Weights, draw

#: Images in the batch that the statistics are taken from.
BATCH = 8


def calibrated(network: Network, weights: Mapping[str, Array], seed: int = 0) -> Weights:
    """These weights, but norms have the statistics of one seeded batch of standard-normal images. They stay in memory."""
    arrays = {name: weights[name] for name, _ in parameters(network) if name in weights}
    x = np.random.default_rng([seed, BATCH]).standard_normal((BATCH, *network.input), np.float32)
    arrays |= interpreter.calibrated(network, arrays, x)
    return Weights({name: _maker(array) for name, array in arrays.items()})


def trial(network: Network, seed: int = 0) -> Weights:
    """New weights with calibrated statistics, under which mistakes show.

    Fresh norms hide what stands on which side of them, so their scales have random signs. Their shifts are positive and about
    as large: where a norm is followed by a ReLU and half of its values are cut off, each layer enlarges a small difference
    (Schoenholz et al. 2017; Yang et al. 2019). In resnet50 bfloat16 was then off by 12%, and float32 by 1.4e-5, under which
    small mistakes hide. With these shifts it is 0.8% and 5e-7, as in trained networks.
    """
    generator = np.random.default_rng(seed)
    norms = {f"{name}." for name, node in walk(network.root) if isinstance(node, Op) and isinstance(node.kind, Norm)}
    makers: dict[str, Callable[[], Array]] = {}
    for name, parameter in parameters(network):
        scope, last = name[: name.rfind(".") + 1], name.rpartition(".")[2]
        if scope in norms and last in ("weight", "bias"):
            value = generator.uniform(0.5, 1.5, parameter.shape)
            sign = 1 if last == "bias" else generator.choice((-1.0, 1.0), parameter.shape)
            makers[name] = _maker((value * sign).astype(np.float32))
    return calibrated(network, draw(network, seed).replaced(makers), seed)


def _maker(array: Array) -> Callable[[], Array]:
    return lambda: array
