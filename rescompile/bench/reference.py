"""The outputs that a timed run must reproduce, computed in float64, with a bound on the error for each precision."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from rescompile.bench import torch_modules
from rescompile.bench.timed_models import DISTINCT, BenchModel
from rescompile.diagnostics.errors import CheckFailed
from rescompile.ir.precision import PRECISIONS
from rescompile.runtimes.accuracy import TIMES, floor, relative_error
from rescompile.weights import Array


class Reference:
    """The outputs of a model in float64 for one input, and `expected`, the errors of timed runs by precision."""

    def __init__(self, model: BenchModel, x: Array) -> None:
        """Raise CheckFailed if an activation is not a normal number: the time of such a run is meaningless."""
        self.model, self._batch = model, len(x)
        self._distinct = x[:DISTINCT]
        self._in_range: set[str] = set()
        self.check_range("fp32")
        self._exact = model.exact(self._distinct)
        self.expected = {"fp32": relative_error(torch_modules.outputs(model.base, self._distinct), self._exact)}

    def error(self, outputs: Mapping[str, Array]) -> float:
        """Return the relative error of outputs of the whole batch."""
        whole = {name: np.resize(array, (self._batch, *array.shape[1:])) for name, array in self._exact.items()}
        given = dict(outputs)
        if len(whole) == 1 and len(given) == 1:  # other exporters use other names
            given = dict(zip(whole, given.values(), strict=True))
        return relative_error(given, whole)

    def check_range(self, precision: str) -> None:
        """Raise CheckFailed if an activation is larger than the largest number of a precision."""
        if precision not in self._in_range:
            strange = torch_modules.irregular(self.model.base, self._distinct, PRECISIONS[precision].largest)
            if strange is not None:
                raise CheckFailed.of("E0720", f"{self.model.name} cannot be timed in {precision}: {strange}")
            self._in_range.add(precision)

    def expect(self, precision: str, outputs: Mapping[str, Array]) -> None:
        """Take the error of outputs that are known to be correct as the one to expect in a precision."""
        self.expected[precision] = self.error(outputs)

    def bound(self, precision: str) -> float:
        """Return the largest error allowed: three times that of eager torch in the same precision, or, for int8, of the same
        file with its sums in floats. If neither has run, the error of torch in float32 is scaled to the bits of the
        precision."""
        bits = PRECISIONS[precision].bits
        eager = self.expected.get(precision, self.expected["fp32"] * 2.0 ** (PRECISIONS["fp32"].bits - bits))
        least = floor(self.model.network, bits)
        return max(TIMES * eager, least) if math.isfinite(eager) else least
