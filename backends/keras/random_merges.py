"""Functions with which training in Keras drops and mixes branches.

A functional model has one graph for training and evaluation, so that random numbers come from a layer that Keras has: the noise of
`GaussianNoise` is zero in evaluation. Half the sum of the squares of two of its values is exponentially distributed. Models therefore
load without the code of their file.
"""

from __future__ import annotations

from rescompile.codegen.channels_last import shared

#: By name; each follows those that it uses itself.
RANDOM_MERGES: dict[str, str] = {
    "drop_branch": '''
def drop_branch(
    x: KerasTensor,
    survival: float,
    each_sample: bool = False,
    rescale: str = "train",
) -> KerasTensor:
    """Set a branch to zero in training, except with probability `survival`."""
    shape = (None if each_sample else 1,) + (1,) * (len(x.shape) - 1)
    x = layers.Dropout(1 - survival, noise_shape=shape)(x)  # divides by `survival`
    return x * survival if rescale == "test" else x
''',
    "exponential": '''
def exponential(x: KerasTensor, count: int, each_sample: bool) -> KerasTensor:
    """Draw `count` exponential numbers in training, for each sample or all; else zeros."""
    for _ in x.shape[1:]:
        x = x[:, 0]
    zeros = ops.zeros_like(x if each_sample else ops.sum(x, axis=0, keepdims=True))
    zeros = ops.repeat(ops.expand_dims(zeros, 0), 2 * count, axis=0)
    noise = layers.GaussianNoise(1.0, dtype=keras.config.floatx())(zeros)
    squares = ops.reshape(ops.square(noise), (2, count, -1))
    return ops.sum(squares, axis=0) / 2
''',
    **shared("KerasTensor", "ops", "mixed", "average_kept"),
    "shake": '''
def shake(branches: list[KerasTensor], each_sample: bool) -> KerasTensor:
    """Compute the mean; in training a random one, and for gradients another."""
    x = ops.stack(branches)
    sizes = exponential(branches[0], 2 * len(branches), each_sample)
    sizes = ops.where(sizes > 0, sizes, 1.0)  # equal ones in evaluation
    shape = (2, len(branches), -1) + (1,) * (len(x.shape) - 2)
    return mixed(x, ops.reshape(sizes, shape))
''',
    "choose_column": '''
def choose_column(
    x: KerasTensor, columns: int, share: float, each_sample: bool
) -> KerasTensor:
    """With probability `share` in training, choose one column that all merges keep; else -1."""
    draws = ops.exp(-exponential(x, 2, each_sample))  # uniform in training, else 1
    return ops.where(draws[0] < share, ops.floor(draws[1] * columns), -1.0)
''',
    "drop_path": '''
def drop_path(
    branches: list[KerasTensor], column: KerasTensor, rate: float, each_sample: bool
) -> KerasTensor:
    """Average branches; in training, that of the column alone, or if there is none, those
    that are kept: each is dropped with probability `rate`, but not all."""
    x = ops.stack(branches)
    draws = ops.exp(-exponential(branches[0], len(branches), each_sample))
    shape = (-1,) + (1,) * (len(x.shape) - 2)
    column = ops.reshape(column, shape)
    draws = ops.reshape(draws, (len(branches), *shape))
    return average_kept(x, rate, draws, column)
''',
}
