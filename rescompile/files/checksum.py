"""Which files are ours to overwrite: what rescompile writes ends in a seal, a checksum of all the rest.

A file without one was written by someone else; a file whose seal does not match was edited since. The seal is the mark,
two bytes that fit the format around it, and eight hex digits of CRC-32; it stands within the last bytes of the file, or
within the first ones where the format lets nothing follow.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

MARK = b"rescompile.seal"
_REACH = 64
_DIGITS = 8
#: A seal whose checksum is not known yet.
BLANK = MARK + b"= " + b"0" * _DIGITS
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


def sealed_first(header: bytes, rest: Callable[[], Iterable[bytes | memoryview]]) -> Iterator[bytes | memoryview]:
    """The header with a checksum of all the rest in its BLANK, then the rest, which is asked for twice: once to sum it."""
    before, blank, after = header.partition(BLANK)
    assert blank
    checksum = zlib.crc32(after, zlib.crc32(before))
    for chunk in rest():
        checksum = zlib.crc32(chunk, checksum)
    yield before + blank[:-_DIGITS] + b"%08x" % checksum + after
    yield from _coalesced(rest())


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
        at = _find(file, size)
        if at is None:
            return "foreign"
        after = at + len(MARK) + 2 + _DIGITS
        file.seek(after - _DIGITS)
        digits = file.read(_DIGITS)
        checksum = _sum(file, after, size, _sum(file, 0, at))
    return "ours" if digits == b"%08x" % checksum else "edited"


def _find(file: BinaryIO, size: int) -> int | None:
    """Where the mark of a file stands."""
    for start in (max(size - _REACH, 0), 0):
        file.seek(start)
        at = file.read(_REACH).rfind(MARK)
        if at >= 0:
            return start + at
    return None


def _sum(file: BinaryIO, start: int, end: int, checksum: int = 0) -> int:
    """The checksum of a part of a file, after that of what came before."""
    file.seek(start)
    while start < end and (chunk := file.read(min(1 << 20, end - start))):
        checksum = zlib.crc32(chunk, checksum)
        start += len(chunk)
    return checksum


def form(path: Path) -> bytes | None:
    """The two bytes by which the seal of a file fits its format; None where there is no seal."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        at = _find(file, path.stat().st_size)
        if at is None:
            return None
        file.seek(at + len(MARK))
        return file.read(2)
