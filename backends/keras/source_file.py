"""The source file of a network in Keras with its weights, live models, and outputs of a file in a separate process.

Writing the source does not require Keras. A live model is made by executing the source, so the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rescompile.backend import Artifact, evaluator
from rescompile.diagnostics.errors import Unavailable
from rescompile.files.atomic_write import File
from rescompile.ir import ops
from rescompile.ir.network import Network, Op
from rescompile.ir.ops import rank
from rescompile.source_target import artifact, evaluation, free_axes, outputs_alone, text_of
from rescompile.weights import Array, Weights
from rescompile.weights import places as placed

from . import SUFFIX
from .dialect import dialect
from .tensors import AUTOMATIC, connected, layer_name, places


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


def check(network: Network, free: Collection[str] = ()) -> None:
    """Raise Unavailable for what Keras cannot do, and for two layers with one name."""
    if network.checkpoint:
        message = "activations cannot be recomputed for backward in a functional model of Keras"
        raise Unavailable.of("E0901", message, help="build with --set checkpoint=false, or for another target")
    names: dict[str, str] = {}
    for path, node in connected(network):
        if (reason := _refusal(path, node, free)) is not None:
            message, help = reason
            raise Unavailable.of("E0901", message, help=help)
        if node.kind.parameters(node.input):  # only layers with parameters have names of their own
            name = layer_name(path)
            if AUTOMATIC.fullmatch(name):
                message = f"{path} cannot be called '{name}' in Keras, which names other layers so"
                raise Unavailable.of("E0901", message, help="give the step another name")
            if name in names:
                message = f"{names[name]} and {path} would both be the layer '{name}' in Keras"
                raise Unavailable.of("E0901", message, help="give one of the steps another name")
            names[name] = path


def _refusal(path: str, node: Op, free: Collection[str]) -> tuple[str, str] | None:
    """Return the reason why Keras does not support an op, and the help; None if it does."""
    match node.kind:
        case ops.ConvTranspose(groups=groups) if groups > 1:
            return f"{path} is a transposed convolution in groups, which Keras does not have", "use another target"
        case ops.ConvTranspose(stride=stride, dilation=dilation) if max(stride) > 1 and max(dilation) > 1:
            message = f"{path} is a transposed convolution with stride and dilation, which Keras refuses"
            return message, "use another target"
        case ops.AdaptiveAvgPool() if free:
            message = f"{path} pools to a given size, which takes an image of known size in Keras"
            return message, "build without --dynamic"
        case ops.Upsample(kind="bilinear") if free and rank(node.input) == 3:
            message = f"{path} interpolates along three axes, which takes an input of known size in Keras"
            return message, "build without --dynamic"
        case (ops.MaxPool() | ops.AvgPool()) as pool if free and pool.ceil:
            sides = zip(pool.kernel, pool.stride or pool.kernel, pool.padding, strict=True)
            if any(k < s + p for k, s, p in sides):
                message = f"{path} rounds up its size, which takes an image of known size in Keras"
                return message, "build without --dynamic"
    return None


def source(
    network: Network,
    style: str = "classes",
    free: Mapping[str, Any] = MappingProxyType({}),
    running_variance: str = "biased",
) -> str:
    """Return the text of the file without its checksum trailer; the `free` axes of the image are dynamic in its
    model."""
    return text_of(network, dialect(running_variance == "unbiased", frozenset(free)), style, free)


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
