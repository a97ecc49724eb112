"""The source file of a network in Keras with its weights, live models, and outputs of a file in a separate process.

Writing the source does not require Keras. A live model is made by executing the source, so the two cannot differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rescompile.backend import Artifact, evaluator
from rescompile.files.atomic_write import File
from rescompile.ir.network import Network
from rescompile.source_target import artifact, evaluation, free_axes, outputs_alone
from rescompile.weights import Array, Weights
from rescompile.weights import places as placed

from . import SUFFIX
from .tensors import places
from .text import check, source


def emit(
    network: Network, weights: Weights | None, *, style: str = "classes", dynamic: str | None = None,
    running_variance: str = "biased",
) -> Artifact:  # fmt: skip
    """Return the source of a network as an artifact, and a file of its weights unless any build would draw the same
    ones. The live model is made on demand.

    The `dynamic` axes have no fixed size in the model that the file builds by default. Raises Unavailable for what
    Keras cannot do.
    """
    free = free_axes(network, dynamic)
    check(network, free)
    text = source(network, style, free, running_variance)
    return artifact(
        network, weights, SUFFIX, text, free, weights_file, lambda: _live(network, weights, running_variance)
    )


def weights_file(network: Network, weights: Weights, name: str) -> File:
    """Return the safetensors file of weights by the names of Keras and with its axes."""
    return placed.weights_file(network, weights, places(network), name, "keras")


def _live(network: Network, weights: Weights | None, running_variance: str) -> Any:
    """Return the live model. Raises Unavailable if Keras or a backend of it is missing."""
    evaluator("keras")
    from .module import make

    return make(network, weights, running_variance)


_SCRIPT = """
import numpy
import network_source
assert "rescompile" not in __import__("sys").modules
for name in ("he_fan_out", "he_fan_in", "torch_default"):
    if hasattr(network_source, name):  # drawing may compile a program for each shape
        setattr(network_source, name, lambda: "zeros")
make = [value for value in vars(network_source).values() if type(value).__name__ == "function"][-1]
model = make()
network_source.load(model, "weights.safetensors")
outputs = model.predict_on_batch(numpy.moveaxis(numpy.load("input.npy"), 1, -1))
outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
numpy.savez("outputs.npz", **{name: numpy.moveaxis(numpy.asarray(y), -1, 1) for name, y in outputs.items()})
"""


def evaluate_file(path: Path, network: Network, weights: Weights, x: Array, **options: Any) -> dict[str, Array]:
    """Return the outputs by name, in evaluation mode, of a source file with these weights, which it reads with its own
    `load`. Raises UsageError if the file fails to run."""
    from .engine import chosen

    # On the CPU, which does not round products to fewer bits.
    environment = {"KERAS_BACKEND": chosen(), "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    found = outputs_alone(path, _SCRIPT, network, weights, weights_file, x, environment)
    return {name: found[name] for name in network.outputs}


evaluate = evaluation(emit, evaluate_file)
