"""From a file or a zoo name to a Spec: read, merge, inline the library's blocks, validate, check every name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from rescompile import library, ops, spec
from rescompile.errors import Diagnostic, Place, SpecError, nearest, one_of
from rescompile.merging import resolve
from rescompile.reader import Items, Located, Mapping, Scalar, inside, locate, plain, read
from rescompile.scoping import check
from rescompile.spec import Spec

PathLike = str | os.PathLike[str]
_WORDS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load(path_or_name: PathLike, set: Sequence[str] = ()) -> Spec:
    """Read and validate a spec.

    `path_or_name` is a file if it has a `/` or ends in .yaml or .yml, else a name of the zoo. `set` holds settings such
    as `"layer3.depth=23"`, as on the command line. The Spec that comes back is resolved: `extends` and `set` are
    applied, and the blocks it uses are in its `blocks`.

    Raises SpecError with every mistake found, located, and UsageError if there is no such spec.
    """
    document = resolve(library.spec_path(os.fspath(path_or_name)), set)
    return from_document(document, changed=bool(set))


def from_document(document: Mapping, changed: bool = False) -> Spec:
    """The Spec of a merged document, `changed` by settings from outside the file or not.

    Raises SpecError; its `rest` is the Spec without the wrong rows.
    """
    document = _with_library(document)
    problems: list[Diagnostic] = []
    for _ in range(
        2
    ):  # once as it is; where forms are wrong, again without the wrong rows, to check the names of the rest
        try:
            result = Spec.model_validate(plain(document))
        except ValidationError as error:
            if problems:
                break
            problems += _diagnostics(error, document)
            document = _without(document, [item["loc"] for item in error.errors(include_url=False)])
            continue
        result._document, result._changed = document, changed
        found = check(result)
        if not found and not problems:
            return result
        wrong = [diagnostic.place for diagnostic in found if diagnostic.place is not None]
        problems += [diagnostic for diagnostic in found if not (problems and diagnostic.code in ("E0103", "E0410"))]
        raise SpecError(problems, _remaining(document, wrong))
    raise SpecError(problems)


def _without(document: Mapping, wrong: Sequence[Sequence[str | int]]) -> Mapping:
    """The document without the rows (or, elsewhere, the keys) that hold wrong forms."""
    rows = {loc[1] for loc in wrong if loc[0] == "network" and len(loc) > 1}
    for loc in wrong:
        if loc[0] != "network" and loc[0] in document.entries:
            document = document.put(str(loc[0]), None)
    network = document.get("network")
    if isinstance(network, Items):
        kept = tuple(item for at, item in enumerate(network.items) if at not in rows)
        document = document.put("network", Items(kept, network.place) if kept else None)
    return document


def _remaining(document: Mapping, wrong: Sequence[Place]) -> Spec | None:
    """The Spec without the rows that hold a wrong word, if the rest is right."""
    network = document.get("network")
    if not isinstance(network, Items):
        return None
    bad = {(place.source, place.line, place.column) for place in wrong}
    kept = tuple(item for item in network.items if not bad & {(p.source, p.line, p.column) for p in _places(item)})
    if not kept:
        return None
    document = document.put("network", Items(kept, network.place))
    try:
        rest = Spec.model_validate(plain(document))
    except ValidationError:
        return None
    rest._document = document
    return None if any(diagnostic.code != "E0410" for diagnostic in check(rest)) else rest


def _places(node: Located) -> Iterator[Place]:
    yield node.place
    match node:
        case Mapping():
            for key, value in node.entries.values():
                yield key
                yield from _places(value)
        case Items():
            for item in node.items:
                yield from _places(item)


# --- blocks of the library --------------------------------------------------------------------------------------------


def _with_library(document: Mapping) -> Mapping:
    """The document with every block of the library that its text can mean, and no block of its own that it cannot."""
    own = document.get("blocks")
    entries = dict(own.entries) if isinstance(own, Mapping) else {}
    if own is not None and not isinstance(own, Mapping):
        return document
    roots = [node for key in ("network", "block", "defaults", "parameters") if (node := document.get(key)) is not None]
    wanted = [word for root in roots for word in _words(root)]
    reached: dict[str, tuple[Place, Located]] = {}
    while wanted:
        word = wanted.pop()
        if word in reached:
            continue
        if word in entries:
            reached[word] = entries[word]
        elif word in library.blocks() and word not in ops.WORDS:
            node = read(library.source(library.blocks()[word]))
            reached[word] = (node.place, node)
        else:
            continue
        wanted.extend(_meant(reached[word][1]))
    unreached = {word: entry for word, entry in entries.items() if word not in reached}
    place = own.place if own is not None else document.place
    blocks = Mapping(dict(sorted({**reached, **unreached}.items())), place)
    return document.put("blocks", blocks, place)


def _meant(definition: Located) -> Iterator[str]:
    """The words of a block's definition, without its own parameters and lets: those hide blocks of their name."""
    parts = [definition.get(key) for key in ("parameters", "let")] if isinstance(definition, Mapping) else []
    own = {name for part in parts if isinstance(part, Mapping) for name in part.entries}
    return (word for word in _words(definition) if word not in own)


