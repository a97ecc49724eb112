"""The source file of a network in MLX with its weights, live modules, and outputs of a file in a separate process.

Writing the source does not require MLX. A live module is made by executing the source, so the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rescompile import source_target
from rescompile.backend import Artifact, evaluator
from rescompile.codegen.refusals import refuse_names
from rescompile.diagnostics.errors import Unavailable
from rescompile.files.atomic_write import File
from rescompile.ir import ops
from rescompile.ir.network import Network, Op, walk
from rescompile.ir.ops import Kind
from rescompile.weights import Array, Weights
from rescompile.weights import places as placed

from . import SUFFIX
from .dialect import Mlx
from .tensors import places

_DIALECTS = {name: Mlx(name == "unbiased") for name in ("biased", "unbiased")}
#: Attributes of nn.Module, which is a dict.
_MODULE = frozenset(
    {
        "apply", "apply_to_modules", "children", "clear", "copy", "eval", "filter_and_map", "freeze", "fromkeys", "get",
        "is_module", "items", "keys", "leaf_modules", "load_weights", "modules", "named_modules", "parameters", "pop", "popitem",
        "save_weights", "set_dtype", "setdefault", "state", "train", "trainable_parameter_filter", "trainable_parameters",
        "training", "unfreeze", "update", "update_modules", "valid_child_filter", "valid_parameter_filter", "values",
    }
)  # fmt: skip


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


def _cuts_into_steps(kind: ops.ConvTranspose) -> bool:
    """Return whether a transposed convolution removes more positions than its kernel adds before the first, where MLX
    computes a map of another size."""
    sizes = zip(kind.kernel, kind.stride, kind.padding, kind.dilation, strict=True)
    return any(stride > 1 and pad > dilation * (kernel - 1) for kernel, stride, pad, dilation in sizes)


#: What modules of MLX do not support: the condition and the reason.
_LACKS: dict[type[Kind], tuple[Callable[[Any], bool], str]] = {
    ops.Norm: (lambda kind: kind.eps <= 0, "whose norms need an eps above 0"),
    ops.ConvTranspose: (
        _cuts_into_steps,
        "whose transposed convolutions with a stride need a padding of at most dilation * (kernel - 1)",
    ),
    ops.Dropout: (lambda kind: kind.rate >= 1, "whose dropout needs a rate below 1"),
    ops.Act: (lambda kind: kind.kind == "leaky_relu" and kind.slope > 1, "whose leaky ReLU needs a slope of at most 1"),
}


def check(network: Network) -> None:
    """Raise Unavailable for what MLX cannot do: its modules reserve attributes, and it restricts some arguments."""
    refuse_names(network, _MODULE, Mlx.title)
    for path, node in walk(network.root):
        if not isinstance(node, Op):
            continue
        lacks, why = _LACKS.get(type(node.kind), (lambda kind: False, ""))
        if lacks(node.kind):
            raise Unavailable.of("E0901", f"{path} cannot be written in MLX, {why}", help="use another target")


def source(
    network: Network,
    style: str = "classes",
    free: Mapping[str, Any] = MappingProxyType({}),
    running_variance: str = "unbiased",
) -> str:
    """Return the text of the file without its checksum trailer; its docstring describes the `free` axes of the
    image."""
    return source_target.text_of(network, _DIALECTS[running_variance], style, free)


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
