"""Ops that change the shape without parameters: flattening, subsampling, upsampling, padding of channels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.ops.op import SAME, Axes, Axis, Kind, Shape, Size, attribute, feature_map, size_text
from rescompile.ir.ops.window import window_axes, window_size

#: Positions along one side of an input, or of an upsampled map.
MAX_SIDE = 1 << 16


@dataclass(frozen=True)
class Flatten(Kind):
    """Feature map to vector, channels first."""

    word = "flatten"

    def output(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@dataclass(frozen=True)
class Subsample(Kind):
    """Every stride-th position of the feature map, starting with the first: x[:, :, ::s, ::s]."""

    word = "subsample"
    stride: Size = attribute("size", "distance between positions", minimum=1, main=True)

    def axes(self, shape: Shape) -> Axes:
        return window_axes((1, 1), self.stride, (0, 0))

    def output(self, shape: Shape) -> Shape:
        channels, *sizes = feature_map(shape)
        return channels, *window_size((sizes[0], sizes[1]), (1, 1), self.stride, (0, 0))


@dataclass(frozen=True)
class Upsample(Kind):
    """Upsampling of the feature map by nearest or bilinear interpolation.

    The result is that of torch's interpolate; bilinear corresponds to align_corners=False.
    """

    word = "upsample"
    factor: Size = attribute("size", "scale factor of height and width", minimum=1, maximum=32, main=True)
    kind: str = attribute("word", "interpolation method", "nearest", words=("nearest", "bilinear"))

    def axes(self, shape: Shape) -> Axes:
        return Axis(self.factor[0]), Axis(self.factor[1])

    def output(self, shape: Shape) -> Shape:
        channels, height, width = feature_map(shape)
        larger = height * self.factor[0], width * self.factor[1]
        if max(larger) > MAX_SIDE:
            message = f"would produce a map of {size_text(larger)}, but a side can have at most {MAX_SIDE:,} positions"
            raise ShapeError("E0208", message, "factor")
        return channels, *larger


@dataclass(frozen=True)
class PadChannels(Kind):
    """Appends channels of zeros."""

    word = "pad_channels"
    channels: int = attribute("int", "output channels", minimum=1, main=True)

    def axes(self, shape: Shape) -> Axes:
        return SAME

    def output(self, shape: Shape) -> Shape:
        channels, height, width = feature_map(shape)
        if self.channels < channels:
            raise ShapeError("E0206", f"cannot pad {channels} channels to {self.channels}", "channels")
        return self.channels, height, width
