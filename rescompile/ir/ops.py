"""The closed list of operators. Each declares its input, output, parameters and cost, once.

Shapes leave out the batch: `(channels, height, width)` for maps, `(features,)` for vectors.
MACs are multiply-adds of convolution and linear layers; biases, norms, activations, pools and merges count as none.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, ClassVar

from rescompile.diagnostics.errors import ShapeError

Shape = tuple[int, ...]
Size = tuple[int, int]

ACTIVATIONS = (
    "relu", "sigmoid", "tanh", "leaky_relu", "elu", "relu6", "silu", "gelu", "gelu_tanh", "hardswish",
)  # fmt: skip
#: Activations whose values lie between 0 and 1, as those of a gate must.
BOUNDED = ("sigmoid",)
INIT_RULES = ("he_normal_fan_out", "he_normal_fan_in", "torch_default")
DEFAULT_INIT = "he_normal_fan_out"
#: Positions along one side of an input, or of an upsampled map.
MAX_SIDE = 1 << 16


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor that an op owns. `fill` is a constant, or the rule that draws new values from the fans."""

    name: str
    shape: Shape
    fill: float | str
    fan_in: int = 0
    fan_out: int = 0
    trainable: bool = True
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Attribute:
    """What a spec may write for one attribute of an op.

    `type` is `int`, `real`, `bool` or `size` (a number or [height, width]); `words` are allowed beside it.
    `main` marks the attribute that is meant when the value is not a mapping (`dropout: 0.5`). `only` are the values of the
    op's `kind` with which the attribute has a meaning; none listed: all.
    """

    type: str
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    words: tuple[str, ...] = ()
    main: bool = False
    only: tuple[str, ...] = ()


def attribute(type: str, doc: str, default: Any = MISSING, **facts: Any) -> Any:
    """A dataclass field that carries its `Attribute`."""
    return field(default=default, metadata={"attribute": Attribute(type, doc, **facts)})


@dataclass(frozen=True, slots=True)
class Axis:
    """The size of one axis after an op: floor((times * n + plus) / by), for every n from `least` on."""

    times: int = 1
    plus: int = 0
    by: int = 1
    least: int = 1

    def __call__(self, n: int) -> int:
        """The size after the op."""
        return (self.times * n + self.plus) // self.by


Axes = tuple[Axis, Axis]
#: The axes of an op that keeps height and width.
SAME: Axes = (Axis(), Axis())


@dataclass(frozen=True)
class Kind:
    """Base of the operators: an identity without parameters or cost, unless a subclass overrides it."""

    word: ClassVar[str]

    def axes(self, shape: Shape) -> Axes | None:
        """What becomes of any height and width, where the input otherwise has this shape; None where the op takes maps of one
        size only, which is the default."""
        return None

    def output(self, shape: Shape) -> Shape:
        """The shape after the op. Raises ShapeError where the input does not fit."""
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """The tensors that the op owns when its input has this shape."""
        return ()

    def macs(self, shape: Shape) -> int:
        """Multiply-adds for one input of this shape."""
        return 0


