"""The source file of a network in MLX with its weights, live modules, and outputs of a file in a separate process.

Writing the source does not require MLX. A live module is made by executing the source, so the two cannot differ.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from rescompile import source_target
from rescompile.backend import Artifact, evaluator
from rescompile.files.atomic_write import File
from rescompile.ir.network import Network
from rescompile.weights import Array, Weights
from rescompile.weights import places as placed

from . import SUFFIX
from .tensors import places
from .text import check, source


def emit(
    network: Network, weights: Weights | None, *, style: str = "classes", dynamic: str | None = None,
    running_variance: str = "unbiased",
) -> Artifact:  # fmt: skip
    """Return the source of a network as an artifact, with a file of weights unless any build would draw the same ones.

    Generated modules accept all sizes that the network accepts, so `dynamic` only adds to the docstring. Raises
    Unavailable for what MLX cannot do.
    """
    check(network)
    free = source_target.free_axes(network, dynamic)
    text = source(network, style, free, running_variance)
    live = partial(_live, network, weights, running_variance)
    return source_target.artifact(network, weights, SUFFIX, text, free, weights_file, live)


def weights_file(network: Network, weights: Weights, name: str) -> File:
    """Return the safetensors file of weights by the names of MLX and with its axes."""
    return placed.weights_file(network, weights, places(network), name, "mlx")


def _live(network: Network, weights: Weights | None, running_variance: str) -> Any:
    """Return the live module in evaluation mode. Raises Unavailable if MLX is missing."""
    evaluator("mlx")
    from .module import make

    return make(network, weights, running_variance).eval()


_SCRIPT = """
import mlx.core as mx, numpy
mx.set_default_device(mx.cpu)
import network_source
assert "rescompile" not in __import__("sys").modules
make = [value for value in vars(network_source).values() if type(value).__name__ == "function"][-1]
model = make().load_weights("weights.safetensors").eval()
outputs = model(mx.array(numpy.moveaxis(numpy.load("input.npy"), 1, -1)))
outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
numpy.savez("outputs.npz", **{name: numpy.moveaxis(numpy.array(y), -1, 1) for name, y in outputs.items()})
"""


def evaluate_file(path: Path, network: Network, weights: Weights, x: Array, **options: Any) -> dict[str, Array]:
    """Return the outputs by name of a source file on the CPU with these weights, which its `load_weights` reads.
    Raises UsageError if the file fails to run."""
    return source_target.outputs_alone(path, _SCRIPT, network, weights, weights_file, x)


evaluate = source_target.evaluation(emit, evaluate_file)
