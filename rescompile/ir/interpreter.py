"""What a network computes, by definition: the tree evaluated in numpy float64, the oracle of the differential tests.

Each op is written down once more from torch's documented meaning, not from any backend, so that a mistake shared by all
backends still shows. Clarity goes before speed, yet a ResNet-50 at 224x224 takes seconds. Output sizes too are derived
here, and every value is held to the shape that the tree declares for it.

Evaluation mode only: dropout is the identity, norms use their running statistics.

In float32 the same evaluation says how much plain rounding alone may change an output.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike, NDArray

from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, join, scope
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
#: An op's own tensors, by the op's own names for them: `weight`, `bias`, ...
Own = Mapping[str, Array]


def interpret(
    network: Network, weights: Mapping[str, NDArray[Any]], x: NDArray[Any], dtype: DTypeLike = np.float64
) -> dict[str, Array]:
    """The outputs for a batch `x`: `logits`, then those of side branches that are always computed, in execution order.

    `weights` has the full names of `rescompile.network.parameters`; those that evaluation does not read may be missing.
    """
    sides: dict[str, Array] = {}
    logits = _evaluate(network.root, "", np.asarray(x, dtype), weights, sides)
    assert "logits" not in sides, "a side branch may not be called logits"
    return {"logits": logits, **sides}


def _evaluate(node: Node, path: str, x: Array, weights: Mapping[str, NDArray[Any]], sides: dict[str, Array]) -> Array:
    """The value after `node`, which lives in the scope `path`; outputs of side branches are left in `sides`."""
    assert x.shape[1:] == node.input, f"{path or 'root'}: declared input {node.input}, given {x.shape[1:]}"
    match node:
        case Op():
            name = join(path, node.name)
            y = OPS[type(node.kind)](node.kind, x, _own(name, node, weights, x.dtype))
        case Series():
            y = x
            for child in node.children:
                y = _evaluate(child, scope(path, node), y, weights, sides)
        case Parallel():
            values = [
                _evaluate(branch, scope(path, node), part, weights, sides)
                for branch, part in zip(node.branches, _given(node, x), strict=True)
            ]
            if node.survival and node.survival.rescale == "test":
                # In training the branch was there only with this probability, so in evaluation it counts by as much.
                # With "train" it was divided by the probability in training, and evaluation leaves it alone.
                values[0] = node.survival.probability * values[0]
            y = MERGES[node.merge](values)
        case Side():
            y = x
            if node.mode == "always":
                output = node.output_name or path
                assert output not in sides, f"two side branches are called {output}"
                sides[output] = _evaluate(node.child, path, x, weights, sides)
    assert y.shape == (len(x), *node.output), f"{path or 'root'}: declared output {node.output}, computed {y.shape[1:]}"
    assert y.dtype == x.dtype, f"{path or 'root'}: {x.dtype} became {y.dtype}"
    return y


def _given(node: Parallel, x: Array) -> list[Array]:
    """What each branch sees: x, or with `split` as many channels as each other, the first branch the first ones."""
    count = len(node.branches)
    if not node.split:
        return [x] * count
    size = x.shape[1] // count
    assert size * count == x.shape[1], f"{x.shape[1]} channels cannot be split among {count} branches"
    return [x[:, at * size : (at + 1) * size] for at in range(count)]


def _own(name: str, op: Op, weights: Mapping[str, NDArray[Any]], dtype: DTypeLike) -> Own:
    """The tensors of one op. The one integer among them, a norm's count of batches, takes no part in evaluation."""
    own = {}
    for parameter in op.kind.parameters(op.input):
        if parameter.dtype != "int64":
            own[parameter.name] = value = np.asarray(weights[f"{name}.{parameter.name}"], dtype)
            # Checked, because numpy would broadcast a wrong shape without a word.
            assert value.shape == parameter.shape, f"{name}.{parameter.name}: {value.shape} is not {parameter.shape}"
    return own


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


