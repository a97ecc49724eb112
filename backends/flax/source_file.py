"""The source file of a network in Flax NNX with its weights, live modules, and outputs of a file in a separate process.

Writing the source requires neither JAX nor Flax. A live module is made by executing the source, so the two cannot
differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rescompile import source_target
from rescompile.backend import Artifact, evaluator
from rescompile.codegen.class_plan import Scan
from rescompile.codegen.planner import plan_classes
from rescompile.codegen.refusals import refuse_names
from rescompile.codegen.scanned_rows import scans, with_scans
from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.files.atomic_write import File
from rescompile.ir.network import Network, Node, Parallel, Side, children, walk
from rescompile.weights import Array, Weights
from rescompile.weights import places as placed

from . import SUFFIX
from .dialect import OWN, Flax
from .tensors import places, stacked

_DIALECTS = {
    (variance, scan): Flax(variance == "unbiased", scan)
    for variance in ("biased", "unbiased")
    for scan in (False, True)
}
#: Attributes of nnx.Module.
_MODULE = frozenset({"eval", "iter_children", "iter_modules", "perturb", "set_attributes", "sow", "train"})


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


def check(network: Network) -> None:
    """Raise Unavailable for what Flax cannot do: the results of nnx.cond have fixed shapes, and NNX reserves attributes
    of its modules."""
    refuse_names(network, OWN | _MODULE, Flax.title)
    for path, node in walk(network.root):
        skipped = isinstance(node, Parallel) and node.survival is not None and node.survival.unit == "batch"
        if skipped and (inside := _output_inside(children(node)[0])) is not None:
            message = f"{path} may be dropped in training, so Flax cannot give the output '{inside}' from inside it"
            raise Unavailable.of("E0901", message, help="use 'unit: sample', or another target")


def _output_inside(node: Node) -> str | None:
    """Return an output inside a branch, or None."""
    sides = (side for _, side in walk(node) if isinstance(side, Side) and side.mode != "never")
    return next((side.output_name for side in sides if side.output_name), None)


def source(
    network: Network,
    style: str = "classes",
    free: Mapping[str, Any] = MappingProxyType({}),
    running_variance: str = "biased",
    scan: bool = False,
) -> str:
    """Return the text of the file without its checksum trailer; its docstring describes the `free` axes of the
    image."""
    return source_target.text_of(network, _DIALECTS[running_variance, scan], style, free)


def scans_of(network: Network, style: str = "classes") -> tuple[Scan, ...]:
    """Return the scans that the option `scan` requests. Raises UsageError in a style that writes every block out, and
    Unavailable if no row has equal copies."""
    if style == "flat":
        message = "the style 'flat' has one class per block, but one scan runs several blocks of one class"
        raise UsageError.of("E0802", message, help="use 'classes' or 'modules'")
    found = scans(with_scans(plan_classes(network, Flax.reserved)))
    if not found:
        message = f"no row of {network.name} has neighbouring blocks that are equal, so there is nothing to scan"
        raise Unavailable.of("E0901", message, help="build it without the option 'scan'")
    return found


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
