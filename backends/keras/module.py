"""Live models of Keras: the generated source is executed, and its model is filled with weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from rescompile.codegen.execution import executed
from rescompile.ir.network import LOGITS, Network
from rescompile.weights import Weights

from . import engine  # noqa: F401  (sets the backend of Keras)
from .tensors import places
from .text import source

Array = np.ndarray[Any, Any]
#: The initialisers of kernels in a file.
INITIALISERS = ("he_fan_out", "he_fan_in", "torch_default")


def make(network: Network, weights: Weights | None = None, running_variance: str = "biased") -> Any:
    """Return a new model of the generated file with these weights; without weights, it draws its own."""
    home, factory = executed(network, source(network, running_variance=running_variance))
    if weights is None:
        return factory()
    names = vars(home)
    own = {name: names[name] for name in INITIALISERS if name in names}
    names.update(dict.fromkeys(own, lambda: "zeros"))  # drawing may compile a program for each shape
    try:
        model = factory()
    finally:
        names.update(own)
    fill(model, network, weights)
    return model


def fill(model: Any, network: Network, weights: Weights) -> None:
    """Fill a model with copies of these weights, in the types of its variables."""
    variables = {variable.path: variable for variable in model.weights}
    for place in places(network):
        variables[place.path].assign(np.array(place.value(weights), order="C"))


def outputs(model: Any, x: Array, training: bool = False) -> dict[str, Array]:
    """Return the outputs of a model for a batch by name, channels first; auxiliary ones exist in either
    mode."""
    import keras

    found = model(np.moveaxis(x, 1, -1), training=training)
    named = found if isinstance(found, dict) else {LOGITS: found}
    return {name: np.moveaxis(np.asarray(keras.ops.convert_to_numpy(value)), -1, 1) for name, value in named.items()}
