"""NumPy files: reads one array from a .npy file, and reads or writes several in an .npz archive."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from rescompile.diagnostics.errors import UsageError, clipped
from rescompile.files.atomic_write import check_folder, check_ours, write_bytes
from rescompile.files.checksum import GENERATOR
from rescompile.weights.mapping import Array
from rescompile.weights.tensors import DTYPES, Tensor

SUFFIX = ".npz"
#: The first bytes of a file with one array, and of an archive with arrays or without any.
_ONE, _SEVERAL = b"\x93NUMPY", (b"PK\x03\x04", b"PK\x05\x06")


class Unreadable(Exception):
    """The file does not contain an array. The message gives the reason without the name of the file, `help` what to do."""

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.help = help


def read(path: Path, mapped: bool = False) -> Array:
    """Return the array of a .npy file, memory-mapped on request. Pickled objects are refused. Raises Unreadable."""
    if not path.is_file():  # reading a pipe would block
        raise Unreadable("it is not a regular file")
    try:
        with path.open("rb") as file:
            start = file.read(len(_ONE))
    except OSError as error:
        raise Unreadable(f"it cannot be read: {error.strerror}") from None
    if start.startswith(_SEVERAL):
        help = "save one of its arrays with numpy.save"
        raise Unreadable("this is an archive of arrays, not a .npy file", help)
    if start != _ONE:
        what = "is an empty file" if not start else "is not in .npy format"
        raise Unreadable(f"it {what}", "save an array with numpy.save")
    try:
        array: Array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except MemoryError:
        raise
    except Exception as error:  # the header is a Python literal, whose parser raises arbitrary exceptions
        if "object" in str(error).lower():
            raise Unreadable("its array contains objects, not numbers") from None
        first, _, _ = str(error).partition("\n")
        raise Unreadable(f"the .npy file is broken: {first}") from None
    return array


def check(path: Path, force: bool = False) -> None:
    """Raise UsageError or OutputError early if a path could not be written later."""
    if path.suffix != SUFFIX:
        raise UsageError.of("E0802", f"--save {path} must end in {SUFFIX}")
    check_folder(path)
    check_ours(path, force)


def write(arrays: Mapping[str, Array], path: Path, force: bool = False) -> None:
    """Write arrays by name; the same arrays give the same bytes. Raises what `check` does."""
    check(path, force)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = GENERATOR.encode()
    write_bytes(buffer.getvalue(), path, force)


def read_all(path: Path, archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Return the arrays of an .npz archive by name; their values are read on demand. Those of objects are left out."""
    tensors: dict[str, Tensor] = {}
    for member in archive.infolist():
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            whole = file.tell() + math.prod(shape) * dtype.itemsize == member.file_size
        if dtype.hasobject:
            continue
        if not whole:
            raise ValueError(f"{clipped(member.filename)} does not contain as many values as its shape has")
        word = DTYPES.get(dtype.name, dtype.name)
        tensors[member.filename.removesuffix(".npy")] = Tensor(shape, word, partial(_member, path, member.filename))
    return tensors


def _member(path: Path, name: str) -> Array:
    """Return one array of an archive, at least as wide as float32."""
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array.astype(np.float32) if array.dtype.name == "float16" else array
