"""Pooling: over windows, over the whole map, and to a given size."""

from __future__ import annotations

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.ops.op import Axes, Axis, Kind, Shape, Size, attribute, feature_map, rank, size_text
from rescompile.ir.ops.window import window_axes, window_size
from rescompile.records import record


@record(slots=False)
class MaxPool(Kind):
    """Maximum over a window. The stride defaults to the kernel."""

    word = "maxpool"
    kernel: Size = attribute("size", "window size", minimum=1)
    stride: Size | None = attribute("size", "stride (default: the kernel)", None, minimum=1)
    padding: Size = attribute("size", "padding, at most half the kernel", (0, 0), minimum=0)
    ceil: bool = attribute("bool", "round the output size up", False)

    def __post_init__(self) -> None:
        if self.stride is None:
            object.__setattr__(self, "stride", self.kernel)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise ShapeError(
                "E0205",
                f"has padding {size_text(self.padding)}, more than half of its kernel {size_text(self.kernel)}",
                "padding",
            )

    @property
    def steps(self) -> Size:
        """The stride as numbers."""
        assert self.stride is not None
        return self.stride

    def axes(self, shape: Shape) -> Axes:
        return window_axes(self.kernel, self.steps, self.padding, ceil=self.ceil)

    def output(self, shape: Shape) -> Shape:
        channels, *sizes = feature_map(shape, self.kernel)
        return channels, *window_size(sizes, self.kernel, self.steps, self.padding, ceil=self.ceil)


@record(slots=False)
class AvgPool(MaxPool):
    """Mean over a window. `count_pad` determines whether padding counts as zeros in the mean."""

    word = "avgpool"
    count_pad: bool = attribute("bool", "count padded zeros in the mean", True)


@record(slots=False)
class GlobalAvgPool(Kind):
    """Mean over the whole feature map, which gives a map of one position."""

    word = "global_avgpool"

    def axes(self, shape: Shape) -> Axes:
        return (Axis(0, 1),) * rank(shape)

    def output(self, shape: Shape) -> Shape:
        return feature_map(shape)[0], *(1 for _ in shape[1:])


@record(slots=False)
class GlobalMaxPool(GlobalAvgPool):
    """Maximum over the whole feature map, which gives a map of one position."""

    word = "global_maxpool"


@record(slots=False)
class Reduce(Kind):
    """Mean or maximum over the channels of each position, which gives a map of one channel (Woo et al. 2018, CBAM)."""

    word = "reduce"
    by: str = attribute("word", "reduction over the channels", words=("mean", "max"), main=True)

    def output(self, shape: Shape) -> Shape:
        return 1, *feature_map(shape)[1:]


@record(slots=False)
class AdaptiveAvgPool(Kind):
    """Mean over windows, one for each position of the output (torch's adaptive_avg_pool2d)."""

    word = "adaptive_avgpool"
    size: Size = attribute("size", "output size", minimum=1, main=True)

    def axes(self, shape: Shape) -> Axes:
        return tuple(Axis(0, n) for n in self.size)

    def output(self, shape: Shape) -> Shape:
        return feature_map(shape, self.size)[0], *self.size
