"""Normalisation over the batch or over groups of channels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.ops.op import SAME, Axes, Axis, Kind, Parameter, Shape, attribute


@dataclass(frozen=True)
class Norm(Kind):
    """Normalisation, then a scale and a shift for each channel.

    Kind `batch` normalises each channel over the batch, and uses running statistics in evaluation (Ioffe & Szegedy 2015).
    Kind `group` normalises every group of neighbouring channels of each sample (Wu & He 2018), in evaluation too, so its
    result never depends on the batch. One group is layer normalisation; one group per channel is instance normalisation.
    """

    word = "norm"
    kind: str = attribute("word", "type of normalisation", "batch", words=("batch", "group"))
    groups: int = attribute(
        "int", "number of channel groups, each normalised as a whole", 32, minimum=1, only=("group",)
    )
    eps: float = attribute("real", "added to the variance", 1e-5, minimum=0.0, maximum=1.0)
    momentum: float = attribute(
        "real", "weight of new batch statistics", 0.1, minimum=0.0, maximum=1.0, only=("batch",)
    )
    scale_init: float = attribute("real", "initial scale", 1.0)

    def axes(self, shape: Shape) -> Axes:
        apart = self.kind == "group" and shape[0] == self.groups  # a map of 1x1 would be its own mean
        return (Axis(least=2), Axis(least=2)) if apart else SAME

    def output(self, shape: Shape) -> Shape:
        if self.kind == "group":
            if shape[0] % self.groups:
                message = f"cannot divide {shape[0]} channels into {self.groups} groups"
                raise ShapeError("E0203", message, "groups", _fitting(shape[0], self.groups))
            if math.prod(shape) == self.groups:
                message = f"has {self.groups} groups for an input of {list(shape)}: each group would be a single value, and every output 0"
                raise ShapeError("E0203", message, "groups", "use fewer groups")
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        channels = shape[:1]
        affine = Parameter("weight", channels, self.scale_init), Parameter("bias", channels, 0.0)
        if self.kind == "group":
            return affine
        return (
            *affine,
            Parameter("running_mean", channels, 0.0, trainable=False),
            Parameter("running_var", channels, 1.0, trainable=False),
            Parameter("num_batches_tracked", (), 0.0, trainable=False, dtype="int64"),
        )


def _fitting(channels: int, groups: int) -> str:
    """The nearest numbers of groups that divide the channels."""
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    lower = max(n for n in divisors if n <= groups)
    upper = next((n for n in divisors if n > groups), None)
    return f"use {lower} groups" if upper is None else f"use {lower} or {upper} groups"
