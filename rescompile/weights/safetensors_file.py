"""Reads and writes safetensors files."""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import UsageError
from rescompile.files.atomic_write import Chunk, File, check_folder, write_files
from rescompile.ir.network import Network
from rescompile.ir.ops import Shape
from rescompile.weights.mapping import Array
from rescompile.weights.tensors import Tensor

SUFFIX = ".safetensors"
#: The metadata entry with the preprocessing of images for these weights, as JSON; ONNX files use the same entry.
PREPROCESS = "rescompile.preprocess"
#: The safetensors name and the NumPy format of each type of a parameter.
DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {"float32": ("F32", np.dtype("<f4")), "int64": ("I64", np.dtype("<i8"))}


def read(path: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name; their values are read on demand. Raises UsageError for another file."""
    from safetensors import SafetensorError, safe_open

    try:
        handle: Any = safe_open(path, framework="np")
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        facts = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise UsageError.of("E0803", f"{path} is not a safetensors file: {error}") from None
    starts = _starts(path) if any(kind == "BF16" for _, kind in facts.values()) else {}
    return {
        name: Tensor(
            shape,
            kind,
            partial(_halves, path, starts[name], shape) if kind == "BF16" else partial(_stored, handle, name),
        )
        for name, (shape, kind) in facts.items()
    }


def preprocess(path: str) -> Mapping[str, Any] | None:
    """Return the preprocessing that a safetensors file records, or None. Raises UsageError if it cannot be read."""
    from safetensors import safe_open

    handle: Any = safe_open(path, framework="np")
    try:
        recorded = json.loads((handle.metadata() or {}).get(PREPROCESS, "null"))
    except (ValueError, RecursionError):
        recorded = ()
    if recorded is not None and not isinstance(recorded, dict):
        raise UsageError.of("E0803", f"the metadata entry {PREPROCESS} of {path} is not valid")
    return recorded


def _stored(handle: Any, name: str) -> Array:
    value: Array = handle.get_tensor(name)
    return value.astype(np.float32) if value.dtype == np.float16 else value


def _starts(path: str) -> dict[str, int]:
    """Return the offset of the values of each tensor in a safetensors file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return {name: 8 + size + facts["data_offsets"][0] for name, facts in header.items() if name != "__metadata__"}


def _halves(path: str, start: int, shape: tuple[int, ...]) -> Array:
    """Return a bfloat16 tensor as float32. numpy has no bfloat16; its values are the upper halves of float32."""
    halves = np.fromfile(path, "<u2", math.prod(shape), offset=start)
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)


def check_name(path: Path) -> None:
    """Raise UsageError for an output without the suffix of safetensors files, by which readers recognise them."""
    if path.suffix != SUFFIX:
        raise UsageError.of("E0802", f"-o {path} must end in {SUFFIX}")


def write(content: File, path: Path, force: bool = False, progress: Callable[[int], None] | None = None) -> int:
    """Write a file (see `file`) and return its size in bytes; `progress` is called with the size of each piece. Raises OutputError
    and leaves the previous file unchanged."""
    check_name(path)
    check_folder(path)
    write_files([content], path.parent, force, progress)
    return content.size


def file(
    arrays: Mapping[str, Array],
    kinds: Mapping[str, tuple[str, Shape]],
    network: Network,
    name: str,
    preprocess: Mapping[str, Any] | None = None,
    framework: str = "pt",
) -> File:
    """Return a safetensors file of arrays, which are computed while it is written; `kinds` maps each name in the file to the
    type and the shape there. The metadata records the network, and the preprocessing of the weights if it is known;
    `framework` is the one whose names and axes they have, in the notation of safetensors."""
    header, size = _header(kinds, network, preprocess, framework)

    def values() -> Iterator[Chunk]:
        for key, (dtype, shape) in kinds.items():
            array = arrays[key]
            assert array.size == math.prod(shape), f"{key} is {array.shape}, not {shape}"
            yield array.astype(DTYPES[dtype][1], order="C", copy=False).reshape(-1).view(np.uint8).data

    return File(name, lambda: itertools.chain([header], values()), size)


def _header(
    kinds: Mapping[str, tuple[str, Shape]], network: Network, preprocess: Mapping[str, Any] | None, framework: str
) -> tuple[bytes, int]:
    """Return the bytes before the values, and the size of the whole file."""
    # Some libraries that load tensors for torch refuse a file without `format`.
    facts = {"generator": "rescompile", "format": framework, "network": network.name, "sha256": network.sha256}
    if preprocess:
        facts[PREPROCESS] = json.dumps(preprocess, sort_keys=True)
    entries: dict[str, object] = {"__metadata__": facts}
    end = 0
    for name, (dtype, shape) in kinds.items():
        word, form = DTYPES[dtype]
        start, end = end, end + form.itemsize * math.prod(shape)
        entries[name] = {"dtype": word, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the values, as safetensors itself does
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + end
