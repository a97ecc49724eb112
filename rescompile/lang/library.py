"""Finds specs and blocks: the zoo and the block library in the package, and the files of users."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from rescompile.diagnostics.errors import Diagnostic, Place, Source, SpecError, UsageError, nearest
from rescompile.files import file_types
from rescompile.lang.yaml_reader import MAX_BYTES

SUFFIXES = (".yaml", ".yml")


@cache
def zoo() -> dict[str, Path]:
    """The file of every network in the package, by name, including sub-folders."""
    return {path.stem: path for path in sorted(_folder("rescompile.specs").rglob("*.yaml"))}


@cache
def blocks() -> dict[str, Path]:
    """The file of every block of the library, by name."""
    return {path.stem: path for path in sorted(_folder("rescompile.blocks").glob("*.yaml"))}


def is_file(argument: str) -> bool:
    """Whether an argument is a file, which contains a / or ends in .yaml or .yml, rather than a name of the zoo."""
    return "/" in argument or "\\" in argument or argument.endswith(SUFFIXES)


def spec_path(argument: str) -> Path:
    """The file for an argument. Raises UsageError if it does not exist, or if its suffix belongs to another type of file."""
    file_types.refuse(argument, "a spec is a .yaml file or the name of a zoo network", file_types.SPEC)
    if is_file(argument):
        path = Path(argument)
        if os.path.isdir(path) or not os.path.exists(path):  # a pipe is fine: it is read once
            file_types.check_file(path)
        return path
    if argument in zoo():
        return zoo()[argument]
    if os.path.isfile(argument):
        hint = f"to use the file of this name, write ./{argument}"
    else:
        hint = (
            nearest(argument, zoo())
            or "run 'rescompile list' to see all networks; the name of a file contains a / or ends in .yaml"
        )
    raise UsageError(Diagnostic("E0801", f"unknown network '{argument}': it is not in the zoo", help=hint))


def source(path: Path) -> Source:
    """The text of a file, with the name that messages show. Reads at most one byte more than the limit of a spec.

    Raises UsageError if the file cannot be read, and SpecError if it is not text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(Diagnostic("E0801", f"{shown(path)} cannot be read: {error.strerror}")) from None
    if len(data) > MAX_BYTES:
        place = Place(Source(shown(path), ""), 1, 1, 2)
        raise SpecError(Diagnostic("E0107", f"the file is longer than {MAX_BYTES:,} bytes", place))
    try:
        return Source(shown(path), data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        readable = data[: error.start].decode("utf-8-sig")
        whole = Source(shown(path), readable + data[error.start :].decode("utf-8", "replace"))
        message = f"the file is not UTF-8 text: invalid byte {data[error.start]:#04x}"
        raise SpecError(Diagnostic("E0111", message, Place.at(whole, len(readable)))) from None


def shown(path: Path) -> str:
    """A path as messages show it: `blocks/bottleneck.yaml` for the library, otherwise as given."""
    for folder, name in ((_folder("rescompile.blocks"), "blocks"), (_folder("rescompile.specs"), "specs")):
        if path.is_relative_to(folder):
            return f"{name}/{path.relative_to(folder).as_posix()}"
    return path.as_posix()


@cache
def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))
