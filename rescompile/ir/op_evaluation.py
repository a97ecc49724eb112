"""What each op and each merge computes, by definition: numpy, one rule for each.

The rules follow torch's documented meaning and share nothing with any backend. They compute in the type of their input.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rescompile.ir.ops import (
    Act,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    Kind,
    Linear,
    MaxPool,
    Norm,
    PadChannels,
    Scale,
    Subsample,
    Upsample,
)

Array = NDArray[np.floating[Any]]
#: The tensors of one op, by the op's own names for them: `weight`, `bias`, ...
Tensors = Mapping[str, Array]


# Merges


def _gate(values: Sequence[Array]) -> Array:
    branch, gate, shortcut = values
    return gate * branch + (1 - gate) * shortcut


MERGES: dict[str, Callable[[Sequence[Array]], Array]] = {
    "add": lambda values: functools.reduce(operator.add, values),
    "concat": lambda values: np.concatenate(values, axis=1),
    "mul": lambda values: functools.reduce(operator.mul, values),  # a 1x1 map is broadcast over a full one
    "gate": _gate,
}


# Ops with weights


def conv(op: Conv, x: Array, tensors: Tensors) -> Array:
    """y[o, h, w] = bias[o] + sum over c, i, j of weight[o, c, i, j] * padded[c, h * stride + i * dilation, w * ...].

    A group of output channels reads its own group of input channels only. The sum over c, i and j is one matrix product per
    group, by BLAS: its rows are copies of what the windows see, made for a band of output rows at a time.
    """
    padded = _padded(x, op.pads)
    reach = [dilation * (kernel - 1) + 1 for kernel, dilation in zip(op.kernel, op.dilation, strict=True)]
    windows = sliding_window_view(padded, reach, axis=(2, 3))  # [batch, channels, rows, columns, i, j], and no copy yet
    windows = windows[:, :, :: op.stride[0], :: op.stride[1], :: op.dilation[0], :: op.dilation[1]]
    batch, _, height, width = windows.shape[:4]
    weight = tensors["weight"].reshape(op.groups, op.channels // op.groups, -1)
    seen = weight.shape[2]  # how many values of its group each output sees
    y = np.empty((batch, op.groups, op.channels // op.groups, height * width), x.dtype)
    rows = max(1, BAND // (op.groups * seen * width * x.itemsize))
    for at, start in itertools.product(range(batch), range(0, height, rows)):
        band = windows[at, :, start : start + rows].transpose(0, 3, 4, 1, 2).reshape(op.groups, seen, -1)
        place = slice(start * width, start * width + band.shape[2])
        np.matmul(weight, band, out=y[at, :, :, place])
    y = y.reshape(batch, op.channels, height, width)
    if op.bias:
        y += _per_channel(tensors["bias"])
    return y


#: A convolution copies at most so many bytes of windows at a time (one row of its output at least): they stay in the cache.
BAND = 16 << 20


def _padded(x: Array, pads: Sequence[int], ends: Sequence[int] = (0, 0), value: float = 0) -> Array:
    """A map with so many rows and columns of a value on each side, and `ends` more after the last."""
    (pad_h, pad_w), (end_h, end_w) = pads, ends
    if not any((pad_h, pad_w, end_h, end_w)):
        return x
    widths = ((0, 0), (0, 0), (pad_h, pad_h + end_h), (pad_w, pad_w + end_w))
    return np.pad(x, widths, constant_values=value)


def linear(op: Linear, x: Array, tensors: Tensors) -> Array:
    """y = weight x + bias."""
    y = x @ tensors["weight"].T
    return y + tensors["bias"] if op.bias else y


def norm(op: Norm, x: Array, tensors: Tensors) -> Array:
    """Values less their mean, over their standard deviation, then scaled and shifted for each channel.

    Running statistics of each channel; or, with kind group, those of the sample itself over neighbouring channels and the
    whole map. Multiplied out, as frameworks do, so that in float32 the mean is taken off with their rounding.
    """
    if op.kind == "group":
        groups = x.reshape(len(x), op.groups, -1)
        mean = groups.mean(axis=2, keepdims=True)
        spread = np.sqrt(np.square(groups - mean).mean(axis=2, keepdims=True) + op.eps)
        normal = ((groups - mean) / spread).astype(x.dtype).reshape(x.shape)
        return np.asarray(normal * _per_channel(tensors["weight"], x.ndim) + _per_channel(tensors["bias"], x.ndim))
    assert op.kind == "batch"
    mean, variance, weight, bias = (
        _per_channel(tensors[name], x.ndim) for name in ("running_mean", "running_var", "weight", "bias")
    )
    factor = weight / np.sqrt(variance + op.eps)
    y = np.asarray(x * factor)
    y += bias - mean * factor
    return y


def _per_channel(values: Array, rank: int = 4) -> Array:
    """One value for each channel, shaped to be broadcast over an array [batch, channels, ...]."""
    return values.reshape(1, -1, *(1,) * (rank - 2))


# Pools


def maxpool(op: MaxPool, x: Array, tensors: Tensors) -> Array:
    """The maximum over each window. Padding is lower than any value, so it never wins."""
    return np.asarray(functools.reduce(np.maximum, _positions(op, x, padding=-np.inf, overhang=-np.inf)))


def avgpool(op: AvgPool, x: Array, tensors: Tensors) -> Array:
    """The sum over each window, divided by how many of its positions count.

    Positions of the map count; those of its padding with `count_pad`; those added by rounding up never do. Some always count: a window starts at most half its size before the map, and none starts after it.
    """
    total = functools.reduce(np.add, _positions(op, x, padding=0, overhang=0))
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    counted = functools.reduce(np.add, _positions(op, ones, padding=1 if op.count_pad else 0, overhang=0))
    return np.asarray(total / counted)


def _positions(op: MaxPool, x: Array, padding: float, overhang: float) -> Iterator[Array]:
    """For each position of a pool's window, what all windows see there: [batch, channels, rows, columns], views of one map.

    `padding` fills what the op pads on all sides, `overhang` what windows see past even that when sizes are rounded up.
    """
    counts, past = [], []
    for size, kernel, stride, pad in zip(x.shape[2:], op.kernel, op.steps, op.padding, strict=True):
        ends = list(range(kernel, size + 2 * pad + 1, stride))  # of windows that lie inside the padded map
        following = ends[-1] + stride if ends else kernel
        # Rounding up adds one window if any position was left over, provided that it does not start in the far padding.
        if op.ceil and following - stride < size + 2 * pad and following - kernel < pad + size:
            ends.append(following)
        counts.append(len(ends))
        past.append(max(0, ends[-1] - (size + 2 * pad)))
    padded = _padded(_padded(x, op.padding, value=padding), (0, 0), past, overhang)
    (rows, columns), (stride_h, stride_w) = counts, op.steps
    for i, j in itertools.product(*map(range, op.kernel)):
        yield padded[:, :, i : i + rows * stride_h : stride_h, j : j + columns * stride_w : stride_w]


def global_avgpool(op: GlobalAvgPool, x: Array, tensors: Tensors) -> Array:
    """The mean of each channel, as a map of 1x1."""
    return _mean(x)[:, :, None, None]


def adaptive_avgpool(op: AdaptiveAvgPool, x: Array, tensors: Tensors) -> Array:
    """The means over `size` bins, which overlap where the map cannot be divided evenly."""
    y = np.empty((*x.shape[:2], *op.size), x.dtype)
    for i, rows in enumerate(_bins(x.shape[2], op.size[0])):
        for j, columns in enumerate(_bins(x.shape[3], op.size[1])):
            y[:, :, i, j] = _mean(x[:, :, rows, columns])
    return y


def _mean(x: Array) -> Array:
    """The mean of each map, added up one position after the other, as frameworks do.

    numpy adds in pairs. In float64 that makes no difference, and in float32 it is more exact than any runtime.
    """
    values = x.reshape(*x.shape[:2], -1)
    return np.asarray(np.cumsum(values, axis=2)[:, :, -1] / values.shape[2])


def _bins(size: int, count: int) -> Iterator[slice]:
    """Bin i of n positions in `count` bins: from floor(i * n / count) up to ceil((i + 1) * n / count)."""
    for i in range(count):
        yield slice(i * size // count, -(-(i + 1) * size // count))


# Ops that look at one value, or only move values


def act(op: Act, x: Array, tensors: Tensors) -> Array:
    """The activation function on each value."""
    match op.kind:
        case "relu":
            return np.maximum(x, 0)
        case "sigmoid":
            small = np.exp(-np.abs(x))  # 1 / (1 + exp(-x)) in the two forms that cannot overflow
            return np.where(x >= 0, 1 / (1 + small), small / (1 + small))
        case "tanh":
            return np.tanh(x)
        case "leaky_relu":
            return np.where(x > 0, x, op.slope * x)
        case "elu":
            return np.where(x > 0, x, op.alpha * np.expm1(np.minimum(x, 0)))
        case "relu6":
            return np.clip(x, 0, 6)
        case "silu":
            return x * act(Act("sigmoid"), x, tensors)
        case "gelu":  # x times the probability that a standard normal number is below x
            return x * _erfc(-x / math.sqrt(2)) / 2
        case "gelu_tanh":
            return np.asarray(x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2)
        case "hardswish":
            return x * np.clip(x + 3, 0, 6) / 6
    raise NotImplementedError(f"activation {op.kind}")


def _erfc(x: Array) -> Array:
    """1 - erf(x), which numpy does not have."""
    return np.asarray(np.vectorize(math.erfc, otypes=[x.dtype])(x))


def flatten(op: Flatten, x: Array, tensors: Tensors) -> Array:
    """All values of an input as one vector: channels, then rows, then columns."""
    return x.reshape(len(x), -1)


def scale(op: Scale, x: Array, tensors: Tensors) -> Array:
    """The values times a constant."""
    return op.factor * x


def subsample(op: Subsample, x: Array, tensors: Tensors) -> Array:
    """Every stride-th position, the first included."""
    return x[:, :, :: op.stride[0], :: op.stride[1]]


def upsample(op: Upsample, x: Array, tensors: Tensors) -> Array:
    """Position i of a side stands at (i + 0.5) / factor - 0.5 of the old one, between the first position and the last.

    The nearest old position is the one whose share of the side contains it; bilinear weighs the two beside it, by axes.
    """
    for axis, factor in zip((2, 3), op.factor, strict=True):
        size = x.shape[axis]
        if op.kind == "nearest":
            x = x.take(np.arange(size * factor) // factor, axis)
            continue
        assert op.kind == "bilinear"
        place = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
        before = np.floor(place).astype(int)
        share = (place - before).astype(x.dtype).reshape(-1, *(1,) * (3 - axis))
        x = x.take(before, axis) * (1 - share) + x.take(np.minimum(before + 1, size - 1), axis) * share
    return x


def pad_channels(op: PadChannels, x: Array, tensors: Tensors) -> Array:
    """Zeros after the last channel."""
    return np.pad(x, ((0, 0), (0, op.channels - x.shape[1]), (0, 0), (0, 0)))


def identity(op: Kind, x: Array, tensors: Tensors) -> Array:
    """The value itself."""
    return x


#: What each op computes. A test holds every row to torch.
OPS: dict[type[Kind], Callable[[Any, Array, Tensors], Array]] = {
    Conv: conv,
    Linear: linear,
    Norm: norm,
    Act: act,
    MaxPool: maxpool,
    AvgPool: avgpool,
    GlobalAvgPool: global_avgpool,
    AdaptiveAvgPool: adaptive_avgpool,
    Flatten: flatten,
    Dropout: identity,
    Scale: scale,
    Subsample: subsample,
    Upsample: upsample,
    PadChannels: pad_channels,
    Identity: identity,
}
