"""Reads an array of one of numpy's .npy files, and writes several as an .npz."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, OutputError, UsageError
from rescompile.files.checksum import GENERATOR
from rescompile.files.output import check_ours, write_bytes
from rescompile.weights.mapping import Array

SUFFIX = ".npz"
#: How files begin: one array, an archive of arrays, and one that holds none.
_ONE, _SEVERAL = b"\x93NUMPY", (b"PK\x03\x04", b"PK\x05\x06")


class Unreadable(Exception):
    """A file that is no array; the message says why, without naming it, and `help` what to do."""

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.help = help


def read(path: Path, mapped: bool = False) -> Array:
    """The array of a .npy file, mapped where one wants it a piece at a time; such a file can run no code. Raises Unreadable."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_ONE))
    except OSError as error:
        raise Unreadable(f"it cannot be read: {error.strerror}") from None
    if start.startswith(_SEVERAL):
        help = "numpy.save writes one of them into a .npy file"
        raise Unreadable("an archive holds several arrays, and a .npy file one", help)
    if start != _ONE:
        what = "an empty file" if not start else "no .npy file, by how it begins"
        raise Unreadable(f"this is {what}", "numpy.save writes an array into a .npy file")
    try:
        array: Array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except MemoryError:
        raise
    except Exception as error:  # the header is a literal of Python, and what parses it raises nearly anything
        if "object" in str(error).lower():
            raise Unreadable("its array holds objects, and no numbers") from None
        first, _, _ = str(error).partition("\n")
        raise Unreadable(f"the .npy file is broken: {first}") from None
    return array


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
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = GENERATOR.encode()
    write_bytes(buffer.getvalue(), path, force)