def _map(shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ShapeError("E0204", f"needs an input of [channels, height, width], got {list(shape)}")
    return shape[0], shape[1], shape[2]


def _axis(kernel: int, stride: int, pad: int, dilation: int = 1, ceil: bool = False) -> Axis:
    """The axis after a sliding window: torch's rule, ceil rounding included."""
    reach = dilation * (kernel - 1) + 1
    plus = 2 * pad - reach + stride
    if ceil:  # the last window must start inside the map or its first padding
        plus = min(plus, pad) + stride - 1
    return Axis(1, plus, stride, max(stride - plus, stride if stride > 2 else 1))


def _axes(kernel: Size, stride: Size, pads: Size, dilation: Size = (1, 1), ceil: bool = False) -> Axes:
    height, width = (_axis(k, s, p, d, ceil) for k, s, p, d in zip(kernel, stride, pads, dilation, strict=True))
    return height, width


def _window(sizes: Size, kernel: Size, stride: Size, pads: Size, dilation: Size = (1, 1), ceil: bool = False) -> Size:
    """The output size of a sliding window."""
    out = []
    for n, k, s, p, d in zip(sizes, kernel, stride, pads, dilation, strict=True):
        if s > n > 1:  # a map of 1x1 loses nothing, any other would shrink by more than the stride
            raise ShapeError("E0202", f"has stride {s}, but its input is only {sizes[0]}x{sizes[1]}", "stride")
        size = _axis(k, s, p, d, ceil)(n)
        if size < 1:
            dilated = f" (kernel {k}, dilation {d})" if d > 1 else ""
            raise ShapeError(
                "E0202",
                f"has a window of {d * (k - 1) + 1} positions{dilated}, but its padded input has only {n + 2 * p}",
                "dilation" if d > 1 else "kernel",
            )
        out.append(size)
    return out[0], out[1]


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
                    f"has padding 'same', which needs an odd kernel, but its kernel is {_size(self.kernel)}",
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
        return _axes(self.kernel, self.stride, self.pads, self.dilation)

    def output(self, shape: Shape) -> Shape:
        channels, height, width = _map(shape)
        if self.channels % self.groups:
            raise ShapeError(
                "E0203", f"cannot divide {self.channels} output channels into {self.groups} groups", "channels"
            )
        if channels % self.groups:
            raise ShapeError("E0203", f"cannot divide {channels} input channels into {self.groups} groups", "groups")
        size = _window((height, width), self.kernel, self.stride, self.pads, self.dilation)
        return self.channels, *size

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        weight = (self.channels, shape[0] // self.groups, *self.kernel)
        fan_in, fan_out = math.prod(weight[1:]), weight[0] * math.prod(weight[2:])
        return _weight_and_bias(weight, self.init, self.bias, self.bias_init, fan_in, fan_out)

    def macs(self, shape: Shape) -> int:
        return math.prod(self.output(shape)) * (shape[0] // self.groups) * math.prod(self.kernel)


@dataclass(frozen=True)
class Linear(Kind):
    """Fully connected layer."""

    word = "linear"
    features: int = attribute("int", "output features", minimum=1, main=True)
    bias: bool = attribute("bool", "add a bias", True)
    bias_init: float | str = attribute("real", "initial value of the bias", 0.0, words=("torch_default",))
    init: str = attribute("word", "initialisation of the weights", DEFAULT_INIT, words=INIT_RULES)

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(
                "E0204",
                f"needs an input of [features], got {list(shape)}",
                help="add 'flatten' before it",
            )
        return (self.features,)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        weight = (self.features, shape[0])
        return _weight_and_bias(weight, self.init, self.bias, self.bias_init, shape[0], self.features)

    def macs(self, shape: Shape) -> int:
        return shape[0] * self.features


def _weight_and_bias(
    shape: Shape, init: str, bias: bool, bias_init: float | str, fan_in: int, fan_out: int
) -> tuple[Parameter, ...]:
    weight = Parameter("weight", shape, init, fan_in, fan_out)
    return (weight, Parameter("bias", shape[:1], bias_init, fan_in, fan_out)) if bias else (weight,)


@dataclass(frozen=True)
class Norm(Kind):
    """Normalisation, then a scale and a shift for each channel.

    With kind `batch`, of each channel over the batch (Ioffe & Szegedy 2015); running statistics take the batch's place in
    evaluation. With kind `group`, of each sample over every group of neighbouring channels (Wu & He 2018), in evaluation
    too, so what it computes never depends on the batch; one group is layer normalisation, a group for each channel instance
    normalisation.
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


@dataclass(frozen=True)
class Act(Kind):
    """Activation function.

    `silu` is x sigmoid(x), also called swish; `gelu` is x Phi(x), with Phi the distribution function of the standard normal
    distribution (Hendrycks & Gimpel 2016), and `gelu_tanh` its approximation by tanh; `elu` is alpha (exp(x) - 1) below zero
    (Clevert et al. 2016); `relu6` is min(max(x, 0), 6), and `hardswish` x relu6(x + 3) / 6 (Howard et al. 2019).
    """

    word = "act"
    kind: str = attribute("word", "activation function", "relu", words=ACTIVATIONS, main=True)
    slope: float = attribute("real", "slope below zero", 0.01, only=("leaky_relu",))
    alpha: float = attribute("real", "the output approaches -alpha far below zero", 1.0, minimum=0.0, only=("elu",))

    def axes(self, shape: Shape) -> Axes:
        return SAME


@dataclass(frozen=True)
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
                f"has padding {_size(self.padding)}, more than half of its kernel {_size(self.kernel)}",
                "padding",
            )

    @property
    def steps(self) -> Size:
        """The stride as numbers."""
        assert self.stride is not None
        return self.stride

    def axes(self, shape: Shape) -> Axes:
        return _axes(self.kernel, self.steps, self.padding, ceil=self.ceil)

    def output(self, shape: Shape) -> Shape:
        channels, *sizes = _map(shape)
        size = _window((sizes[0], sizes[1]), self.kernel, self.steps, self.padding, ceil=self.ceil)
        return channels, *size


@dataclass(frozen=True)
class AvgPool(MaxPool):
    """Mean over a window. `count_pad` says whether padding counts as zeros in the mean."""

    word = "avgpool"
    count_pad: bool = attribute("bool", "count padded zeros in the mean", True)


@dataclass(frozen=True)
class GlobalAvgPool(Kind):
    """Mean over the whole feature map, which gives a map of 1x1."""

    word = "global_avgpool"

    def axes(self, shape: Shape) -> Axes:
        return Axis(0, 1), Axis(0, 1)

    def output(self, shape: Shape) -> Shape:
        return _map(shape)[0], 1, 1


@dataclass(frozen=True)
class AdaptiveAvgPool(Kind):
    """Mean over windows, one for each position of the output (torch's adaptive_avg_pool2d)."""

    word = "adaptive_avgpool"
    size: Size = attribute("size", "output size", minimum=1, main=True)

    def axes(self, shape: Shape) -> Axes:
        return Axis(0, self.size[0]), Axis(0, self.size[1])

    def output(self, shape: Shape) -> Shape:
        return _map(shape)[0], *self.size


@dataclass(frozen=True)
class Flatten(Kind):
    """Feature map to vector, channels first."""

    word = "flatten"

    def output(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@dataclass(frozen=True)
class Dropout(Kind):
    """Dropout of individual values in training (Srivastava et al. 2014); the identity in evaluation."""

    word = "dropout"
    rate: float = attribute("real", "probability of dropping a value", minimum=0.0, maximum=1.0, main=True)

    def axes(self, shape: Shape) -> Axes:
        return SAME


@dataclass(frozen=True)
class Scale(Kind):
    """Multiplies by a constant."""

    word = "scale"
    factor: float = attribute("real", "constant factor", main=True)

    def axes(self, shape: Shape) -> Axes:
        return SAME


@dataclass(frozen=True)
class Subsample(Kind):
    """Every stride-th position of the feature map, starting with the first: x[:, :, ::s, ::s]."""

    word = "subsample"
    stride: Size = attribute("size", "distance between positions", minimum=1, main=True)

    def axes(self, shape: Shape) -> Axes:
        return _axes((1, 1), self.stride, (0, 0))

    def output(self, shape: Shape) -> Shape:
        channels, *sizes = _map(shape)
        return channels, *_window((sizes[0], sizes[1]), (1, 1), self.stride, (0, 0))


@dataclass(frozen=True)
class Upsample(Kind):
    """Larger feature map, by nearest or bilinear interpolation.

    As torch's interpolate, bilinear with align_corners=False.
    """

    word = "upsample"
    factor: Size = attribute("size", "scale factor of height and width", minimum=1, maximum=32, main=True)
    kind: str = attribute("word", "interpolation method", "nearest", words=("nearest", "bilinear"))

    def axes(self, shape: Shape) -> Axes:
        return Axis(self.factor[0]), Axis(self.factor[1])

    def output(self, shape: Shape) -> Shape:
        channels, height, width = _map(shape)
        larger = height * self.factor[0], width * self.factor[1]
        if max(larger) > MAX_SIDE:
            message = f"would produce a map of {_size(larger)}, but a side can have at most {MAX_SIDE:,} positions"
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
        channels, height, width = _map(shape)
        if self.channels < channels:
            raise ShapeError("E0206", f"cannot pad {channels} channels to {self.channels}", "channels")
        return self.channels, height, width


@dataclass(frozen=True)
class Identity(Kind):
    """Step that does nothing."""

    word = "identity"

    def axes(self, shape: Shape) -> Axes:
        return SAME


KINDS: tuple[type[Kind], ...] = (
    Conv, Linear, Norm, Act, MaxPool, AvgPool, GlobalAvgPool, AdaptiveAvgPool, Flatten, Dropout, Scale, Subsample,
    Upsample, PadChannels, Identity,
)  # fmt: skip

#: Every word of an op, with the attributes that the word itself fixes: `relu` is `act: {kind: relu}`.
WORDS: dict[str, tuple[type[Kind], dict[str, str]]] = {
    **{kind.word: (kind, {}) for kind in KINDS},
    **{word: (Act, {"kind": word}) for word in ACTIVATIONS},
}


@cache
def attributes(word: str) -> dict[str, Attribute]:
    """The attributes that a spec may give to this word of an op."""
    kind, fixed = WORDS[word]
    listed = {f.name: f.metadata["attribute"] for f in fields(kind) if f.name not in fixed}
    if "kind" not in fixed:
        return listed
    return {name: facts for name, facts in listed.items() if not facts.only or fixed["kind"] in facts.only}


@cache
def required(word: str) -> tuple[str, ...]:
    """The attributes of this word that have no default."""
    kind, fixed = WORDS[word]
    return tuple(f.name for f in fields(kind) if f.default is MISSING and f.name not in fixed)


@cache
def main_attribute(word: str) -> str | None:
    """The attribute that a bare value stands for, if the word has one."""
    return next((name for name, facts in attributes(word).items() if facts.main), None)


def _fitting(channels: int, groups: int) -> str:
    """The nearest numbers of groups that divide the channels."""
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    lower = max(n for n in divisors if n <= groups)
    upper = next((n for n in divisors if n > groups), None)
    return f"use {lower} groups" if upper is None else f"use {lower} or {upper} groups"


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
