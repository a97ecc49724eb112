"""Functions and modules that a file requires and MLX lacks. Values are channels-last; vectors have no other axis."""

from __future__ import annotations

from rescompile.codegen.axis_texts import at_axes
from rescompile.codegen.channels_last import shared

from .random_merges import RANDOM_MERGES

#: By name; each follows those that it uses itself.
_TEXTS: dict[str, str] = {
    "torch_default": '''
def torch_default(shape: tuple[int, ...], weight: mx.array) -> mx.array:
    """Draw values of a layer with this weight uniformly within 1 / sqrt(fan_in), as PyTorch does."""
    bound = (weight.size // weight.shape[0]) ** -0.5
    return mx.random.uniform(-bound, bound, shape)
''',
    **shared("mx.array", "mx", "Sequential"),
    "Chain": '''
class Chain(nn.Module):
    """Modules called in sequence, each with a name."""

    def __init__(
        self, modules: dict[str, Callable[[mx.array], mx.array]] | None = None
    ) -> None:
        super().__init__()
        for name, module in (modules or {}).items():
            self[name] = module

    def __call__(self, x: mx.array) -> mx.array:
        for module in self.values():
            x = module(x)
        return x
''',
    "Numbered": '''
class Numbered(nn.Module):
    """A module with numbers as names, which `load_weights` takes for places in a list."""

    def __getitem__(self, key):
        if isinstance(key, int):
            return self.get(str(key), {})
        return super().__getitem__(key)

    def __len__(self) -> int:
        return max([int(key) + 1 for key in self.keys() if key.isdigit()], default=0)
''',
    "NumberedChain": '''
class NumberedChain(Numbered, Chain):
    """Modules called in sequence, with numbers that are not their positions as names."""
''',
    "recomputed": '''
def recomputed(
    module: nn.Module, method: Callable[[mx.array], mx.array], x: mx.array
) -> mx.array:
    """Call a method without storing its activations; backward calls it again.

    The second call draws the same random numbers and leaves running statistics alone.
    """
    parameters = module.trainable_parameters()
    key = mx.array(mx.random.state[0])
    calls = []

    def call(inner: dict, x: mx.array) -> mx.array:
        outer = module.parameters() if calls else parameters
        later = mx.array(mx.random.state[0])
        if calls:
            mx.random.state[0][:] = key
        module.update(inner)
        y = method(x)
        module.update(outer)
        if calls:
            mx.random.state[0][:] = later
        calls.append(method)
        return y

    return mx.checkpoint(call)(parameters, x)
''',
    **RANDOM_MERGES,
    **shared("mx.array", "mx", "pair", "triple", "pool_padding$d"),
    "max_pool$d": '''
def max_pool$d(
    x: mx.array,
    kernel: $size,
    stride: $size = 1,
    padding: $size = 0,
    ceil: bool = False,
) -> mx.array:
    """Take the maximum over windows, as torch.nn.functional.max_pool${n}d does."""
    pads = pool_padding$d(x, $each(kernel), $each(stride), $each(padding), ceil)
    x = mx.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-float("inf"))
    return nn.MaxPool${n}d(kernel, stride)(x)
''',
    "avg_pool$d": '''
def avg_pool$d(
    x: mx.array,
    kernel: $size,
    stride: $size = 1,
    padding: $size = 0,
    ceil: bool = False,
    count_pad: bool = True,
) -> mx.array:
    """Take the mean over windows, as torch.nn.functional.avg_pool${n}d does."""
    pads = pool_padding$d(x, $each(kernel), $each(stride), $each(padding), ceil)
    counted = mx.ones((1, *x.shape[1:-1], 1), x.dtype)
    if count_pad:  # what rounding up adds does not count
        $names = $given(padding)
        inner = [(0, 0), $around, (0, 0)]
        x, counted = mx.pad(x, inner), mx.pad(counted, inner, constant_values=1)
        pads = [$beyond]
    pool = nn.AvgPool${n}d(kernel, stride)
    pads = [(0, 0), *pads, (0, 0)]
    return pool(mx.pad(x, pads)) / pool(mx.pad(counted, pads))
''',
    "adaptive_avg_pool$d": '''
def adaptive_avg_pool$d(x: mx.array, size: $size) -> mx.array:
    """Take the means over windows, one for each position of the output."""
    for axis, count in zip($axes, $each(size)):
        n = x.shape[axis]
        if n != count:
            x = mx.moveaxis(x, axis, 0)
            ends = [(at * n // count, -(-(at + 1) * n // count)) for at in range(count)]
            means = [mx.mean(x[a:b], axis=0, keepdims=True) for a, b in ends]
            x = mx.moveaxis(mx.concatenate(means, axis=0), 0, axis)
    return x
''',
    **shared("mx.array", "mx", "flatten", "scale", "subsample$d", "pad_channels"),
    "hard_sigmoid": '''
def hard_sigmoid(x: mx.array) -> mx.array:
    """A sigmoid of three straight lines: 0 below -3, 1 above 3."""
    return mx.clip(x + 3, 0, 6) / 6
''',
    "local_response_norm": '''
def local_response_norm(
    x: mx.array, size: int, beta: float, k: float, alpha: float = 1.0
) -> mx.array:
    """Normalise by the mean square of `size` neighbouring channels."""
    channels = x.shape[-1]
    pads = [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)]
    squares = mx.pad(x * x, pads)
    total = squares[..., :channels]
    for at in range(1, size):
        total = total + squares[..., at : at + channels]
    return x / (k + alpha * total / size) ** beta
''',
    **shared("mx.array", "mx", "range_softmax"),
    "border$d": '''
def border$d(
    x: mx.array,
    before: $size,
    after: $size,
    mode: str = "constant",
) -> mx.array:
    """Add $positions around feature maps; negative numbers of zeros remove them."""
    $lows, $highs = $given(before), $given(after)
    $sides = x.shape[1:$last]
    $cut
    $padded
    return mx.pad(x, [(0, 0), $ends, (0, 0)], mode=mode)
''',
    **shared("mx.array", "mx", "channel_part", "channel_shuffle", "depth_to_space", "space_to_depth"),
    "grouped_conv3d": '''
def grouped_conv3d(
    x: mx.array,
    weight: mx.array,
    stride: int | tuple[int, int, int],
    padding: int | tuple[int, int, int],
    dilation: int | tuple[int, int, int],
    groups: int,
) -> mx.array:
    """Convolve volumes group by group: mx.conv3d takes one group only."""
    pairs = zip(mx.split(x, groups, axis=-1), mx.split(weight, groups))
    parts = [mx.conv3d(part, w, stride, padding, dilation) for part, w in pairs]
    return mx.concatenate(parts, axis=-1)
''',
    "GroupedConv3d": '''
class GroupedConv3d(nn.Conv3d):
    """Convolve volumes in groups of channels."""

    def __init__(
        self, in_channels: int, *sizes: int, groups: int = 1, **arguments
    ) -> None:
        super().__init__(in_channels // groups, *sizes, **arguments)
        self.groups = groups

    def __call__(self, x: mx.array) -> mx.array:
        y = grouped_conv3d(
            x, self.weight, self.stride, self.padding, self.dilation, self.groups
        )
        return y + self.bias if "bias" in self else y
''',
    "StandardisedConv${n}d": '''
class StandardisedConv${n}d($Conv):
    """Convolve with weights of mean 0 and variance 1 in each output channel."""

    def __init__(self, *sizes: int, eps: float = 1e-05, **arguments) -> None:
        super().__init__(*sizes, **arguments)
        self.eps = eps

    def kernel(self) -> mx.array:
        """The weights that are used."""
        mean = mx.mean(self.weight, axis=$outer, keepdims=True)
        variance = mx.var(self.weight, axis=$outer, keepdims=True)
        return (self.weight - mean) / mx.sqrt(variance + self.eps)

    def __call__(self, x: mx.array) -> mx.array:
        y = $convolve(
            x, self.kernel(), self.stride, self.padding, self.dilation, self.groups
        )
        return y + self.bias if "bias" in self else y
''',
    "ScaledConv${n}d": '''
class ScaledConv${n}d(StandardisedConv${n}d):
    """Convolve with weights of mean 0 and variance 1 over fan-in, times a learned gain."""

    def __init__(self, *sizes: int, gamma: float = 1.0, **arguments) -> None:
        super().__init__(*sizes, **arguments)
        out = self.weight.shape[0]
        self.gain = mx.ones((out, 1, $ones))
        self.factor = gamma / math.sqrt(self.weight.size // out)

    def kernel(self) -> mx.array:
        """The weights that are used."""
        return super().kernel() * (self.gain * self.factor)
''',
    "ConvTranspose${n}d": '''
class ConvTranspose${n}d(nn.Module):
    """Transposed convolution; its weight is that of the convolution from its output to its input: [in, $names, out / groups]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: $size,
        stride: $size = 1,
        padding: $size = 0,
        dilation: $size = 1,
        output_padding: $size = 0,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        shape = (in_channels, *$each(kernel_size), out_channels // groups)
        self.weight = torch_default(shape, mx.zeros(shape))
        if bias:
            self.bias = mx.zeros((out_channels,))
        self.arguments = (stride, padding, dilation, output_padding)
        self.groups = groups

    def __call__(self, x: mx.array) -> mx.array:
        values = mx.split(x, self.groups, axis=-1)
        weights = mx.split(mx.swapaxes(self.weight, 0, $last), self.groups, axis=$last)
        pairs = zip(values, weights)
        parts = [mx.conv_transpose${n}d(x, w, *self.arguments) for x, w in pairs]
        y = mx.concatenate(parts, axis=-1)
        return y + self.bias if "bias" in self else y
''',
    "BatchNorm": '''
class BatchNorm(nn.BatchNorm):
    """Batch normalisation whose running variance is biased, as in Flax and Keras."""

    def __call__(self, x: mx.array) -> mx.array:
        kept = (1 - self.momentum) * self.running_var
        y = super().__call__(x)
        if self.training:
            n = x.size // x.shape[-1]
            self.running_var = kept + (self.running_var - kept) * ((n - 1) / n)
        return y
''',
    "BatchNorm3d": '''
class BatchNorm3d(nn.BatchNorm):
    """Batch normalisation of volumes, whose axes nn.BatchNorm takes only as one."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(x.shape)
''',
    "BiasedBatchNorm3d": '''
class BiasedBatchNorm3d(BatchNorm3d, BatchNorm):
    """Batch normalisation of volumes whose running variance is biased."""
''',
    "WeightedSum": '''
class WeightedSum(nn.Module):
    """Add equal ranges of the channels, each multiplied by a learned share."""

    def __init__(self, ranges: int, softmax: bool = False, eps: float = 1e-05) -> None:
        super().__init__()
        self.softmax, self.eps = softmax, eps
        self.weight = mx.ones((ranges,))

    def __call__(self, x: mx.array) -> mx.array:
        shares = mx.softmax(self.weight) if self.softmax else nn.relu(self.weight)
        if not self.softmax:
            shares = shares / (shares.sum() + self.eps)
        parts = x.reshape(*x.shape[:-1], len(shares), -1)
        return (parts * shares[:, None]).sum(-2)
''',
    "Affine": '''
class Affine(nn.Module):
    """Multiply channels by learned factors and add learned offsets; one value serves all channels."""

    def __init__(
        self,
        channels: int = 1,
        scale: bool = True,
        shift: bool = True,
        scale_init: float = 1.0,
    ) -> None:
        super().__init__()
        if scale:
            self.weight = mx.full((channels,), scale_init)
        if shift:
            self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        if "weight" in self:
            x = x * self.weight
        return x + self.bias if "bias" in self else x
''',
}
#: The convolution by the number of axes, as a module and as a function: MLX convolves volumes without groups.
_CONVOLUTIONS = {1: ("nn.Conv1d", "mx.conv1d"), 2: ("nn.Conv2d", "mx.conv2d"), 3: ("GroupedConv3d", "grouped_conv3d")}
#: The variables of a border: the size of an axis, positions before its first and after its last one, and both.
_BORDERS = {
    1: (("length", "left", "right", "ends"),),
    2: (("height", "above", "below", "rows"), ("width", "left", "right", "columns")),
    3: (
        ("depth", "front", "back", "slices"),
        ("height", "above", "below", "rows"),
        ("width", "left", "right", "columns"),
    ),
}


