"""How far the outputs of a runtime may be from the exact ones: the interpreter in float64 is exact, and the interpreter in the
runtime's own precision shows what rounding does.

The bound is relative to rounding because rounding differs so much between networks: a deep one without norms enlarges it a
thousandfold. The interpreter in a narrow precision stores every value in that precision and adds in float32, one rule after
the other, as a plain runtime does. It needs no framework and supports every precision on every machine. A correct runtime
adds in another order and fuses ops, which changes an error by less than TIMES; a mistake of the compiler changes it by orders
of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Op, walk
from rescompile.ir.ops import AdaptiveAvgPool, AvgPool, GlobalAvgPool, Linear
from rescompile.ir.precision import FLOATS
from rescompile.weights import Array, Weights

#: An output may be this many times as far from float64 as that of the interpreter in the same precision ...
TIMES = 3
#: ... or as the worst of so many evaluations, where an output has few values: luck may leave those without an error. All but the
#: first have weights and inputs that are moved by less than the precision resolves ...
RUNS, FEW = 3, 512
#: ... or this far: the rounding of one operation in float32, scaled to the bits of other precisions ...
FLOOR = 2e-7
#: ... or this far, times the square root of how many values the longest mean or linear layer of the network adds: the error of
#: adding them one after the other in float32, in which runtimes add in any precision (Higham and Mary 2019). BLAS adds in blocks,
#: and a mean removes the rounding that came before it, so the interpreter's own error may be far less than that.
UNIT = FLOATS["fp32"].unit

Arrays = Mapping[str, Array]


class Reference:
    """The exact outputs of a network for one input, and the bound on the error of each in each precision."""

    def __init__(self, network: Network, weights: Weights, x: Array) -> None:
        self.network, self.weights, self.x = network, weights, x
        self.exact = self._interpreted(weights, x, "fp64")
        self._rounded: dict[str, list[Arrays]] = {}

    def bound(self, precision: str, output: str | None = None) -> float:
        """The largest error that is still rounding, of one output or of the worst of all."""
        if precision not in self._rounded:
            runs = RUNS if min(value.size for value in self.exact.values()) < FEW else 1
            given = [(self.weights, self.x), *(self._moved(FLOATS[precision].unit, seed) for seed in range(1, runs))]
            self._rounded[precision] = [self._interpreted(*each, precision) for each in given]
        error = max(self.error(rounded, output) for rounded in self._rounded[precision])
        return max(TIMES * error, floor(self.network, FLOATS[precision].bits))

    def _interpreted(self, weights: Weights, x: Array, precision: str) -> Arrays:
        """The outputs of the interpreter. Weights that are given may overflow, which the errors then show."""
        with np.errstate(over="ignore", invalid="ignore"):
            return interpret(self.network, weights, x, precision)

    def _moved(self, unit: float, seed: int) -> tuple[Weights, Array]:
        """The weights and the input with every number moved by less than one unit of its last place."""
        generator = np.random.default_rng(seed)

        def moved(value: Array) -> Array:
            share = unit * (2 * generator.random(value.shape, np.float32) - 1)
            return np.asarray(value + value * share)

        def maker(name: str) -> Callable[[], Array]:
            return lambda: moved(self.weights[name])

        return self.weights.replaced({name: maker(name) for name in self.weights}), moved(self.x)

    def error(self, outputs: Arrays, output: str | None = None) -> float:
        """The relative error of one output, or of the worst of all."""
        return relative_error(outputs, self.exact if output is None else {output: self.exact[output]})


def relative_error(outputs: Arrays, exact: Arrays) -> float:
    """The worst relative error of all outputs, each by root mean square; infinite for an output that is missing, of another
    shape, or not finite."""
    worst = 0.0
    for name, expected in exact.items():
        output = outputs.get(name)
        if output is None or output.shape != expected.shape:
            return math.inf
        difference = math.sqrt(float(np.mean((output.astype(np.float64) - expected) ** 2)))
        size = math.sqrt(float(np.mean(expected**2)))
        error = difference / size if size else difference
        worst = max(worst, error) if math.isfinite(error) else math.inf
    return worst


def floor(network: Network | None, bits: int) -> float:
    """The error that is allowed in any case in a precision of so many bits; None is a network of unknown structure."""
    longest = 1 if network is None else _longest_sum(network)
    return max(FLOOR * 2.0 ** (FLOATS["fp32"].bits - bits), UNIT * math.sqrt(longest))


def _longest_sum(network: Network) -> int:
    """The largest number of values that a mean over positions of a map or a linear layer adds; 1 where there is neither."""
    longest = 1
    for _, node in walk(network.root):
        if isinstance(node, Op) and isinstance(node.kind, AvgPool):
            longest = max(longest, math.prod(node.kind.kernel))
        elif isinstance(node, Op) and isinstance(node.kind, Linear):
            longest = max(longest, *node.input)
        elif isinstance(node, Op) and isinstance(node.kind, GlobalAvgPool | AdaptiveAvgPool):
            longest = max(longest, math.prod(-(-n // m) for n, m in zip(node.input[1:], node.output[1:], strict=True)))
    return longest
