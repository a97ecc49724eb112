"""Ops that change the shape without parameters: flattening, subsampling, upsampling, borders, and what moves channels."""

from __future__ import annotations

import math

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.ops.op import (
    MAX_SIDE,
    Axes,
    Axis,
    Kind,
    Shape,
    Size,
    attribute,
    divided,
    enlarged,
    feature_map,
    image_map,
    same,
    size_text,
)
from rescompile.ir.ops.window import ones, window_axes, window_size
from rescompile.records import record


@record(slots=False)
class Flatten(Kind):
    """Flattens a feature map to a vector, in channels-first order."""

    word = "flatten"

    def axes(self, shape: Shape) -> None:
        return None

    def output(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@record(slots=False)
class Subsample(Kind):
    """Every stride-th position of the feature map, starting with the first: x[:, :, ::s, ::s] on maps of two axes."""

    word = "subsample"
    stride: Size = attribute("size", "distance between positions", minimum=1, main=True)

    def axes(self, shape: Shape) -> Axes:
        one, none = ones(self.stride), (0,) * len(self.stride)
        return window_axes(one, self.stride, none)

    def output(self, shape: Shape) -> Shape:
        channels, *sizes = feature_map(shape, self.stride)
        return channels, *window_size(sizes, ones(self.stride), self.stride, (0,) * len(self.stride))


@record(slots=False)
class Upsample(Kind):
    """Upsampling of the feature map by nearest or bilinear interpolation.

    The result is that of torch's interpolate; bilinear corresponds to align_corners=False, and interpolates along each axis: on
    maps of one and three axes it is torch's linear and trilinear.
    """

    word = "upsample"
    factor: Size = attribute("size", "scale factor of each axis", minimum=1, maximum=32, main=True)
    kind: str = attribute("word", "interpolation method", "nearest", words=("nearest", "bilinear"))

    def axes(self, shape: Shape) -> Axes:
        return tuple(map(Axis, self.factor))

    def output(self, shape: Shape) -> Shape:
        channels, *sizes = feature_map(shape, self.factor)
        return channels, *enlarged(self.axes(shape), sizes, "factor")


@record(slots=False)
class PadChannels(Kind):
    """Zero-pads the channels at the end."""

    word = "pad_channels"
    channels: int = attribute("int", "output channels", minimum=1, main=True)

    def output(self, shape: Shape) -> Shape:
        channels, *size = feature_map(shape)
        if self.channels < channels:
            raise ShapeError("E0206", f"cannot pad {channels} channels to {self.channels}", "channels")
        return self.channels, *size


@record(slots=False)
class Unflatten(Kind):
    """Reshapes a vector to a map of one position, with which linear layers can scale another map; or to the rows of one channel, so that
    a convolution relates neighbouring features (Wang et al. 2020, ECA-Net)."""

    word = "unflatten"
    to: str = attribute("word", "shape of the result", "map", words=("map", "rows"), main=True)
    rank: int = attribute("int", "number of axes of the map", 2, minimum=1, maximum=3)

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError("E0204", f"needs an input of [features], got {list(shape)}")
        ends = (1,) * self.rank
        if self.to == "rows":
            return 1, *enlarged(same((1, *ends)), (*shape, *ends[1:]), "to")
        return shape[0], *ends


@record(slots=False)
class Border(Kind):
    """Padding around a map, or cropping where sizes are negative: rows and columns, on maps of two axes.

    `zeros` adds zeros, `reflect` mirrors at the outermost position without repeating it, `replicate` repeats it.
    """

    word = "border"
    before: Size = attribute(
        "size",
        "positions before the first: rows above, columns to the left",
        (0, 0),
        minimum=-MAX_SIDE,
        maximum=MAX_SIDE,
    )
    after: Size = attribute(
        "size",
        "positions after the last: rows below, columns to the right",
        (0, 0),
        minimum=-MAX_SIDE,
        maximum=MAX_SIDE,
    )
    kind: str = attribute("word", "padding mode", "zeros", words=("zeros", "reflect", "replicate"))

    def axes(self, shape: Shape) -> Axes:
        return tuple(
            Axis(1, before + after, 1, self._least(before, after))
            for before, after in zip(self.before, self.after, strict=True)
        )

    def _least(self, before: int, after: int) -> int:
        """Return the smallest side that can be cut and mirrored so."""
        cut = -min(before, 0) - min(after, 0)
        return max(cut + 1, max(before, after) + 1 if self.kind == "reflect" else 1)

    def output(self, shape: Shape) -> Shape:
        channels, *sizes = feature_map(shape, self.before)
        for name, pair in (("before", self.before), ("after", self.after)):
            if self.kind != "zeros" and min(pair) < 0:
                message = f"of kind {self.kind} cannot remove rows or columns"
                raise ShapeError("E0205", message, name, "remove them in a border of their own")
        for axis, size, before, after in zip(self.axes(shape), sizes, self.before, self.after, strict=True):
            if size < axis.least:
                message = f"needs a side of at least {axis.least} positions, got {size_text(sizes)}"
                raise ShapeError("E0202", message, "before" if abs(before) >= abs(after) else "after")
        return channels, *enlarged(self.axes(shape), sizes, "after")


@record(slots=False)
class Shuffle(Kind):
    """Channel shuffle: the first channel of each group, then the second of each, ... (Zhang et al. 2018, ShuffleNet)."""

    word = "shuffle"
    groups: int = attribute("int", "number of channel groups", minimum=1, main=True)

    def output(self, shape: Shape) -> Shape:
        feature_map(shape)
        if shape[0] % self.groups:
            raise ShapeError("E0203", f"cannot divide {shape[0]} channels into {self.groups} groups", "groups")
        return shape


@record(slots=False)
class Part(Kind):
    """Selects one of several equal ranges of the channels."""

    word = "part"
    number: int = attribute("int", "index of the range, starting at 0", minimum=0)
    of: int = attribute("int", "number of ranges", minimum=1)

    def output(self, shape: Shape) -> Shape:
        output = divided(shape, self.of, "of")
        if self.number >= self.of:
            raise ShapeError("E0309", f"takes range {self.number} of {self.of}, but they count from 0", "number")
        return output


@record(slots=False)
class DepthToSpace(Kind):
    """Rearranges every size^2 channels into a block of positions, row by row (torch's pixel_shuffle). On maps of two axes only."""

    word = "depth_to_space"
    size: int = attribute("int", "side of the block", minimum=1, maximum=32, main=True)

    def axes(self, shape: Shape) -> Axes:
        return Axis(self.size), Axis(self.size)

    def output(self, shape: Shape) -> Shape:
        channels, *sizes = image_map(shape)
        if channels % self.size**2:
            message = f"cannot divide {channels} channels into blocks of {self.size**2}"
            raise ShapeError("E0203", message, "size")
        return channels // self.size**2, *enlarged(self.axes(shape), sizes, "size")


@record(slots=False)
class SpaceToDepth(Kind):
    """Rearranges every block of positions into size^2 channels, row by row (torch's pixel_unshuffle). On maps of two axes only."""

    word = "space_to_depth"
    size: int = attribute("int", "side of the block", minimum=1, maximum=32, main=True)

    def axes(self, shape: Shape) -> None:
        return None  # a side must divide by the block

    def output(self, shape: Shape) -> Shape:
        channels, height, width = image_map(shape)
        if height % self.size or width % self.size:
            message = f"cannot divide a map of {size_text((height, width))} into blocks of {self.size}x{self.size}"
            raise ShapeError("E0202", message, "size")
        return channels * self.size**2, height // self.size, width // self.size
