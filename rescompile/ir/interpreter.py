"""The definition of what a network computes: the tree evaluated by numpy in float64, one rule per op.

Every target is compared with it, in `verify`, in `bench` and in the tests. Each op is written down once more from torch's
documented meaning, not from any backend, so that a mistake shared by all backends still shows. Output sizes too are derived
here, and every value is checked against the shape that the tree declares for it.

Evaluation mode only: dropout is the identity, norms use their running statistics.

Clarity goes before speed, but convolutions are matrix products of BLAS and pools work on views, so that the largest networks
of the zoo take seconds. In a narrower precision the same evaluation measures what rounding alone does to an output.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
#: The tensors of one op, by the op's own names for them: `weight`, `bias`, ...
Own = Mapping[str, Array]
Round = Callable[[Array], Array]


def interpret(
    network: Network, weights: Mapping[str, NDArray[Any]], x: NDArray[Any], precision: str = "fp64"
) -> dict[str, Array]:
    """The outputs for a batch `x`: `logits`, then those of side branches that are always computed, in execution order.

    `weights` has the full names of `rescompile.ir.network.parameters`; those that evaluation does not read may be missing.
    `precision` is one of ARITHMETIC.
    """
    arithmetic = ARITHMETIC[precision]

    def read(name: str, op: Op, x: Array) -> Own:
        own = _own(name, op, weights, arithmetic.dtype)
        return {key: arithmetic.store(value) for key, value in own.items()}

    return _Evaluation(arithmetic, read).outputs(network, x)


def calibrated(network: Network, weights: Mapping[str, NDArray[Any]], x: NDArray[Any]) -> dict[str, Array]:
    """The running statistics, by full name, of all batch norms that evaluation computes, taken from the batch `x`.

    Before its scale and shift, each channel of a norm's output then has mean 0 and variance 1 over this batch. In float32:
    whatever statistics come out are the weights from then on.
    """
    statistics: dict[str, Array] = {}

    def read(name: str, op: Op, x: Array) -> Own:
        own = dict(_own(name, op, weights, np.float32))
        if isinstance(op.kind, Norm) and op.kind.kind == "batch":
            others = tuple(axis for axis in range(x.ndim) if axis != 1)
            own |= {"running_mean": x.mean(others), "running_var": x.var(others)}
            statistics.update({f"{name}.{key}": own[key] for key in ("running_mean", "running_var")})
        return own

    _Evaluation(ARITHMETIC["fp32"], read).outputs(network, x)
    return statistics


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The numbers of a precision: the type that numpy computes with, and how values are rounded when they are stored
    and when convolutions and linear layers read them to multiply."""

    dtype: DTypeLike
    store: Round = lambda values: values
    multiply: Round = lambda values: values


def _to_bits(bits: int) -> Round:
    """Rounds float32 to so many bits of mantissa, the leading one included (Dekker 1971)."""
    factor = np.float32(2 ** (24 - bits) + 1)

    def rounded(values: Array) -> Array:
        scaled = values * factor
        return np.asarray(scaled - (scaled - values))

    return rounded


