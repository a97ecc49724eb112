"""Functions and layers that a file requires and Keras lacks. Values are channels-last; vectors have no other axis."""

from __future__ import annotations

from rescompile.codegen.axis_texts import at_axes
from rescompile.codegen.channels_last import shared

from .convolutions import CALL, CONVOLUTIONS
from .random_merges import RANDOM_MERGES

#: By name; each follows those that it uses. Each layer has a new initialiser: a shared one draws equal values for all.
_TEXTS: dict[str, str] = {
    "he_fan_out": '''
def he_fan_out() -> keras.Initializer:
    """Initialise kernels for ReLU by their fan-out (He et al. 2015)."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
''',
    "he_fan_in": '''
def he_fan_in() -> keras.Initializer:
    """Initialise kernels for ReLU by their fan-in (He et al. 2015)."""
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
''',
    "torch_default": '''
def torch_default() -> keras.Initializer:
    """Initialise kernels uniformly within 1 / sqrt(fan_in), as PyTorch does."""
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
''',
    "once": '''
def once(
    made: dict[str, layers.Layer], layer: Callable[..., layers.Layer]
) -> Callable[..., layers.Layer]:
    """Return a function that builds a layer, or finds that of the same name in `made`."""

    def build(*sizes: int, name: str, **arguments) -> layers.Layer:
        if name not in made:
            made[name] = layer(*sizes, name=name, **arguments)
        return made[name]

    return build
''',
    **shared("KerasTensor", "ops", "pair", "triple"),
    **CONVOLUTIONS,
    **RANDOM_MERGES,
    "pool_padding$d": '''
def pool_padding$d(
    x: KerasTensor,
    kernel: $tuple,
    stride: $tuple,
    padding: $tuple,
    ceil: bool,
) -> list[tuple[int, int]]:
    """The padding before and after each axis of a pool; `ceil` rounds the output size up."""
    pads = []
    for size, k, s, p in zip(x.shape[1:$last], kernel, stride, padding):
        far = p + s - 1 if ceil else p  # of an axis of any size
        if ceil and size is not None:
            steps = -((k - size - 2 * p) // s)
            if steps * s >= size + p:  # the last window would start in the far padding
                steps = steps - 1
            far = max(p, steps * s + k - size - p)
        pads.append((p, far))
    return pads
''',
    "max_pool$d": '''
def max_pool$d(
    x: KerasTensor,
    kernel: $size,
    stride: $size,
    padding: $size = 0,
    ceil: bool = False,
) -> KerasTensor:
    """Take the maximum over windows; what is padded is minus infinity."""
    pads = pool_padding$d(x, $each(kernel), $each(stride), $each(padding), ceil)
    x = ops.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-math.inf)
    return layers.MaxPooling${n}D(kernel, strides=stride)(x)
''',
    "avg_pool$d": '''
def avg_pool$d(
    x: KerasTensor,
    kernel: $size,
    stride: $size,
    padding: $size = 0,
    ceil: bool = False,
    count_pad: bool = True,
) -> KerasTensor:
    """Take the mean over windows, as torch.nn.functional.avg_pool${n}d does."""
    pads = pool_padding$d(x, $each(kernel), $each(stride), $each(padding), ceil)
    pool = layers.AveragePooling${n}D(kernel, strides=stride)
    means = pool(layers.ZeroPadding${n}D(${star}pads)(x))
    if count_pad and not ceil:
        return means
    counted = ops.ones_like(x[:, $colons, :1])
    if count_pad:  # what rounding up adds does not count
        own = [(size, size) for size in $each(padding)]
        counted = ops.pad(counted, [(0, 0), *own, (0, 0)], constant_values=1)
        pads = [(0, far - size) for (_, far), (size, _) in zip(pads, own)]
    return means / pool(layers.ZeroPadding${n}D(${star}pads)(counted))
''',
    "adaptive_avg_pool$d": '''
def adaptive_avg_pool$d(x: KerasTensor, size: $size) -> KerasTensor:
    """Take the means over windows, one for each position of the output."""
    for axis, count in zip($axes, $each(size)):
        n = x.shape[axis]
        if n != count:
            ends = [(at * n // count, -(-(at + 1) * n // count)) for at in range(count)]
            bins = [$part for a, b in ends]
            means = [ops.mean(part, axis=axis, keepdims=True) for part in bins]
            x = ops.concatenate(means, axis=axis)
    return x
''',
    "flatten$d": '''
def flatten$d(x: KerasTensor) -> KerasTensor:
    """Flatten feature maps channel by channel, as PyTorch does."""
    return layers.Flatten()(layers.Permute($first)(x) if len(x.shape) == $dimensions else x)
''',
    "upsample_linear1d": '''
def upsample_linear1d(x: KerasTensor, factor: int) -> KerasTensor:
    """Enlarge series by linear interpolation."""
    enlarge = layers.UpSampling2D((factor, 1), interpolation="bilinear")
    return ops.squeeze(enlarge(ops.expand_dims(x, axis=2)), axis=2)
''',
    "upsample_linear3d": '''
def upsample_linear3d(x: KerasTensor, factor: int | tuple[int, int, int]) -> KerasTensor:
    """Enlarge volumes by linear interpolation: along their depth, then slice by slice."""
    frames, rows, columns = triple(factor)
    depth, height, width, channels = x.shape[1:]
    y = ops.reshape(x, (-1, depth, height * width, channels))
    y = layers.UpSampling2D((frames, 1), interpolation="bilinear")(y)
    y = ops.reshape(y, (-1, height, width, channels))
    y = layers.UpSampling2D((rows, columns), interpolation="bilinear")(y)
    return ops.reshape(y, (-1, depth * frames, height * rows, width * columns, channels))
''',
    **shared("KerasTensor", "ops", "scale"),
    "pad_channels": '''
def pad_channels(x: KerasTensor, channels: int) -> KerasTensor:
    """Zero-pad the channels to a total of `channels`."""
    return ops.pad(x, [(0, 0)] * (len(x.shape) - 1) + [(0, channels - x.shape[-1])])
''',
    "local_response_norm": '''
def local_response_norm(
    x: KerasTensor, size: int, alpha: float, beta: float, k: float
) -> KerasTensor:
    """Normalise by the mean square of `size` neighbouring channels."""
    own = [(0, 0)] * (len(x.shape) - 1)
    squares = ops.pad(ops.square(x), [*own, (size // 2, size // 2)])
    windows = [squares[..., at : at + x.shape[-1]] for at in range(size)]
    mean = ops.mean(ops.stack(windows, axis=-1), axis=-1)
    return x / (k + alpha * mean) ** beta
''',
    "range_softmax": '''
def range_softmax(x: KerasTensor, ranges: int) -> KerasTensor:
    """Softmax over equal ranges of the channels, channel by channel."""
    y = ops.softmax(ops.stack(ops.split(x, ranges, axis=-1), axis=-1), axis=-1)
    return ops.concatenate([y[..., at] for at in range(ranges)], axis=-1)
''',
    "border$d": '''
def border$d(
    x: KerasTensor,
    before: $size,
    after: $size,
    mode: str = "zeros",
) -> KerasTensor:
    """Add $positions around feature maps; negative numbers of zeros remove them."""
    ends = [(low, high) for low, high in zip($each(before), $each(after))]
    if mode == "zeros":
        cut = [(max(-low, 0), max(-high, 0)) for low, high in ends]
        more = [(max(low, 0), max(high, 0)) for low, high in ends]
        return layers.ZeroPadding${n}D(${star}more)(layers.Cropping${n}D(${star}cut)(x))
    for axis, (low, high) in zip($axes, ends):
        y = $front
        if mode == "reflect":
            first = ops.flip(y[:, 1 : low + 1], axis=1)
            last = ops.flip(y[:, -high - 1 : -1], axis=1)
        else:
            first = ops.repeat(y[:, :1], low, axis=1)
            last = ops.repeat(y[:, -1:], high, axis=1)
        y = ops.concatenate([first] * (low > 0) + [y] + [last] * (high > 0), axis=1)
        x = $back
    return x
''',
    **shared("KerasTensor", "ops", "channel_part"),
    "channel_shuffle": '''
def channel_shuffle(x: KerasTensor, groups: int) -> KerasTensor:
    """Take the first channel of each group, then the second of each, and so on."""
    channels = x.shape[-1]
    size = channels // groups
    order = [at % groups * size + at // groups for at in range(channels)]
    return ops.take(x, order, axis=-1)
''',
    "depth_to_space": '''
def depth_to_space(x: KerasTensor, size: int) -> KerasTensor:
    """Move channels to blocks of positions, as torch.nn.PixelShuffle does."""
    blocks = size * size
    channels = x.shape[-1] // blocks
    order = [channel * blocks + at for at in range(blocks) for channel in range(channels)]
    return ops.depth_to_space(ops.take(x, order, axis=-1), size) if size > 1 else x
''',
    "space_to_depth": '''
def space_to_depth(x: KerasTensor, size: int) -> KerasTensor:
    """Move blocks of positions to channels, as torch.nn.PixelUnshuffle does."""
    blocks = [x[:, row::size, col::size] for row in range(size) for col in range(size)]
    channels = x.shape[-1]
    order = [range(start, channels * size**2, channels) for start in range(channels)]
    order = [at for places in order for at in places]
    return ops.take(ops.concatenate(blocks, axis=-1), order, axis=-1)
''',
    "BatchNormalization": '''
@keras.saving.register_keras_serializable()
class BatchNormalization(layers.BatchNormalization):
    """Batch normalisation whose running variance is unbiased, as in PyTorch."""

    def call(
        self, inputs: KerasTensor, training: bool | None = None, mask: None = None
    ) -> KerasTensor:
        before = self.moving_variance * self.momentum
        y = super().call(inputs, training=training, mask=mask)
        if training and self.trainable:
            count = ops.cast(ops.size(inputs) // inputs.shape[-1], before.dtype)
            biased = self.moving_variance - before
            more = biased / ops.maximum(count - 1, 1)
            self.moving_variance.assign(self.moving_variance + more)
        return y
''',
    "WeightedSum": '''
@keras.saving.register_keras_serializable()
class WeightedSum(layers.Layer):
    """Add equal ranges of the channels, each multiplied by a learned share."""

    def __init__(
        self, ranges: int, softmax: bool = False, eps: float = 1e-05, **arguments
    ) -> None:
        super().__init__(**arguments)
        self.ranges, self.softmax, self.eps = ranges, softmax, eps

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (self.ranges,)
        self.weight = self.add_weight(shape=shape, initializer="ones", name="weight")

    def call(self, x: KerasTensor) -> KerasTensor:
        shares = ops.softmax(self.weight) if self.softmax else ops.relu(self.weight)
        if not self.softmax:
            shares = shares / (ops.sum(shares) + self.eps)
        parts = ops.stack(ops.split(x, self.ranges, axis=-1), axis=-1)
        return ops.sum(parts * shares, axis=-1)

    def get_config(self) -> dict:
        own = {"ranges": self.ranges, "softmax": self.softmax, "eps": self.eps}
        return {**super().get_config(), **own}
''',
    "Affine": '''
@keras.saving.register_keras_serializable()
class Affine(layers.Layer):
    """Multiply channels by learned factors and add learned offsets; or one for all channels."""

    def __init__(
        self,
        use_scale: bool = True,
        use_bias: bool = True,
        per_channel: bool = True,
        scale_init: float = 1.0,
        **arguments,
    ) -> None:
        super().__init__(**arguments)
        self.use_scale, self.use_bias = use_scale, use_bias
        self.per_channel, self.scale_init = per_channel, scale_init

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = (input_shape[-1] if self.per_channel else 1,)
        if self.use_scale:
            start = keras.initializers.Constant(self.scale_init)
            self.scale = self.add_weight(shape=shape, initializer=start, name="scale")
        if self.use_bias:
            self.bias = self.add_weight(shape=shape, initializer="zeros", name="bias")

    def call(self, x: KerasTensor) -> KerasTensor:
        if self.use_scale:
            x = x * self.scale
        return x + self.bias if self.use_bias else x

    def get_config(self) -> dict:
        own = {"use_scale": self.use_scale, "use_bias": self.use_bias}
        own.update(per_channel=self.per_channel, scale_init=self.scale_init)
        return {**super().get_config(), **own}
''',
}
_SEVERAL = {"call": "", "star": ""}
#: Words of the texts by the number of axes: a layer of one axis takes the ends of its only axis, not a list of pairs.
_WORDS = {
    1: {"call": CALL, "star": "*", "part": "x[:, a:b]", "front": "x", "back": "y"},
    2: {
        **_SEVERAL,
        "part": "x[:, a:b] if axis == 1 else x[:, :, a:b]",
        "front": "x if axis == 1 else ops.transpose(x, (0, 2, 1, 3))",
        "back": "y if axis == 1 else ops.transpose(y, (0, 2, 1, 3))",
    },
    3: {
        **_SEVERAL,
        "part": "ops.take(x, [*range(a, b)], axis=axis)",
        "front": "ops.swapaxes(x, 1, axis)",
        "back": "ops.swapaxes(y, 1, axis)",
    },
}
SUPPORT = at_axes(_TEXTS, _WORDS)
