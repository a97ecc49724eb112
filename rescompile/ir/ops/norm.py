"""Normalisation: over the batch, over groups of channels, over the channels of a position; and of responses by their neighbours."""

from __future__ import annotations

import math

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.ops.op import Axes, Axis, Kind, Parameter, Shape, attribute, feature_map, rank, same
from rescompile.records import record


@record(slots=False)
class Norm(Kind):
    """Normalisation, then a scale and a shift for each channel.

    Kind `batch` normalises each channel over the batch, and uses running statistics in evaluation (Ioffe & Szegedy 2015).
    Kind `group` normalises every group of neighbouring channels of each sample (Wu & He 2018), in evaluation too, so its
    result never depends on the batch. Kind `instance` has one group for each channel (Ulyanov et al. 2016). Kind `layer`
    normalises the channels of each position alone, as ConvNeXt does (Ba et al. 2016).
    """

    word = "norm"
    kind: str = attribute("word", "type of normalisation", "batch", words=("batch", "group", "instance", "layer"))
    groups: int = attribute(
        "int", "number of channel groups, each normalised as a whole", 32, minimum=1, only=("group",)
    )
    eps: float = attribute("real", "added to the variance", 1e-5, minimum=0.0, maximum=1.0)
    momentum: float = attribute(
        "real", "weight of new batch statistics", 0.1, minimum=0.0, maximum=1.0, only=("batch",)
    )
    scale_init: float = attribute("real", "initial scale", 1.0)

    def groups_of(self, shape: Shape) -> int:
        """Return the number of channel groups that are normalised apart, for kinds that normalise over the map."""
        return shape[0] if self.kind == "instance" else self.groups

    def axes(self, shape: Shape) -> Axes:
        apart = self.kind in ("group", "instance") and shape[0] == self.groups_of(shape)
        # A map of one position would be its own mean.
        return (Axis(least=2),) * rank(shape) if apart else same(shape)

    def output(self, shape: Shape) -> Shape:
        if self.kind == "group" and shape[0] % self.groups:
            message = f"cannot divide {shape[0]} channels into {self.groups} groups"
            raise ShapeError("E0203", message, "groups", _fitting(shape[0], self.groups))
        alone = "each group would be a single value, and every output 0"
        if self.kind == "group" and math.prod(shape) == self.groups:
            message = f"has {self.groups} groups for an input of {list(shape)}: {alone}"
            raise ShapeError("E0203", message, "groups", "use fewer groups")
        if (self.kind == "instance" and math.prod(shape) == shape[0]) or (self.kind == "layer" and shape[0] == 1):
            raise ShapeError("E0203", f"of kind {self.kind} has an input of {list(shape)}: {alone}", "kind")
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        channels = shape[:1]
        affine = Parameter("weight", channels, self.scale_init), Parameter("bias", channels, 0.0)
        if self.kind != "batch":
            return affine
        least = 0.0 if self.eps else math.ulp(0)  # their square root is divided by
        return (
            *affine,
            Parameter("running_mean", channels, 0.0, trainable=False),
            Parameter("running_var", channels, 1.0, trainable=False, least=least),
            Parameter("num_batches_tracked", (), 0.0, trainable=False, dtype="int64"),
        )


@record(slots=False)
class Lrn(Kind):
    """Local response normalisation: x / (k + alpha * mean of the squares of `size` neighbouring channels)^beta.

    As in AlexNet (Krizhevsky et al. 2012, section 3.3), whose sum over 5 channels with alpha 1e-4 is the mean with alpha 5e-4.
    Channels outside the range count as 0.
    """

    word = "lrn"
    size: int = attribute("int", "number of channels, odd", 5, minimum=1)
    alpha: float = attribute("real", "factor of the mean square", 1e-4)
    beta: float = attribute("real", "exponent", 0.75)
    k: float = attribute("real", "added to the scaled mean square", 1.0)

    def output(self, shape: Shape) -> Shape:
        feature_map(shape)
        if self.size % 2 == 0:
            raise ShapeError("E0309", f"needs an odd number of channels, got {self.size}", "size")
        return shape


def _fitting(channels: int, groups: int) -> str:
    """Return the nearest numbers of groups that divide the channels."""
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    lower = max(n for n in divisors if n <= groups)
    upper = next((n for n in divisors if n > groups), None)
    return f"use {lower} groups" if upper is None else f"use {lower} or {upper} groups"
