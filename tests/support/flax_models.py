"""Live modules of Flax NNX in float64: with given weights, in evaluation mode, and for one step of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_steps
from flax import nnx
from numpy.typing import NDArray
from random_numbers import Drawn
from training_steps import Step, apart

from rescompile.codegen.execution import executed
from rescompile.ir.network import LOGITS, Network
from rescompile.weights import Weights

__all__ = ["Step", "apart"]
Array = NDArray[Any]
module: Any = import_module("rescompile.backends.flax.module")
source_file: Any = import_module("rescompile.backends.flax.source_file")
tensors: Any = import_module("rescompile.backends.flax.tensors")
ALL = nnx.Any(nnx.Param, nnx.BatchStat)


def model_of(network: Network, weights: Mapping[str, Array], **options: Any) -> Any:
    """Return a model with these weights in float64, in training mode."""
    makers = {name: (lambda value=value: np.asarray(value, np.float64)) for name, value in weights.items()}
    return module.make(network, Weights(makers), **options)


def initial(network: Network) -> dict[str, Array]:
    """Return the values with which the generated file initialises a model."""
    return values(module.make(network))


def loading(network: Network) -> tuple[Any, Callable[[str], None]]:
    """Return a model of the generated file, and the function of the file that loads weights into it."""
    home, factory = executed(network, source_file.source(network))
    model = factory(rngs=nnx.Rngs(0))
    return model, lambda path: home.load(model, path)


def in_evaluation(model: Any, network: Network, x: Array) -> dict[str, Array]:
    """Return the outputs of a model in evaluation mode."""
    model.eval()
    return dict(module.outputs(model, x))


def evaluated(network: Network, weights: Mapping[str, Array], x: Array) -> dict[str, Array]:
    """Return the outputs of a network in evaluation mode, in float64."""
    return in_evaluation(model_of(network, weights), network, x)


def arrays(state: Any) -> dict[str, Array]:
    """Return the arrays of a state by name."""
    return {".".join(map(str, keys)): np.array(variable[...]) for keys, variable in nnx.to_flat_state(state)}


def values(model: Any) -> dict[str, Array]:
    """Return the parameters and statistics of a model by path."""
    return arrays(nnx.state(model, ALL))


def by_flax(network: Network, weights: Mapping[str, Array], x: Array, **options: Any) -> Step:
    """Return one step of the generated module."""

    def loss(model: Any, x: Any) -> tuple[Any, dict[str, Any]]:
        found = model(x)
        named = found if isinstance(found, dict) else {LOGITS: found}
        return sum(jnp.mean(value**2) for value in named.values()), named

    model = model_of(network, weights, **options)
    step = nnx.jit(nnx.value_and_grad(loss, has_aux=True))
    (_, outputs), gradients = step(model, jnp.asarray(np.moveaxis(x, 1, -1)))
    moved = {name: np.moveaxis(np.asarray(value), -1, 1) for name, value in outputs.items()}
    return Step(moved, arrays(gradients), arrays(nnx.state(model, nnx.BatchStat)))


def by_torch(network: Network, weights: Mapping[str, Array], x: Array) -> Step:
    """Return the same step of the generated PyTorch module, with the names and axes of Flax."""
    return training_steps.by_torch(network, weights, x, tensors.places(network))


def seed() -> None:
    """Do nothing: each model has its own random generator with a fixed seed."""


def slopes(model: Any, x: Array) -> tuple[Array, Array]:
    """Return the outputs of a vector in training mode, and the gradients of their sum."""
    gradients, found = _slopes(model, jnp.asarray(x))
    return np.asarray(found), np.asarray(gradients)


def _total(model: Any, x: Any) -> tuple[Any, Any]:
    found = model(x)
    return jnp.sum(found), found


_slopes = nnx.jit(nnx.grad(_total, argnums=1, has_aux=True))  # compiled once for all steps


def trained(model: Any, x: Array, labels: Array, steps: int, rate: float) -> list[float]:
    """Return the losses of steps of SGD on one batch."""
    given, targets = jnp.asarray(np.moveaxis(x, 1, -1)), jnp.asarray(labels)

    def loss(model: Any, x: Any) -> Any:
        return -jnp.mean(jnp.take_along_axis(nnx.log_softmax(model(x)), targets[:, None], axis=1))

    @nnx.jit
    def step(model: Any, x: Any) -> Any:
        found, gradients = nnx.value_and_grad(loss)(model, x)
        parameters = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(lambda value, slope: value - rate * slope, parameters, gradients))
        return found

    return [float(step(model, given)) for _ in range(steps)]


@contextmanager
def drawing(drawn: Drawn) -> Iterator[None]:
    """Let merges draw these random numbers; calls with other arguments draw their own."""
    left, own = iter(drawn.merges), jax.random.uniform

    def uniform(key: Any, shape: Sequence[int], *more: Any) -> Any:
        if more:
            return own(key, shape, *more)
        return jnp.asarray(drawn.whether if len(shape) == 1 else next(left)).reshape(shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "uniform", uniform)
        patch.setattr(jax.random, "exponential", lambda key, shape: jnp.asarray(-np.log(1 - next(left))).reshape(shape))
        patch.setattr(jax.random, "randint", lambda key, shape, least, end: jnp.asarray(drawn.which).reshape(shape))
        yield
    assert not list(left)


def in_double() -> Any:
    """Return a context in which JAX computes in float64."""
    return jax.enable_x64(True)
