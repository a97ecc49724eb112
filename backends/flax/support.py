"""Constants, functions and modules that a file requires and Flax lacks. Values are channels-last; vectors
have no other axis."""

from __future__ import annotations

from rescompile.codegen.axis_texts import at_axes
from rescompile.codegen.channels_last import shared

from .random_merges import RANDOM_MERGES

#: By name; each follows those that it uses itself. Constants occupy one line.
_TEXTS: dict[str, str] = {
    "HE_FAN_OUT": 'HE_FAN_OUT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")',
    "HE_FAN_IN": 'HE_FAN_IN = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")',
    "TORCH_DEFAULT": 'TORCH_DEFAULT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")',
    "bias_uniform": '''
def bias_uniform(
    channels: int, kernel_size: tuple[int, ...] = ()
) -> Callable[..., jax.Array]:
    """Initialise biases uniformly within 1 / sqrt(fan_in), as PyTorch does."""
    bound = (channels * math.prod(kernel_size)) ** -0.5
    return lambda key, shape, dtype: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )
''',
    **shared("jax.Array", "jnp", "Sequential"),
    "Chain": '''
class Chain(nnx.Dict):
    """Modules called in sequence, each with a name; nnx.Dict alone forgets their order."""

    def __init__(
        self, modules: dict[str, Callable[..., jax.Array]] | None = None
    ) -> None:
        self.order = ()
        for name, module in (modules or {}).items():
            self.append(name, module)

    def append(self, name: str, module: Callable[..., jax.Array]) -> None:
        """Add a module at the end."""
        self[name] = module
        self.order = (*self.order, name)

    def __iter__(self):
        yield from self.order

    def __call__(self, x: jax.Array) -> jax.Array:
        for name in self.order:
            x = self[name](x)
        return x
''',
    "call": '''
def call(block: nnx.Module, x: jax.Array) -> jax.Array:
    """Call a block: one step of a scan."""
    return block(x)
''',
    "Scanned": '''
class Scanned(nnx.Dict):
    """Modules called in sequence. Those from `start` up to `stop` are equal: one module,
    `rest`, has their weights, stacked along a new first axis, and one scan runs them."""

    def __init__(
        self,
        modules: dict[int | str, nnx.Module],
        start: int,
        stop: int | None = None,
    ) -> None:
        named = [*modules.items()]
        equal = [module for _, module in named[start:stop]]
        graph, _ = nnx.split(equal[0])
        states = [nnx.state(module) for module in equal]
        weights = jax.tree.map(lambda *each: jnp.stack(each), *states)
        named[start:stop] = [("rest", nnx.merge(graph, weights))]
        self.order = ()
        for name, module in named:
            self[f"{name}"] = module
            self.order = (*self.order, f"{name}")

    def __call__(self, x: jax.Array) -> jax.Array:
        scan = nnx.scan(call, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        for name in self.order:
            x = scan(self[name], x) if name == "rest" else self[name](x)
        return x
''',
    "Probability": '''
class Probability(nnx.Variable):
    """A probability that the blocks of a scan may differ in."""
''',
    "stacked": '''
def stacked(
    name: str,
    header: dict[str, dict],
    variables: dict[str, nnx.Variable],
    read: Callable[[str], jax.Array],
) -> jax.Array:
    """Read a tensor; that of a scan may be in the file block by block. None if it lacks it."""
    if name in header:
        return read(name)
    row, _, inner = name.partition(".rest.")
    blocks = []
    for other in header:
        block = other[len(row) + 1 :].partition(".")[0]
        if other not in variables and other == f"{row}.{block}.{inner}":
            blocks.append(other)
    return np.stack([read(block) for block in blocks]) if blocks else None
''',
    **RANDOM_MERGES,
    **shared("jax.Array", "jnp", "pair", "triple", "pool_padding$d"),
    "max_pool$d": '''
def max_pool$d(
    x: jax.Array,
    kernel: $size,
    stride: $size,
    padding: $size = 0,
    ceil: bool = False,
) -> jax.Array:
    """Take the maximum over windows, as torch.nn.functional.max_pool${n}d does."""
    pads = pool_padding$d(x, $each(kernel), $each(stride), $each(padding), ceil)
    return nnx.max_pool(x, $each(kernel), $each(stride), pads)
''',
    "avg_pool$d": '''
def avg_pool$d(
    x: jax.Array,
    kernel: $size,
    stride: $size,
    padding: $size = 0,
    ceil: bool = False,
    count_pad: bool = True,
) -> jax.Array:
    """Take the mean over windows, as torch.nn.functional.avg_pool${n}d does."""
    pads = pool_padding$d(x, $each(kernel), $each(stride), $each(padding), ceil)
    if count_pad:  # what rounding up adds does not count
        $names = $given(padding)
        x = jnp.pad(x, ((0, 0), $around, (0, 0)))
        pads = [$beyond]
    # An axis of one value is its own mean: XLA on CPUs (jax 0.10) adds wrongly in a window beyond it.
    alone = [n == 1 and before == 0 for n, (before, _) in zip(x.shape[1:-1], pads)]
    $window = [1 if single else k for single, k in zip(alone, $each(kernel))]
    pads = [(0, 0) if single else pad for single, pad in zip(alone, pads)]
    return nnx.avg_pool(x, $whole, $each(stride), pads, count_include_pad=False)
''',
    "adaptive_avg_pool$d": '''
def adaptive_avg_pool$d(x: jax.Array, size: $size) -> jax.Array:
    """Take the means over windows, one for each position of the output."""
    for axis, count in zip($axes, $each(size)):
        n = x.shape[axis]
        if n != count:
            ends = [(at * n // count, -(-(at + 1) * n // count)) for at in range(count)]
            bins = [jax.lax.slice_in_dim(x, a, b, axis=axis) for a, b in ends]
            means = [jnp.mean(part, axis=axis, keepdims=True) for part in bins]
            x = jnp.concatenate(means, axis=axis)
    return x
''',
    **shared("jax.Array", "jnp", "flatten", "scale", "subsample$d"),
    "upsample$d": '''
def upsample$d(x: jax.Array, factor: $size, method: str) -> jax.Array:
    """Enlarge feature maps."""
    $names = $given(factor)
    shape = (x.shape[0], $enlarged, x.shape[$last])
    return jax.image.resize(x, shape, method)
''',
    **shared("jax.Array", "jnp", "pad_channels"),
    "local_response_norm": '''
def local_response_norm(
    x: jax.Array, size: int, beta: float, k: float, alpha: float = 1.0
) -> jax.Array:
    """Normalise by the mean square of `size` neighbouring channels."""
    window, ones = (1,) * (x.ndim - 1) + (size,), (1,) * x.ndim
    pads = [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)]
    total = jax.lax.reduce_window(x * x, 0.0, jax.lax.add, window, ones, pads)
    return x / (k + alpha * total / size) ** beta
''',
    **shared("jax.Array", "jnp", "range_softmax"),
    "border$d": '''
def border$d(
    x: jax.Array,
    before: $size,
    after: $size,
    mode: str = "constant",
) -> jax.Array:
    """Add $positions around feature maps; negative numbers of zeros remove them."""
    pads = [(0, 0), *zip($each(before), $each(after)), (0, 0)]
    if mode != "constant":
        return jnp.pad(x, pads, mode=mode)
    lows_and_highs = [(low, high, 0) for low, high in pads]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), lows_and_highs)
''',
    **shared("jax.Array", "jnp", "channel_part", "channel_shuffle", "depth_to_space", "space_to_depth"),
    "StandardisedConv$d": '''
class StandardisedConv$d(nnx.Conv):
    """Convolve with weights of mean 0 and variance 1 in each output channel."""

    def __init__(self, *sizes: int, eps: float = 1e-05, **arguments) -> None:
        super().__init__(*sizes, **arguments)
        self.eps = eps

    def weights(self) -> jax.Array:
        """The kernel that is used."""
        kernel = self.kernel[...]
        kernel = kernel - jnp.mean(kernel, axis=$inputs, keepdims=True)
        variance = jnp.mean(kernel**2, axis=$inputs, keepdims=True)
        return kernel / jnp.sqrt(variance + self.eps)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x,
            self.weights(),
            $each(self.strides),
            [(size, size) for size in $each(self.padding)],
            rhs_dilation=$each(self.kernel_dilation),
            dimension_numbers=("N${letters}C", "${letters}IO", "N${letters}C"),
            feature_group_count=self.feature_group_count,
        )
        return y + self.bias[...] if self.use_bias else y
''',
    "ScaledConv$d": '''
class ScaledConv$d(StandardisedConv$d):
    """Convolve with weights of mean 0 and variance 1 over fan-in, times a learned gain."""

    def __init__(self, *sizes: int, gamma: float = 1.0, **arguments) -> None:
        super().__init__(*sizes, **arguments)
        $names, channels, out = self.kernel_shape
        self.gain = nnx.Param(jnp.zeros((1, $ones, out)) + 1)
        self.factor = gamma / math.sqrt($product * channels)

    def weights(self) -> jax.Array:
        """The kernel that is used."""
        return super().weights() * (self.gain[...] * self.factor)
''',
    "ConvTranspose$d": '''
class ConvTranspose$d(nnx.Module):
    """Transposed convolution with the sizes of torch.nn.ConvTranspose${n}d; the kernel is [$names, out, in]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: $tuple,
        strides: $size = 1,
        padding: $size = 0,
        output_padding: $size = 0,
        kernel_dilation: $size = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        *,
        kernel_init: Callable[..., jax.Array],
        bias_init: Callable[..., jax.Array] = nnx.initializers.zeros,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (*kernel_size, out_features // feature_group_count, in_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.use_bias = use_bias
        if use_bias:
            bias = bias_init(rngs.params(), (out_features,), jnp.float32)
            self.bias = nnx.Param(bias)
        self.strides = $each(strides)
        self.kernel_dilation = $each(kernel_dilation)
        self.groups = feature_group_count
        rules = zip(kernel_size, $each(kernel_dilation), $each(padding), $each(output_padding))
        self.padding = tuple(
            [(d * (k - 1) - p, d * (k - 1) - p + end) for k, d, p, end in rules]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        $names, out, _ = self.kernel.shape
        kernel = self.kernel[$flips]
        kernel = kernel.reshape($names, out, self.groups, -1)
        kernel = kernel.transpose($turned)
        y = jax.lax.conv_general_dilated(
            x,
            kernel.reshape($names, -1, out * self.groups),
            $units,
            self.padding,
            lhs_dilation=self.strides,
            rhs_dilation=self.kernel_dilation,
            dimension_numbers=("N${letters}C", "${letters}IO", "N${letters}C"),
            feature_group_count=self.groups,
        )
        return y + self.bias[...] if self.use_bias else y
''',
    "BatchNorm": '''
class BatchNorm(nnx.BatchNorm):
    """Batch normalisation whose running variance is unbiased, as in PyTorch."""

    def __call__(self, x: jax.Array) -> jax.Array:
        before = self.var[...]
        y = super().__call__(x)
        if not self.use_running_average:
            biased = self.var[...] - self.momentum * before
            self.var[...] += biased / max(x.size // x.shape[-1] - 1, 1)
        return y
''',
    "PReLU": '''
class PReLU(nnx.Module):
    """Multiply negative values by a learned slope, one for each channel or one for all."""

    def __init__(self, channels: int = 1, init: float = 0.25) -> None:
        self.negative_slope = nnx.Param(jnp.zeros((channels,)) + init)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, self.negative_slope[...] * x)
''',
    "WeightedSum": '''
class WeightedSum(nnx.Module):
    """Add equal ranges of the channels, each multiplied by a learned share."""

    def __init__(self, ranges: int, softmax: bool = False, eps: float = 1e-05) -> None:
        self.softmax, self.eps = softmax, eps
        self.weight = nnx.Param(jnp.zeros((ranges,)) + 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.weight[...]
        shares = nnx.softmax(weight) if self.softmax else nnx.relu(weight)
        if not self.softmax:
            shares = shares / (shares.sum() + self.eps)
        parts = x.reshape(*x.shape[:-1], len(shares), -1)
        return (parts * shares[:, None]).sum(-2)
''',
    "Affine": '''
class Affine(nnx.Module):
    """Multiply channels by learned factors and add learned offsets; one value serves all channels."""

    def __init__(
        self,
        channels: int = 1,
        use_scale: bool = True,
        use_bias: bool = True,
        scale_init: float = 1.0,
    ) -> None:
        self.use_scale, self.use_bias = use_scale, use_bias
        if use_scale:
            self.scale = nnx.Param(jnp.zeros((channels,)) + scale_init)
        if use_bias:
            self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.use_scale:
            x = x * self.scale[...]
        return x + self.bias[...] if self.use_bias else x
''',
}
#: The variables of a window by the number of axes.
_WINDOWS = {
    1: {"window": "(length,)", "whole": "(length,)"},
    2: {"window": "height, width", "whole": "(height, width)"},
    3: {"window": "d, h, w", "whole": "(d, h, w)"},
}
SUPPORT = at_axes(_TEXTS, _WINDOWS)
