"""How long a network takes on a device, from times of single ops there: no network is run, and none is learnt from.

A tree becomes steps, as ONNX Runtime's processor provider runs it: norms, rectifiers and sums are done by the convolution that
makes their values, a norm without one takes the activation after it along, all else is a step of its own. Each step is of a regime, in
which time is a sum of non-negative terms, as in a roofline (Williams, Waterman, Patterson 2009) whose parts do not overlap: a fixed
part, multiply-adds, bytes of maps, bytes of weights, columns. Channels are counted in whole vectors, for half of one takes as
long as one. What the terms leave unexplained of measured ops near by is interpolated (Shepard 1968).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rescompile.bench import documents, statistics
from rescompile.bench.documents import Wrong
from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.ir.network import Network, Op, Parallel, Side
from rescompile.ir.ops import (
    Act,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    Linear,
    MaxPool,
    Norm,
    Shape,
)  # fmt: skip
from rescompile.ir.traversal import ThreadRules, thread

FORMAT = 1
#: Channels that are computed together.
VECTOR = 16
#: Activations that a convolution does in passing.
FUSED = ("relu", "leaky_relu")
_BYTES = 4


@dataclass(frozen=True, slots=True)
class Step:
    """What a runtime does at once: `inner` and `outer` are the channels in and out of each of `groups`, `side` the square root of
    the output's area, `kernel` the area of a kernel; `maps`, `weights` and `columns` are values, those of columns only where a
    convolution is computed as a product of unfolded maps."""

    regime: str
    inner: int
    outer: int
    groups: int
    side: float
    kernel: int
    stride: int
    macs: int
    maps: int
    weights: int
    columns: int = 0

    @property
    def terms(self) -> list[float]:
        """What its time is made of: one fixed part, and thousands of each of the others."""
        return [
            1.0,
            self.macs / 1e3,
            _BYTES * self.maps / 1e3,
            _BYTES * self.weights / 1e3,
            _BYTES * self.columns / 1e3,
        ]

    @property
    def place(self) -> list[float]:
        """Where it is among others of its regime: doublings are alike."""
        return [math.log2(v) for v in (self.inner, self.outer, self.groups, self.side**2, self.kernel, self.stride**2)]


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


# --- from a tree to steps ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Last:
    """The step that makes the value at hand, and what it may still take along."""

    at: int
    takes: frozenset[str]


_CONV = frozenset({"norm", "act", "sum"})


def steps(network: Network) -> list[Step]:
    """The steps of a network in evaluation mode, in order, for one input."""
    made: list[Step] = []

    def split(_: str, node: Parallel, __: _Last | None) -> list[None]:
        if node.split:  # to split channels is to move them, as a concatenation does
            made.append(_moved("concat", math.prod(node.input), node.input))
        return [None] * len(node.branches)

    def side(_: str, node: Side, __: _Last | None, through: Callable[[_Last | None], _Last | None]) -> None:
        if node.mode == "always":
            through(None)

    def op(_: str, node: Op, last: _Last | None) -> _Last | None:
        return _op(node, made, last)

    def merge(_: str, node: Parallel, ends: list[_Last | None]) -> _Last | None:
        return _merged(node, made, ends)

    thread(network.root, None, ThreadRules[_Last | None](op, merge, side, split))
    return made


def _merged(node: Parallel, made: list[Step], ends: list[_Last | None]) -> _Last | None:
    """A sum is computed by the last convolution that ends a branch, which then reads the other branches."""
    free = next((end for end in ends if end is not None and "sum" in end.takes), None)
    read = sum(math.prod(branch.output) for branch in node.branches)
    if node.merge == "add" and free is not None:
        made[free.at] = replace(made[free.at], maps=made[free.at].maps + read - math.prod(node.output))
        return _Last(free.at, frozenset({"act"}))
    made.append(_moved("concat" if node.merge == "concat" else "elementwise", read, node.output))
    return None


def _op(node: Op, made: list[Step], last: _Last | None) -> _Last | None:
    kind, size = node.kind, math.prod(node.input)
    match kind:
        case Conv():
            made.append(convolution(kind, node.input, node.output))
            return _Last(len(made) - 1, _CONV)
        case Norm():
            if last is not None and "norm" in last.takes and kind.kind == "batch":
                return last
            made.append(_moved("elementwise", size, node.output))
            return _Last(len(made) - 1, frozenset({"act"}))
        case Act():
            if last is not None and "act" in last.takes and kind.kind in FUSED:
                return None
            made.append(_moved("elementwise", size, node.output))
            return None
        case Identity() | Dropout():
            return last
        case Flatten():
            return None
        case Linear():
            weights = sum(parameter.size for parameter in kind.parameters(node.input))
            made.append(
                Step("linear", size, kind.features, 1, 1, 1, 1, kind.macs(node.input), size + kind.features, weights)
            )
        case MaxPool() | AvgPool():
            work = math.prod(node.output) * math.prod(kind.kernel)
            made.append(replace(_moved("pool", size, node.output), macs=work, kernel=math.prod(kind.kernel)))
        case GlobalAvgPool() | AdaptiveAvgPool():
            made.append(_moved("global", size, node.output))
        case _:
            made.append(_moved("elementwise", size, node.output))
    return None


def convolution(kind: Conv, given: Shape, output: Shape) -> Step:
    """The step of a convolution. Kernels are written for whole vectors of channels; a convolution whose groups have fewer is
    computed as a product of unfolded maps, and one of few input channels is a regime of its own."""
    inner, outer, groups, kernel = (
        given[0] // kind.groups,
        output[0] // kind.groups,
        kind.groups,
        math.prod(kind.kernel),
    )
    area, columns = math.prod(output[1:]), 0
    if groups > 1 and inner == outer == 1:
        regime, work = "depthwise", _whole(groups) * area * kernel
    elif groups > 1 and (inner % VECTOR or outer % VECTOR):
        regime, work, columns = "unfolded", kind.macs(given), kernel * given[0] * area
    else:
        regime = "stem" if inner < VECTOR else "pointwise" if kernel == 1 else "grouped" if groups > 1 else "dense"
        work = groups * (inner if regime == "stem" else _whole(inner)) * _whole(outer) * kernel * area
    maps, weights = math.prod(given) + math.prod(output), groups * inner * outer * kernel
    return Step(regime, inner, outer, groups, math.sqrt(area), kernel, max(kind.stride), work, maps, weights, columns)


def _moved(regime: str, read: int, output: Shape) -> Step:
    """A step that reads and writes values, and hardly computes."""
    side = math.sqrt(math.prod(output[1:]))
    return Step(regime, output[0], output[0], 1, side, 1, 1, 0, read + math.prod(output), 0)


def _whole(channels: int) -> int:
    """Channels in whole vectors."""
    return -(-channels // VECTOR) * VECTOR


# --- from measured ops to times ---------------------------------------------------------------------------------------

Vector = NDArray[np.float64]
#: A linear layer of fewer bytes takes its time for other things than to read them.
STREAM = 1 << 20
#: How many measured ops near by have a say, and how far away they must be for the terms alone to have as much.
NEAREST, REACH = 6, 2.0


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
            (_BYTES * timed.step.weights, timed.seconds / (_BYTES * timed.step.weights))
            for timed in regimes.get("linear", ())
            if _BYTES * timed.step.weights >= STREAM
        )
        self._sizes = np.log2([size for size, _ in streams])
        self._rates = np.maximum.accumulate([rate for _, rate in streams]) if streams else np.zeros(0)

    def seconds(self, step: Step, weights: int | None = None) -> float:
        """The seconds of one step in a network of so many weights; None: of its own alone."""
        found = self._regimes.get(step.regime, self._other).seconds(step)
        if not weights or not len(self._sizes):
            return found
        whole, own = (self._stream(_BYTES * count) for count in (weights, step.weights))
        return found + _BYTES * step.weights * max(0.0, whole - own)

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
