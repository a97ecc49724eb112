"""Errors of form: pydantic's errors as located diagnostics in the terms of the language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from rescompile.diagnostics.errors import Diagnostic, clipped, nearest, one_of
from rescompile.ir import ops
from rescompile.ir.expressions import show
from rescompile.ir.names import COMBINATORS
from rescompile.lang import library
from rescompile.lang.spec.blocks import Block, ParameterDefinition
from rescompile.lang.spec.spec import DropPath, Expect, Preprocess, Spec, Survival
from rescompile.lang.spec.steps import ATTRIBUTES, Parallel, Residual, Side
from rescompile.lang.yaml_reader import Mapping, inside, locate


def diagnostics(error: ValidationError, document: Mapping) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each error, without duplicates."""
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
    what = f"'{last}'" if named else "the spec"
    if named and isinstance(named[-1], int):
        what = f"entry {named[-1] + 1} of '{last}'"
    if kind.startswith("E0"):
        return _own(kind, loc, context, given, document)
    if kind == "extra_forbidden":
        known = _keys(loc)
        listed = f"the valid keys are {one_of(sorted(known), 'and')}" if 0 < len(known) < 14 else None
        message = f"unknown key '{clipped(last)}'"
        return Diagnostic("E0102", message, locate(document, loc, key=True), help=nearest(last, known) or listed)
    if kind == "missing":
        return Diagnostic("E0103", f"missing key '{last}'", locate(document, loc[:-1], key=True))
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        message = f"{what} must be {one_of(words)}, got {clipped(show(given))}"
        return Diagnostic("E0104", message, locate(document, loc), help=nearest(str(given), words))
    message = f"{what} must be {_FORMS.get(kind, kind).format(**context)}"
    if not isinstance(given, dict | list):
        message += f", got {clipped(show(given))}"
    return Diagnostic("E0104", message, locate(document, loc), help=_form_help(kind, loc, given, document))


_FORMS = {
    "string_type": "a string",
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "too_short": "a non-empty list",
    "too_long": "a list of at most {max_length} entries",
    "string_too_long": "a string of at most {max_length} characters",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


def _form_help(kind: str, loc: Sequence[str | int], given: Any, document: Mapping) -> str | None:
    if kind == "list_type" and isinstance(given, dict):
        return "start each step with '- '"
    if loc[:1] == ("input",) and kind == "too_long":
        return "omit the batch dimension: [channels, height, width], or [channels, depth, height, width]"
    if loc[:1] == ("defaults",) and len(loc) == 2 and (main := _main(str(loc[1]), document)):
        return f"write {{{main}: {show(given)}}}"
    return None


def _main(word: str, document: Mapping) -> str | None:
    return ops.main_attribute(word) if word in ops.WORDS and not _is_block(word, document) else None


def _own(code: str, loc: Sequence[str | int], context: Any, given: Any, document: Mapping) -> Diagnostic:
    """Return the diagnostic of an error that our models raise; its help may depend on the whole spec."""
    is_key = loc[-1:] == ("[key]",)
    path = (*loc, *context.get("at", ()))
    place = locate(document, path, key=is_key)
    if "offset" in context:
        place = inside(document, path, context["offset"], context["length"], key=is_key)
    message, help = context["message"], context.get("help")
    named = [str(step) for step in loc if isinstance(step, str) and not step.startswith(("<", "["))]
    if code == "E0110" and "<named>" in loc[:-1] and named:  # the user often means the name as an op or a block
        word = named[-1]
        if _is_block(word, document):
            message = f"'{word}' is a block, but it is used as the name of a step here"
            help = f"write {{block: {word}, ...}}"
        elif (hint := ops.similar(word, [*ops.WORDS, *COMBINATORS])) or _attributes_alone(given):
            message, help = f"unknown op '{word}'", hint or "docs/language.md lists all ops"
        else:
            return Diagnostic(code, message, place, help=help)
        place = locate(document, loc, key=True)
    return Diagnostic(code, message, place, help=help)


def _attributes_alone(given: Any) -> bool:
    """Return whether a mapping has attributes of ops and nothing else."""
    return isinstance(given, dict) and bool(given) and given.keys() <= ATTRIBUTES


def _is_block(word: str, document: Mapping) -> bool:
    return word in library.blocks() or word in document.table("blocks")


def _keys(loc: Sequence[str | int]) -> set[str]:
    """Return the valid keys at the location of an unknown one."""
    models: dict[str, type[BaseModel]] = {
        "residual": Residual, "parallel": Parallel, "side": Side, "survival": Survival,
        "drop_path": DropPath, "expect": Expect, "preprocess": Preprocess,
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
        return set(Block.model_fields) if len(loc) == 3 else set(ParameterDefinition.model_fields)
    return set()
