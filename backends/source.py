"""PyTorch source: one file that imports torch alone, with one class per kind of block, for other projects to own.

The text follows from the class plan of the network; lines do not grow with depth. What is written is parsed again and held to a
short list of what such a file may contain, so nothing in a spec can put code of its own into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rescompile.analysis.dynamic_shapes import describe_sizes, sizes
from rescompile.backend import Artifact, Option
from rescompile.codegen.rendering import written
from rescompile.files import checksum
from rescompile.files.output import File
from rescompile.ir.network import Network
from rescompile.weights import Weights

from .torch.dialect import Torch

SUFFIX = ".py"
OPTIONS = (
    Option("style", str, "classes", "classes: one per kind of block; flat: one per block", choices=("classes", "flat")),
    Option("dynamic", str, None, "refuse a network that takes images of one height and width only: height,width"),
)
_TORCH = Torch()


def emit(network: Network, weights: Weights | None, *, style: str = "classes", dynamic: str | None = None) -> Artifact:
    """The source of a network; it draws its own weights, so `weights` are not used.

    A module takes every size that its network does, so with `dynamic` only the docstring says more.
    """
    free = sizes(network, dynamic, training=True).data() if dynamic is not None else {}
    text = source(network, flat=style == "flat", free=free)
    sealed = b"".join(bytes(chunk) for chunk in checksum.with_checksum([text.encode() + b"\n\n"], b"# ", b": ", b"\n"))
    return Artifact(
        network,
        SUFFIX,
        lambda name: [File(name, lambda: [sealed], len(sealed))],
        {"lines": text.count("\n") + 3, **({"free": free} if free else {})},
    )


def source(network: Network, flat: bool = False, free: Mapping[str, Any] = MappingProxyType({})) -> str:
    """The text of the file, without its seal; `free` are the axes of the image whose sizes its docstring tells."""
    return written(network, _TORCH, flat, [f"Takes {describe_sizes(free)}."] if free else [])
