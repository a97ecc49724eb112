"""Predicts how long a network takes on a device from times of single ops there; no network is run, and nothing is trained.

The time of a step is a sum of non-negative terms within each regime, as in a roofline (Williams, Waterman, Patterson 2009)
whose parts do not overlap: a fixed part, multiply-adds, bytes of feature maps, bytes of weights, columns. The residual is
interpolated from similar measured ops (Shepard 1968).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rescompile.bench import json_files, statistics
from rescompile.bench.execution_steps import BYTES, Step, steps
from rescompile.bench.json_files import Wrong
from rescompile.diagnostics.errors import UsageError
from rescompile.ir.network import Network
from rescompile.records import record

Vector = NDArray[np.float64]
FORMAT = 1
#: The time of a linear layer with fewer bytes of weights is not dominated by reading them.
STREAM = 1 << 20
#: The number of similar measured ops in the interpolation, and the distance at which the terms alone have the same weight.
NEAREST, REACH = 6, 2.0


@record
class Timed:
    """A step with its time in seconds."""

    step: Step
    seconds: float


@record
class Device:
    """Times of single ops on one machine with one runtime and number of threads: the content of a device file."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = json_files.CONFIG

    predict: int
    version: str
    measured: str
    machine: dict[str, Any]
    runtime: str
    threads: int | None
    ops: list[Timed] = field(default_factory=list)


def read(path: Path) -> Device:
    """Read a device file. Raises UsageError with the location of every error."""
    help = f"rescompile predict --measure --device-file {path} measures this machine"
    return json_files.read(path, Device, "predict", FORMAT, "device file", help, _check_values)


def _check_values(device: Device, wrong: Wrong) -> None:
    """Report impossible sizes and times."""
    for number, timed in enumerate(device.ops):
        if not timed.seconds > 0:
            wrong(("ops", number, "seconds"), "must be positive")
        for name in ("inner", "outer", "groups", "side", "kernel", "stride", "maps"):
            if getattr(timed.step, name) < 1:
                wrong(("ops", number, "step", name), "must be at least 1")
        for name in ("macs", "weights", "columns"):
            if getattr(timed.step, name) < 0:
                wrong(("ops", number, "step", name), "must be at least 0")


@record
class _Regime:
    """Seconds for each term, and the residuals of the logarithms of measured times by place."""

    rates: Vector
    places: Vector
    residuals: Vector

    def seconds(self, step: Step) -> float:
        """Return the terms of a step, corrected by the residuals of similar ops."""
        fit = float(np.dot(self.rates, step.terms))
        distance = ((self.places - step.place) ** 2).sum(axis=1)
        near = np.argsort(distance, kind="stable")[:NEAREST]
        weight = 1 / (distance[near] + 1e-3)
        return fit * math.exp(float((weight * self.residuals[near]).sum() / (weight.sum() + 1 / REACH**2)))


class Predictor:
    """Times of steps on a device.

    The weights of an op that is measured alone are in a cache; in a network whose weights exceed the cache they are not. The
    time per byte of weights comes from linear layers, which do little else than read them; large ones are limited by memory
    bandwidth.
    """

    def __init__(self, device: Device) -> None:
        """Raise UsageError if the device has no measured ops, and Unavailable if SciPy is missing."""
        statistics.require()
        regimes: dict[str, list[Timed]] = {}
        for timed in device.ops:
            regimes.setdefault(timed.step.regime, []).append(timed)
        if not regimes:
            raise UsageError.of("E0820", "the device file contains no measured op")
        self._regimes = {name: _fit(ops) for name, ops in regimes.items()}
        #: For regimes that were not measured, since all ops that only move feature maps are similar.
        self._other = _fit([timed for timed in device.ops if timed.step.macs == 0] or device.ops)
        streams = sorted(
            (BYTES * timed.step.weights, timed.seconds / (BYTES * timed.step.weights))
            for timed in regimes.get("linear", ())
            if BYTES * timed.step.weights >= STREAM
        )
        self._sizes = np.log2([size for size, _ in streams])
        self._rates = np.maximum.accumulate([rate for _, rate in streams]) if streams else np.zeros(0)

    def seconds(self, step: Step, weights: int | None = None) -> float:
        """Return the seconds of one step in a network with this number of weights; without it, of the step measured alone."""
        seconds = self._regimes.get(step.regime, self._other).seconds(step)
        if not weights or not len(self._sizes):
            return seconds
        whole, own = (self._stream(BYTES * count) for count in (weights, step.weights))
        return seconds + BYTES * step.weights * max(0.0, whole - own)

    def _stream(self, size: int) -> float:
        """Return the seconds per byte of weights in a network with `size` bytes of them."""
        return float(np.interp(math.log2(max(size, 1)), self._sizes, self._rates))

    def network(self, network: Network) -> dict[str, float]:
        """Return the seconds of a network for one input, by regime."""
        listed = steps(network)
        weights = sum(step.weights for step in listed)
        seconds: dict[str, float] = {}
        for step in listed:
            seconds[step.regime] = seconds.get(step.regime, 0.0) + self.seconds(step, weights)
        return seconds


def _fit(ops: Sequence[Timed]) -> _Regime:
    """Return the rates with the least squares of relative errors, so that short ops count as much as long ones."""
    from scipy.optimize import nnls

    terms = np.array([timed.step.terms for timed in ops])
    seconds = np.array([timed.seconds for timed in ops])
    rates, _ = nnls(terms / seconds[:, None], np.ones(len(ops)))
    fit = terms @ rates
    return _Regime(rates, np.array([timed.step.place for timed in ops]), np.log(seconds / fit))
