"""Live modules of MLX in float64: with given weights, in evaluation mode, and for one step of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import training_steps
from mlx.utils import tree_flatten, tree_map
from numpy.typing import NDArray
from random_numbers import Drawn
from training_steps import Step

from rescompile.ir.network import LOGITS, Network
from rescompile.weights import Weights

Array = NDArray[Any]
module: Any = import_module("rescompile.backends.mlx.module")
source_file: Any = import_module("rescompile.backends.mlx.source_file")
tensors: Any = import_module("rescompile.backends.mlx.tensors")
mx.set_default_device(mx.cpu)


def model_of(network: Network, weights: Mapping[str, Array], **options: Any) -> Any:
    """Return a model with these weights in float64, in training mode."""
    makers = {name: (lambda value=value: np.asarray(value, np.float64)) for name, value in weights.items()}
    return module.make(network, Weights(makers), **options)


def initial(network: Network) -> dict[str, Array]:
    """Return the values with which the generated file initialises a model."""
    mx.random.seed(0)
    return values(module.make(network))


def loading(network: Network) -> tuple[Any, Callable[[str], None]]:
    """Return a model of the generated file, and its method that loads weights."""
    model = module.make(network)
    return model, model.load_weights


def in_evaluation(model: Any, network: Network, x: Array) -> dict[str, Array]:
    """Return the outputs of a model in evaluation mode."""
    return dict(module.outputs(model.eval(), x))


def evaluated(network: Network, weights: Mapping[str, Array], x: Array) -> dict[str, Array]:
    """Return the outputs of a network in evaluation mode, in float64."""
    return in_evaluation(model_of(network, weights), network, x)


def arrays(tree: Any) -> dict[str, Array]:
    """Return the arrays of a tree by name."""
    return {name: np.array(value) for name, value in tree_flatten(tree)}


def values(model: Any) -> dict[str, Array]:
    """Return the parameters and statistics of a model by path."""
    return arrays(model.parameters())


def given(x: Array) -> mx.array:
    """Return a batch with channels last."""
    return module.array(np.moveaxis(x, 1, -1))


def by_mlx(network: Network, weights: Mapping[str, Array], x: Array, **options: Any) -> Step:
    """Return one step of the generated module."""
    model = model_of(network, weights, **options)
    outputs: dict[str, Any] = {}

    def loss(x: mx.array) -> Any:
        found = model(x)
        outputs.update(found if isinstance(found, dict) else {LOGITS: found})
        return sum(mx.mean(value**2) for value in outputs.values())

    _, gradients = nn.value_and_grad(model, loss)(given(x))
    trained = arrays(gradients)
    statistics = {name: value for name, value in arrays(model.parameters()).items() if name not in trained}
    return Step({name: np.moveaxis(np.array(value), -1, 1) for name, value in outputs.items()}, trained, statistics)


def by_torch(network: Network, weights: Mapping[str, Array], x: Array) -> Step:
    """Return the same step of the generated PyTorch module, with the names and axes of MLX."""
    return training_steps.by_torch(network, weights, x, tensors.places(network))


def seed() -> None:
    """Seed the random generator of all models."""
    mx.random.seed(0)


def slopes(model: Any, x: Array) -> tuple[Array, Array]:
    """Return the outputs of a vector in training mode, and the gradients of their sum."""
    values = module.array(x)
    (found,), (gradients,) = mx.vjp(model, [values], [mx.ones_like(values)])
    return np.array(found), np.array(gradients)


def trained(model: Any, x: Array, labels: Array, steps: int, rate: float) -> list[float]:
    """Return the losses of steps of SGD on one batch."""
    targets = mx.array(labels)
    step = nn.value_and_grad(model, lambda x: nn.losses.cross_entropy(model(x), targets, reduction="mean"))
    losses = []
    for _ in range(steps):
        loss, gradients = step(given(x))
        model.update(tree_map(lambda value, slope: value - rate * slope, model.trainable_parameters(), gradients))
        mx.eval(model.parameters())
        losses.append(loss.item())
    return losses


@contextmanager
def drawing(drawn: Drawn) -> Iterator[None]:
    """Let merges draw these random numbers; calls with other arguments draw their own."""
    left, own = iter(drawn.merges), mx.random.uniform

    def uniform(*more: Any, shape: Sequence[int] = (), **bounds: Any) -> Any:
        if more or bounds:
            return own(*more, shape=shape, **bounds)
        return module.array(drawn.whether if len(shape) == 1 else next(left)).reshape(shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mx.random, "uniform", uniform)
        patch.setattr(mx.random, "randint", lambda least, end, shape: mx.array(drawn.which).reshape(shape))
        yield
    assert not list(left)


@contextmanager
def in_double() -> Iterator[None]:
    """Let MLX compute in float64.

    MLX has no float64 convolutions with groups, dilation or gradients, and rounds its exponential and error functions,
    layer normalisation and upsampling positions to float32. This context replaces them by sums, products and powers.
    """
    by_axes = {"conv": _conv, "conv_transpose": _conv_transpose}
    own = {
        **{f"{name}{axes}d": function for name, function in by_axes.items() for axes in (1, 2, 3)},
        "exp": _exp, "erf": _erf, "sigmoid": _sigmoid, "softmax": _softmax,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, function in own.items():
            patch.setattr(mx, name, function)
        patch.setattr(mx.fast, "layer_norm", _layer_norm)
        patch.setattr(import_module("mlx.nn.layers.upsample"), "_scaled_indices", _scaled_indices)
        mx.disable_compile()
        try:
            yield
        finally:
            mx.enable_compile()


def _exp(x: Any) -> Any:
    return mx.power(mx.array(math.e, x.dtype), x)


def _sigmoid(x: Any) -> Any:
    return (1 + mx.tanh(x / 2)) / 2


def _softmax(x: Any, axis: int | None = None) -> Any:
    powers = _exp(x - mx.max(x, axis=axis, keepdims=True))
    return powers / mx.sum(powers, axis=axis, keepdims=True)


def _erf(x: Any) -> Any:
    """Return the error function by a series of positive terms (Abramowitz and Stegun 7.1.6); beyond 6, the value is 1."""
    x = mx.clip(x, -6, 6)
    term = total = x
    for n in range(1, 150):
        term = term * (2 * x * x / (2 * n + 1))
        total = total + term
    return 2 / math.sqrt(math.pi) * _exp(-x * x) * total


def _layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    y = (x - mx.mean(x, axis=-1, keepdims=True)) * mx.rsqrt(mx.var(x, axis=-1, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _scaled_indices(n: int, scale: float, align_corners: bool, dim: int, ndims: int) -> Any:
    """Return the positions at which upsampling reads an axis, in float64; MLX rounds them to float32."""
    assert not align_corners
    positions = (np.arange(int(scale * n)) + 0.5) / scale - 0.5
    return module.array(positions).reshape([-1 if at == dim else 1 for at in range(ndims)])


def _each(size: Any, axes: int) -> tuple[int, ...]:
    return (size,) * axes if isinstance(size, int) else tuple(size)


def _conv(x: Any, weight: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    """Return a convolution, as a sum over the positions of the kernel."""
    out, *kernel, _ = weight.shape
    axes = len(kernel)
    stride, dilation = _each(stride, axes), _each(dilation, axes)
    x = mx.pad(x, [(0, 0), *((pad, pad) for pad in _each(padding, axes)), (0, 0)])
    rules = [*zip(x.shape[1:-1], kernel, stride, dilation, strict=True)]
    reach = [(n - d * (k - 1) - 1) // s * s + 1 for n, k, s, d in rules]
    total = 0
    for at in np.ndindex(*kernel):
        windows = (slice(i * d, i * d + r, s) for i, r, (_, _, s, d) in zip(at, reach, rules, strict=True))
        part = x[(slice(None), *windows)]
        size = part.shape[:-1]
        products = part.reshape(*size, groups, 1, -1) @ weight[(slice(None), *at)].reshape(
            groups, out // groups, -1
        ).swapaxes(1, 2)
        total = total + products.reshape(*size, out)
    return total


def _conv_transpose(
    x: Any, weight: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, output_padding: Any = 0, groups: int = 1
) -> Any:
    """Return a transposed convolution: zeros are inserted between the values, and the kernel is reversed."""
    kernel = weight.shape[1:-1]
    axes = len(kernel)
    for axis, step in enumerate(_each(stride, axes), 1):
        size = x.shape[axis]
        apart = mx.concatenate([mx.expand_dims(x, axis + 1), *[mx.expand_dims(x * 0, axis + 1)] * (step - 1)], axis + 1)
        apart = apart.reshape(*x.shape[:axis], size * step, *x.shape[axis + 1 :])
        x = mx.split(apart, [(size - 1) * step + 1], axis)[0]
    added = zip(kernel, _each(dilation, axes), _each(output_padding, axes), strict=True)
    x = mx.pad(x, [(0, 0), *((d * (k - 1), d * (k - 1) + end) for k, d, end in added), (0, 0)])
    y = _conv(x, weight[(slice(None), *[slice(None, None, -1)] * axes)], 1, 0, dilation, groups)
    cut = zip(y.shape[1:-1], _each(padding, axes), strict=True)
    return y[(slice(None), *(slice(pad, size - pad) for size, pad in cut))]
