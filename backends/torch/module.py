"""PyTorch modules: the generated source is executed, and its module is filled with weights.

On disk a module is a `torch.export` program (.pt2, dynamic batch) that loads without rescompile, with a safetensors
file of its weights next to it. The canonical spec is one of the program's extra files.
"""

from __future__ import annotations

import io
import json
import logging
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rescompile.analysis.dynamic_shapes import Free, axis_names, sizes
from rescompile.backend import Artifact, Recorded, origin
from rescompile.codegen.execution import executed
from rescompile.diagnostics.errors import CheckFailed, Unavailable, UsageError
from rescompile.files import checksum
from rescompile.files.atomic_write import File
from rescompile.ir.network import LOGITS, Network, parameters
from rescompile.weights import Array, Weights, safetensors_file

from . import SUFFIX
from .source_file import source

#: The member of a program that records its origin, and the maximum number of its bytes to read: a spec has at most 1
#: MiB.
_EXTRA, _LARGEST = "rescompile.json", 16 << 20


def emit(
    network: Network, weights: Weights | None, *, batch: int | None = None, dynamic: str | None = None
) -> Artifact:
    """Return the module of a network with these weights; without weights it is on the meta device and uses no memory.

    With `dynamic` the program is exported at once, because only the export determines the sizes that it accepts. Raises
    UsageError if an axis cannot be dynamic.
    """
    dynamic_sizes = sizes(network, dynamic) if dynamic is not None else None
    module = make(network, weights).eval()
    free = dynamic_sizes.free if dynamic_sizes else ()
    exported: Any = None
    if free and weights is not None:
        exported, free = _exported_freely(network, module, batch, free)

    def program() -> Any:
        return exported if exported is not None else _exported(network, module, batch)

    first: int | str = "batch" if batch is None else batch
    shapes = dynamic_sizes.outputs if dynamic_sizes else network.outputs
    facts = {
        "input": [first, *(dynamic_sizes.input if dynamic_sizes else network.input)],
        "outputs": {name: [first, *shape] for name, shape in shapes.items()},
        **({"free": {axis.name: axis.data() for axis in free}} if free else {}),
    }
    listed = (
        None if batch is None else f"batch={batch}",
        f"dynamic={','.join(axis.name for axis in free)}" if free else None,
        *(origin(weights) or "").split(),
    )
    options = [option for option in listed if option is not None]
    record = {"text": network.text, "sha256": network.sha256, "passes": list(network.passes), "options": options}
    return Artifact(network, SUFFIX, lambda name: _files(network, module, name, program, record), facts, lambda: module)


def make(network: Network, weights: Weights | None = None) -> nn.Module:
    """Return a new instance of the generated class, in training mode. The class is in a separate Python module, so
    that tracebacks, `inspect` and torch.jit.script find its source, and its instances can be pickled."""
    _, factory = executed(network, source(network))
    # Nothing is drawn on the meta device: the weights are assigned below.
    with torch.device("meta"):
        module: nn.Module = factory()
    if weights is None:
        return module
    state = {key: _tensor(weights[key]) for key, _ in parameters(network) if key in weights}
    for key, parameter in parameters(network):
        if key not in state:  # a counter, which the weights may lack
            state[key] = torch.zeros(parameter.shape, dtype=torch.int64)
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(True)


def _tensor(array: Array) -> torch.Tensor:
    """Return a copy of an array as a tensor, so that training does not change the array."""
    return torch.from_numpy(np.array(array, order="C"))


def _files(
    network: Network, module: nn.Module, name: str, program: Callable[[], Any], record: Mapping[str, Any]
) -> list[File]:
    """Return the files of a program: its weights, then the program."""
    if any(parameter.is_meta for parameter in module.parameters()):
        message = "--no-weights does not apply to target torch: a .pt2 program contains its weights"
        raise UsageError.of("E0802", message, help="remove --no-weights")
    return [
        _safetensors(network, module, _weights_name(name)),
        File(name, lambda: [_with_trailer(_saved(program(), record))]),
    ]


def _weights_name(name: str) -> str:
    """Return the name of the file of weights next to a program."""
    return name.removesuffix(SUFFIX) + safetensors_file.SUFFIX


