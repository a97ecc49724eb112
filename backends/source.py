"""PyTorch source: one file that imports torch alone, with one class per kind of block, for other projects to own.

The text follows from the class plan of the network; lines do not grow with depth. What is written is parsed again and held to a
short list of what such a file may contain, so nothing in a spec can put code of its own into it.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from rescompile.analysis.dynamic_shapes import said, sizes
from rescompile.backend import Artifact, Option
from rescompile.codegen import plan_classes
from rescompile.codegen.allow_list import check
from rescompile.codegen.class_plan import Class, ClassPlan
from rescompile.codegen.layout import WIDTH, laid_out
from rescompile.files import checksum
from rescompile.files.output import File
from rescompile.ir.network import LOGITS, Network
from rescompile.ir.ops import Kind
from rescompile.weights import Weights

from .torch.classes import ClassWriter
from .torch.constructors import parameters, stage_lines
from .torch.initial import Initial
from .torch.spellings import HELPERS, SUPPORT

SUFFIX = ".py"
OPTIONS = (
    Option("style", str, "classes", "classes: one per kind of block; flat: one per block", choices=("classes", "flat")),
    Option("dynamic", str, None, "refuse a network that takes images of one height and width only: height,width"),
)


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
    plan = plan_classes(network, unrolled=flat)
    initial = Initial(plan)
    body: list[str] = []
    support: set[type[Kind]] = set()
    helpers: set[str] = set()
    for of in plan.classes:
        is_root = of is plan.root
        writer = ClassWriter(of, network.checkpoint, is_root, is_root and bool(initial), rolls=not flat)
        lines = writer.write(_class_doc(of, plan, is_root, free))
        support |= writer.constructor.support
        helpers |= writer.constructor.helpers
        body += ["", "", *lines]
        for stage in plan.stages:
            if stage.of is of:
                body += ["", "", *stage_lines(stage)]
    if initial:
        body += ["", "", *initial.lines()]
    body += ["", "", *_factory(plan)]
    above: list[str] = []
    for name in ("drop_samples", "recomputed"):
        if name in helpers:
            above += ["", *HELPERS[name].rstrip("\n").split("\n")]
    for kind, text in SUPPORT.items():
        if kind in support:
            above += ["", *text.rstrip("\n").split("\n")]
    rest = list(laid_out([*above, *body]))
    text = "\n".join([*_head(network), "", *_imports("\n".join(rest)), *rest]) + "\n"
    check(text)
    return text


def _head(network: Network) -> Iterator[str]:
    """The docstring of the file."""
    yield f'"""{network.name}, made by rescompile from its spec: edit that, or own this.'
    yield ""
    if network.reference:
        yield from textwrap.wrap(_prose(network.reference), WIDTH)
        yield ""
    yield f"spec sha256 {network.sha256}"
    if network.passes:
        yield from textwrap.wrap(_prose(f"passes {', '.join(network.passes)}"), WIDTH)
    yield '"""'


_IMPORTS = (
    ("OrderedDict", "from collections import OrderedDict"),
    ("Callable", "from collections.abc import Callable, Iterator"),
    ("nullcontext", "from contextlib import contextmanager, nullcontext"),
    ("torch", "import torch"),
    ("F", "import torch.nn.functional as F"),
    ("nn", "from torch import Tensor, nn"),
    ("checkpoint", "from torch.utils.checkpoint import checkpoint"),
)


def _imports(text: str) -> Iterator[str]:
    """What the file uses; torch comes after what Python has itself."""
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    found = [line for name, line in _IMPORTS if name in used]
    own = [line for line in found if "torch" not in line]
    yield from own
    if own:
        yield ""
    yield from (line for line in found if "torch" in line)


def _factory(plan: ClassPlan) -> Iterator[str]:
    root = plan.root
    yield f"def {plan.function}({parameters(root.arguments).removeprefix(', ')}) -> {root.name}:"
    yield f'    """A new {root.name}, with weights of its own."""'
    yield f"    return {root.name}({', '.join(f'{a.name}={a.name}' for a in root.arguments)})"


def _class_doc(of: Class, plan: ClassPlan, is_root: bool, free: Mapping[str, Any]) -> list[str]:
    """What a class is, the shapes that it maps, and what it does in training."""
    words = _prose(of.doc if not is_root else plan.network.name)
    first, *more = _sentences(words or f"The part {of.sample.name} of {plan.network.name}")
    network = plan.network
    notes: list[str] = more
    if of.reference:
        notes.append(_prose(of.reference))
    if is_root:
        outputs = ", ".join(f"{_shape(shape)} as {name}" for name, shape in network.outputs.items())
        if list(network.outputs) == [LOGITS] and not of.taps:
            outputs = _shape(network.outputs[LOGITS])
        notes.append(f"Maps {_shape(network.input)} to {outputs}.")
        if free:
            notes.append(f"Takes {said(free)}.")
        notes += _training(plan)
    else:
        where = "" if of.count == 1 else ", the first of its uses"
        notes.append(f"Maps {_shape(of.sample.input)} to {_shape(of.sample.output)}{where}.")
    lines = textwrap.wrap(first, WIDTH - 8)
    out = [f'    """{lines[0]}', *[f"    {line}" for line in lines[1:]]]
    for note in notes:
        out += ["", *[f"    {line}" for line in textwrap.wrap(note, WIDTH - 4)]]
    return [*out, '    """']


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


def _shape(shape: Iterable[int]) -> str:
    return f"[batch, {', '.join(map(str, shape))}]"


def _sentences(text: str) -> list[str]:
    """The first sentence, with its full stop, and the rest."""
    first, *rest = re.split(r"(?<!\bal)\. (?=[A-Z])", text, maxsplit=1)
    return [part if part.endswith(".") else f"{part}." for part in (first, *rest)]


def _prose(text: str) -> str:
    """Text of a user inside a docstring: printable, on one line, with nothing that could end the string."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(plain.replace("\\", "/").replace('"', "'").split())
