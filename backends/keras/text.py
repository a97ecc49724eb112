"""The text of a file in Keras 3, and what Keras does not support; writing it does not require Keras."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from rescompile.diagnostics.errors import Unavailable
from rescompile.ir import ops
from rescompile.ir.network import Network, Op
from rescompile.ir.ops import rank
from rescompile.source_target import text_of

from .dialect import dialect
from .tensors import AUTOMATIC, connected, layer_name


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
