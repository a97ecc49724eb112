"""Writes the wire format of protocol buffers, as far as ONNX requires it: tags, varints and length-delimited fields.

Not written with the onnx package, whose import takes as long as compiling DenseNet-121; tests compare every byte with
what that package writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable


def varint(value: int) -> bytes:
    """Return an integer in seven-bit groups, lowest first; a negative one in two's complement of 64 bits."""
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
    """Return the tag and length before a length-delimited field."""
    return varint(field << 3 | 2) + varint(length)


def data(field: int, value: bytes) -> bytes:
    """Return a field of bytes, or of an embedded message."""
    return head(field, len(value)) + value


def text(field: int, value: str) -> bytes:
    """Return a string field."""
    return data(field, value.encode())


def texts(field: int, values: Iterable[str]) -> bytes:
    """Return a repeated string field."""
    return b"".join(text(field, value) for value in values)


def number(field: int, value: int) -> bytes:
    """Return a field with an integer."""
    return varint(field << 3) + varint(value)


def numbers(field: int, values: Iterable[int]) -> bytes:
    """Return a repeated field of integers, each with its own tag, as in proto2."""
    tag = varint(field << 3)
    return b"".join(tag + varint(value) for value in values)


def real(field: int, value: float) -> bytes:
    """Return a field with a 32-bit float."""
    return varint(field << 3 | 5) + struct.pack("<f", value)
