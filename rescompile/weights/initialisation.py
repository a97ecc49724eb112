"""Initialises weights by the initialisation rules of the network.

Every tensor is drawn from the seed and its own name, so it is the same in every backend, in any order, on any number of
threads, and adding a block does not change the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rescompile.diagnostics.errors import UsageError
from rescompile.ir.network import Network, parameters
from rescompile.ir.ops import Draw, Parameter
from rescompile.weights.mapping import Array, Weights

if TYPE_CHECKING:  # imported when something is drawn
    import numpy as np


def draw(network: Network, seed: int = 0) -> Weights:
    """Return new weights by the initialisation rules of the network. Raises UsageError if `seed` is not an integer from
    0 to 2^64 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise UsageError.of("E0802", f"seed must be an integer from 0 to 2^64 - 1, but is {seed!r}")

    return Weights({name: partial(drawn, name, parameter, seed) for name, parameter in parameters(network)}, seed)


def drawn(name: str, parameter: Parameter, seed: int) -> Array:
    """Return new values of one parameter."""
    import numpy as np

    if not isinstance(parameter.fill, Draw):
        return np.full(parameter.shape, parameter.fill, parameter.dtype)
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), "<u4").tolist()
    entropy = [seed & 0xFFFFFFFF, seed >> 32, *words]
    generator = np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))
    return RULES[parameter.fill.rule](generator, parameter, parameter.fill.factor)


Rule = Callable[["np.random.Generator", Parameter, float], Array]


def _normal(fan: Callable[[Parameter], int]) -> Rule:
    """Return a rule that draws from a normal distribution of variance 2 / fan (He et al. 2015b)."""

    def rule(generator: np.random.Generator, parameter: Parameter, factor: float) -> Array:
        values = generator.standard_normal(parameter.shape, "float32")
        values *= math.sqrt(2 / fan(parameter)) * factor
        return values

    return rule


def _torch_default(generator: np.random.Generator, parameter: Parameter, factor: float) -> Array:
    """Return PyTorch's own rule for weights and biases: uniform within 1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(parameter.fan_in) * factor
    values = generator.random(parameter.shape, "float32")
    values *= 2 * bound
    values -= bound
    return values


RULES: dict[str, Rule] = {
    "he_normal_fan_out": _normal(lambda parameter: parameter.fan_out),
    "he_normal_fan_in": _normal(lambda parameter: parameter.fan_in),
    "torch_default": _torch_default,
}
