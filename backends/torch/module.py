"""PyTorch modules: the very text that the target `source` writes, executed, with the weights of the spec's own streams.

On disk a module is a `torch.export` program (.pt2, dynamic batch), which loads without rescompile, and its weights beside it
as safetensors. The canonical spec rides along in the program's extra files.
"""

from __future__ import annotations

import io
import json
import linecache
import logging
import sys
import types
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rescompile.analysis.dynamic_shapes import AXES, Free, sizes
from rescompile.backend import Artifact, Recorded, origin
from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError
from rescompile.files import checksum
from rescompile.files.output import File
from rescompile.ir.network import LOGITS, Network, parameters
from rescompile.weights import Weights, safetensors_file

from . import SUFFIX
from .source_file import source

_EXTRA = "rescompile.json"


def emit(
    network: Network, weights: Weights | None, *, batch: int | None = None, dynamic: str | None = None
) -> Artifact:
    """The module of a network, with these weights; without any it is on the meta device, where it costs nothing.

    With `dynamic` the program is exported at once: which sizes it takes is only known then. Raises UsageError where an axis
    cannot be free.
    """
    found = sizes(network, dynamic) if dynamic is not None else None
    module = make(network, weights).eval()
    free = found.free if found else ()
    program: Callable[[], Any] = partial(_exported, network, module, batch)
    if free and weights is not None:
        exported, free = _exported_freely(network, module, batch, free)
        program = partial(_given, exported)
    first: int | str = "batch" if batch is None else batch
    shapes = found.outputs if found else network.outputs
    facts = {
        "input": [first, *(found.input if found else network.input)],
        "outputs": {name: [first, *shape] for name, shape in shapes.items()},
        **({"free": {axis.name: axis.data() for axis in free}} if free else {}),
    }
    told = (
        None if batch is None else f"batch={batch}",
        f"dynamic={','.join(axis.name for axis in free)}" if free else None,
        origin(weights),
    )
    options = [option for option in told if option is not None]
    record = {"text": network.text, "sha256": network.sha256, "passes": list(network.passes), "options": options}
    return Artifact(network, SUFFIX, lambda name: _files(network, module, name, program, record), facts, module)


def make(network: Network, weights: Weights | None = None) -> nn.Module:
    """A new module of the generated class, in training mode. The class lives in a module of its own, so that tracebacks,
    `inspect` and torch.jit.script find its text, and its instances can be pickled."""
    text = source(network)
    name = f"rescompile_{network.name}_{network.sha256[:12]}_{len(_texts)}"
    for other, known in _texts.items():
        if known == text:
            name = other
    if name not in _texts:
        _texts[name] = text
        home = types.ModuleType(name)
        home.__file__ = f"<{name}>"
        linecache.cache[home.__file__] = len(text), None, text.splitlines(keepends=True), home.__file__
        sys.modules[name] = home
        exec(compile(text, home.__file__, "exec", dont_inherit=True), home.__dict__)
        # The last function of the file makes the network; what others put beside it later does not count.
        _factories[name] = [value for value in vars(home).values() if isinstance(value, types.FunctionType)][-1]
    factory = _factories[name]
    # Nothing is drawn twice: the module is made empty, and filled with the streams of (seed, name).
    with torch.device("meta"):
        module: nn.Module = factory()
    if weights is None:
        return module
    state = {key: _tensor(weights[key]) for key, _ in parameters(network) if key in weights}
    for key, parameter in parameters(network):
        if key not in state:  # a counter, which weights may lack
            state[key] = torch.zeros(parameter.shape, dtype=torch.int64)
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(True)


#: The texts that were executed, and the functions that make their networks, by the name of their module.
_texts: dict[str, str] = {}
_factories: dict[str, Callable[[], nn.Module]] = {}


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor of its own: training a module changes no array that it was made of."""
    return torch.from_numpy(np.array(array, order="C"))


def _files(
    network: Network, module: nn.Module, name: str, program: Callable[[], Any], record: Mapping[str, Any]
) -> list[File]:
    """The program, after its weights."""
    if any(parameter.is_meta for parameter in module.parameters()):
        message = "a program holds its weights, and there are none"
        raise UsageError(Diagnostic("E0802", message, help="leave out --no-weights"))
    stem = name.removesuffix(SUFFIX)
    return [
        _safetensors(network, module, stem + safetensors_file.SUFFIX),
        File(name, lambda: [_sealed(_saved(program(), record))]),
    ]


def _saved(program: Any, record: Mapping[str, Any]) -> bytes:
    """An exported program as bytes, with what it records of its origin."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer, extra_files={_EXTRA: json.dumps(record)})
    return buffer.getvalue()