def _to_half(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


#: What each precision does, by its name. Sums are taken in float32 in all but the first, as runtimes take them.
ARITHMETIC: dict[str, Arithmetic] = {
    "fp64": Arithmetic(np.float64),
    "fp32": Arithmetic(np.float32),
    "tf32": Arithmetic(np.float32, multiply=_to_bits(11)),
    "fp16": Arithmetic(np.float32, store=_to_half),
    "bf16": Arithmetic(np.float32, store=_to_bits(8)),
}


class _Evaluation:
    """One walk over the tree. `read` gives the tensors of an op by its full name; it may look at the op's input."""

    def __init__(self, arithmetic: Arithmetic, read: Callable[[str, Op, Array], Own]) -> None:
        self.arithmetic, self.read = arithmetic, read
        self.sides: dict[str, Array] = {}

    def outputs(self, network: Network, x: NDArray[Any]) -> dict[str, Array]:
        """The outputs of a network for a batch, by name."""
        logits = self.value(network.root, "", self.arithmetic.store(np.asarray(x, self.arithmetic.dtype)))
        assert "logits" not in self.sides, "a side branch may not be called logits"
        return {"logits": logits, **self.sides}

    def value(self, node: Node, path: str, x: Array) -> Array:
        """The value after `node`, which lives in the scope `path`."""
        assert x.shape[1:] == node.input, f"{path or 'root'}: declared input {node.input}, given {x.shape[1:]}"
        match node:
            case Op():
                y = self.op(join(path, node.name), node, x)
            case Series():
                y = x
                for child in node.children:
                    y = self.value(child, scope(path, node), y)
            case Parallel():
                given = zip(node.branches, _given(node, x), strict=True)
                y = self.merge(node, [self.value(branch, path, part) for branch, part in given])
            case Side():
                y = x
                if node.mode == "always":
                    output = node.output_name or path
                    assert output not in self.sides, f"two side branches are called {output}"
                    self.sides[output] = self.value(node.child, path, x)
        assert y.shape == (len(x), *node.output), (
            f"{path or 'root'}: declared output {node.output}, computed {y.shape[1:]}"
        )
        assert y.dtype == x.dtype, f"{path or 'root'}: {x.dtype} became {y.dtype}"
        return y

    def op(self, name: str, op: Op, x: Array) -> Array:
        """The value after an op."""
        own = self.read(name, op, x)
        if isinstance(op.kind, Conv | Linear):
            multiply = self.arithmetic.multiply
            x, own = multiply(x), {**own, "weight": multiply(own["weight"])}
        return self.arithmetic.store(OPS[type(op.kind)](op.kind, x, own))

    def merge(self, node: Parallel, values: list[Array]) -> Array:
        """The value after branches have come together."""
        if node.survival and node.survival.rescale == "test":
            # In training the branch was there only with this probability, so in evaluation it counts by as much.
            # With "train" it was divided by the probability in training, and evaluation leaves it alone.
            values[0] = node.survival.probability * values[0]
        return self.arithmetic.store(MERGES[node.merge](values))


def _given(node: Parallel, x: Array) -> list[Array]:
    """The input of each branch: x, or with `split` an equal range of its channels, the first branch the first ones."""
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
            # Checked, because numpy would broadcast a wrong shape silently.
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

    A group of output channels sees its own group of input channels only. The sum over c, i and j is one matrix product per
    group, by BLAS: its rows are copies of what the windows see, made for a band of output rows at a time.
    """
    padded = _padded(x, op.pads)
    reach = [dilation * (kernel - 1) + 1 for kernel, dilation in zip(op.kernel, op.dilation, strict=True)]
    windows = sliding_window_view(padded, reach, axis=(2, 3))  # [batch, channels, rows, columns, i, j], and no copy yet
    windows = windows[:, :, :: op.stride[0], :: op.stride[1], :: op.dilation[0], :: op.dilation[1]]
    batch, _, height, width = windows.shape[:4]
    weight = own["weight"].reshape(op.groups, op.channels // op.groups, -1)
    seen = weight.shape[2]  # how many values of its group each output sees
    y = np.empty((batch, op.groups, op.channels // op.groups, height * width), x.dtype)
    rows = max(1, BAND // (op.groups * seen * width * x.itemsize))
    for at, start in itertools.product(range(batch), range(0, height, rows)):
        band = windows[at, :, start : start + rows].transpose(0, 3, 4, 1, 2).reshape(op.groups, seen, -1)
        place = slice(start * width, start * width + band.shape[2])
        np.matmul(weight, band, out=y[at, :, :, place])
    y = y.reshape(batch, op.channels, height, width)
    if op.bias:
        y += _per_channel(own["bias"])
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
    y = np.asarray(x * factor)
    y += bias - mean * factor
    return y


def _per_channel(values: Array, rank: int = 4) -> Array:
    """One value for each channel, shaped to be broadcast over an array [batch, channels, ...]."""
    return values.reshape(1, -1, *(1,) * (rank - 2))


# Pools


def maxpool(op: MaxPool, x: Array, own: Own) -> Array:
    """The maximum over each window. Padding is lower than any value, so it never wins."""
    return np.asarray(functools.reduce(np.maximum, _positions(op, x, padding=-np.inf, overhang=-np.inf)))


def avgpool(op: AvgPool, x: Array, own: Own) -> Array:
    """The sum over each window, divided by how many of its positions count.

    Positions of the map count; those of its padding if `count_pad` says so; those that only rounding up has added never
    do. Some always count: a window starts at most half its size before the map, and none starts after it.
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