def conv(op: Conv, x: Array, own: Own) -> Array:
    """y[o, h, w] = bias[o] + sum over c, i, j of weight[o, c, i, j] * padded[c, h * stride + i * dilation, w * ...].

    A group of output channels sees its own group of input channels only. The sum over i and j is written as a loop, and
    for each of them the sum over c is one matrix product.
    """
    (pad_h, pad_w), (stride_h, stride_w), (dilation_h, dilation_w) = op.pads, op.stride, op.dilation
    padded = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    batch, channels, height, width = padded.shape
    out_h = (height - dilation_h * (op.kernel[0] - 1) - 1) // stride_h + 1
    out_w = (width - dilation_w * (op.kernel[1] - 1) - 1) // stride_w + 1

    groups = padded.reshape(batch, op.groups, channels // op.groups, height, width)
    weight = own["weight"].reshape(op.groups, op.channels // op.groups, channels // op.groups, *op.kernel)
    y = np.zeros((batch, op.groups, op.channels // op.groups, out_h * out_w), x.dtype)
    for i in range(op.kernel[0]):
        for j in range(op.kernel[1]):
            rows = slice(i * dilation_h, i * dilation_h + (out_h - 1) * stride_h + 1, stride_h)
            columns = slice(j * dilation_w, j * dilation_w + (out_w - 1) * stride_w + 1, stride_w)
            seen = groups[:, :, :, rows, columns].reshape(batch, op.groups, channels // op.groups, out_h * out_w)
            y += weight[:, :, :, i, j] @ seen
    y = y.reshape(batch, op.channels, out_h, out_w)
    return y + _per_channel(own["bias"]) if op.bias else y


def linear(op: Linear, x: Array, own: Own) -> Array:
    """y = weight x + bias."""
    y = x @ own["weight"].T
    return y + own["bias"] if op.bias else y


def norm(op: Norm, x: Array, own: Own) -> Array:
    """Values less their mean, over their standard deviation, then scaled and shifted for each channel.

    Running statistics of each channel; or, with kind group, those of the sample itself over neighbouring channels and the
    whole map. Multiplied out, as frameworks do, so that in float32 the mean is taken off with their rounding.
    """
    if op.kind == "group":
        groups = x.reshape(len(x), op.groups, -1)
        mean = groups.mean(axis=2, keepdims=True)
        spread = np.sqrt(np.square(groups - mean).mean(axis=2, keepdims=True) + op.eps)
        normal = ((groups - mean) / spread).astype(x.dtype).reshape(x.shape)
        return np.asarray(normal * _per_channel(own["weight"], x.ndim) + _per_channel(own["bias"], x.ndim))
    assert op.kind == "batch"
    mean, variance, weight, bias = (
        _per_channel(own[name], x.ndim) for name in ("running_mean", "running_var", "weight", "bias")
    )
    factor = weight / np.sqrt(variance + op.eps)
    return np.asarray(x * factor + (bias - mean * factor))


def _per_channel(values: Array, rank: int = 4) -> Array:
    """One value for each channel, shaped to be broadcast over an array [batch, channels, ...]."""
    return values.reshape(1, -1, *(1,) * (rank - 2))


# Pools


def maxpool(op: MaxPool, x: Array, own: Own) -> Array:
    """The maximum over each window. Padding is lower than any value, so it never wins."""
    return np.asarray(_windows(op, x, padding=-np.inf, overhang=-np.inf).max(axis=(-2, -1)))


def avgpool(op: AvgPool, x: Array, own: Own) -> Array:
    """The sum over each window, divided by how many of its positions count.

    Positions of the map count; those of its padding if `count_pad` says so; those that only rounding up has added never
    do. Some always count: a window starts at most half its size before the map, and none starts after it.
    """
    total = _windows(op, x, padding=0, overhang=0).sum(axis=(-2, -1))
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    counted = _windows(op, ones, padding=1 if op.count_pad else 0, overhang=0).sum(axis=(-2, -1))
    return np.asarray(total / counted)


def _windows(op: MaxPool, x: Array, padding: float, overhang: float) -> Array:
    """Every window of a pool: [batch, channels, rows, columns, kernel rows, kernel columns].

    `padding` fills what the op pads on all sides, `overhang` what windows see past even that when sizes are rounded up.
    """
    (pad_h, pad_w), (stride_h, stride_w) = op.padding, op.steps
    padded = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)), constant_values=padding)
    past = []
    for size, kernel, stride, pad in zip(x.shape[2:], op.kernel, op.steps, op.padding, strict=True):
        ends = list(range(kernel, size + 2 * pad + 1, stride))  # of windows that lie inside the padded map
        following = ends[-1] + stride if ends else kernel
        # Rounding up adds one window if any position was left over, provided that it does not start in the far padding.
        if op.ceil and following - stride < size + 2 * pad and following - kernel < pad + size:
            ends.append(following)
        past.append(max(0, ends[-1] - (size + 2 * pad)))
    padded = np.pad(padded, ((0, 0), (0, 0), (0, past[0]), (0, past[1])), constant_values=overhang)
    return sliding_window_view(padded, op.kernel, axis=(2, 3))[:, :, ::stride_h, ::stride_w]


def global_avgpool(op: GlobalAvgPool, x: Array, own: Own) -> Array:
    """The mean of each channel, as a map of 1x1."""
    return _mean(x)[:, :, None, None]


def adaptive_avgpool(op: AdaptiveAvgPool, x: Array, own: Own) -> Array:
    """The means over `size` bins, which overlap where the map cannot be divided evenly."""
    y = np.empty((*x.shape[:2], *op.size), x.dtype)
    for i, rows in enumerate(_bins(x.shape[2], op.size[0])):
        for j, columns in enumerate(_bins(x.shape[3], op.size[1])):
            y[:, :, i, j] = _mean(x[:, :, rows, columns])
    return y


def _mean(x: Array) -> Array:
    """The mean of each map, added up one position after the other, as frameworks do.

    numpy would add in pairs, which makes no difference in float64, and in float32 sets a standard that no one else meets.
    """
    values = x.reshape(*x.shape[:2], -1)
    return np.asarray(np.cumsum(values, axis=2)[:, :, -1] / values.shape[2])


def _bins(size: int, count: int) -> Iterator[slice]:
    """Bin i of n positions in `count` bins: from floor(i * n / count) up to ceil((i + 1) * n / count)."""
    for i in range(count):
        yield slice(i * size // count, -(-(i + 1) * size // count))


# Ops that look at one value, or only move values


def act(op: Act, x: Array, own: Own) -> Array:
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
            return x * act(Act("sigmoid"), x, own)
        case "gelu":  # x times the probability that a standard normal number is below x
            return x * _erfc(-x / math.sqrt(2)) / 2
        case "gelu_tanh":
            return np.asarray(x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2)
        case "hardswish":
            return x * np.clip(x + 3, 0, 6) / 6
    raise NotImplementedError(f"activation {op.kind}")


def _erfc(x: Array) -> Array:
    """1 - erf(x), which numpy has not."""
    return np.asarray(np.vectorize(math.erfc, otypes=[x.dtype])(x))


def flatten(op: Flatten, x: Array, own: Own) -> Array:
    """All values of an input as one vector: channels, then rows, then columns."""
    return x.reshape(len(x), -1)


def scale(op: Scale, x: Array, own: Own) -> Array:
    """The values times a constant."""
    return op.factor * x


def subsample(op: Subsample, x: Array, own: Own) -> Array:
    """Every stride-th position, the first included."""
    return x[:, :, :: op.stride[0], :: op.stride[1]]


def upsample(op: Upsample, x: Array, own: Own) -> Array:
    """Position i of a side stands at (i + 0.5) / factor - 0.5 of the old one, between the first position and the last.

    The nearest old position is the one whose share of the side holds it; bilinear weighs the two beside it, by axes.
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


def pad_channels(op: PadChannels, x: Array, own: Own) -> Array:
    """Zeros after the last channel."""
    return np.pad(x, ((0, 0), (0, op.channels - x.shape[1]), (0, 0), (0, 0)))


def identity(op: Kind, x: Array, own: Own) -> Array:
    """The value itself."""
    return x


#: What each op computes. A test holds every row to torch.
OPS: dict[type[Kind], Callable[[Any, Array, Own], Array]] = {
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
