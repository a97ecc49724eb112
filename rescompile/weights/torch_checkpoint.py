"""Checkpoints of `torch.save`, read without torch: a zip archive or, before torch 1.6, a sequence of pickles, with the
values of tensors next to the pickle. Nothing is executed (see `inert_pickle`), and values are read from the file on
demand.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from rescompile.diagnostics.errors import clipped
from rescompile.records import record
from rescompile.weights import inert_pickle
from rescompile.weights.inert_pickle import Object, Unreadable
from rescompile.weights.mapping import Array
from rescompile.weights.tensors import DTYPES, Tensor

#: The names in safetensors of the types that are read; numpy calls them as torch does, but reads bfloat16, the upper half of
#: float32, as uint16.
WORDS = {**DTYPES, "bool": "BOOL"}
#: The sizes in bytes of other types, which fit no network and are never read.
SIZES = {"complex64": 8, "complex128": 16, "qint8": 1, "quint8": 1, "qint32": 4}
#: The type of a storage by its class; any other storage has a type of its own name, and one byte per element.
STORAGES = {
    "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "DoubleStorage": "float64",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "UntypedStorage": "uint8", "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
}  # fmt: skip
#: The first object in a file from before torch 1.6.
MAGIC = 0x1950A86A20F9469CFC6C
#: The maximum size in bytes of the pickle in an archive.
MAX_PICKLE = 256 << 20


@record(eq=False)
class Storage:
    """Values in the file: their type, the key of their place, their number, and the number of values before them in
    that place."""

    dtype: str
    key: str
    count: int
    before: int = 0


@dataclass(slots=True)
class Values:
    """The places of storages in a file: the offset and the size in bytes of each, by its key; `order` is `<` or `>`."""

    path: Path
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    used: dict[str, Storage] = field(default_factory=dict)
    order: Literal["<", ">"] = "<"

    def persistent(self, name: Any) -> Storage:
        """Return the storage of a persistent id."""
        word, kind, key, _, count, *view = name
        if word != "storage" or not isinstance(kind, Object) or not isinstance(key, str) or type(count) is not int:
            raise ValueError("unknown persistent id")
        own = kind.name.rpartition(".")[2]
        storage = Storage(STORAGES.get(own, own), key, count)
        if count < 0 or self.used.setdefault(key, storage).count != count:
            raise ValueError("a storage has two sizes")
        if view and view[0] is not None:
            _, before, length = view[0]
            if not 0 <= before <= before + length <= count:
                raise ValueError("a view is outside its storage")
            storage = Storage(storage.dtype, key, length, before)
        return storage

    def check(self) -> None:
        """Raise Unreadable unless every storage is in the file."""
        for key, storage in self.used.items():
            if key not in self.places or storage.count * size(storage.dtype) > self.places[key][1]:
                raise Unreadable("it is damaged or incomplete: values of tensors are missing")

    def tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> Tensor:
        """Return a tensor, which must not extend beyond its storage."""
        if not isinstance(storage, Storage) or not len(shape) == len(stride) <= 64:
            raise ValueError("a tensor without storage")
        if any(type(n) is not int or n < 0 for n in (offset, *shape, *stride)):
            raise ValueError("a tensor has an impossible shape")
        if len(more) > 2 and isinstance(more[2], Object):  # a type without a storage class
            dtype = more[2].name.rpartition(".")[2]
            width = size(dtype)
            storage = replace(storage, dtype=dtype, count=storage.count // width, before=storage.before // width)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if math.prod(shape) and last >= storage.count:
            raise Unreadable("a tensor reaches beyond its storage")
        word = WORDS.get(storage.dtype, f"torch.{storage.dtype}")
        if any(isinstance(each, Mapping) and each.get("neg") for each in more):
            word = "torch.neg"  # a view of an imaginary part, whose values are negated
        return Tensor(tuple(shape), word, partial(self._read, storage, offset, tuple(shape), tuple(stride), last + 1))

    def _read(self, storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], end: int) -> Array:
        dtype = _of_numpy(storage.dtype).newbyteorder(self.order)
        if not math.prod(shape):
            return np.zeros(shape, np.float32)
        start = self.places[storage.key][0] + (storage.before + offset) * dtype.itemsize
        flat = np.fromfile(self.path, dtype, end - offset, offset=start)
        array = np.lib.stride_tricks.as_strided(
            flat, shape, [step * dtype.itemsize for step in stride], writeable=False
        )
        if storage.dtype == "bfloat16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32 if storage.dtype == "float16" else dtype.newbyteorder("="))


def size(dtype: str) -> int:
    """Return the bytes of one value of a type of torch."""
    if dtype in WORDS:
        return _of_numpy(dtype).itemsize
    return SIZES.get(dtype, 2 if dtype[-2:] == "16" else 1)


def _of_numpy(dtype: str) -> np.dtype[Any]:
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def _makers(values: Values) -> dict[str, Callable[..., Any]]:
    """Return the functions of torch that a pickle may call."""
    own: dict[str, Callable[..., Any]] = {
        **dict.fromkeys(("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"), values.tensor),
        "_rebuild_qtensor": lambda storage, offset, shape, stride, *_: values.tensor(storage, offset, shape, stride),
        "_rebuild_parameter": lambda data, *_: data,
        "_rebuild_parameter_with_state": lambda data, *_: data,
        "_rebuild_meta_tensor_no_storage": lambda dtype, shape, *_: Tensor(tuple(shape), "meta", _unread),
        "_rebuild_sparse_tensor": lambda layout, data: Tensor(tuple(data[2]), str(layout.args[0]), _unread),
    }
    utils = {f"torch._utils.{name}": make for name, make in own.items()}
    return {**utils, "torch.Size": tuple, "collections.OrderedDict": _ordered}


def _unread() -> Array:
    raise Unreadable("a tensor has no values, or is sparse")


def _ordered(pairs: Any = ()) -> dict[str, Any]:
    return {key: value for key, value in pairs if isinstance(key, str)}


# --- the two formats --------------------------------------------------------------------------------------------------


def read_archive(path: Path, archive: zipfile.ZipFile) -> Any:
    """Return the content of a checkpoint that is a zip archive. Raises Unreadable."""
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    if "constants.pkl" in names:
        raise Unreadable("it is a TorchScript program, not a checkpoint; save the state_dict() of the module instead")
    values = Values(path)
    with path.open("rb") as file:
        for name, whole in names.items():
            if name == "data.pkl" or name.startswith("data/"):
                values.places[name.removeprefix("data/")] = _place(file, archive.getinfo(whole))
        start, length = values.places["data.pkl"]
        if length > MAX_PICKLE:
            raise Unreadable(f"its pickle has more than {MAX_PICKLE >> 20} MiB")
        if "byteorder" in names:
            with archive.open(names["byteorder"]) as order:
                values.order = ">" if order.read(3) == b"big" else "<"
        file.seek(start)
        content = inert_pickle.read(io.BytesIO(file.read(length)), _makers(values), values.persistent)
    values.check()
    return content


def _place(file: BinaryIO, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Return the offset and the size of a member of an archive. Compressed members are refused, since they could expand
    without limit."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise Unreadable(f"its member {clipped(member.filename)} is compressed or encrypted, which torch never writes")
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise Unreadable("it is damaged: a member of the archive is not where it should be")
    start = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    if start + member.file_size > os.path.getsize(file.name):
        raise Unreadable("it is damaged or incomplete: values of tensors are missing")
    return start, member.file_size


def read_pickles(path: Path) -> Any:
    """Return the content of a checkpoint from before torch 1.6, or of a plain pickle. Raises Unreadable."""
    values = Values(path)
    with path.open("rb") as file:
        content = inert_pickle.read(file, _makers(values), values.persistent)
        if content != MAGIC:
            if values.used:
                raise Unreadable("its tensors are not in the file")
            return content
        nothing: dict[str, Callable[..., Any]] = {}
        _, system = (inert_pickle.read(file, nothing, values.persistent) for _ in range(2))
        if isinstance(system, dict) and system.get("little_endian") is False:
            values.order = ">"
        content = inert_pickle.read(file, _makers(values), values.persistent)
        keys = inert_pickle.read(file, nothing, values.persistent)
        position = file.tell()
    end = os.path.getsize(path)
    for key in keys if isinstance(keys, list) else ():
        storage = values.used.get(key) if isinstance(key, str) else None
        if storage is None:
            raise Unreadable("it is damaged: a storage has no tensor")
        length = storage.count * size(storage.dtype)
        if position + 8 + length > end:
            raise Unreadable("it is damaged or incomplete: values of tensors are missing")
        values.places[storage.key] = (position + 8, length)  # after the number of values
        position += 8 + length
    values.check()
    return content
