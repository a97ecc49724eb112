"""The canonical text of a spec: self-contained and unique.

It omits keys that do not change the network (reference, family, description, notes, unverified, expect) and what the
network does not use (inherited defaults, unreachable blocks). Keys whose order has no meaning are sorted. Reading the
text and writing it again gives the same text; its SHA-256 is the network's identity.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any

from rescompile.lang import library
from rescompile.lang.reachable_blocks import reachable_blocks
from rescompile.lang.spec.blocks import Block
from rescompile.lang.spec.spec import DropPath, Preprocess, Spec, Survival
from rescompile.lang.yaml_reader import plain, reads_as_text

LEFT_OUT = ("reference", "family", "description", "notes", "unverified", "expect", "extends", "set")
#: Keys that come first in a step; all others follow in alphabetical order.
FIRST = (
    "block", "name", "depth", "members", "if", "when", "then", "else", "branch", "gate", "shortcut", "merge", "copies",
)  # fmt: skip
_RANK = {key: rank for rank, key in enumerate(FIRST)}


def canonical(spec: Spec, used: Collection[str]) -> tuple[str, str]:
    """Return the text and its SHA-256 in hex; `used` are the words of ops and blocks that the network uses."""
    document = plain(spec.document)
    kept = {key: document[key] for key in Spec.model_fields if key in document and key not in LEFT_OUT}
    defaults = kept.get("defaults", {})
    kept["defaults"] = {word: _step(defaults[word]) for word in sorted(defaults) if word in used and defaults[word]}
    blocks = {
        word: block
        for word, block in kept["blocks"].items()
        if word in used or not library.is_later(word, spec.document)
    }
    kept["blocks"] = {word: _block(block) for word, block in sorted(reachable_blocks(kept, blocks.get).items())}
    kept["network"] = _step(kept["network"])
    for key, model in (("survival", Survival), ("drop_path", DropPath), ("preprocess", Preprocess)):
        if key in kept:
            kept[key] = {name: kept[key][name] for name in model.model_fields if name in kept[key]}
    text = dump({key: value for key, value in kept.items() if value not in ({}, [])})
    return text, hashlib.sha256(text.encode()).hexdigest()


def _block(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block with its keys in the order of the grammar. The order of its parameters and lets has a meaning and
    stays."""
    kept = {key: block[key] for key in Block.model_fields if key in block and key not in LEFT_OUT}
    return {key: _step(value) if key == "body" else value for key, value in kept.items() if value != {}}


def _step(step: Any) -> Any:
    """Steps, arguments and attributes with sorted keys."""
    if isinstance(step, list):
        return [_step(item) for item in step]
    if not isinstance(step, dict):
        return step
    return {key: _step(step[key]) for key in sorted(step, key=lambda key: (_RANK.get(key, len(FIRST)), key))}


def dump(value: dict[str, Any]) -> str:
    """YAML text, in block style for mappings and lists of mappings, in flow style for lists of scalars."""
    return "".join(f"{line}\n" for line in _lines(value, 0))


def _lines(value: Any, indent: int) -> Iterator[str]:
    """Yield the lines of a mapping or list in block style."""
    margin = " " * indent
    if isinstance(value, dict):
        for key, item in value.items():
            head = f"{margin}{_text(key)}:"
            if _is_block(item):
                yield head
                yield from _lines(item, indent + 2)
            else:
                yield f"{head} {_flow(item)}"
        return
    for item in value:
        first, *rest = _lines(item, indent + 2) if _is_block(item) else [_flow(item)]
        yield f"{margin}- {first.lstrip(' ')}"
        yield from rest


def _is_block(value: Any) -> bool:
    """Return whether a value is written in block style."""
    nested = isinstance(value, list) and any(isinstance(item, dict | list) for item in value)
    return nested or (isinstance(value, dict) and bool(value))


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_flow(item) for item in value)}]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


_PLAIN = re.compile(r"[A-Za-z0-9_(][A-Za-z0-9_ .+*/%()<>=!-]*")


@lru_cache(maxsize=1024)  # few texts, many times
def _text(text: str) -> str:
    """Text without quotes if it is read as the same text, otherwise in double quotes with escapes."""
    if _PLAIN.fullmatch(text) and reads_as_text(text) and text == text.strip():
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
