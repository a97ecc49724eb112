"""PyTorch source: one file that imports torch alone, with one class per kind of block, for other projects to own.

The text follows from the class plan of the network; lines do not grow with depth. What is written is parsed again and held to a
short list of what such a file may contain, so nothing in a spec can put code of its own into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from rescompile.analysis.dynamic_shapes import describe_sizes, sizes
from rescompile.backend import Artifact, Option
from rescompile.codegen import plan_classes
from rescompile.codegen.allow_list import check
from rescompile.codegen.class_plan import ClassPlan
from rescompile.codegen.lowering import lower
from rescompile.codegen.program import Program, Recomputed, Thinned, layers, parts
from rescompile.codegen.prose import class_doc, head
from rescompile.codegen.rendering import template
from rescompile.files import checksum
from rescompile.files.output import File
from rescompile.ir.network import Network
from rescompile.weights import Weights

from .torch.allowed import ALLOWED
from .torch.initial import Initial
from .torch.spellings import Torch
from .torch.support import HELPERS, SUPPORT

SUFFIX = ".py"
OPTIONS = (
    Option("style", str, "classes", "classes: one per kind of block; flat: one per block", choices=("classes", "flat")),
    Option("dynamic", str, None, "refuse a network that takes images of one height and width only: height,width"),
)
_IMPORTS = (
    (
        ("OrderedDict", "from collections import OrderedDict"),
        ("Callable", "from collections.abc import Callable, Iterator"),
        ("nullcontext", "from contextlib import contextmanager, nullcontext"),
    ),
    (
        ("torch", "import torch"),
        ("F", "import torch.nn.functional as F"),
        ("nn", "from torch import Tensor, nn"),
        ("checkpoint", "from torch.utils.checkpoint import checkpoint"),
    ),
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
    plan = plan_classes(network, _TORCH.reserved, unrolled=flat)
    notes = [*([f"Takes {describe_sizes(free)}."] if free else []), *_training(plan)]
    program = lower(plan, _TORCH, rolls=not flat)
    text = template("rescompile.backends.torch", "template.py.jinja", _TORCH, _IMPORTS).render(
        program=program,
        head=list(head(network)),
        docs={of.name: class_doc(of, plan, notes) for of in plan.classes},
        support=list(_support(program)),
        initial="\n".join(Initial(plan).lines()),
    )
    check(text, ALLOWED)
    return text


def _support(program: Program) -> Iterator[str]:
    """The functions and classes of the file that torch lacks."""
    made = set(layers(program))
    done = {type(part) for part in parts(program.classes)}
    yield from (HELPERS[kind] for kind in (Thinned, Recomputed) if kind in done)
    yield from (text for kind, text in SUPPORT.items() if kind in made)


def _training(plan: ClassPlan) -> Iterator[str]:
    """What a user must know before training this network."""
    survivals = {node.survival.unit for node in plan.residuals() if node.survival}
    if "batch" in survivals:
        yield (
            "In training a dropped residual is not computed: nothing runs forward or backward, and its parameters get no "
            "gradient in that step. So training cannot be one graph (torch.compile without fullgraph), and "
            "DistributedDataParallel needs find_unused_parameters=True. A shortcut that changes the shape is always computed."
        )
    if "sample" in survivals:
        yield "In training each sample drops residuals of its own; all of them are computed."
    if plan.network.checkpoint:
        yield "In training the inside of each block is computed again for backward instead of being kept."