def _words(axes: int) -> dict[str, str]:
    """Return words of the texts for maps with this many axes."""
    conv, convolve = _CONVOLUTIONS[axes]
    sides, lows, highs, ends = zip(*_BORDERS[axes], strict=True)
    grouped = "({})" if axes > 1 else "{}"
    pads = [f"(max({low}, 0), max({high}, 0))" for low, high in zip(lows, highs, strict=True)]
    # One assignment of the ends of three axes would be too long for a line.
    assigned = [(", ".join(ends), ", ".join(pads))] if axes < 3 else [*zip(ends, pads, strict=True)]
    cut = (
        f"x = x[{':, ' * at}max(-{low}, 0) : {size} + min({high}, 0)]"
        for at, (size, low, high, _) in enumerate(_BORDERS[axes], 1)
    )
    return {
        "Conv": conv,
        "convolve": convolve,
        "sides": ", ".join(sides) if axes > 1 else f"({sides[0]},)",
        "lows": grouped.format(", ".join(lows)),
        "highs": grouped.format(", ".join(highs)),
        "cut": "\n    ".join(cut),
        "ends": ", ".join(ends),
        "padded": "\n    ".join(f"{names} = {values}" for names, values in assigned),
    }


SUPPORT = at_axes(_TEXTS, {axes: _words(axes) for axes in _BORDERS})
