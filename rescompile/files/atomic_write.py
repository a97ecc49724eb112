"""Write files atomically: to a temporary file that is then renamed, so that a failure or an interruption leaves the previous file
unchanged; and never over a file that is not ours."""

from __future__ import annotations

import contextlib
import glob
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rescompile.diagnostics.errors import Diagnostic, OutputError
from rescompile.files import checksum

Chunk = bytes | memoryview
_OVERWRITE = "use --force to overwrite it, or -o for another file"


@dataclass(frozen=True, slots=True)
class File:
    """One file of an artifact: its name, its contents in chunks, and its size, for a progress bar.

    `name` may contain `{checksum}`, that of the file itself; `named` is then called with the final name, which later files need.
    """

    name: str
    chunks: Callable[[], Iterable[Chunk]]
    size: int = 0
    named: Callable[[str], None] = lambda name: None


def write_files(
    files: Iterable[File], folder: Path, force: bool = False, progress: Callable[[int], None] | None = None
) -> list[Path]:
    """Write all files, or none: the last one is the artifact itself and is renamed last.

    The name of a file beside it depends on its contents, so the previous artifact stays complete until it is replaced; then the
    files that only it needed are removed. Raises OutputError.
    """
    files = list(files)
    check_ours(folder / files[-1].name, force)
    temporary: list[tuple[str, Path]] = []
    names: list[str] = []
    try:
        for file in files:
            name, checksum = _temporary(file, folder, progress)
            names.append(file.name.replace("{checksum}", checksum))
            file.named(names[-1])
            # A link stays; the file that it points to is replaced.
            temporary.append((name, Path(os.path.realpath(folder / names[-1]))))
        for _, target in temporary:
            check_ours(target, force)
        for name, target in temporary:
            os.replace(name, target)
    except OSError as error:
        raise OutputError(
            Diagnostic("E1002", f"cannot write {folder / files[-1].name}: {error.strerror or error}")
        ) from None
    finally:
        for name, _ in temporary:
            with contextlib.suppress(OSError):
                os.unlink(name)
    written = [folder / name for name in names]
    _remove_stale(files[-1].name, folder, written)
    return written


def _remove_stale(name: str, folder: Path, kept: Sequence[Path]) -> None:
    """Remove the data files of earlier artifacts of this name, if they are ours."""
    for path in folder.glob(f"{glob.escape(name)}.????????.data"):
        if path not in kept and checksum.state(path) == "ours":
            with contextlib.suppress(OSError):
                path.unlink()


def write_text(text: str, path: Path, force: bool = False) -> None:
    """Write a text file. Raises OutputError."""
    check_folder(path)
    if not force and path.is_file() and _is_binary(path):
        raise OutputError(
            Diagnostic("E1001", f"{path} is a binary file; refusing to overwrite it with text", help=_OVERWRITE)
        )
    write_bytes(text.encode(), path, force)


def write_bytes(data: bytes, path: Path, force: bool = False) -> None:
    """Write one file. Raises OutputError."""
    write_files([File(path.name, lambda: [data], len(data))], path.parent, force)


def _is_binary(path: Path) -> bool:
    """Whether a file begins with bytes that text does not contain."""
    with path.open("rb") as file:
        return any(byte < 9 for byte in file.read(1 << 10))


def check_folder(path: Path) -> None:
    """Raise OutputError unless the folder of a file exists."""
    if not path.parent.is_dir():
        raise OutputError(Diagnostic("E1002", f"the folder {path.parent} does not exist"))


def check_ours(path: Path, force: bool) -> None:
    """Raise OutputError unless there is no file yet, or rescompile wrote it and nobody edited it."""
    if path.is_dir():
        raise OutputError(Diagnostic("E1002", f"{path} is a folder", help="name a file"))
    if path.exists() and not path.is_file():
        raise OutputError(Diagnostic("E1001", f"{path} is not a regular file", help="-o - writes to standard output"))
    if force:
        return
    try:
        whose = checksum.state(path)
    except OSError as error:
        raise OutputError(Diagnostic("E1002", f"cannot read {path} before writing: {error.strerror}")) from None
    if whose in ("foreign", "edited"):
        why = "was not written by rescompile" if whose == "foreign" else "was edited since rescompile wrote it"
        raise OutputError(Diagnostic("E1001", f"{path} {why}", help=_OVERWRITE))


def _temporary(file: File, folder: Path, progress: Callable[[int], None] | None) -> tuple[str, str]:
    """The temporary file with the contents, and their checksum; a failure leaves no file behind."""
    folder = Path(os.path.realpath(folder / file.name)).parent
    name = str(folder / f".rescompile-{os.getpid()}-{os.urandom(4).hex()}")
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    checksum = 0
    try:
        with os.fdopen(handle, "wb", buffering=1 << 16) as stream:
            for chunk in file.chunks():
                stream.write(chunk)
                if "{checksum}" in file.name:
                    checksum = zlib.crc32(chunk, checksum)
                if progress is not None:
                    progress(len(chunk))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return name, f"{checksum:08x}"


def write_stdout(files: Iterable[File]) -> None:
    """Write an artifact of one file to standard output. Raises OutputError for several files."""
    files = list(files)
    if len(files) > 1:
        raise OutputError(
            Diagnostic(
                "E1002",
                "this artifact has several files, which cannot go to standard output",
                help="write to a file with -o",
            )
        )
    for file in files:
        for chunk in file.chunks():
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
