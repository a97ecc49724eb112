"""Channels-last functions and modules that frameworks lack and generated files contain, in the names of each framework.

Those with a `$` in their name are templates of `axis_texts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

#: By name; $Array is replaced by the array type, $array by the module of array functions, and other words by `_WORDS`.
_TEXTS: Mapping[str, str] = {
    "Sequential": '''
class Sequential($list):
    """Modules called in sequence; their positions are their names."""

    def __call__(self, x: $Array) -> $Array:
        for module in self:
            x = module(x)
        return x
''',
    "pair": '''
def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """The height and width of a size, which may be one number for both."""
    return (size, size) if isinstance(size, int) else size
''',
    "triple": '''
def triple(size: int | tuple[int, int, int]) -> tuple[int, int, int]:
    """The depth, height and width of a size, which may be one number for all."""
    return (size, size, size) if isinstance(size, int) else size
''',
    "pool_padding$d": '''
def pool_padding$d(
    x: $Array,
    kernel: $tuple,
    stride: $tuple,
    padding: $tuple,
    ceil: bool,
) -> list[tuple[int, int]]:
    """The padding before and after each axis of a pool; `ceil` rounds the output size up."""
    pads = []
    for size, k, s, p in zip(x.shape[1:-1], kernel, stride, padding):
        steps = -((k - size - 2 * p) // s)
        if steps * s >= size + p:  # the last window would start in the far padding
            steps = steps - 1
        pads.append((p, max(p, steps * s + k - size - p) if ceil else p))
    return pads
''',
    "flatten": '''
def flatten(x: $Array) -> $Array:
    """Flatten feature maps channel by channel, as PyTorch does."""
    return $array.moveaxis(x, -1, 1).reshape(x.shape[0], -1)
''',
    "scale": '''
def scale(x: $Array, factor: float) -> $Array:
    """Multiply by a constant."""
    return x * factor
''',
    "subsample$d": '''
def subsample$d(x: $Array, stride: $size$or_one) -> $Array:
    """Keep every `stride`-th $position."""
    $names = $given(stride)
    return x[:, $steps]
''',
    "range_softmax": '''
def range_softmax(x: $Array, ranges: int) -> $Array:
    """Softmax over equal ranges of the channels, channel by channel."""
    y = x.reshape(*x.shape[:-1], ranges, -1)
    return $softmax(y, axis=-2).reshape(x.shape)
''',
    "pad_channels": '''
def pad_channels(x: $Array, channels: int) -> $Array:
    """Zero-pad the channels to a total of `channels`."""
    return $array.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, channels - x.shape[-1])])
''',
    "channel_part": '''
def channel_part(x: $Array, number: int, of: int) -> $Array:
    """Take the `number`-th of `of` equal ranges of the channels."""
    return $array.split(x, of, axis=-1)[number]
''',
    "channel_shuffle": '''
def channel_shuffle(x: $Array, groups: int$or_one) -> $Array:
    """Take the first channel of each group, then the second of each, and so on."""
    y = x.reshape(*x.shape[:-1], groups, -1)
    return $array.swapaxes(y, -1, -2).reshape(x.shape)
''',
    "depth_to_space": '''
def depth_to_space(x: $Array, size: int) -> $Array:
    """Move channels to blocks of positions, as torch.nn.PixelShuffle does."""
    n, height, width, channels = x.shape
    y = x.reshape(n, height, width, channels // size**2, size, size)
    return y.transpose(0, 1, 4, 2, 5, 3).reshape(n, height * size, width * size, -1)
''',
    "space_to_depth": '''
def space_to_depth(x: $Array, size: int) -> $Array:
    """Move blocks of positions to channels, as torch.nn.PixelUnshuffle does."""
    n, height, width, channels = x.shape
    y = x.reshape(n, height // size, size, width // size, size, channels)
    return y.transpose(0, 1, 3, 5, 2, 4).reshape(n, height // size, width // size, -1)
''',
    "mixed": '''
def mixed(x: $Array, sizes: $Array) -> $Array:
    """Add branches in proportion to the first sizes, and their gradients to the second."""
    shares = $cast(sizes / $array.sum(sizes, axis=1, keepdims=True), x.dtype)
    forward, backward = shares[0], shares[1]
    return $array.sum(backward * x + (forward - backward) * $stop_gradient(x), axis=0)
''',
    "average_kept": '''
def average_kept(x: $Array, rate: float, draws: $Array, column: $Array) -> $Array:
    """Average the branch of `column` alone; without it those drawn at least `rate`, or most."""
    chosen = $array.stack([$array.equal(column, at) for at in range(x.shape[0])])
    most = $array.equal(draws, $array.max(draws, axis=0, keepdims=True))
    kept = $array.logical_or(draws >= rate, most)
    kept = $array.where($array.any(chosen, axis=0, keepdims=True), chosen, kept)
    kept = $cast(kept, x.dtype)
    return $array.sum(x * kept, axis=0) / $array.sum(kept, axis=0)
''',
}
#: What the functions of these modules are called elsewhere, the list of modules, and the default 1 of MLX.
_WORDS: Mapping[str, Mapping[str, str]] = {
    "jnp": {
        "cast": "jnp.astype",
        "stop_gradient": "jax.lax.stop_gradient",
        "softmax": "nnx.softmax",
        "list": "nnx.List",
        "or_one": "",
    },
    "mx": {
        "cast": "mx.array.astype",
        "stop_gradient": "mx.stop_gradient",
        "softmax": "mx.softmax",
        "list": "list",
        "or_one": " = 1",
    },
    "ops": {"cast": "ops.cast", "stop_gradient": "ops.stop_gradient", "or_one": ""},
}


def shared(array: str, module: str, *names: str) -> dict[str, str]:
    """Return the functions for a framework with the array type `array` and the module `module` of array functions."""
    words = {"Array": array, "array": module, **_WORDS[module]}
    return {name: Template(_TEXTS[name]).safe_substitute(words) for name in names}
