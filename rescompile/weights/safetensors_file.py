"""Writes weights as a safetensors file."""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.files.output import Chunk, File, check_folder, write_files
from rescompile.ir.network import Network
from rescompile.ir.ops import Shape
from rescompile.weights import Array

SUFFIX = ".safetensors"
#: By the type of a parameter: what safetensors calls it, and how its values are written.
KINDS: dict[str, tuple[str, np.dtype[Any]]] = {"float32": ("F32", np.dtype("<f4")), "int64": ("I64", np.dtype("<i8"))}


def check_name(path: Path) -> None:
    """Raise UsageError for an output that is not called a safetensors file: every reader goes by the ending."""
    if path.suffix != SUFFIX:
        raise UsageError(Diagnostic("E0802", f"-o {path}: weights are written to a file that ends in {SUFFIX}"))


def write(
    arrays: Mapping[str, Array],
    kinds: Mapping[str, tuple[str, Shape]],
    network: Network,
    path: Path,
    force: bool = False,
) -> int:
    """Write arrays (see `file`), and say how many bytes that took. Raises OutputError; the previous file then stays."""
    check_name(path)
    check_folder(path)
    made = file(arrays, kinds, network, path.name)
    write_files([made], path.parent, force)
    return made.size


def file(arrays: Mapping[str, Array], kinds: Mapping[str, tuple[str, Shape]], network: Network, name: str) -> File:
    """A safetensors file of arrays, which are made while it is written; `kinds` says of each, by its name in the file, the
    type and the shape that it has there. The file records the network that they are of."""
    header, size = _header(kinds, network)

    def values() -> Iterator[Chunk]:
        for key, (dtype, shape) in kinds.items():
            array = arrays[key]
            assert array.size == math.prod(shape), f"{key} is {array.shape}, not {shape}"
            yield array.astype(KINDS[dtype][1], order="C", copy=False).reshape(-1).view(np.uint8).data

    return File(name, lambda: itertools.chain([header], values()), size)


def _header(kinds: Mapping[str, tuple[str, Shape]], network: Network) -> tuple[bytes, int]:
    """The bytes before the values, and the size of the whole file."""
    # `format` is asked for by libraries that load tensors for torch; without it, some refuse the file.
    facts = {"generator": "rescompile", "format": "pt", "network": network.name, "sha256": network.sha256}
    entries: dict[str, object] = {"__metadata__": facts}
    end = 0
    for name, (dtype, shape) in kinds.items():
        word, form = KINDS[dtype]
        start, end = end, end + form.itemsize * math.prod(shape)
        entries[name] = {"dtype": word, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the values are aligned, as safetensors itself does
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + end
