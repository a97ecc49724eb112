"""`extends`, `set` and `--set`: several texts become one located document, before anything is validated.

Merge order: the base with its own `set`; then parameters, defaults and blocks key by key; then `set`; then `--set`.
A path of `set` is row.attribute, row, defaults.word.attribute, parameters.name, or another key of the spec. A row is
addressed by its full name in the tree, a macro row without a name by its block's word; null removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rescompile.diagnostics.errors import Diagnostic, Place, Source, SpecError, UsageError, nearest
from rescompile.ir import ops
from rescompile.ir.names import COMBINATORS
from rescompile.lang import library
from rescompile.lang.yaml_reader import Items, Located, Mapping, Scalar, read

MAX_BASES = 16
#: Keys that say something about one file only.
NOT_INHERITED = ("name", "reference", "description", "notes", "unverified", "expect", "extends", "set")
#: Keys whose entries are merged, and how deep.
MERGED = {"parameters": 1, "blocks": 1, "defaults": 2}
#: All keys of a spec, in the order of the grammar.
KEYS = (
    "rescompile", "name", "reference", "family", "description", "notes", "unverified", "extends", "input", "preprocess",
    "parameters", "init", "block", "defaults", "blocks", "network", "survival", "features", "checkpoint", "set", "expect",
)  # fmt: skip
#: Keys of a spec, beside rows, that `set` may reach into.
SETTABLE = ("input", "parameters", "defaults", "block", "survival", "init", "features", "checkpoint", "preprocess")


def resolve(path: Path, settings: Sequence[str]) -> Mapping:
    """The document of a spec file with its bases and settings applied. Raises SpecError or UsageError."""
    document = _file(path, ())
    problems: list[Diagnostic] = []
    for setting in settings:
        try:
            document = _setting(document, setting)
        except SpecError as error:
            problems.extend(error.diagnostics)
    if problems:
        raise SpecError(problems)
    return document


def _setting(document: Mapping, setting: str) -> Mapping:
    """The document with one `--set path=value` applied."""
    name, equals, value = setting.partition("=")
    if not equals or not name.strip():
        raise UsageError(Diagnostic("E0802", f"--set {setting}: write --set path=value, such as parameters.classes=10"))
    source = Source("--set", setting)
    place = Place(source, 1, 1, len(name) + 1)
    if not value.strip():
        raise _problem("E0506", f"no value follows '{name}='", place, "null takes a setting away")
    return _set(document, name.strip(), read(source, skip=len(name) + 1), place)


def _file(path: Path, children: tuple[Path, ...]) -> Mapping:
    document = read(library.source(path))
    if isinstance(document, Scalar) and document.value is None:
        place = Place(document.place.source, 1, 1, 2)
        raise _problem("E0104", "there is nothing here", place, "a spec begins with 'rescompile: 1'")
    if not isinstance(document, Mapping):
        raise _problem("E0104", "a spec is a mapping that begins with 'rescompile: 1'", document.place)
    version = document.get("rescompile")
    if version is None:
        raise _problem("E0108", "the spec format version is missing", _top(document), "write 'rescompile: 1' first")
    if not isinstance(version, Scalar) or type(version.value) is not int or version.value != 1:  # 1.0 has another hash
        quoted = isinstance(version, Scalar) and version.value == "1"
        help = "write 'rescompile: 1', without quotes" if quoted else "write 'rescompile: 1'"
        raise _problem("E0108", "this version of rescompile reads spec format 1", version.place, help)
    base = document.get("extends")
    if base is not None:
        document = _merge(_base(base, path, (*children, path)), document)
    settings = document.get("set")
    if settings is None:
        return document
    if not isinstance(settings, Mapping):
        raise _problem("E0104", "'set' is a mapping from paths to values", settings.place)
    problems: list[Diagnostic] = []
    for name, (place, value) in settings.entries.items():
        try:
            document = _set(document, name, value, place)
        except SpecError as error:
            problems.extend(error.diagnostics)
    if problems:
        raise SpecError(problems)
    return document.put("set", None)


def _base(node: Located, path: Path, children: tuple[Path, ...]) -> Mapping:
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        raise _problem("E0104", "'extends' is the name of one spec", node.place)
    base = node.value
    if library.is_file(base):
        target = path.parent / base
        if not target.resolve().is_relative_to(path.parent.resolve()):
            raise _problem("E0503", f"'{base}' is outside the folder of the spec that extends it", node.place)
        if not target.is_file():
            raise _problem("E0501", f"there is no file '{base}' beside the spec", node.place)
    elif base in library.zoo():
        target = library.zoo()[base]
    else:
        hint = nearest(base, library.zoo()) or "a file is written with its ending, such as base.yaml"
        raise _problem("E0501", f"there is no network '{base}' in the zoo", node.place, hint)
    if target.resolve() in {child.resolve() for child in children}:
        if len(children) == 1:
            raise _problem("E0502", "a spec cannot extend itself", node.place)
        circle = " -> ".join(library.shown(child) for child in (*children, target))
        raise _problem("E0502", f"'{base}' extends this spec in turn", node.place, f"the circle is {circle}")
    if len(children) > MAX_BASES:
        raise _problem("E0502", f"specs extend one another more than {MAX_BASES} deep", node.place)
    return _file(target, children)


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


# --- set --------------------------------------------------------------------------------------------------------------

Step = str | int
Change = Callable[[Located | None], Located | None]


@dataclass(frozen=True, slots=True)
class Row:
    """A step of the network list that `set` can address."""

    address: str
    path: tuple[Step, ...]  # where the whole step stands in the document
    name: str | None  # the key, where the step is `name: ...`


def _set(document: Mapping, name: str, value: Located, place: Place) -> Mapping:
    new = None if isinstance(value, Scalar) and value.value is None and value.plain else value
    head, *rest = name.split(".")
    rows = list(_rows(document.get("network"), ("network",), ""))
    whole = [row for row in rows if row.address == name]
    parent, _, attribute = name.rpartition(".")
    inside = [row for row in rows if parent and row.address == parent]
    found = whole or inside
    in_a_list = any(row.address.startswith(f"{head}.") for row in rows)
    if head in SETTABLE and (not rest or not (found or in_a_list)):
        return _set_key(document, head, rest, new, place)
    if len(found) > 1:
        raise _problem(
            "E0505",
            f"{len(found)} rows are called '{found[0].address}', so '{name}' names no single one",
            place,
            "give the rows names",
        )
    if not found:
        if head in KEYS and not in_a_list:
            raise _problem("E0504", f"'{head}' cannot be set", place, f"what can be: a row, {', '.join(SETTABLE)}")
        known = sorted({row.address for row in rows})
        hint = nearest(name, known)
        if parent and (row_hint := nearest(parent, known)) and (not hint or hint == row_hint):
            hint = f"{row_hint[:-2]}.{attribute}'?"
        listed = f"the rows are {', '.join(known[:12])}" if known else None
        raise _problem("E0504", f"'{name}' names no row of the network", place, hint or listed)
    row = found[0]
    if not whole:
        return _update(document, row.path, lambda step: _with_attribute(step, row, attribute, new, place))
    if new is None:
        return _update(document, row.path, lambda _: None)
    if row.name is None:
        return _update(document, row.path, lambda _: new)
    return _update(document, row.path, lambda step: _renewed(step, row.name, new, place))


def _renewed(step: Located | None, name: str | None, new: Located, place: Place) -> Mapping:
    """A row with another step under its name. What is wrong with that is wrong in the setting, not where the name came from."""
    assert isinstance(step, Mapping)
    assert name is not None
    return step.put(name, new, place)


def _set_key(document: Mapping, head: str, rest: list[str], new: Located | None, place: Place) -> Mapping:
    deepest = {"parameters": 1, "defaults": 2, "survival": 1, "preprocess": 1}.get(head, 0)
    if len(rest) > deepest:
        raise _problem("E0504", f"'{'.'.join([head, *rest])}' reaches deeper than '{head}' goes", place)
    if head == "parameters" and rest:
        parameters = document.get("parameters")
        known = list(parameters.entries) if isinstance(parameters, Mapping) else []
        if rest[0] not in known:
            hint = nearest(rest[0], known) or (
                f"the parameters are {', '.join(known)}" if known else "the network has none"
            )
            raise _problem("E0504", f"the network has no parameter '{rest[0]}'", place, hint)
    return _update(document, (head, *rest), lambda _: new, place)


def _rows(node: Located | None, path: tuple[Step, ...], scope: str) -> Iterator[Row]:
    if not isinstance(node, Items):
        return
    for at, item in enumerate(node.items):
        here = (*path, at)
        if isinstance(item, Scalar) and isinstance(item.value, str):
            yield Row(_join(scope, item.value), here, None)
        elif isinstance(item, Items):
            yield from _rows(item, here, scope)
        elif isinstance(item, Mapping):
            named, block = item.get("name"), item.get("block")
            if isinstance(block, Scalar):
                word = named.value if isinstance(named, Scalar) else block.value
                yield Row(_join(scope, str(word)), here, None)
            elif len(item.entries) == 1:
                ((key, (_, value)),) = item.entries.items()
                if key not in COMBINATORS:
                    yield Row(_join(scope, key), here, None if key in ops.WORDS else key)
                    yield from _rows(value, (*here, key), _join(scope, key))


def _join(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name


def _with_attribute(step: Located | None, row: Row, attribute: str, new: Located | None, place: Place) -> Located:
    """The step with one attribute changed: in the arguments of its block, or in the attributes of its op."""
    if row.name is not None:
        assert isinstance(step, Mapping)
        inner = Row(row.address, (), None)
        key_place = (
            step.entries[row.name][0] if new is not None else place
        )  # what is missed then, is missed by the setting
        return step.put(row.name, _with_attribute(step.get(row.name), inner, attribute, new, place), key_place)
    if isinstance(step, Scalar) and isinstance(step.value, str):
        key = step.value if step.value in ops.WORDS else "block"
        step = Mapping({}, step.place).put(key, Mapping({}, step.place) if key != "block" else step)
    if not isinstance(step, Mapping):
        raise _problem("E0506", f"'{row.address}' is a list of steps and has no attributes", place)
    word = next(iter(step.entries)) if len(step.entries) == 1 else None
    if word in COMBINATORS or "if" in step.entries:
        message = f"'{row.address}' is no block and no op, so it has no '{attribute}'"
        raise _problem("E0506", message, place, "set the whole row")
    if word not in ops.WORDS:
        return step.put(attribute, new, place)
    assert word is not None
    attributes, main = step.get(word), ops.main_attribute(word)
    if not isinstance(attributes, Mapping):
        given = Mapping({}, step.place)
        attributes = given if main is None or attributes is None else given.put(main, attributes)
    return step.put(word, attributes.put(attribute, new, place))


def _update(node: Located | None, path: tuple[Step, ...], change: Change, place: Place | None = None) -> Mapping:
    updated = _updated(node, path, change, place)
    assert isinstance(updated, Mapping)
    return updated


def _updated(node: Located | None, path: tuple[Step, ...], change: Change, place: Place | None) -> Located | None:
    """A copy of `node` with the value at `path` changed; mappings on the way are made where `place` is given."""
    if not path:
        return change(node)
    step, *rest = path
    if isinstance(step, int):
        assert isinstance(node, Items)
        new = _updated(node.items[step], tuple(rest), change, place)
        return Items((*node.items[:step], *([new] if new else []), *node.items[step + 1 :]), node.place)
    if not isinstance(node, Mapping):
        if node is not None or place is None:
            raise _problem(
                "E0506",
                f"'{step}' cannot be set here, since this is no mapping",
                (node or Scalar(None, _nowhere())).place,
            )
        node = Mapping({}, place)
    return node.put(step, _updated(node.get(step), tuple(rest), change, place), place)


def _nowhere() -> Place:
    return Place(Source("--set", ""), 1, 1, 2)


def _top(document: Mapping) -> Place:
    return Place(document.place.source, 1, 1, 2)


def _problem(code: str, message: str, place: Place, help: str | None = None) -> SpecError:
    return SpecError(Diagnostic(code, message, place, help=help))
