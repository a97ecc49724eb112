"""Write files atomically: to a temporary file that is then renamed, so that a failure or an interruption leaves the previous
file unchanged. Files that rescompile did not write are never overwritten."""

from __future__ import annotations

import contextlib
import glob
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from rescompile.diagnostics.errors import OutputError
from rescompile.files import checksum
from rescompile.files.temporary_file import TemporaryFile, locked, remove_abandoned
from rescompile.records import record

Chunk = bytes | memoryview
_OVERWRITE = "use --force to overwrite it, or -o for another file"


@record
class File:
    """One file of an artifact: its name, its contents in chunks, and its size, for a progress bar.

    `name` may contain `{checksum}`, the checksum of the file itself; `named` is then called with the final name, which later
    files need.
    """

    name: str
    chunks: Callable[[], Iterable[Chunk]]
    size: int = 0
    named: Callable[[str], None] = lambda name: None


def write_files(
    files: Iterable[File],
    folder: Path,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
    check: Callable[[Mapping[str, Path]], None] | None = None,
) -> list[Path]:
    """Write all files, or none: the last one is the artifact itself and is renamed last.

    The names of other files depend on their contents, so the previous artifact stays complete until it is replaced; files that
    only it needed are then removed. `check` is called with the complete files by name before any is renamed; if it raises an
    error, none is renamed. Raises OutputError.
    """
    files = list(files)
    last = folder / files[-1].name
    temporaries: list[TemporaryFile] = []
    written: list[Path] = []
    try:
        check_ours(last, force)
        for file in files:
            # A symbolic link stays; the file that it points to is replaced.
            temporary = TemporaryFile(Path(os.path.realpath(folder / file.name)).parent)
            temporaries.append(temporary)
            checksum = _write(file, temporary, progress)
            written.append(folder / file.name.replace("{checksum}", checksum))
            file.named(written[-1].name)
        if check is not None:
            check({path.name: each.path for path, each in zip(written, temporaries, strict=True)})
        with locked(folder):
            targets = [Path(os.path.realpath(path)) for path in written]
            for target in targets:
                check_ours(target, force)
            for temporary, target in zip(temporaries, targets, strict=True):
                temporary.rename(target)
            _remove_stale(files[-1].name, folder, written)
    except OSError as error:
        raise OutputError.of("E1002", f"cannot write {last}: {error.strerror or error}") from None
    finally:
        for temporary in temporaries:
            temporary.remove()
    return written


def _write(file: File, temporary: TemporaryFile, progress: Callable[[int], None] | None) -> str:
    """Write the contents of a file and return their checksum."""
    remove_abandoned(temporary.folder)
    checksum = 0
    with temporary.create() as stream:
        for chunk in file.chunks():
            stream.write(chunk)
            if "{checksum}" in file.name:
                checksum = zlib.crc32(chunk, checksum)
            if progress is not None:
                progress(len(chunk))
    return f"{checksum:08x}"


def _remove_stale(name: str, folder: Path, kept: Sequence[Path]) -> None:
    """Remove the data files of earlier artifacts of this name, if they are ours. The artifact is complete by then, so a file
    that cannot be removed is left for the next build."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{glob.escape(name)}.????????.data"):
            if path not in kept and checksum.state(path) == "ours":
                path.unlink()


def write_text(text: str, path: Path, force: bool = False) -> None:
    """Write a text file. Raises OutputError."""
    check_folder(path)
    if not force and path.is_file() and _is_binary(path):
        raise OutputError.of("E1001", f"{path} is a binary file; refusing to overwrite it with text", help=_OVERWRITE)
    write_bytes(text.encode(), path, force)


def write_bytes(data: bytes, path: Path, force: bool = False) -> None:
    """Write one file. Raises OutputError."""
    write_files([File(path.name, lambda: [data], len(data))], path.parent, force)


def _is_binary(path: Path) -> bool:
    """Return whether a file begins with bytes that do not occur in text."""
    with path.open("rb") as file:
        return any(byte < 9 for byte in file.read(1 << 10))


def check_folder(path: Path) -> None:
    """Raise OutputError unless the folder of a file exists."""
    if not path.parent.is_dir():
        raise OutputError.of("E1002", f"the folder {path.parent} does not exist")


def check_ours(path: Path, force: bool) -> None:
    """Raise OutputError unless there is no file yet, or rescompile wrote it and it was not edited since."""
    if path.is_dir():
        raise OutputError.of("E1002", f"{path} is a folder", help="name a file")
    if path.exists() and not path.is_file():
        raise OutputError.of("E1001", f"{path} is not a regular file", help="-o - writes to standard output")
    if force:
        return
    try:
        whose = checksum.state(path)
    except OSError as error:
        raise OutputError.of("E1002", f"cannot read {path} before writing: {error.strerror}") from None
    if whose in ("foreign", "edited"):
        why = "was not written by rescompile" if whose == "foreign" else "was edited since rescompile wrote it"
        raise OutputError.of("E1001", f"{path} {why}", help=_OVERWRITE)


def write_stdout(files: Iterable[File]) -> None:
    """Write an artifact of one file to standard output. Raises OutputError for several files."""
    files = list(files)
    if len(files) > 1:
        raise OutputError.of(
            "E1002",
            "this artifact has several files, which cannot go to standard output",
            help="write to a file with -o",
        )
    for file in files:
        for chunk in file.chunks():
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
