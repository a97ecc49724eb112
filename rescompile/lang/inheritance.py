"""`extends`, `set` and `--set`: merges several files into one located document, before validation.

Merge order: the base with its own `set`; then parameters, defaults and blocks key by key; then `set`; then `--set`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from rescompile.diagnostics.errors import Diagnostic, Place, Source, SpecError, UsageError, clipped
from rescompile.lang import library
from rescompile.lang.setting import apply, problem
from rescompile.lang.yaml_reader import Located, Mapping, Scalar, read

MAX_BASES = 16
MAX_SETTINGS = 256
#: Keys that describe a single file only.
NOT_INHERITED = ("name", "reference", "description", "notes", "unverified", "expect", "extends", "set")
#: Keys whose entries are merged, with the number of levels.
MERGED = {"parameters": 1, "blocks": 1, "defaults": 2}

T = TypeVar("T")
#: Gives the text of a file: that on disk, or what an editor has not saved yet.
Texts = Callable[[Path], Source]


def resolve(path: Path, settings: Sequence[str], texts: Texts = library.source) -> Mapping:
    """Return the document of a spec file with its bases and settings applied; `texts` gives the text of each file. Raises
    SpecError or UsageError."""
    return _changed(_file(path, (), texts), settings, _set)


def resolve_text(source: Source, settings: Sequence[str]) -> Mapping:
    """Return the document of a spec that is no file, with settings applied; such a text is canonical and extends nothing.
    Raises SpecError or UsageError."""
    return _changed(_document(source, Path(), (), library.source), settings, _set)


def _changed(document: Mapping, settings: Iterable[T], change: Callable[[Mapping, T], Mapping]) -> Mapping:
    """Return the document after all settings. Raises SpecError with the mistakes of all."""
    problems: list[Diagnostic] = []
    for setting in settings:
        try:
            document = change(document, setting)
        except SpecError as error:
            problems.extend(error.diagnostics)
    if problems:
        raise SpecError(problems)
    return document


def _set(document: Mapping, setting: str) -> Mapping:
    """Return the document with one `--set path=value` applied."""
    name, equals, value = setting.partition("=")
    if not equals or not name.strip():
        raise UsageError.of(
            "E0802", f"--set {clipped(setting)} is not of the form path=value, such as parameters.classes=10"
        )
    source = Source("--set", setting)
    place = Place(source, 1, 1, len(name) + 1)
    if not value.strip():
        raise problem("E0506", f"'{clipped(name)}=' has no value", place, "to remove a value, write null")
    return apply(document, name.strip(), read(source, skip=len(name) + 1), place)


def base_of(document: Mapping, path: Path, texts: Texts = library.source) -> Mapping | None:
    """Return the resolved document of the spec that the document of a file extends, or None if it extends nothing. Raises
    SpecError or UsageError."""
    base = document.get("extends")
    return None if base is None else _base(base, path, (path,), texts)


def _file(path: Path, children: tuple[Path, ...], texts: Texts) -> Mapping:
    return _document(texts(path), path, children, texts)


def _document(source: Source, path: Path, children: tuple[Path, ...], texts: Texts) -> Mapping:
    document = read(source)
    if isinstance(document, Scalar) and document.value is None:
        place = Place(document.place.source, 1, 1, 2)
        raise problem("E0104", "the spec is empty", place, "a spec starts with 'rescompile: 1'")
    if not isinstance(document, Mapping):
        raise problem("E0104", "a spec must be a mapping that starts with 'rescompile: 1'", document.place)
    version = document.get("rescompile")
    if version is None:
        raise problem(
            "E0108",
            "missing spec format version",
            Place(document.place.source, 1, 1, 2),
            "add 'rescompile: 1' as the first line",
        )
    if not isinstance(version, Scalar) or type(version.value) is not int or version.value != 1:  # 1.0 has another hash
        quoted = isinstance(version, Scalar) and version.value == "1"
        help = "write 'rescompile: 1', without quotes" if quoted else "write 'rescompile: 1'"
        raise problem(
            "E0108", "unsupported spec format: this version of rescompile reads format 1", version.place, help
        )
    base = document.get("extends")
    if base is not None:
        document = _merge(_base(base, path, (*children, path), texts), document)
    settings = document.get("set")
    if settings is None:
        return document
    if not isinstance(settings, Mapping):
        raise problem("E0104", "'set' must be a mapping from paths to values", settings.place)
    if len(settings.entries) > MAX_SETTINGS:
        raise problem("E0107", f"'set' has more than {MAX_SETTINGS} entries", settings.place)
    entries = ((name, value, place) for name, (place, value) in settings.entries.items())
    return _changed(document, entries, lambda changed, entry: apply(changed, *entry)).put("set", None)


@cache
def zoo_document(path: Path) -> Mapping:
    """Return the resolved document of a zoo network; cached, since many others extend it."""
    return _file(path, (), library.source)


def _base(node: Located, path: Path, children: tuple[Path, ...], texts: Texts) -> Mapping:
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        raise problem("E0104", "'extends' must be the name or path of a single spec", node.place)
    base = node.value
    if library.is_file(base):
        target = path.parent / base
        if not target.resolve().is_relative_to(path.parent.resolve()):
            raise problem("E0503", f"'{clipped(base)}' is outside the folder of the spec that extends it", node.place)
        if not target.is_file():
            raise problem("E0501", f"the base '{clipped(base)}' does not exist in the folder of the spec", node.place)
    elif (file := library.zoo_file(base)) is not None:
        if file != path and texts is library.source:
            return zoo_document(file)
        target = file
    else:
        hint = library.nearest_in_zoo(base) or "to extend a file, include its suffix, such as base.yaml"
        raise problem("E0501", f"unknown network '{clipped(base)}': it is not in the zoo", node.place, hint)
    if target.resolve() in {child.resolve() for child in children}:
        if len(children) == 1:
            raise problem("E0502", "a spec cannot extend itself", node.place)
        circle = " -> ".join(library.shown(child) for child in (*children, target))
        raise problem(
            "E0502", f"circular 'extends': '{clipped(base)}' extends this spec", node.place, f"the cycle is {circle}"
        )
    if len(children) > MAX_BASES:
        raise problem("E0502", f"more than {MAX_BASES} specs extend one another", node.place)
    return _file(target, children, texts)


def _merge(base: Mapping, child: Mapping) -> Mapping:
    for key in NOT_INHERITED:
        base = base.put(key, None)
    return _merge_keys(base, child.put("extends", None), MERGED)


def _merge_keys(base: Mapping, child: Mapping, merged: dict[str, int]) -> Mapping:
    for key, (place, value) in child.entries.items():
        old = base.get(key)
        deeper = merged.get(key, 0)
        if deeper and isinstance(old, Mapping) and isinstance(value, Mapping):
            value = _merge_keys(old, value, dict.fromkeys(value.entries, deeper - 1))
        base = base.put(key, value, place)
    return Mapping(base.entries, child.place)