def _words(node: Located) -> Iterator[str]:
    """Every word that stands where a value or a step stands: more than the blocks meant, and never fewer."""
    match node:
        case Mapping():
            for _, value in node.entries.values():
                yield from _words(value)
        case Items():
            for item in node.items:
                yield from _words(item)
        case Scalar():
            if isinstance(node.value, str):
                yield from _WORDS.findall(node.value)


# --- errors of pydantic, in our words ---------------------------------------------------------------------------------


def _diagnostics(error: ValidationError, document: Mapping) -> Iterator[Diagnostic]:
    seen = set()
    for item in error.errors(include_url=False):
        diagnostic = _diagnostic(item, document)
        if (diagnostic.code, diagnostic.place, diagnostic.message) not in seen:
            seen.add((diagnostic.code, diagnostic.place, diagnostic.message))
            yield diagnostic


def _diagnostic(item: Any, document: Mapping) -> Diagnostic:
    loc, kind, context = item["loc"], item["type"], item.get("ctx") or {}
    last = next((str(step) for step in reversed(loc) if not str(step).startswith("<")), "")
    if kind.startswith("E0"):
        place = locate(document, loc, key=loc[-1:] == ("[key]",))
        if "offset" in context:
            place = inside(document, loc, context["offset"], context["length"])
        return Diagnostic(kind, context["message"], place, help=context.get("help"))
    if kind == "extra_forbidden":
        known = _keys(loc)
        help = nearest(last, known) or (f"the keys here are {one_of(sorted(known))}" if len(known) < 14 else None)
        return Diagnostic("E0102", f"unknown key '{last}'", locate(document, loc, key=True), help=help)
    if kind == "missing":
        return Diagnostic("E0103", f"the key '{last}' is missing", locate(document, loc[:-1], key=True))
    what = _FORMS.get(kind)
    message = f"'{last}' {what}" if what else f"'{last}': {item['msg'][:1].lower()}{item['msg'][1:]}"
    return Diagnostic("E0104", message, locate(document, loc))


_FORMS = {
    "string_type": "is text",
    "bool_type": "is true or false",
    "int_type": "is a whole number",
    "float_type": "is a number",
    "list_type": "is a list",
    "dict_type": "is a mapping",
    "model_type": "is a mapping",
    "model_attributes_type": "is a mapping",
    "too_short": "needs at least one entry",
}


def _keys(loc: Sequence[str | int]) -> set[str]:
    """The keys allowed where an unknown one was found."""
    models: dict[str, type[BaseModel]] = {
        "residual": spec.Residual, "parallel": spec.Parallel, "side": spec.Side, "survival": spec.Survival,
        "expect": spec.Expect, "preprocess": spec.Preprocess,
    }  # fmt: skip
    parent = loc[-2] if len(loc) > 1 else ""
    if parent in models:
        return set(models[str(parent)].model_fields)
    if parent == "<if>":
        return {"if", "then", "else"}
    if parent == "<each>" or parent == "<first>":
        return {"each", "first", "rest"}
    if len(loc) == 1:
        return set(Spec.model_fields)
    if loc[0] == "blocks":
        return set(spec.Block.model_fields) if len(loc) == 3 else set(spec.ParameterDefinition.model_fields)
    return set()
