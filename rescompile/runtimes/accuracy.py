"""The largest allowed error of a runtime's outputs: float64 in the interpreter is the reference, and the interpreter in the
runtime's own precision shows the effect of rounding.

The bound is relative to rounding errors because these differ widely between networks: a deep network without norms amplifies
them a thousandfold. In a narrow precision, the interpreter stores every value in that precision and accumulates in float32, one
op after the other, as a simple runtime does. It needs no framework and supports every precision on every machine. A correct
runtime sums in another order and fuses ops, which changes the error by a factor of less than TIMES; a bug in the compiler
changes it by orders of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from rescompile.ir.interpreter import Noise, first_not_finite, interpret
from rescompile.ir.network import Network, Op, walk
from rescompile.ir.ops import AdaptiveAvgPool, AvgPool, GlobalAvgPool, Linear
from rescompile.ir.precision import FLOATS, PRECISIONS
from rescompile.weights import Array, Weights

#: The error of an output may be this many times that of the interpreter in the same precision ...
TIMES = 3
#: ... or, if an output has few values, the largest error in this many evaluations, since a single one may have almost no error
#: by chance. All but the first use stochastic arithmetic: each value is perturbed by less than the precision resolves, and each
#: mean of a norm by the rounding of its sum, so that the errors of ops which amplify rounding show ...
RUNS, FEW = 3, 512
#: ... and, if an error exceeds that by a factor of less than NEAR, in RUNS more evaluations, or in this many if there are few
#: values: three may all have small errors by chance if the outputs depend on one number. These are perturbed by up to two
#: units in the last place, since most smaller perturbations are rounded away. NEAR is how much a norm of equal values enlarges
#: their rounding: 1 / sqrt(eps), with an eps of 1e-5 ...
MANY, NEAR = 30, 316
#: ... or this large: the rounding error of one operation in float32, scaled to the bits of other precisions ...
FLOOR = 2e-7
#: ... or this large, times the square root of the number of values that the largest mean or linear layer sums: the error of
#: summing them sequentially in float32, in which runtimes accumulate in any precision (Higham and Mary 2019). BLAS sums in
#: blocks, and a mean averages out earlier rounding errors, so the interpreter's own error may be much smaller.
UNIT = FLOATS["fp32"].unit

Arrays = Mapping[str, Array]


class Reference:
    """The exact outputs of a network for one input, and the bound on the error of each output in each precision. `after`
    converts the outputs of the network, for example logits to probabilities, before they are compared."""

    def __init__(
        self, network: Network, weights: Weights, x: Array, after: Callable[[Arrays], Arrays] = lambda outputs: outputs
    ) -> None:
        self.network, self.weights, self.x, self.after = network, weights, x, after
        self.exact = self._interpreted("fp64")
        self._rounded: dict[str, list[Arrays]] = {}

    def overflow(self, precision: str) -> str | None:
        """Return the first value that is not finite in float64 or in a precision, and in which of them; such outputs cannot
        be compared. None if all outputs are finite."""
        for name, outputs in (("fp64", self.exact), (precision, self._evaluations(precision)[0])):
            if not all(np.isfinite(value).all() for value in outputs.values()):
                return f"{first_not_finite(self.network, self.weights, self.x, name)} in {name}"
        return None

    def bound(self, precision: str, output: str | None = None, error: float = 0.0) -> float:
        """Return the largest error that rounding explains, of one output or of the worst of all. If a measured `error` is
        slightly larger, more evaluations are made, until one explains it."""
        worst = max(self.error(rounded, output) for rounded in self._evaluations(precision))
        bound = max(TIMES * worst, floor(self.network, PRECISIONS[precision].bits))
        if error < NEAR * bound:
            bound = self.raised(bound, error, precision, output, MANY if self._has_few_values else RUNS)
        return bound

    def raised(self, bound: float, error: float, precision: str, output: str | None, most: int) -> float:
        """Return a bound raised by up to `most` evaluations, until one explains the error or some are nowhere near it."""
        for seed in range(1, most + 1):
            if error <= bound or (seed > RUNS and error > NEAR * bound):
                break
            bound = max(bound, TIMES * self.error(self._interpreted(precision, Noise(seed, units=2)), output))
        return bound

    @cached_property
    def _has_few_values(self) -> bool:
        """Whether an output has so few values that a single evaluation may have almost no error by chance."""
        return min(value.size for value in self.exact.values()) < FEW

    def _evaluations(self, precision: str) -> list[Arrays]:
        """Return the outputs of the interpreter in a precision, and perturbed ones if there are few values."""
        if precision not in self._rounded:
            noises = (Noise(seed, units=1) for seed in range(1, RUNS if self._has_few_values else 1))
            self._rounded[precision] = [self._interpreted(precision, noise) for noise in (None, *noises)]
        return self._rounded[precision]

    def _interpreted(self, precision: str, noise: Noise | None = None) -> Arrays:
        """Return the outputs of the interpreter. Weights from a file may overflow; the errors then show it."""
        with np.errstate(all="ignore"):
            return self.after(interpret(self.network, self.weights, self.x, precision, noise))

    def error(self, outputs: Arrays, output: str | None = None) -> float:
        """Return the relative error of one output, or of the worst of all."""
        return relative_error(outputs, self.exact if output is None else {output: self.exact[output]})


def relative_error(outputs: Arrays, exact: Arrays) -> float:
    """Return the worst relative error of all outputs, each by root mean square; infinite if an output is missing, has
    another shape, or is not finite. Below the smallest normal number of the output's type, rounding errors are absolute, so
    an expected output is taken to be at least that large, unless it is zero."""
    worst = 0.0
    for name, expected in exact.items():
        output = outputs.get(name)
        if output is None or output.shape != expected.shape:
            return math.inf
        difference = math.sqrt(float(np.mean((output.astype(np.float64) - expected) ** 2)))
        size = math.sqrt(float(np.mean(expected**2)))
        error = difference / max(size, _smallest_normal(output.dtype)) if size else difference
        worst = max(worst, error) if math.isfinite(error) else math.inf
    return worst


def _smallest_normal(dtype: np.dtype[Any]) -> float:
    """Return the smallest positive number of a type that has all its bits; bfloat16 has that of float32."""
    return float(np.finfo(dtype if np.issubdtype(dtype, np.floating) else np.float32).tiny)


def floor(network: Network | None, bits: int) -> float:
    """Return the error that is always allowed in a precision with this number of bits; `network` is None if its structure is
    unknown."""
    longest = 1 if network is None else _longest_sum(network)
    return max(FLOOR * 2.0 ** (FLOATS["fp32"].bits - bits), UNIT * math.sqrt(longest))


def _longest_sum(network: Network) -> int:
    """Return the largest number of values that a mean over positions of a map or a linear layer sums; 1 if there is neither."""
    longest = 1
    for _, node in walk(network.root, again=True):
        if isinstance(node, Op) and isinstance(node.kind, AvgPool):
            longest = max(longest, math.prod(node.kind.kernel))
        elif isinstance(node, Op) and isinstance(node.kind, Linear):
            longest = max(longest, *node.input)
        elif isinstance(node, Op) and isinstance(node.kind, GlobalAvgPool | AdaptiveAvgPool):
            longest = max(longest, math.prod(-(-n // m) for n, m in zip(node.input[1:], node.output[1:], strict=True)))
    return longest
