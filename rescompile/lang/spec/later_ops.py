"""Tells the ops, and `keep`, `use` and `again`, that format 1 gained after its first release from steps that a spec gave the same name.

A spec keeps its meaning when a new op takes a word that it uses for a block or a step of its own. Its own block wins over
the op everywhere in the spec. Without such a block, the value of `word: value` decides: a step makes the word its name,
and anything else is the value of the op. `keep`, `use` and `again` take a name, so theirs is a step only where it is the
word of an op of the first release, or of a block.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Container, Iterator
from typing import Any

from rescompile.ir import names, ops


class NamedMapping(dict[str, Any]):
    """`name: step`, where the name is also the word of an op."""


def is_name(word: str, value: Any, blocks: Container[str]) -> bool:
    """Return whether `word: value`, with the word of an op or one of REFERENCES, is a step with this name; `blocks` are the
    names of blocks."""
    if word in names.REFERENCES:
        step = value in blocks or value in ops.WORDS.keys() - ops.LATER if isinstance(value, str) else True
        return word in blocks or (step and not isinstance(value, bool | int | float))
    if word not in ops.WORDS or not ops.may_be_name(word):
        return False
    main = ops.main_attribute(word)
    takes_list = main is not None and ops.attributes(word)[main].type == "size"
    return word in blocks or (isinstance(value, list) and not takes_list) or _is_step(value, word, blocks)


def _is_step(value: Any, word: str, blocks: Container[str]) -> bool:
    """Return whether a value has the form of a step, rather than of the attributes of the op `word`."""
    match value:
        case str():
            return value in ops.WORDS or value in blocks
        case list():
            return all(_is_step(item, word, blocks) for item in value)
        case dict() if len(value) == 1:
            ((key, inner),) = value.items()
            if isinstance(inner, bool):
                return False  # no step takes one
            if key in ops.WORDS or key in names.COMBINATORS or key in names.ROW_KEYS:
                return True
            nested = isinstance(inner, dict | list) and key not in ops.attributes(word)
            return key not in names.RESERVED and (nested or _is_step(inner, word, blocks))
        case dict():
            return "if" in value or not value.keys().isdisjoint(names.ROW_KEYS)
    return False


def mark_names(document: dict[str, Any]) -> dict[str, Any]:
    """Return a merged document, changed so that steps whose names are also words of ops are of type `NamedMapping`."""
    blocks = document.get("blocks")
    known = blocks if isinstance(blocks, dict) else {}
    for block in known.values():
        if isinstance(block, dict):
            _mark(block.get("body"), ChainMap(dict.fromkeys(_parameters_for_blocks(block)), known))
    _mark(document.get("network"), known)
    return document


def _parameters_for_blocks(block: dict[str, Any]) -> Iterator[str]:
    """Yield the parameters of type block, which are words of blocks in the body."""
    parameters = block.get("parameters")
    for name, given in parameters.items() if isinstance(parameters, dict) else ():
        if "block" in (given, given.get("type") if isinstance(given, dict) else None):
            yield name


def _mark(value: Any, blocks: Container[str]) -> None:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(item, dict | list):
            _mark(item, blocks)
            if isinstance(item, dict) and len(item) == 1 and is_name(*next(iter(item.items())), blocks):
                value[key] = NamedMapping(item)
