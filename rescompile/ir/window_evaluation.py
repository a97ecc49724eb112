"""What the ops that move a window over a map compute, by definition: convolutions, and pools by maximum and by mean."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rescompile.ir.ops import AvgPool, Conv, ConvTranspose, MaxPool

Array = NDArray[np.floating[Any]]
#: The tensors of one op, by the op's own names for them: `weight`, `bias`, ...
Tensors = Mapping[str, Array]


def conv(op: Conv, x: Array, tensors: Tensors) -> Array:
    """y[o, h, w] = bias[o] + sum over c, i, j of weight[o, c, i, j] * padded[c, h * stride + i * dilation, w * ...], and likewise on
    maps of one and three axes.

    A group of output channels reads its own group of input channels only. The sum over c, i and j is one matrix product per
    group, by BLAS: its rows are copies of what the windows see, made for a band of the first axis of the output at a time.
    """
    op, tensors = with_plain_weights(op, tensors)
    padded = _padded(x, op.pads)
    reach = [dilation * (kernel - 1) + 1 for kernel, dilation in zip(op.kernel, op.dilation, strict=True)]
    axes = len(op.kernel)
    windows = sliding_window_view(
        padded, reach, tuple(range(2, 2 + axes))
    )  # [batch, channels, h, w, i, j], and no copy yet
    windows = windows[:, :, *(slice(None, None, step) for step in (*op.stride, *op.dilation))]
    batch, _, *size = windows.shape[: 2 + axes]
    weight = tensors["weight"].reshape(op.groups, op.channels // op.groups, -1)
    seen = weight.shape[2]  # how many values of its group each output sees
    row = math.prod(size[1:])
    y = np.empty((batch, op.groups, op.channels // op.groups, size[0] * row), x.dtype)
    rows = max(1, BAND // (op.groups * seen * row * x.itemsize))
    order = (
        0,
        *range(1 + axes, 1 + 2 * axes),
        *range(1, 1 + axes),
    )  # of [channels, h, w, i, j]: the places of a window first
    for at, start in itertools.product(range(batch), range(0, size[0], rows)):
        band = windows[at, :, start : start + rows].transpose(order).reshape(op.groups, seen, -1)
        place = slice(start * row, start * row + band.shape[2])
        np.matmul(weight, band, out=y[at, :, :, place])
    y = y.reshape(batch, op.channels, *size)
    if op.bias:
        y += per_channel(tensors["bias"], y.ndim)
    return y


def with_plain_weights(op: Conv, tensors: Tensors) -> tuple[Conv, Tensors]:
    """Return the same convolution with the weights that it multiplies with: standardised ones, each output channel by
    itself."""
    if op.is_plain:
        return op, tensors
    weight = tensors["weight"]
    axes = tuple(range(1, weight.ndim))
    centred = weight - weight.mean(axes, keepdims=True)
    weight = centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + weight.dtype.type(op.eps))
    if op.is_scaled:
        weight = weight * (tensors["gain"] * weight.dtype.type(op.gamma / math.sqrt(weight[0].size)))
    plain = replace(op, weights="plain", eps=Conv.eps, gamma=Conv.gamma)
    return plain, {**{name: value for name, value in tensors.items() if name != "gain"}, "weight": weight}


#: The bytes of windows that a convolution copies at a time, which stay in the cache; at least one row of its output.
BAND = 16 << 20


def _padded(x: Array, pads: Sequence[int], ends: Sequence[int] = (), value: float = 0) -> Array:
    """Return a map with this many positions of a value on each side of each axis, and `ends` more after the last."""
    if not any((*pads, *ends)):
        return x
    added = ((pad, pad + end) for pad, end in zip(pads, ends or (0,) * len(pads), strict=True))
    return np.pad(x, ((0, 0), (0, 0), *added), constant_values=value)


def conv_transpose(op: ConvTranspose, x: Array, tensors: Tensors) -> Array:
    """Each input position adds its multiple of the kernel at `stride` times its place; then the padding is cut off.

    A kernel position is added to all places that it falls on at once.
    """
    batch, channels, *given = x.shape
    size = [axis(n) for axis, n in zip(op.axes(x.shape[1:]), given, strict=True)]
    kernel = tensors["weight"].reshape(op.groups, channels // op.groups, -1, *op.kernel)
    grouped = x.reshape(batch, op.groups, channels // op.groups, -1)
    full = [n + 2 * p for n, p in zip(size, op.padding, strict=True)]
    y = np.zeros((batch, op.channels, *full), x.dtype)
    for place in itertools.product(*map(range, op.kernel)):
        part = np.matmul(kernel[(slice(None),) * 3 + place].transpose(0, 2, 1), grouped).reshape(
            batch, op.channels, *given
        )
        starts = (at * step for at, step in zip(place, op.dilation, strict=True))
        falls = [slice(start, start + s * n, s) for start, s, n in zip(starts, op.stride, given, strict=True)]
        reached = (slice(len(range(n)[fall])) for n, fall in zip(full, falls, strict=True))
        y[:, :, *falls] += part[:, :, *reached]
    y = y[:, :, *(slice(cut, cut + n) for cut, n in zip(op.padding, size, strict=True))]
    return y + per_channel(tensors["bias"], y.ndim) if op.bias else y


def maxpool(op: MaxPool, x: Array, tensors: Tensors) -> Array:
    """Return the maximum over each window. Padding is lower than any value, so it never wins."""
    return np.asarray(functools.reduce(np.maximum, _positions(op, x, padding=-np.inf, overhang=-np.inf)))


def avgpool(op: AvgPool, x: Array, tensors: Tensors) -> Array:
    """Return the sum over each window, divided by how many of its positions count.

    Positions of the map count; those of its padding with `count_pad`; those added by rounding up never do. Some always count: a window starts at most half its size before the map, and none starts after it.
    """
    total = functools.reduce(np.add, _positions(op, x, padding=0, overhang=0))
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    counted = functools.reduce(np.add, _positions(op, ones, padding=1 if op.count_pad else 0, overhang=0))
    return np.asarray(total / counted)


def _positions(op: MaxPool, x: Array, padding: float, overhang: float) -> Iterator[Array]:
    """For each position of a pool's window, what all windows see there: maps [batch, channels, ...], views of one.

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
    padded = _padded(_padded(x, op.padding, value=padding), (0,) * len(past), past, overhang)
    for place in itertools.product(*map(range, op.kernel)):
        seen = (slice(at, at + n * step, step) for at, n, step in zip(place, counts, op.steps, strict=True))
        yield padded[:, :, *seen]


def per_channel(values: Array, dimensions: int) -> Array:
    """Return one value for each channel, shaped to be broadcast over an array [batch, channels, ...] with this many
    dimensions."""
    return values.reshape(1, -1, *(1,) * (dimensions - 2))
