"""Which files are ours to overwrite: what rescompile writes ends in a seal, a checksum of all the rest.

A file without one was written by someone else; a file whose seal does not match was edited since. The seal is the mark,
two bytes that fit the format around it, and eight hex digits of CRC-32; it stands within the last bytes of the file.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

MARK = b"rescompile.seal"
_TAIL = 64
_SMALL = 1 << 16


def sealed(
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
    """The same bytes in fewer pieces: small ones are gathered, large ones pass by uncopied."""
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
    """Whose file this is."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "absent"
    if not path.is_file():
        return "foreign"
    with path.open("rb") as file:
        file.seek(max(size - _TAIL, 0))
        tail = file.read()
        at = tail.rfind(MARK)
        if at < 0:
            return "foreign"
        digits = tail[at + len(MARK) + 2 :][:8]
        file.seek(0)
        checksum, left = 0, size - len(tail) + at
        while left > 0:
            chunk = file.read(min(1 << 20, left))
            if not chunk:
                break
            checksum = zlib.crc32(chunk, checksum)
            left -= len(chunk)
    checksum = zlib.crc32(tail[at + len(MARK) + 10 :], checksum)
    return "ours" if digits == b"%08x" % checksum else "edited"


def form(path: Path) -> bytes | None:
    """The two bytes by which the seal of a file fits its format; None where there is no seal."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL, 0))
        _, mark, rest = file.read().rpartition(MARK)
    return rest[:2] if mark else None
