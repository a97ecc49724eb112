"""Writes arrays as one of numpy's .npz files, sealed in the comment that ends a zip file, so that we know it again."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rescompile import seal
from rescompile.errors import Diagnostic, OutputError, UsageError
from rescompile.output import File, check_ours, write_files
from rescompile.weights import Array

SUFFIX = ".npz"


def check(path: Path, force: bool = False) -> None:
    """Refuse at once what could not be written after all the work. Raises UsageError and OutputError."""
    if path.suffix != SUFFIX:
        raise UsageError(Diagnostic("E0802", f"{path}: arrays are written to a file that ends in {SUFFIX}"))
    if not path.parent.is_dir():
        raise OutputError(Diagnostic("E1002", f"the folder {path.parent} does not exist"))
    check_ours(path, force)


def write(arrays: Mapping[str, Array], path: Path, force: bool = False) -> None:
    """Write arrays by name; the same arrays give the same bytes. Raises what `check` does."""
    check(path, force)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    # The last two bytes of a zip file are the length of its comment, which numpy leaves empty: the seal becomes one.
    length = struct.pack("<H", len(seal.BLANK))
    chunks = list(seal.sealed([buffer.getvalue()[:-2]], length, b"= "))
    write_files([File(path.name, lambda: chunks)], path.parent, force)
