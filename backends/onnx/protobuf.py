"""The wire format of protocol buffers, as far as ONNX needs it: tags, varints and length-delimited fields.

Not written with the onnx package, whose import takes as long as compiling DenseNet-121; tests compare every byte with what
that package writes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO


def varint(value: int) -> bytes:
    """A number in seven-bit groups, lowest first; negative ones in two's complement of 64 bits."""
    if value < 0:
        value += 1 << 64
    if value < 128:
        return _SMALL[value]
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = tuple(bytes((value,)) for value in range(128))


def head(field: int, length: int) -> bytes:
    """The tag and length before a length-delimited field."""
    return varint(field << 3 | 2) + varint(length)


def data(field: int, value: bytes) -> bytes:
    """A field of bytes, or of an embedded message."""
    return head(field, len(value)) + value


def text(field: int, value: str) -> bytes:
    """A field of text."""
    return data(field, value.encode())


def texts(field: int, values: Iterable[str]) -> bytes:
    """A repeated field of text."""
    return b"".join(text(field, value) for value in values)


def number(field: int, value: int) -> bytes:
    """A field with an integer."""
    return varint(field << 3) + varint(value)


def numbers(field: int, values: Iterable[int]) -> bytes:
    """A repeated field of integers, each with its own tag, as in proto2."""
    tag = varint(field << 3)
    return b"".join(tag + varint(value) for value in values)


def real(field: int, value: float) -> bytes:
    """A field with a 32-bit float."""
    return varint(field << 3 | 5) + struct.pack("<f", value)


def fields(file: BinaryIO, wanted: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The fields of a message: number, and contents of those that are length-delimited. With `wanted`, only contents of that
    number are read. Raises ValueError where the file is not a message."""
    size = os.fstat(file.fileno()).st_size if hasattr(file, "fileno") and not hasattr(file, "getbuffer") else None
    while (tag := _read_varint(file)) is not None:
        field, wire = tag >> 3, tag & 7
        value = b""
        if wire == 0:
            _read_varint(file)
        elif wire in (1, 5):
            file.seek(8 if wire == 1 else 4, 1)
        elif wire == 2:
            length = _read_varint(file) or 0
            if size is not None and file.tell() + length > size:
                raise ValueError("a field extends past the end of the file")
            if wanted in (None, field):
                value = file.read(length)
            else:
                file.seek(length, 1)
        else:
            raise ValueError(f"unknown wire type {wire}")
        yield field, value


def _read_varint(file: BinaryIO) -> int | None:
    """The next number, or None at the end. Raises ValueError where it is cut off or too long."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            if shift:
                raise ValueError("truncated varint")
            return None
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("varint too long")
