"""The source file of a network, and its outputs in a separate process, which has torch but not rescompile.

The number of lines does not grow with depth. The finished text is parsed and checked against an allow-list, so a spec
cannot inject code into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rescompile import source_target
from rescompile.backend import Artifact
from rescompile.codegen.execution import run_alone
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.network import Network, Op, parameters, walk
from rescompile.ir.ops import AvgPool, rank
from rescompile.ir.ops.op import size_text
from rescompile.weights import Array, Weights

from .dialect import Torch

_TORCH = Torch()


def emit(network: Network, weights: Weights | None, *, style: str = "classes", dynamic: str | None = None) -> Artifact:
    """Return the source of a network as an artifact. The file initialises itself, so `weights` is unused.

    Generated modules accept all sizes that the network accepts, so `dynamic` only adds to the docstring.
    """
    free = source_target.free_axes(network, dynamic)
    return source_target.artifact(network, None, ".py", source(network, style, free), free)


def source(network: Network, style: str = "classes", free: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return the text of the file without its checksum trailer; its docstring describes the `free` axes of the image.
    Raises Unavailable for a network that torch does not support."""
    refuse_short_volumes(network)
    return source_target.text_of(network, _TORCH, style, free)


def refuse_short_volumes(network: Network) -> None:
    """Raise Unavailable for a mean over windows longer than a map of three axes without its padding: `avg_pool3d`
    rejects them, unlike `avg_pool2d` and `max_pool3d`."""
    for path, node in walk(network.root, again=True):
        if not (isinstance(node, Op) and isinstance(node.kind, AvgPool) and rank(node.input) == 3):
            continue
        if any(size < kernel for size, kernel in zip(node.input[1:], node.kind.kernel, strict=True)):
            message = (
                f"{path} has a window of {size_text(node.kind.kernel)}, but torch's avg_pool3d needs a map at least as large "
                f"before padding, and this one is {size_text(node.input[1:])}"
            )
            raise Unavailable.of("E0901", message, help="pad the map with 'border' before it, or use the target 'onnx'")


_SCRIPT = """
import types
import numpy, torch, network_source
assert "rescompile" not in __import__("sys").modules
torch.manual_seed(0)
make = [value for value in vars(network_source).values() if isinstance(value, types.FunctionType)][-1]
module = make()
state = {name: torch.from_numpy(array) for name, array in numpy.load("weights.npz").items()}
missing, unexpected = module.load_state_dict(state, strict=False)
assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), (missing, unexpected)
with torch.no_grad():
    outputs = module.eval()(torch.from_numpy(numpy.load("input.npy")))
outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
numpy.savez("outputs.npz", **{name: value.numpy() for name, value in outputs.items()})
"""


def evaluate_file(path: Path, network: Network, weights: Weights, x: Array, **options: Any) -> dict[str, Array]:
    """Return the outputs by name of a source file with these weights. Raises UsageError if the file fails to run."""
    import numpy as np

    def write(folder: Path) -> None:
        arrays = {name: weights[name] for name, _ in parameters(network) if name in weights}
        np.savez(str(folder / "weights.npz"), allow_pickle=False, **arrays)

    return run_alone(path, _SCRIPT, write, x)


evaluate = source_target.evaluation(emit, evaluate_file)
