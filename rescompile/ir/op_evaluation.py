"""What each op and each merge computes, by definition: numpy, one rule for each.

The rules follow torch's documented meaning and share nothing with any backend. They compute in the type of their input.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rescompile.ir import ops
from rescompile.ir.ops import Kind
from rescompile.ir.window_evaluation import Array, Tensors, avgpool, conv, conv_transpose, maxpool, per_channel

# Merges


def _gate(values: Sequence[Array]) -> Array:
    branch, gate, shortcut = values
    return gate * branch + (1 - gate) * shortcut


def _mean_of_branches(values: Sequence[Array]) -> Array:
    return functools.reduce(operator.add, values) / len(values)


MERGES: dict[str, Callable[[Sequence[Array]], Array]] = {
    "add": lambda values: functools.reduce(operator.add, values),
    "concat": lambda values: np.concatenate(values, axis=1),
    "mul": lambda values: functools.reduce(operator.mul, values),  # a map of one position is broadcast over a full one
    "gate": _gate,
    "mean": _mean_of_branches,
    "shake": _mean_of_branches,
}


# Ops with weights


def linear(op: ops.Linear, x: Array, tensors: Tensors) -> Array:
    """y = weight x + bias."""
    y = x @ tensors["weight"].T
    return y + tensors["bias"] if op.bias else y


def moments(op: ops.Norm, x: Array) -> tuple[Array, Array]:
    """Return the mean and the variance that a norm takes from the sample itself: with kinds group and instance one for each
    group of neighbouring channels over the whole map, with kind layer one for each position over the channels."""
    values, axis = (x, 1) if op.kind == "layer" else (x.reshape(len(x), op.groups_of(x.shape[1:]), -1), 2)
    mean = values.mean(axis, keepdims=True)
    return mean, np.asarray(np.square(values - mean).mean(axis, keepdims=True))


def norm(op: ops.Norm, x: Array, tensors: Tensors) -> Array:
    """Values less their mean, over their standard deviation, then scaled and shifted for each channel.

    Running statistics of each channel, or the moments of the sample itself, unless the tensors include a `mean` and a
    `variance`. Multiplied out but for kind layer, as frameworks do, so that in float32 the mean is taken off with their
    rounding.
    """
    weight, bias = (per_channel(tensors[name], x.ndim) for name in ("weight", "bias"))
    if op.kind == "batch":
        mean, variance = (per_channel(tensors[name], x.ndim) for name in ("running_mean", "running_var"))
    else:
        mean, variance = (tensors["mean"], tensors["variance"]) if "mean" in tensors else moments(op, x)
    if op.kind == "layer":
        return np.asarray((x - mean) / np.sqrt(variance + op.eps) * weight + bias)
    if op.kind != "batch":
        mean, variance = (_per_group(values, x) for values in (mean, variance))
    factor = weight / np.sqrt(variance + op.eps)
    y = np.asarray(x * factor)
    y += bias - mean * factor
    return y


def _per_group(values: Array, x: Array) -> Array:
    """Return one value for each group of channels of each sample, shaped to be broadcast over x."""
    each = np.repeat(values, x.shape[1] // values.shape[1], axis=1)
    return each.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))


def lrn(op: ops.Lrn, x: Array, tensors: Tensors) -> Array:
    """x / (k + alpha * mean of the squares of neighbouring channels)^beta; beyond the ends squares are 0."""
    half = op.size // 2
    squares = np.pad(np.square(x), ((0, 0), (half, half), *((0, 0),) * (x.ndim - 2)))
    total = functools.reduce(np.add, (squares[:, at : at + x.shape[1]] for at in range(op.size)))
    return np.asarray(x / (op.k + op.alpha * total / op.size) ** op.beta)


def weighted_sum(op: ops.WeightedSum, x: Array, tensors: Tensors) -> Array:
    """The sum over ranges of share times range; shares are positive weights over their sum, or a softmax."""
    positive = np.exp(tensors["weight"]) if op.kind == "softmax" else np.maximum(tensors["weight"], 0)
    shares = positive / (positive.sum() + (op.eps if op.kind == "fast" else 0))
    return functools.reduce(operator.add, map(operator.mul, shares, np.split(x, op.ranges, axis=1)))


def affine(op: ops.Affine, x: Array, tensors: Tensors) -> Array:
    """weight * x + bias, of each channel or of all; what is not learned is left out."""
    y = x * per_channel(tensors["weight"], x.ndim) if op.scale else x
    return y + per_channel(tensors["bias"], x.ndim) if op.shift else y


# Pools over a whole map or over all channels


def global_avgpool(op: ops.GlobalAvgPool, x: Array, tensors: Tensors) -> Array:
    """Return the mean of each channel, as a map of one position."""
    return _mean(x).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))


def reduce(op: ops.Reduce, x: Array, tensors: Tensors) -> Array:
    """Return the mean or the maximum of the channels of each position, as one channel."""
    return np.asarray(x.max(axis=1, keepdims=True) if op.by == "max" else x.mean(axis=1, keepdims=True))


def adaptive_avgpool(op: ops.AdaptiveAvgPool, x: Array, tensors: Tensors) -> Array:
    """Return the means over `size` bins, which overlap where the map cannot be divided evenly."""
    y = np.empty((*x.shape[:2], *op.size), x.dtype)
    bins = [list(_bins(n, count)) for n, count in zip(x.shape[2:], op.size, strict=True)]
    for place in itertools.product(*map(range, op.size)):
        seen = tuple(axis[at] for axis, at in zip(bins, place, strict=True))
        y[_maps(place)] = _mean(x[_maps(seen)])
    return y


def _maps(index: tuple[Any, ...]) -> Any:
    """Return the index that takes these positions of all maps."""
    return (slice(None), slice(None), *index)


def _mean(x: Array) -> Array:
    """Return the mean of each map, added up one position after the other, as frameworks do.

    numpy adds in pairs. In float64 that makes no difference, and in float32 it is more exact than any runtime.
    """
    values = x.reshape(*x.shape[:2], -1)
    return np.asarray(np.cumsum(values, axis=2)[:, :, -1] / values.shape[2])


def _bins(size: int, count: int) -> Iterator[slice]:
    """Bin i of n positions in `count` bins: from floor(i * n / count) up to ceil((i + 1) * n / count)."""
    for i in range(count):
        yield slice(i * size // count, -(-(i + 1) * size // count))


# Ops that look at one value, or only move values


def act(op: ops.Act, x: Array, tensors: Tensors) -> Array:
    """Return the activation function on each value."""
    if op.kind == "prelu":
        return np.where(x > 0, x, per_channel(tensors["weight"], x.ndim) * x)
    return np.asarray(ACTIVATIONS[op.kind](op, x))


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))  # 1 / (1 + exp(-x)) in the two forms that cannot overflow
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _erfc(x: Array) -> Array:
    """1 - erf(x), which numpy does not have."""
    return np.asarray(np.vectorize(math.erfc, otypes=[x.dtype])(x))


#: The activation functions without weights.
ACTIVATIONS: dict[str, Callable[[ops.Act, Array], Any]] = {
    "relu": lambda op, x: np.maximum(x, 0),
    "sigmoid": lambda op, x: _sigmoid(x),
    "tanh": lambda op, x: np.tanh(x),
    "leaky_relu": lambda op, x: np.where(x > 0, x, op.slope * x),
    "elu": lambda op, x: np.where(x > 0, x, op.alpha * np.expm1(np.minimum(x, 0))),
    "relu6": lambda op, x: np.clip(x, 0, 6),
    "silu": lambda op, x: x * _sigmoid(x),
    "gelu": lambda op, x: x * _erfc(-x / math.sqrt(2)) / 2,  # x P(a standard normal number is below x)
    "gelu_tanh": lambda op, x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "hardswish": lambda op, x: x * np.clip(x + 3, 0, 6) / 6,
    "hardsigmoid": lambda op, x: np.clip(x + 3, 0, 6) / 6,
}


def softmax(op: ops.Softmax, x: Array, tensors: Tensors) -> Array:
    """exp(x) over its sum: over all channels, or over the channels at the same place of each range."""
    ranges = x.reshape(len(x), op.ranges or x.shape[1], -1)
    powers = np.exp(ranges - ranges.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True)).reshape(x.shape)


def upsample(op: ops.Upsample, x: Array, tensors: Tensors) -> Array:
    """Position i of a side stands at (i + 0.5) / factor - 0.5 of the old one, between the first position and the last.

    The nearest old position is the one whose share of the side contains it; bilinear weighs the two beside it, axis by axis.
    """
    for axis, factor in enumerate(op.factor, 2):
        size = x.shape[axis]
        if op.kind == "nearest":
            x = x.take(np.arange(size * factor) // factor, axis)
            continue
        assert op.kind == "bilinear"
        place = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
        before = np.floor(place).astype(int)
        share = (place - before).astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1 - axis))
        x = x.take(before, axis) * (1 - share) + x.take(np.minimum(before + 1, size - 1), axis) * share
    return x


def unflatten(op: ops.Unflatten, x: Array, tensors: Tensors) -> Array:
    """Return each value as a map of one position, or as a position on the first axis of one channel."""
    ends = (1,) * (op.rank - 1)
    return x.reshape(len(x), 1, -1, *ends) if op.to == "rows" else x.reshape(*x.shape, 1, *ends)


def border(op: ops.Border, x: Array, tensors: Tensors) -> Array:
    """Rows and columns added on each side; negative numbers remove them."""
    pairs = list(zip(op.before, op.after, strict=True))
    kept = (slice(max(0, -before), n - max(0, -after)) for n, (before, after) in zip(x.shape[2:], pairs, strict=True))
    added = [(0, 0), (0, 0), *((max(0, before), max(0, after)) for before, after in pairs)]
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}[op.kind]
    return np.asarray(np.pad(x[:, :, *kept], added, mode=mode))  # type: ignore[call-overload]


def shuffle(op: ops.Shuffle, x: Array, tensors: Tensors) -> Array:
    """Return the first channel of each group, then the second of each, ..."""
    return x[:, np.arange(x.shape[1]).reshape(op.groups, -1).T.ravel()]


def part(op: ops.Part, x: Array, tensors: Tensors) -> Array:
    """Return the channels from one border to the next."""
    size = x.shape[1] // op.of
    return x[:, op.number * size : (op.number + 1) * size]


def depth_to_space(op: ops.DepthToSpace, x: Array, tensors: Tensors) -> Array:
    """Channel (c, i, j) goes to row i and column j of the block in channel c."""
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels // op.size**2, op.size, op.size, height, width)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(batch, -1, height * op.size, width * op.size)


def space_to_depth(op: ops.SpaceToDepth, x: Array, tensors: Tensors) -> Array:
    """Row i and column j of the block in channel c go to channel (c, i, j)."""
    batch, channels, height, width = x.shape
    high, wide = height // op.size, width // op.size
    blocks = x.reshape(batch, channels, high, op.size, wide, op.size)
    return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(batch, -1, high, wide)


#: What each op computes. A test holds every row to torch.
OPS: dict[type[Kind], Callable[[Any, Array, Tensors], Array]] = {
    ops.Conv: conv,
    ops.Linear: linear,
    ops.Norm: norm,
    ops.Act: act,
    ops.MaxPool: maxpool,
    ops.AvgPool: avgpool,
    ops.GlobalAvgPool: global_avgpool,
    ops.AdaptiveAvgPool: adaptive_avgpool,
    ops.Flatten: lambda op, x, _: x.reshape(len(x), -1),  # channels, then the axes in order
    ops.Dropout: lambda op, x, _: x,
    ops.Scale: lambda op, x, _: op.factor * x,
    ops.Subsample: lambda op, x, _: x[:, :, *(slice(None, None, step) for step in op.stride)],
    ops.Upsample: upsample,
    ops.PadChannels: lambda op, x, _: np.pad(x, ((0, 0), (0, op.channels - x.shape[1]), *((0, 0),) * (x.ndim - 2))),
    ops.Identity: lambda op, x, _: x,
    ops.ConvTranspose: conv_transpose,
    ops.Lrn: lrn,
    ops.Softmax: softmax,
    ops.GlobalMaxPool: lambda op, x, _: np.asarray(x.max(axis=tuple(range(2, x.ndim)), keepdims=True)),
    ops.Reduce: reduce,
    ops.Affine: affine,
    ops.WeightedSum: weighted_sum,
    ops.Border: border,
    ops.Shuffle: shuffle,
    ops.Part: part,
    ops.Unflatten: unflatten,
    ops.DepthToSpace: depth_to_space,
    ops.SpaceToDepth: space_to_depth,
}