def _exported(network: Network, module: nn.Module, batch: int | None, free: Sequence[Free] = ()) -> Any:
    """The program of a module, with these axes of the image free."""
    own = {axis.name: axis.after(axis.size) for axis in free}
    shape = [own.get(name, n) for name, n in zip(("", *AXES), network.input, strict=False)]
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1)} if batch is None else {}
    dynamic |= {2 + AXES.index(axis.name): _dimension(axis) for axis in free}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            module, (torch.zeros(batch or 2, *shape),), dynamic_shapes={"x": dynamic} if dynamic else None
        )


def _given(program: Any) -> Any:
    return program


def _exported_freely(
    network: Network, module: nn.Module, batch: int | None, free: Sequence[Free]
) -> tuple[Any, tuple[Free, ...]]:
    """The program with free axes, and the sizes that it takes. Raises Unavailable where torch cannot export it so.

    torch proves what it can: that (n + 1)//2 is (n - 1)//2 + 1 it cannot, as for the shortcuts of CIFAR ResNets. Where all
    sizes are asked too much, those in steps of the network's stride often are not.
    """
    bounded = [replace(axis, minimum=axis.two) for axis in free]  # a size of 1 is another program
    strided = [replace(a, every=a.stride, rests=(a.size % a.stride,), minimum=a.two) for a in free]
    strided = [replace(axis, minimum=axis.after(1)) for axis in strided]
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what it says of its attempts is no message for users
    said = ""
    try:
        for axes in (bounded, strided):
            if all(len(axis.rests) == 1 for axis in axes):  # for others, torch has no word
                try:
                    return _exported(network, module, batch, axes), tuple(axes)
                except Exception as error:  # of its many, some are plain assertions
                    said = f": {str(error).strip().splitlines()[0][:160]}"
    finally:
        logger.setLevel(level)
    message = f"torch.export cannot leave {' and '.join(axis.name for axis in free)} free here{said}"
    help = "the target 'onnx' can, and so does the module that the target 'source' writes"
    raise Unavailable(Diagnostic("E0901", message, help=help))


def _dimension(axis: Free) -> Any:
    """A free axis as torch.export knows it: a range, or a number of steps and what is left."""
    (rest,) = axis.rests
    if axis.every == 1:
        return torch.export.Dim(axis.name, min=axis.minimum)
    steps = axis.every * torch.export.Dim(f"{axis.name}_steps", min=axis.minimum // axis.every)
    return steps + rest if rest else steps


def _sealed(archive: bytes) -> bytes:
    """A zip archive whose comment is the seal."""
    length = len(checksum.MARK) + 2 + 8
    assert archive[-2:] == b"\0\0", "the archive has a comment already"
    chunks = checksum.with_checksum([archive[:-2] + length.to_bytes(2, "little")], b"", b": ")
    return b"".join(bytes(chunk) for chunk in chunks)


def _safetensors(network: Network, module: nn.Module, name: str) -> File:
    """The weights alone."""
    state = module.state_dict()
    kinds = {key: (parameter.dtype, parameter.shape) for key, parameter in parameters(network)}
    return safetensors_file.file({key: state[key].detach().numpy() for key in kinds}, kinds, network, name)


def extract(path: Path) -> Recorded | None:
    """What a program records of its origin. Raises UsageError if the file is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith(f"extra/{_EXTRA}")), None)
            if name is None:
                return None
            text = archive.read(name)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError) as error:  # the last where it is encrypted
        raise UsageError(Diagnostic("E0801", f"{path} is no exported program: {error}")) from None
    try:
        record = json.loads(text)
        return Recorded(record["text"], record["sha256"], tuple(record["passes"]), tuple(record.get("options", ())))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UsageError(Diagnostic("E0801", f"what {path} records beside its program cannot be read")) from None


# --- for `verify`, and for gradients ----------------------------------------------------------------------------------


def evaluate(
    network: Network, weights: Weights, x: np.ndarray[Any, Any], **options: Any
) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of the module in evaluation mode, by name. A module takes any batch and size, so `options` change nothing."""
    module = make(network, weights).eval()
    with torch.no_grad():
        outputs = module(torch.from_numpy(x))
    named = outputs if isinstance(outputs, dict) else {LOGITS: outputs}
    return {name: output.numpy() for name, output in named.items()}
