"""From a file or a zoo name to a Spec: read, merge, inline the library's blocks, validate, check every name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from rescompile import library, ops, spec
from rescompile.errors import Diagnostic, Place, SpecError, clipped, nearest, one_of
from rescompile.expressions import show
from rescompile.merging import resolve
from rescompile.names import COMBINATORS
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
    problems = list(_nothing(document))
    if problems:
        raise SpecError([*problems, *_other_forms(document)])
    document, reached = _with_library(document)
    # Once as it is; where forms are wrong, again without the wrong rows, to check the names of the rest.
    for _ in range(2):
        try:
            result = Spec.model_validate(plain(document))
        except ValidationError as error:
            if problems:
                break
            problems += _diagnostics(error, document)
            wrong = [item["loc"] for item in error.errors(include_url=False)]
            if any(loc[:1] in (("blocks",), ("parameters",)) for loc in wrong):
                break  # what they define would be missed everywhere
            document = _without(document, wrong)
            continue
        result._document, result._changed, result._reached = document, changed, reached
        found = check(result)
        if not found and not problems:
            return result
        places = [diagnostic.place for diagnostic in found if diagnostic.place is not None]
        problems += [diagnostic for diagnostic in found if not (problems and diagnostic.code in ("E0103", "E0410"))]
        raise SpecError(problems, _remaining(document, places))
    raise SpecError(problems)


def _nothing(node: Located) -> Iterator[Diagnostic]:
    """Keys and dashes that nothing follows: YAML reads them as null, which means nothing in a spec."""
    match node:
        case Mapping():
            for name, (key, value) in node.entries.items():
                if _is_null(value):
                    yield Diagnostic(
                        "E0104", f"nothing follows '{clipped(name)}'", key, help="give it a value, or leave the key out"
                    )
                yield from _nothing(value)
        case Items():
            for item in node.items:
                if _is_null(item):
                    yield Diagnostic(
                        "E0104", "an entry of this list is empty", item.place, help="the empty step is 'identity'"
                    )
                yield from _nothing(item)


def _other_forms(document: Mapping) -> Iterator[Diagnostic]:
    """What else is wrong with the forms of a document, once keys and entries that are empty are left out."""

    def filled(node: Located) -> Located:
        match node:
            case Mapping():
                kept = {
                    name: (key, filled(value)) for name, (key, value) in node.entries.items() if not _is_null(value)
                }
                return Mapping(kept, node.place)
            case Items():
                return Items(tuple(filled(item) for item in node.items if not _is_null(item)), node.place)
        return node

    rest = filled(document)
    assert isinstance(rest, Mapping)
    try:
        Spec.model_validate(plain(rest))
    except ValidationError as error:
        yield from (diagnostic for diagnostic in _diagnostics(error, rest) if diagnostic.code != "E0103")


def _is_null(node: Located) -> bool:
    return isinstance(node, Scalar) and node.value is None


def _without(document: Mapping, wrong: Sequence[Sequence[str | int]]) -> Mapping:
    """The document without the rows (or, elsewhere, the keys) that hold wrong forms."""
    rows = {loc[1] for loc in wrong if loc[:1] == ("network",) and len(loc) > 1}
    for loc in wrong:
        if loc and loc[0] != "network" and loc[0] in document.entries:
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


def _with_library(document: Mapping) -> tuple[Mapping, frozenset[str]]:
    """The document with every block of the library that its text can mean, and the words of all blocks so reached."""
    own = document.get("blocks")
    if own is not None and not isinstance(own, Mapping):
        return document, frozenset()
    entries = dict(own.entries) if own is not None else {}
    roots = [node for key in ("network", "block", "defaults", "parameters") if (node := document.get(key)) is not None]
    wanted = [word for root in roots for word in _words(root)]
    reached: set[str] = set()
    while wanted:
        word = wanted.pop()
        if word in reached:
            continue
        if word not in entries:
            if word not in library.blocks() or word in ops.WORDS:
                continue
            node = read(library.source(library.blocks()[word]))
            entries[word] = (node.place, node)
        reached.add(word)
        wanted.extend(_meant(entries[word][1]))
    blocks = Mapping(dict(sorted(entries.items())), own.place if own is not None else document.place)
    return document.put("blocks", blocks), frozenset(reached)


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
    loc, kind, context, given = item["loc"], item["type"], item.get("ctx") or {}, item.get("input")
    named = [step for step in loc if not str(step).startswith(("<", "["))]
    last = str(next((step for step in reversed(named) if isinstance(step, str)), ""))
    what = (
        f"'{last}'"
        if named and isinstance(named[-1], str)
        else f"entry {named[-1] + 1} of '{last}'"
        if named
        else "the spec"
    )
    if kind.startswith("E0"):
        return _own(kind, loc, context, document)
    if kind == "extra_forbidden":
        known = _keys(loc)
        listed = f"the keys here are {one_of(sorted(known))}" if 0 < len(known) < 14 else None
        message = f"unknown key '{clipped(last)}'"
        return Diagnostic("E0102", message, locate(document, loc, key=True), help=nearest(last, known) or listed)
    if kind == "missing":
        return Diagnostic("E0103", f"the key '{last}' is missing", locate(document, loc[:-1], key=True))
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        message = f"{what} must be {one_of(words)}, and this is {clipped(show(given))}"
        return Diagnostic("E0104", message, locate(document, loc), help=nearest(str(given), words))
    message = f"{what} must be {_FORMS.get(kind, kind).format(**context)}"
    if not isinstance(given, dict | list):
        message += f", and this is {clipped(show(given))}"
    return Diagnostic("E0104", message, locate(document, loc), help=_form_help(kind, loc, given))


_FORMS = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "too_short": "a list with something in it",
    "too_long": "a list of at most {max_length} entries",
    "string_too_long": "text of at most {max_length} characters",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


def _form_help(kind: str, loc: Sequence[str | int], given: Any) -> str | None:
    if kind == "list_type" and isinstance(given, dict):
        return "put '- ' before each step"
    if loc[:1] == ("input",) and kind == "too_long":
        return "leave the batch out: [channels, height, width]"
    if loc[:1] == ("defaults",) and len(loc) == 2 and (main := _main(str(loc[1]))):
        return f"write {{{main}: {show(given)}}}"
    return None


def _main(word: str) -> str | None:
    return ops.main_attribute(word) if word in ops.WORDS else None


def _own(code: str, loc: Sequence[str | int], context: Any, document: Mapping) -> Diagnostic:
    """An error of our own models, located, with the help that only the whole spec can give."""
    is_key = loc[-1:] == ("[key]",)
    path = (*loc, *context.get("at", ()))
    place = locate(document, path, key=is_key)
    if "offset" in context:
        place = inside(document, path, context["offset"], context["length"], key=is_key)
    message, help = context["message"], context.get("help")
    named = [str(step) for step in loc if isinstance(step, str) and not step.startswith(("<", "["))]
    if code == "E0110" and "<named>" in loc[:-1] and named:  # the name is often meant as a word
        word = named[-1]
        if _is_block(word, document):
            message, help = (
                f"'{word}' is the word of a block, and stands here as a name",
                f"write {{block: {word}, ...}}",
            )
        elif hint := nearest(word, [*ops.WORDS, *COMBINATORS]):
            message, help = f"there is no op '{word}'", hint
        else:
            return Diagnostic(code, message, place, help=help)
        place = locate(document, loc, key=True)
    return Diagnostic(code, message, place, help=help)


def _is_block(word: str, document: Mapping) -> bool:
    own = document.get("blocks")
    return word in library.blocks() or (isinstance(own, Mapping) and word in own.entries)


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
