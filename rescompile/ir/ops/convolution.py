"""The convolution and its transpose: shape rules, groups, parameters and cost."""

from __future__ import annotations

import math
from dataclasses import replace

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.ops.linear import DEFAULT_INIT, INIT_RULES, weight_and_bias
from rescompile.ir.ops.op import Axes, Axis, Kind, Parameter, Shape, Size, attribute, enlarged, feature_map, size_text
from rescompile.ir.ops.window import window_axes, window_size
from rescompile.records import record


@record(slots=False)
class Conv(Kind):
    """Convolution over all axes of the map.

    With `weights: standardised`, the weights of each output channel have their mean subtracted and are divided by
    sqrt(variance + eps) before they are used (Qiao et al. 2019; BiT, Kolesnikov et al. 2020). With `weights: scaled`, they are then
    divided by the square root of the fan-in, and multiplied by `gamma` and by a learned gain of the channel (Brock et al. 2021,
    NF-ResNet).
    """

    word = "conv"
    chooser = "weights"
    channels: int = attribute("int", "output channels", minimum=1)
    kernel: Size = attribute("size", "kernel size", minimum=1)
    stride: Size = attribute("size", "stride", (1, 1), minimum=1)
    padding: Size | str = attribute(
        "size", "padding; same = (kernel - 1) * dilation / 2", "same", minimum=0, words=("same",)
    )
    dilation: Size = attribute("size", "dilation", (1, 1), minimum=1)
    groups: int = attribute("int", "number of channel groups", 1, minimum=1)
    bias: bool = attribute("bool", "add a bias", False)
    bias_init: float | str = attribute("real", "initial value of the bias", 0.0, words=("torch_default",), needs="bias")
    init: float | str = attribute(
        "real", "initial weights: a rule, or a number for all", DEFAULT_INIT, words=INIT_RULES
    )
    init_scale: float = attribute("real", "factor of the initial weights", 1.0, minimum=0.0)
    weights: str = attribute(
        "word", "transformation of the weights before they are used", "plain", words=("plain", "standardised", "scaled")
    )
    eps: float = attribute(
        "real", "added to the variance of weights", 1e-5, minimum=0.0, maximum=1.0, only=("standardised", "scaled")
    )
    gamma: float = attribute("real", "constant factor of the weights", 1.0, only=("scaled",))

    def __post_init__(self) -> None:
        if self.padding == "same":
            if any(k % 2 == 0 for k in self.kernel):
                raise ShapeError(
                    "E0205",
                    f"has padding 'same', which needs an odd kernel, but its kernel is {size_text(self.kernel)}",
                    "kernel",
                    "give the padding as a number",
                )
            half = tuple((k - 1) * d // 2 for k, d in zip(self.kernel, self.dilation, strict=True))
            object.__setattr__(self, "padding", half)

    @property
    def pads(self) -> Size:
        """The padding of each axis as numbers."""
        assert not isinstance(self.padding, str)
        return self.padding

    @property
    def is_plain(self) -> bool:
        """Whether the weights are used as they are."""
        return self.weights == "plain"

    @property
    def is_scaled(self) -> bool:
        """Whether the standardised weights are scaled, and have a learned gain."""
        return self.weights == "scaled"

    def axes(self, shape: Shape) -> Axes:
        return window_axes(self.kernel, self.stride, self.pads, self.dilation)

    def output(self, shape: Shape) -> Shape:
        channels, *sizes = feature_map(shape, self.kernel)
        _check_groups(self, channels)
        if not self.is_plain and channels // self.groups * math.prod(self.kernel) == 1:
            message = "standardises its weights, but each output channel has only one, so every weight would be 0"
            raise ShapeError("E0203", message, "weights", "write 'weights: plain'")
        size = window_size(sizes, self.kernel, self.stride, self.pads, self.dilation)
        return self.channels, *size

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        weight = (self.channels, shape[0] // self.groups, *self.kernel)
        fan_in, fan_out = math.prod(weight[1:]), weight[0] * math.prod(weight[2:])
        own = weight_and_bias(self, weight, fan_in, fan_out)
        if not self.is_scaled:
            return own
        return *own, Parameter("gain", (self.channels, *(1 for _ in weight[1:])), 1.0)

    def macs(self, shape: Shape) -> int:
        return math.prod(self.output(shape)) * (shape[0] // self.groups) * math.prod(self.kernel)


@record(slots=False)
class ConvTranspose(Kind):
    """Transposed convolution: each input position adds its multiple of the kernel to the output (torch's conv_transpose2d)."""

    word = "conv_transpose"
    channels: int = attribute("int", "output channels", minimum=1)
    kernel: Size = attribute("size", "kernel size", minimum=1)
    stride: Size = attribute("size", "stride", (1, 1), minimum=1, maximum=32)
    padding: Size = attribute("size", "positions removed on each side", (0, 0), minimum=0)
    output_padding: Size = attribute("size", "positions added at the end, less than the stride", (0, 0), minimum=0)
    dilation: Size = attribute("size", "dilation", (1, 1), minimum=1)
    groups: int = attribute("int", "number of channel groups", 1, minimum=1)
    bias: bool = attribute("bool", "add a bias", False)
    bias_init: float | str = attribute("real", "initial value of the bias", 0.0, words=("torch_default",), needs="bias")
    init: float | str = attribute(
        "real", "initial weights: a rule, or a number for all", DEFAULT_INIT, words=INIT_RULES
    )
    init_scale: float = attribute("real", "factor of the initial weights", 1.0, minimum=0.0)

    def axes(self, shape: Shape) -> Axes:
        rules = zip(self.kernel, self.stride, self.padding, self.output_padding, self.dilation, strict=True)
        return tuple(
            Axis(s, d * (k - 1) + 1 - s - 2 * p + end, 1, 1 + max(0, 2 * p - d * (k - 1) - end) // s)
            for k, s, p, end, d in rules
        )

    def output(self, shape: Shape) -> Shape:
        channels, *sizes = feature_map(shape, self.kernel)
        _check_groups(self, channels)
        if any(end >= s for end, s in zip(self.output_padding, self.stride, strict=True)):
            message = f"has output padding {size_text(self.output_padding)}, which must be less than its stride {size_text(self.stride)}"
            raise ShapeError("E0205", message, "output_padding")
        return self.channels, *enlarged(self.axes(shape), sizes, "padding")

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        weight = (shape[0], self.channels // self.groups, *self.kernel)
        fan_in, fan_out = math.prod(weight[1:]), weight[0] * math.prod(weight[2:])
        kernel, *bias = weight_and_bias(self, weight, fan_in, fan_out)
        return kernel, *(replace(each, shape=(self.channels,)) for each in bias)

    def macs(self, shape: Shape) -> int:
        return math.prod(shape) * (self.channels // self.groups) * math.prod(self.kernel)


def _check_groups(op: Conv | ConvTranspose, channels: int) -> None:
    """Raise ShapeError where the groups do not divide the channels of the input or those of the output."""
    for name, count, key in (("output", op.channels, "channels"), ("input", channels, "groups")):
        if count % op.groups:
            raise ShapeError("E0203", f"cannot divide {count} {name} channels into {op.groups} groups", key)
