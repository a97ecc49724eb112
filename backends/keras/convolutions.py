"""Convolutions whose padding, strides and weights Keras lacks."""

from __future__ import annotations

from rescompile.codegen.channels_last import shared

#: The call of `layers.Conv1D` does not use `convolution_op`, as those of the other convolutions do.
CALL = """
    def call(self, inputs: KerasTensor) -> KerasTensor:
        y = self.convolution_op(inputs, self.kernel)
        return y + self.bias if self.use_bias else y
"""
#: By name; each follows those that it uses itself.
CONVOLUTIONS: dict[str, str] = {
    "bias_uniform$d": '''
def bias_uniform$d(channels: int, kernel_size: $size = 1) -> keras.Initializer:
    """Initialise biases uniformly within 1 / sqrt(fan_in), as PyTorch does."""
    bound = (channels * math.prod($each(kernel_size))) ** -0.5
    return keras.initializers.RandomUniform(-bound, bound)
''',
    "StandardisedConv${n}D": '''
@keras.saving.register_keras_serializable()
class StandardisedConv${n}D(layers.Conv${n}D):
    """Convolve with weights of mean 0 and variance 1 in each output channel."""

    def __init__(self, *sizes: int, eps: float = 1e-05, **arguments) -> None:
        super().__init__(*sizes, **arguments)
        self.eps = eps

    def standardised(self, kernel: KerasTensor) -> KerasTensor:
        """The kernel that is used."""
        kernel = kernel - ops.mean(kernel, axis=$inputs, keepdims=True)
        variance = ops.mean(ops.square(kernel), axis=$inputs, keepdims=True)
        return kernel / ops.sqrt(variance + self.eps)

    def convolution_op(self, inputs: KerasTensor, kernel: KerasTensor) -> KerasTensor:
        return super().convolution_op(inputs, self.standardised(kernel))
$call
    def get_config(self) -> dict:
        return {**super().get_config(), "eps": self.eps}
''',
    "ScaledConv${n}D": '''
@keras.saving.register_keras_serializable()
class ScaledConv${n}D(StandardisedConv${n}D):
    """Convolve with weights of mean 0 and variance 1 over fan-in, times a learned gain."""

    def __init__(self, *sizes: int, gamma: float = 1.0, **arguments) -> None:
        super().__init__(*sizes, **arguments)
        self.gamma = gamma

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.gain = self.add_weight(
            shape=(1, $ones, self.filters), initializer="ones", name="gain"
        )

    def standardised(self, kernel: KerasTensor) -> KerasTensor:
        factor = self.gamma / math.sqrt(math.prod(kernel.shape[:-1]))
        return super().standardised(kernel) * (self.gain * factor)

    def save_own_variables(self, store: dict) -> None:
        super().save_own_variables(store)  # the kernel and the bias alone
        store["gain"] = self.gain

    def load_own_variables(self, store: dict) -> None:
        super().load_own_variables(store)
        self.gain.assign(store["gain"])

    def get_config(self) -> dict:
        return {**super().get_config(), "gamma": self.gamma}
''',
    **shared("KerasTensor", "ops", "subsample$d"),
    "conv$d": '''
def conv$d(
    x: KerasTensor,
    filters: int,
    kernel_size: $size,
    strides: $size = 1,
    padding: $size = 0,
    dilation_rate: $size = 1,
    layer: Callable[..., layers.Layer] = layers.Conv${n}D,
    **arguments,
) -> KerasTensor:
    """Convolve with PyTorch's padding: `same` pads other sides at stride 2."""
    dilated = $given(dilation_rate) != $one  # Keras refuses strides with dilation
    strided = not dilated and $given(strides) != $one
    gaps = zip($each(dilation_rate), $each(kernel_size))
    both = [gap * (size - 1) for gap, size in gaps]
    same = not strided and both == [2 * side for side in $each(padding)]
    if not same and $given(padding) != $zero:
        x = layers.ZeroPadding${n}D(padding)(x)
    build = layer(
        filters,
        kernel_size,
        strides=1 if dilated else strides,
        padding="same" if same else "valid",
        dilation_rate=dilation_rate,
        **arguments,
    )
    return subsample$d(build(x), strides) if dilated else build(x)
''',
    "conv_transpose$d": '''
def conv_transpose$d(
    x: KerasTensor,
    filters: int,
    kernel_size: $size,
    strides: $size = 1,
    padding: $size = 0,
    output_padding: $size = 0,
    layer: Callable[..., layers.Layer] = layers.Conv${n}DTranspose,
    **arguments,
) -> KerasTensor:
    """Apply a transposed convolution with the sizes of torch.nn.ConvTranspose${n}d."""
    build = layer(
        filters,
        kernel_size,
        strides=strides,
        output_padding=$given(output_padding),
        **arguments,
    )
    return layers.Cropping${n}D($given(padding))(build(x))
''',
}
