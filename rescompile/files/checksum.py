"""Which files are ours to overwrite.

A file that `build --check` compares ends in a checksum trailer: a mark, two bytes that fit the format around it, and the CRC-32 of
all the rest as eight hex digits. It shows that a file is ours, and whether somebody edited it since. Other files only name
rescompile as their generator, in a metadata field or a comment at their beginning or end.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

MARK = b"rescompile.seal"
#: What a metadata field or a comment of a file without a trailer contains.
GENERATOR = "generator: rescompile"
_GENERATOR = re.compile(rb"generator\W{1,16}rescompile")
#: How much of the beginning and of the end of a file is searched.
_HEAD, _TAIL = 1 << 12, 64
_DIGITS = 8
_SMALL = 1 << 16


def with_checksum(
    chunks: Iterable[bytes | memoryview], before: bytes, between: bytes, after: bytes = b""
) -> Iterator[bytes | memoryview]:
    """The chunks, then `before` + mark + `between` (two bytes) + checksum + `after`."""
    assert len(between) == 2
    checksum = 0
    for chunk in _coalesced(chunks):
        checksum = zlib.crc32(chunk, checksum)
        yield chunk
    checksum = zlib.crc32(after, zlib.crc32(before, checksum))
    yield before + MARK + between + b"%08x" % checksum + after


def _coalesced(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The same bytes in fewer pieces: small chunks are gathered, large ones pass uncopied."""
    gathered = bytearray()
    for chunk in chunks:
        if len(chunk) < _SMALL:
            gathered += chunk
            if len(gathered) < _SMALL:
                continue
            chunk = b""
        if gathered:
            yield bytes(gathered)
            gathered.clear()
        if chunk:
            yield chunk
    yield bytes(gathered)


def state(path: Path) -> Literal["absent", "ours", "edited", "foreign"]:
    """Whether a file is ours to overwrite; an edited one has a trailer that does not match its contents."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "absent"
    if not path.is_file():
        return "foreign"
    with path.open("rb") as file:
        head = file.read(_HEAD)
        start = max(size - _TAIL, 0)
        file.seek(start)
        tail = file.read()
        at = tail.rfind(MARK)
        if at < 0:
            return "ours" if _GENERATOR.search(head) or _GENERATOR.search(tail) else "foreign"
        end = at + len(MARK) + 2 + _DIGITS
        checksum = zlib.crc32(tail[end:], _sum(file, start + at))
    return "ours" if tail[end - _DIGITS : end] == b"%08x" % checksum else "edited"


def _sum(file: BinaryIO, size: int) -> int:
    """The checksum of so many first bytes of a file."""
    checksum = 0
    file.seek(0)
    while size and (chunk := file.read(min(1 << 20, size))):
        checksum = zlib.crc32(chunk, checksum)
        size -= len(chunk)
    return checksum