def _saved(program: Any, record: Mapping[str, Any]) -> bytes:
    """Return an exported program as bytes, with the record of its origin."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer, extra_files={_EXTRA: json.dumps(record)})
    return buffer.getvalue()


def _exported(network: Network, module: nn.Module, batch: int | None, free: Sequence[Free] = ()) -> Any:
    """Return the program of a module, with these axes of the input dynamic."""
    own, names = {axis.name: axis.after(axis.size) for axis in free}, axis_names(network.input)
    shape = [own.get(name, n) for name, n in zip(("", *names), network.input, strict=True)]
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1)} if batch is None else {}
    dynamic |= {2 + names.index(axis.name): _dimension(axis) for axis in free}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            module, (torch.zeros(batch or 2, *shape),), dynamic_shapes={"x": dynamic} if dynamic else None
        )


def _exported_freely(
    network: Network, module: nn.Module, batch: int | None, free: Sequence[Free]
) -> tuple[Any, tuple[Free, ...]]:
    """Return the program with dynamic axes, and the sizes that it accepts. Raises Unavailable if torch cannot export
    it.

    torch must prove that shapes match, and cannot prove (n + 1)//2 = (n - 1)//2 + 1, as for the shortcuts of CIFAR
    ResNets. If the proof fails for all sizes, it often succeeds for the multiples of the network's stride.
    """
    bounded = [replace(axis, minimum=axis.two) for axis in free]  # torch.export specialises on a size of 1
    strided = [replace(a, every=a.stride, rests=(a.size % a.stride,), minimum=a.two) for a in free]
    strided = [replace(axis, minimum=axis.after(1)) for axis in strided]
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its log of failed attempts is not for users
    reason = ""
    try:
        for axes in (bounded, strided):
            if all(len(axis.rests) == 1 for axis in axes):  # torch.export cannot express others
                try:
                    return _exported(network, module, batch, axes), tuple(axes)
                except Exception as error:  # torch raises many types, including plain assertions
                    reason = f": {str(error).strip().splitlines()[0][:160]}"
    finally:
        logger.setLevel(level)
    message = f"torch.export cannot make {' and '.join(axis.name for axis in free)} dynamic in this network{reason}"
    raise Unavailable.of("E0901", message, help="use the target 'onnx' or 'source'")


def _dimension(axis: Free) -> Any:
    """Return a dynamic axis for torch.export: a range, or a multiple of steps plus a remainder."""
    (rest,) = axis.rests
    if axis.every == 1:
        return torch.export.Dim(axis.name, min=axis.minimum)
    steps = axis.every * torch.export.Dim(f"{axis.name}_steps", min=axis.minimum // axis.every)
    return steps + rest if rest else steps


def _with_trailer(archive: bytes) -> bytes:
    """Return a zip archive with the checksum trailer as its comment."""
    length = len(checksum.MARK) + 2 + 8
    assert archive[-2:] == b"\0\0", "the archive has a comment already"
    chunks = checksum.with_checksum([archive[:-2] + length.to_bytes(2, "little")], b"", b": ")
    return b"".join(bytes(chunk) for chunk in chunks)


def _safetensors(network: Network, module: nn.Module, name: str) -> File:
    """Return the file of the weights."""
    state = module.state_dict()
    kinds = {key: (parameter.dtype, parameter.shape) for key, parameter in parameters(network)}
    return safetensors_file.file({key: state[key].detach().numpy() for key in kinds}, kinds, network, name)


def extract(path: Path) -> Recorded | None:
    """Return the record of a program's origin. Raises UsageError if the file is not an exported program."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = next((each for each in archive.infolist() if each.filename.endswith(f"extra/{_EXTRA}")), None)
            if member is None:
                return None
            text = _member(archive, member)
    # Any of these for an archive that is damaged, truncated, encrypted or in another format.
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, RuntimeError, EOFError, ValueError) as error:
        raise UsageError.of("E0801", f"{path} is not an exported program: {error}") from None
    try:
        record = json.loads(text)
        return Recorded(record["text"], record["sha256"], tuple(record["passes"]), tuple(record.get("options", ())))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UsageError.of("E0801", f"the record of the spec in {path} cannot be read") from None


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return the contents of a member. Only methods for which zipfile bounds memory are supported; torch stores without
    compression."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("its record is compressed by another method than deflate")
    if member.file_size > _LARGEST:
        raise ValueError(f"its record is larger than {_LARGEST >> 20} MiB")
    with archive.open(member) as stream:
        return stream.read(member.file_size)  # `archive.read` would unpack all of it, whatever its declared size


# --- for `verify`, and for gradients ----------------------------------------------------------------------------------


def evaluate(network: Network, weights: Weights, x: Array, **options: Any) -> dict[str, Array]:
    """Return the outputs of the module in evaluation mode, by name. A module accepts any batch and size, so `options`
    is unused."""
    return _run(make(network, weights).eval(), x)


def evaluate_file(path: Path, network: Network, weights: Weights, x: Array, **options: Any) -> dict[str, Array]:
    """Return the outputs of a program by name. Raises CheckFailed if the file of weights next to it does not contain
    these weights."""
    beside = path.with_name(_weights_name(path.name))
    for name, tensor in safetensors_file.read(str(beside)).items():
        if name in weights and not np.array_equal(tensor.make(), weights[name]):
            raise CheckFailed.of("E0708", f"{beside.name} contains other values for {name}")
    return _run(torch.export.load(path).module(), x)


def _run(module: nn.Module, x: Array) -> dict[str, Array]:
    with torch.no_grad():
        outputs = module(torch.from_numpy(x))
    named = outputs if isinstance(outputs, dict) else {LOGITS: outputs}
    return {name: output.numpy() for name, output in named.items()}
