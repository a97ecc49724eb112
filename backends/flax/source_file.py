"""The source file of a network in Flax NNX with its weights, live modules, and outputs of a file in a separate process.

Writing the source requires neither JAX nor Flax. A live module is made by executing the source, so the two cannot
differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rescompile import source_target
from rescompile.backend import Artifact, evaluator
from rescompile.codegen.class_plan import Scan
from rescompile.files.atomic_write import File
from rescompile.ir.network import Network
from rescompile.weights import Array, Weights
from rescompile.weights import places as placed

from . import SUFFIX
from .tensors import places, stacked
from .text import check, scans_of, source


def emit(
    network: Network, weights: Weights | None, *, style: str = "classes", dynamic: str | None = None,
    running_variance: str = "biased", scan: bool = False,
) -> Artifact:  # fmt: skip
    """Return the source of a network as an artifact, with a file of weights unless any build would draw the same ones.

    Generated modules accept all sizes that the network accepts, so `dynamic` only adds to the docstring. Raises
    Unavailable for what Flax cannot do.
    """
    check(network)
    found = scans_of(network, style) if scan else ()
    free = source_target.free_axes(network, dynamic)
    text = source(network, style, free, running_variance, scan)
    live = partial(_live, network, weights, running_variance, scan)
    return source_target.artifact(network, weights, SUFFIX, text, free, partial(weights_file, scans=found), live)


def weights_file(network: Network, weights: Weights, name: str, scans: Sequence[Scan] = ()) -> File:
    """Return the safetensors file of weights by the names of Flax and with its axes, for a module with these scans."""
    return placed.weights_file(network, weights, stacked(places(network), scans), name, "flax")


def _live(network: Network, weights: Weights | None, running_variance: str, scan: bool) -> Any:
    """Return the live module in evaluation mode. Raises Unavailable if JAX or Flax is missing."""
    evaluator("flax")
    from .module import make

    model = make(network, weights, running_variance, scan)
    model.eval()
    return model


_SCRIPT = """
import jax, numpy
jax.config.update("jax_default_matmul_precision", "highest")
import network_source
from flax import nnx
assert "rescompile" not in __import__("sys").modules
for name in ("HE_FAN_OUT", "HE_FAN_IN", "TORCH_DEFAULT"):
    if hasattr(network_source, name):  # drawing compiles a program for each shape
        setattr(network_source, name, lambda key, shape, dtype: numpy.zeros(shape, dtype))
make = [value for value in vars(network_source).values() if type(value).__name__ == "function"][-1]
model = make(rngs=nnx.Rngs(0))
network_source.load(model, "weights.safetensors")
model.eval()
x = numpy.load("input.npy")
outputs = nnx.jit(lambda model, x: model(x))(model, numpy.moveaxis(x, 1, -1))
outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
numpy.savez("outputs.npz", **{name: numpy.moveaxis(numpy.asarray(y), -1, 1) for name, y in outputs.items()})
"""


def evaluate_file(path: Path, network: Network, weights: Weights, x: Array, **options: Any) -> dict[str, Array]:
    """Return the outputs by name of a source file with these weights, which it reads with its own `load`. Raises
    UsageError if the file fails to run."""
    write = partial(weights_file, scans=scans_of(network) if options.get("scan") else ())
    return source_target.outputs_alone(path, _SCRIPT, network, weights, write, x, {"JAX_PLATFORMS": "cpu"})


evaluate = source_target.evaluation(emit, evaluate_file)
