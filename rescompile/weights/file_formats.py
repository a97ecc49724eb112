"""The format of a weights file, recognised by its content: how to read it, or what it is instead. Suffixes are ignored."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from rescompile.diagnostics.errors import UsageError
from rescompile.files import file_types
from rescompile.records import record
from rescompile.weights import hdf5, numpy_files, safetensors_file, torch_checkpoint
from rescompile.weights.checkpoint_content import mapping, state_dicts, tensor, type_name
from rescompile.weights.inert_pickle import Unreadable
from rescompile.weights.tensors import Tensor


@record
class Content:
    """The content of a file: the tensors of each state dict by its entry (that of the file itself is ''), the types of the
    other entries, and the preprocessing that it records."""

    entries: dict[str, dict[str, Tensor]]
    others: dict[str, str] = field(default_factory=dict)
    preprocess: Mapping[str, Any] | None = None


ZIPS, HDF5 = (b"PK\x03\x04", b"PK\x05\x06"), b"\x89HDF\r\n\x1a\n"
#: The first bytes of a pickle: protocol 2 and above, and the usual ones of the older two.
PICKLES = (b"\x80", b"(dp", b"(lp", b"}q", b"ccollections\n", b"ccopy_reg\n")
#: The first bytes of other files, in lower case, with what such a file is and what to do.
OTHERS: tuple[tuple[tuple[bytes, ...], str, str | None], ...] = (
    ((b"version https://git-lfs",), "is a Git LFS pointer, not the file itself", "run git lfs pull in its repository"),
    ((b"<",), "is a web page or XML, not weights", "the download failed; open the address in a browser to see why"),
    ((b"{", b"["), "is JSON, not weights", None),
    (
        (b"\x1f\x8b", b"bzh", b"\xfd7zxz", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"rar!"),
        "is compressed",
        "unpack it first",
    ),
    ((b"\x93numpy",), "is one array of NumPy", "save all tensors by name with numpy.savez"),
    ((b"\x89png", b"\xff\xd8\xff", b"gif8"), "is an image", None),
    ((b"tfl3", b"gguf"), "has a format that rescompile does not read", "convert it to safetensors"),
    ((b"\x08",), "looks like an ONNX model", "export the state dict of the network instead"),
)


def read(shown: str, notes: list[str]) -> Content:
    """Return the content of a file of any format. Raises UsageError if it has none of the formats, and Unavailable if it
    needs h5py."""
    path = Path(shown)
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UsageError.of("E0803", f"{shown} cannot be read: {error.strerror}") from None
    try:
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < os.path.getsize(path):
            return Content({"": safetensors_file.read(shown)}, preprocess=safetensors_file.preprocess(shown))
        if start.startswith(ZIPS):
            return _archive(path)
        if start.startswith(HDF5):
            return Content({"": hdf5.read(shown, notes)})
        if start.startswith(PICKLES):
            return _content(torch_checkpoint.read_pickles(path))
    except Unreadable as error:
        raise UsageError.of("E0803", f"{shown} cannot be read as weights: {error}") from None
    raise _refusal(shown, start)


def _archive(path: Path) -> Content:
    """Return the content of a zip archive: of torch or of NumPy. Raises Unreadable for any other."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.partition("/")[2] == "data.pkl" for name in names):
                return _content(torch_checkpoint.read_archive(path, archive))
            if names and all(name.endswith(".npy") for name in names):
                return Content({"": numpy_files.read_all(path, archive)})
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError) as error:
        raise Unreadable(f"it is a zip archive that is damaged or incomplete: {error}") from None
    others = {
        "model.weights.h5": "a Keras model; model.save_weights('model.weights.h5') writes a file that rescompile reads",
        "archive_format": "a torch.export program; 'rescompile extract' recovers the spec of one that rescompile built",
    }
    for name, what in others.items():
        if any(each.endswith(name) for each in names):
            raise Unreadable(f"it is {what}")
    raise Unreadable("it is a zip archive without weights of torch or NumPy; unpack it first")


def _content(content: Any) -> Content:
    items = mapping(content)
    if items is None:
        raise Unreadable(f"it contains a {type_name(content)}, not a state dict")
    return Content(state_dicts(content), {key: type_name(each) for key, each in items.items() if tensor(each) is None})


def _refusal(shown: str, start: bytes) -> UsageError:
    """Return the error for a file that is not weights: what it is by its content, else by its suffix."""
    head = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    known = [(what, help) for firsts, what, help in OTHERS if head.startswith(firsts)]
    if start[257:262] == b"ustar":
        known = [("is a tar archive", "unpack it first")]
    elif not start:
        known = [("is empty", "the download or the copy failed")]
    if not known:
        file_types.refuse(shown, WANTED, file_types.WEIGHTS)
        known = [("is text, not weights" if _is_text(start) else f"is not a weights file: {WANTED}", None)]
    what, help = known[0]
    return UsageError.of("E0803", f"{shown} {what}", help=help)


WANTED = "weights must be a file of safetensors, torch, Keras (HDF5) or NumPy (.npz)"


def _is_text(start: bytes) -> bool:
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
