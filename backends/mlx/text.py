"""The text of a file in MLX, and what MLX does not support; writing it does not require MLX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from rescompile import source_target
from rescompile.codegen.refusals import refuse_names
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir import ops
from rescompile.ir.network import Network, Op, walk
from rescompile.ir.ops import Kind

from .dialect import Mlx

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
