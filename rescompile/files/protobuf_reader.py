"""Reads the wire format of protocol buffers from a file, and loads only the requested fields.

A message is a range of the file, so reading the structure of an ONNX model of gigabytes takes kilobytes of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

#: The maximum length of a text, and the maximum number of fields of a message; the largest graphs have half as many.
MAX_TEXT, MAX_FIELDS = 1 << 24, 1 << 20


class Field(NamedTuple):
    """A field of a message: its number, its value if it is an integer, and the range of its contents in the file."""

    number: int
    value: int
    start: int
    end: int


def fields(file: BinaryIO, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message in a range of a file. Raises ValueError if it is not a message."""
    count = 0
    while start < end:
        count += 1
        if count > MAX_FIELDS:
            raise ValueError(f"a message has more than {MAX_FIELDS:,} fields")
        file.seek(start)
        tag, at = _varint(file, start)
        number, wire, value = tag >> 3, tag & 7, 0
        if wire == 0:
            value, start = _varint(file, at)
            at = start
        elif wire in (1, 5):
            start = at + (8 if wire == 1 else 4)
        elif wire == 2:
            length, at = _varint(file, at)
            start = at + length
        else:
            raise ValueError(f"unknown wire type {wire}")
        if start > end:
            raise ValueError("a field extends past the end of the message")
        yield Field(number, value, at, start)


def text(file: BinaryIO, field: Field) -> str:
    """Return the text of a field. Raises ValueError if it is too long or not UTF-8."""
    if field.end - field.start > MAX_TEXT:
        raise ValueError(f"a text has more than {MAX_TEXT:,} bytes")
    file.seek(field.start)
    return file.read(field.end - field.start).decode()


def entry(file: BinaryIO, field: Field) -> tuple[str, str]:
    """Return the key and the value of a StringStringEntryProto."""
    parts = {part.number: text(file, part) for part in fields(file, field.start, field.end) if part.number in (1, 2)}
    return parts.get(1, ""), parts.get(2, "")


def _varint(file: BinaryIO, at: int) -> tuple[int, int]:
    """Return the number at a position and the position after it. Raises ValueError if it is cut off or too long."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("truncated varint")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value, at + 1 + shift // 7
    raise ValueError("varint too long")
