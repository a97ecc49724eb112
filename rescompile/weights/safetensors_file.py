"""Reads and writes safetensors files."""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.files.atomic_write import Chunk, File, check_folder, write_files
from rescompile.ir.network import Network
from rescompile.ir.ops import Shape
from rescompile.weights.mapping import Array
from rescompile.weights.tensors import Tensor

SUFFIX = ".safetensors"
#: By the type of a parameter: its name in safetensors, and how its values are written.
DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {"float32": ("F32", np.dtype("<f4")), "int64": ("I64", np.dtype("<i8"))}


def read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name; their values are read on demand. Raises UsageError for another file."""
    shown = os.fspath(path)
    from safetensors import SafetensorError, safe_open

    try:
        handle: Any = safe_open(shown, framework="np")
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        facts = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise UsageError(Diagnostic("E0803", f"{shown} is not a safetensors file: {error}")) from None
    starts = _starts(shown) if any(kind == "BF16" for _, kind in facts.values()) else {}
    return {
        name: Tensor(
            shape,
            kind,
            partial(_halves, shown, starts[name], shape) if kind == "BF16" else partial(_stored, handle, name),
        )
        for name, (shape, kind) in facts.items()
    }


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
    """Raise UsageError for an output without the suffix of safetensors files, by which every reader recognises them."""
    if path.suffix != SUFFIX:
        raise UsageError(Diagnostic("E0802", f"-o {path} must end in {SUFFIX}"))


def write(
    arrays: Mapping[str, Array],
    kinds: Mapping[str, tuple[str, Shape]],
    network: Network,
    path: Path,
    force: bool = False,
) -> int:
    """Write arrays (see `file`) and return the size of the file in bytes. Raises OutputError and leaves the previous file
    unchanged."""
    check_name(path)
    check_folder(path)
    content = file(arrays, kinds, network, path.name)
    write_files([content], path.parent, force)
    return content.size


def file(arrays: Mapping[str, Array], kinds: Mapping[str, tuple[str, Shape]], network: Network, name: str) -> File:
    """Return a safetensors file of arrays, which are made while it is written; `kinds` maps each name in the file to the type
    and the shape there. The metadata records the network."""
    header, size = _header(kinds, network)

    def values() -> Iterator[Chunk]:
        for key, (dtype, shape) in kinds.items():
            array = arrays[key]
            assert array.size == math.prod(shape), f"{key} is {array.shape}, not {shape}"
            yield array.astype(DTYPES[dtype][1], order="C", copy=False).reshape(-1).view(np.uint8).data

    return File(name, lambda: itertools.chain([header], values()), size)


def _header(kinds: Mapping[str, tuple[str, Shape]], network: Network) -> tuple[bytes, int]:
    """Return the bytes before the values, and the size of the whole file."""
    # Some libraries that load tensors for torch refuse a file without `format`.
    facts = {"generator": "rescompile", "format": "pt", "network": network.name, "sha256": network.sha256}
    entries: dict[str, object] = {"__metadata__": facts}
    end = 0
    for name, (dtype, shape) in kinds.items():
        word, form = DTYPES[dtype]
        start, end = end, end + form.itemsize * math.prod(shape)
        entries[name] = {"dtype": word, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the values, as safetensors itself does
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + end
