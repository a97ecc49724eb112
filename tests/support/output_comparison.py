"""Random weights and inputs for a network, and the error of its outputs against a reference, with the bound for float32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescompile.ir.network import Network, parameters

Array = NDArray[Any]

#: The largest relative RMSE of a small network in float32, which resolves 6e-8; some ten layers lose a few bits.
FLOAT32_BOUND = 1e-6


def random_weights(network: Network, seed: int = 0) -> dict[str, Array]:
    """Return random weights, far from all defaults, so that a missing or swapped tensor changes the outputs."""
    generator = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    for name, parameter in parameters(network):
        if parameter.dtype == "int64":
            weights[name] = np.array(7)
        elif name.endswith("running_var"):
            weights[name] = generator.uniform(0.5, 1.5, parameter.shape).astype(np.float32)
        else:
            spread = math.sqrt(2 / parameter.fan_in) if len(parameter.shape) > 1 else 1.0
            weights[name] = (spread * generator.standard_normal(parameter.shape)).astype(np.float32)
    return weights


def random_input(network: Network, batch: int = 2) -> Array:
    """Return the input of a network, the same in every test."""
    return np.random.default_rng(5).standard_normal((batch, *network.input), np.float32)


def relative_rmse(output: Array, reference: Array) -> float:
    """Return the root mean square error of an output, relative to the RMS of the reference."""
    assert output.shape == reference.shape
    return float(np.sqrt(np.mean((np.float64(output) - reference) ** 2) / np.mean(np.float64(reference) ** 2)))
