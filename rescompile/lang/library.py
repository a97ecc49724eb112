"""Finds specs and blocks: the zoo and the block library in the package, and the files of users."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from rescompile.diagnostics.errors import Place, Source, SpecError, UsageError, nearest
from rescompile.files import file_types
from rescompile.ir import ops
from rescompile.lang.yaml_reader import MAX_BYTES, Located, Mapping, read
from rescompile.lang.zoo_aliases import ALIASES

SUFFIXES = (".yaml", ".yml")


@cache
def zoo() -> dict[str, Path]:
    """Return the file of every network in the package, by name, including sub-folders."""
    return {path.stem: path for path in sorted(_folder("rescompile.specs").rglob("*.yaml"))}


def zoo_file(name: str) -> Path | None:
    """Return the file of a network of the zoo by its name or another library's, or None."""
    return zoo().get(ALIASES.get(name, name))


def nearest_in_zoo(name: str) -> str | None:
    """The question whether a similar name of the zoo was meant, or None."""
    return nearest(name, [*zoo(), *ALIASES])


@cache
def blocks() -> dict[str, Path]:
    """Return the file of every block of the library, by name."""
    return {path.stem: path for path in sorted(_folder("rescompile.blocks").glob("*.yaml"))}


def is_later(word: str, document: Mapping) -> bool:
    """Return whether a block of a document is one that the library gained after the first release. A spec of that release may
    mention the word with another meaning."""
    return word in ops.LATER and word in blocks() and not is_own(word, document)


def is_own(word: str, document: Mapping) -> bool:
    """Return whether a document, in which the blocks of the library may be by now, defines a block itself."""
    key, node = document.table("blocks").get(word, (None, None))
    return node is not None and key != node.place  # before a block of the spec itself is its word


def is_file(argument: str) -> bool:
    """Return whether an argument is a file, which contains a / or ends in .yaml or .yml, rather than a name of the zoo."""
    return "/" in argument or "\\" in argument or argument.endswith(SUFFIXES)


def spec_path(argument: str) -> Path:
    """Return the file for an argument. Raises UsageError if it does not exist, or if its suffix belongs to another type of
    file."""
    file_types.refuse(argument, "a spec is a .yaml file or the name of a zoo network", file_types.SPEC)
    if is_file(argument):
        path = Path(argument)
        if os.path.isdir(path) or not os.path.exists(path):  # a pipe is fine: it is read once
            known = zoo_file(path.stem) is not None
            file_types.check_file(path, f"for the network of the zoo, write {path.stem}" if known else None)
        return path
    if (file := zoo_file(argument)) is not None:
        return file
    if os.path.isfile(argument):
        hint = f"to use the file of this name, write ./{argument}"
    else:
        hint = (
            nearest_in_zoo(argument)
            or "run 'rescompile list' to see all networks; the name of a file contains a / or ends in .yaml"
        )
    raise UsageError.of("E0801", f"unknown network '{argument}': it is not in the zoo", help=hint)


def source(path: Path) -> Source:
    """Return the text of a file, with the name that messages show. Reads at most one byte more than the limit of a spec.

    Raises UsageError if the file cannot be read, and SpecError if it is not text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError.of("E0801", f"{shown(path)} cannot be read: {error.strerror}") from None
    return decoded(shown(path), data)


def decoded(name: str, data: bytes) -> Source:
    """Return the text of the bytes of a file with this name. Raises SpecError if they are not text."""
    if len(data) > MAX_BYTES:
        raise SpecError.of("E0107", f"the file is longer than {MAX_BYTES:,} bytes", Place(Source(name, ""), 1, 1, 2))
    try:
        return Source(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        readable = data[: error.start].decode("utf-8-sig")
        whole = Source(name, readable + data[error.start :].decode("utf-8", "replace"))
        message = f"the file is not UTF-8 text: invalid byte {data[error.start]:#04x}"
        raise SpecError.of("E0111", message, Place.at(whole, len(readable))) from None


@cache
def block(word: str) -> Located:
    """Return the definition of a block of the library, read once."""
    return read(source(blocks()[word]))


#: The packages of the library, by the folder that messages show.
_SHOWN = {"blocks": "rescompile.blocks", "specs": "rescompile.specs"}


def shown(path: Path) -> str:
    """Return a path as messages show it: `blocks/bottleneck.yaml` for the library, otherwise as given."""
    for name, package in _SHOWN.items():
        if path.is_relative_to(folder := _folder(package)):
            return f"{name}/{path.relative_to(folder).as_posix()}"
    return path.as_posix()


def folders() -> set[Path]:
    """Return the folders of the library, whose files are not those of users."""
    return {_folder(package) for package in _SHOWN.values()}


def path_of(name: str) -> Path:
    """Return the file that messages show by this name. A relative path that starts like one of the library's means the
    library's file."""
    head, _, rest = name.partition("/")
    return _folder(_SHOWN[head]) / rest if head in _SHOWN else Path(name)


@cache
def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed"
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))
