"""Detects which files rescompile wrote, so that it may overwrite them.

A file that `build --check` compares ends in a checksum trailer: a mark, two bytes that fit the format around it, and the CRC-32
of all the rest as eight hex digits. It shows that rescompile wrote the file, and whether it was edited since. In text, where
the trailer is a line, LF and CRLF are equivalent, since Git and editors convert them. Other files only name rescompile as their
generator, in a metadata field or a comment at their beginning or end.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

MARK = b"rescompile.seal"
#: The content of a metadata field or comment in a file without a trailer.
GENERATOR = "generator: rescompile"
_GENERATOR = re.compile(rb"generator\W{1,16}rescompile")
#: The number of bytes at the beginning and the end of a file that are searched.
_HEAD, _TAIL = 1 << 12, 64
_DIGITS = 8
_TEXT_TRAILER = re.compile(MARK + rb": [0-9a-f]{8}\r?\n\Z")
_SMALL = 1 << 16


def with_checksum(
    chunks: Iterable[bytes | memoryview], before: bytes, between: bytes, after: bytes = b""
) -> Iterator[bytes | memoryview]:
    """Yield the chunks, then `before` + mark + `between` (two bytes) + checksum + `after`."""
    assert len(between) == 2
    checksum = 0
    for chunk in _coalesced(chunks):
        checksum = zlib.crc32(chunk, checksum)
        yield chunk
    checksum = zlib.crc32(after, zlib.crc32(before, checksum))
    yield before + MARK + between + b"%08x" % checksum + after


def _coalesced(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield the same bytes in fewer chunks: small ones are joined, large ones are passed on without a copy."""
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
    """Return whether rescompile wrote a file; an edited one has a trailer that does not match its contents."""
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
        text = is_text(tail)
        checksum = zlib.crc32(b"\n" if text else tail[end:], _sum(file, start + at, text))
    return "ours" if tail[end - _DIGITS : end] == b"%08x" % checksum else "edited"


def is_text(content: bytes) -> bool:
    """Return whether a file with this content, or this end of it, is text: its trailer is a line."""
    return _TEXT_TRAILER.search(content[-_TAIL:]) is not None


def _sum(file: BinaryIO, size: int, text: bool) -> int:
    """Return the checksum of the first `size` bytes of a file."""
    checksum = 0
    file.seek(0)
    while size and (chunk := file.read(min(1 << 20, size))):
        size -= len(chunk)
        if text:
            if size and chunk.endswith(b"\r"):  # so that CRLF is not split
                chunk += file.read(1)
                size -= 1
            chunk = with_unix_line_ends(chunk)
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def with_unix_line_ends(text: bytes) -> bytes:
    """Return text whose lines end as rescompile writes them."""
    return text.replace(b"\r\n", b"\n")
