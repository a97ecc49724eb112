"""How long a network takes on a device, from times of single ops there: no network is run, and nothing is trained.

The time of a step is a sum of non-negative terms within each regime, as in a roofline (Williams, Waterman, Patterson 2009)
whose parts do not overlap: a fixed part, multiply-adds, bytes of feature maps, bytes of weights, columns. What the terms
leave unexplained is interpolated from similar measured ops (Shepard 1968).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rescompile.bench import documents, statistics
from rescompile.bench.documents import Wrong
from rescompile.bench.steps import BYTES, Step, steps
from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.ir.network import Network

Vector = NDArray[np.float64]
FORMAT = 1
#: A linear layer of fewer bytes takes its time for other things than to read them.
STREAM = 1 << 20
#: How many measured ops near by have a say, and how far away they must be for the terms alone to have as much.
NEAREST, REACH = 6, 2.0


@dataclass(frozen=True, slots=True)
class Timed:
    """A step, and the seconds that it took."""

    step: Step
    seconds: float


@dataclass(frozen=True, slots=True)
class Device:
    """Times of single ops on one machine, by one runtime with so many threads: what a device file holds."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = documents.CONFIG

    predict: int
    version: str
    measured: str
    machine: dict[str, Any]
    runtime: str
    threads: int | None
    ops: list[Timed] = field(default_factory=list)


def read(path: Path) -> Device:
    """Read a device file. Raises UsageError with every place that is wrong."""
    help = f"rescompile predict --measure --device-file {path} measures this machine"
    return documents.read(path, Device, "predict", FORMAT, "device file", help, _possible)


def _possible(device: Device, wrong: Wrong) -> None:
    """Sizes and times that an op can have."""
    for number, timed in enumerate(device.ops):
        if not timed.seconds > 0:
            wrong(("ops", number, "seconds"), "a time is positive")
        for name in ("inner", "outer", "groups", "side", "kernel", "stride", "maps"):
            if getattr(timed.step, name) < 1:
                wrong(("ops", number, "step", name), f"{name} is a number from 1")
        for name in ("macs", "weights", "columns"):
            if getattr(timed.step, name) < 0:
                wrong(("ops", number, "step", name), f"{name} is a number from 0")


@dataclass(frozen=True, slots=True)
class _Regime:
    """Seconds for each term, and what these leave of the logarithms of measured times, by place."""

    rates: Vector
    places: Vector
    rest: Vector

    def seconds(self, step: Step) -> float:
        found = float(np.dot(self.rates, step.terms))
        distance = ((self.places - step.place) ** 2).sum(axis=1)
        near = np.argsort(distance, kind="stable")[:NEAREST]
        weight = 1 / (distance[near] + 1e-3)
        return found * math.exp(float((weight * self.rest[near]).sum() / (weight.sum() + 1 / REACH**2)))


class Predictor:
    """Times of steps on a device.

    An op that is measured alone finds its weights in a cache, and in a network whose weights are larger than that it does not.
    How long a byte of weights takes is seen from linear layers, which do nothing but read them: large ones tell of memory.
    """

    def __init__(self, device: Device) -> None:
        """Raises UsageError where the device has no measured ops, and Unavailable where SciPy is missing."""
        statistics.require()
        regimes: dict[str, list[Timed]] = {}
        for timed in device.ops:
            regimes.setdefault(timed.step.regime, []).append(timed)
        if not regimes:
            raise UsageError(Diagnostic("E0820", "the device file holds no measured op"))
        self._regimes = {name: _fitted(ops) for name, ops in regimes.items()}
        #: Of what was measured in no regime: all that moves maps is alike.
        self._other = _fitted([timed for timed in device.ops if timed.step.macs == 0] or device.ops)
        streams = sorted(
            (BYTES * timed.step.weights, timed.seconds / (BYTES * timed.step.weights))
            for timed in regimes.get("linear", ())
            if BYTES * timed.step.weights >= STREAM
        )
        self._sizes = np.log2([size for size, _ in streams])
        self._rates = np.maximum.accumulate([rate for _, rate in streams]) if streams else np.zeros(0)

    def seconds(self, step: Step, weights: int | None = None) -> float:
        """The seconds of one step in a network of so many weights; None: of its own alone."""
        found = self._regimes.get(step.regime, self._other).seconds(step)
        if not weights or not len(self._sizes):
            return found
        whole, own = (self._stream(BYTES * count) for count in (weights, step.weights))
        return found + BYTES * step.weights * max(0.0, whole - own)

    def _stream(self, size: int) -> float:
        """The seconds that a byte of weights takes where there are so many of them."""
        return float(np.interp(math.log2(max(size, 1)), self._sizes, self._rates))

    def network(self, network: Network) -> dict[str, float]:
        """The seconds of a network for one input, by regime."""
        listed = steps(network)
        weights = sum(step.weights for step in listed)
        found: dict[str, float] = {}
        for step in listed:
            found[step.regime] = found.get(step.regime, 0.0) + self.seconds(step, weights)
        return found


def _fitted(ops: Sequence[Timed]) -> _Regime:
    """Rates with the least relative errors: short ops count as much as long ones."""
    from scipy.optimize import nnls

    terms = np.array([timed.step.terms for timed in ops])
    seconds = np.array([timed.seconds for timed in ops])
    rates, _ = nnls(terms / seconds[:, None], np.ones(len(ops)))
    fit = terms @ rates
    return _Regime(rates, np.array([timed.step.place for timed in ops]), np.log(seconds / fit))
