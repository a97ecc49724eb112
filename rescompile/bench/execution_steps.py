"""A network as the steps in which ONNX Runtime executes it on a CPU.

Batch normalisation, ReLUs and additions are part of the convolution that produces their values; a normalisation without a
convolution includes the activation after it; every other op is a separate step. Channels are counted in whole vectors, since
half a vector takes as long as a whole one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

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
from rescompile.records import record

#: The number of channels in a vector.
VECTOR = 16
#: Activations that are fused into a convolution.
FUSED = ("relu", "leaky_relu")
#: The bytes of a value.
BYTES = 4


@record
class Step:
    """A step that a runtime executes as one.

    `inner` and `outer` are the input and output channels of each of `groups`, `side` is the square root of the output's area
    and `kernel` the area of the kernel. `maps`, `weights` and `columns` count values; a step has columns only where a
    convolution is computed as a product of unfolded feature maps.
    """

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
        """The terms of its time: a fixed part, and the others in thousands."""
        bytes = (BYTES * values for values in (self.maps, self.weights, self.columns))
        return [1.0, self.macs / 1e3, *(count / 1e3 for count in bytes)]

    @property
    def place(self) -> list[float]:
        """Its position among the steps of its regime, on logarithmic scales of base 2."""
        return [math.log2(v) for v in (self.inner, self.outer, self.groups, self.side**2, self.kernel, self.stride**2)]


@record
class _Producer:
    """The step that produces a value, and what can still be fused into it."""

    step: int
    fuses: frozenset[str]


def steps(network: Network) -> list[Step]:
    """Return the steps of a network in evaluation mode, in order, for one input."""
    rules = _Rules([])
    thread(network.root, None, ThreadRules(rules.op, rules.merge, rules.side, rules.split, lambda *_: None))
    return rules.steps


@record
class _Rules:
    """The rules of the traversal, which carries the producer of the value as long as something can be fused into it."""

    steps: list[Step]

    def op(self, _: str, node: Op, last: _Producer | None) -> _Producer | None:
        kind, size = node.kind, math.prod(node.input)
        match kind:
            case Conv():
                return self._add(convolution(kind, node.input, node.output), "norm", "act", "sum")
            case Norm():
                if last is not None and "norm" in last.fuses and kind.kind == "batch":
                    return last
                return self._add(_moved("elementwise", size, node.output), "act")
            case Act():
                if last is None or "act" not in last.fuses or kind.kind not in FUSED:
                    self._add(_moved("elementwise", size, node.output))
            case Identity() | Dropout():
                return last
            case Flatten():
                pass
            case Linear():
                weights = sum(parameter.size for parameter in kind.parameters(node.input))
                macs, values = kind.macs(node.input), size + kind.features
                self._add(Step("linear", size, kind.features, 1, 1, 1, 1, macs, values, weights))
            case MaxPool() | AvgPool():
                area = math.prod(kind.kernel)
                moved = _moved("pool", size, node.output)
                self._add(replace(moved, macs=math.prod(node.output) * area, kernel=area))
            case GlobalAvgPool() | AdaptiveAvgPool():
                self._add(_moved("global", size, node.output))
            case _:
                self._add(_moved("elementwise", size, node.output))
        return None

    def split(self, _: str, node: Parallel, __: _Producer | None) -> list[_Producer | None]:
        """Return no producers, since no branch continues one. Splitting channels moves them, as a concatenation does."""
        if node.split:
            self._add(_moved("concat", math.prod(node.input), node.input))
        return [None] * len(node.branches)

    def merge(self, _: str, node: Parallel, ends: list[_Producer | None]) -> _Producer | None:
        """Fuse an addition into the first convolution that ends a branch, which then reads the other branches."""
        last = next((end for end in ends if end is not None and "sum" in end.fuses), None)
        read = sum(math.prod(branch.output) for branch in node.branches)
        if node.merge == "add" and last is not None:
            step = self.steps[last.step]
            self.steps[last.step] = replace(step, maps=step.maps + read - math.prod(node.output))
            return replace(last, fuses=frozenset({"act"}))
        self._add(_moved("concat" if node.merge == "concat" else "elementwise", read, node.output))
        return None

    def side(
        self, _: str, node: Side, __: _Producer | None, enter: Callable[[_Producer | None], _Producer | None]
    ) -> None:
        if node.mode == "always":
            enter(None)

    def _add(self, step: Step, *fuses: str) -> _Producer:
        self.steps.append(step)
        return _Producer(len(self.steps) - 1, frozenset(fuses))


def convolution(kind: Conv, given: Shape, output: Shape) -> Step:
    """Return the step of a convolution. Kernels compute whole vectors of channels; a convolution whose groups have fewer
    channels is computed as a product of unfolded feature maps, and one with few input channels is a regime of its own."""
    groups, kernel, area = kind.groups, math.prod(kind.kernel), math.prod(output[1:])
    inner, outer, columns = given[0] // groups, output[0] // groups, 0
    if groups > 1 and inner == outer == 1:
        regime, macs = "depthwise", _whole_vectors(groups) * area * kernel
    elif groups > 1 and (inner % VECTOR or outer % VECTOR):
        regime, macs, columns = "unfolded", kind.macs(given), kernel * given[0] * area
    else:
        regime = "stem" if inner < VECTOR else "pointwise" if kernel == 1 else "grouped" if groups > 1 else "dense"
        width = inner if regime == "stem" else _whole_vectors(inner)
        macs = groups * width * _whole_vectors(outer) * kernel * area
    maps, weights = math.prod(given) + math.prod(output), groups * inner * outer * kernel
    return Step(regime, inner, outer, groups, math.sqrt(area), kernel, max(kind.stride), macs, maps, weights, columns)


def _moved(regime: str, read: int, output: Shape) -> Step:
    """Return a step that reads and writes values and computes little."""
    side = math.sqrt(math.prod(output[1:]))
    return Step(regime, output[0], output[0], 1, side, 1, 1, 0, read + math.prod(output), 0)


def _whole_vectors(channels: int) -> int:
    """Return channels, rounded up to whole vectors."""
    return -(-channels // VECTOR) * VECTOR
