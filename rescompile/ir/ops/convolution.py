"""The convolution: its shape rule, its groups, its parameters and cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.ops.linear import DEFAULT_INIT, INIT_RULES, weight_and_bias
from rescompile.ir.ops.op import Axes, Kind, Parameter, Shape, Size, attribute, feature_map, size_text
from rescompile.ir.ops.window import window_axes, window_size


@dataclass(frozen=True)
class Conv(Kind):
    """2-d convolution."""

    word = "conv"
    channels: int = attribute("int", "output channels", minimum=1)
    kernel: Size = attribute("size", "kernel size", minimum=1)
    stride: Size = attribute("size", "stride", (1, 1), minimum=1)
    padding: Size | str = attribute(
        "size", "padding; same = (kernel - 1) * dilation / 2", "same", minimum=0, words=("same",)
    )
    dilation: Size = attribute("size", "dilation", (1, 1), minimum=1)
    groups: int = attribute("int", "number of channel groups", 1, minimum=1)
    bias: bool = attribute("bool", "add a bias", False)
    bias_init: float | str = attribute("real", "initial value of the bias", 0.0, words=("torch_default",))
    init: str = attribute("word", "initialisation of the weights", DEFAULT_INIT, words=INIT_RULES)

    def __post_init__(self) -> None:
        if self.padding == "same":
            if any(k % 2 == 0 for k in self.kernel):
                raise ShapeError(
                    "E0205",
                    f"has padding 'same', which needs an odd kernel, but its kernel is {size_text(self.kernel)}",
                    "kernel",
                    "give the padding as a number",
                )
            h, w = ((k - 1) * d // 2 for k, d in zip(self.kernel, self.dilation, strict=True))
            object.__setattr__(self, "padding", (h, w))

    @property
    def pads(self) -> Size:
        """The padding of height and width as numbers."""
        assert not isinstance(self.padding, str)
        return self.padding

    def axes(self, shape: Shape) -> Axes:
        return window_axes(self.kernel, self.stride, self.pads, self.dilation)

    def output(self, shape: Shape) -> Shape:
        channels, height, width = feature_map(shape)
        if self.channels % self.groups:
            raise ShapeError(
                "E0203", f"cannot divide {self.channels} output channels into {self.groups} groups", "channels"
            )
        if channels % self.groups:
            raise ShapeError("E0203", f"cannot divide {channels} input channels into {self.groups} groups", "groups")
        size = window_size((height, width), self.kernel, self.stride, self.pads, self.dilation)
        return self.channels, *size

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        weight = (self.channels, shape[0] // self.groups, *self.kernel)
        fan_in, fan_out = math.prod(weight[1:]), weight[0] * math.prod(weight[2:])
        return weight_and_bias(weight, self.init, self.bias, self.bias_init, fan_in, fan_out)

    def macs(self, shape: Shape) -> int:
        return math.prod(self.output(shape)) * (shape[0] // self.groups) * math.prod(self.kernel)
