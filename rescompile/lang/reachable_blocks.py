"""The blocks that a document may refer to: at least all those that its network uses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Keys of a spec whose values may name blocks.
ROOTS = ("network", "block", "defaults", "parameters")
#: Keys of a block that are text for readers.
PROSE = ("description", "reference")


def reachable_blocks(document: dict[str, Any], block: Callable[[str], Any]) -> dict[str, Any]:
    """Return the definitions of all blocks that a document may refer to, by name; `block` returns a definition or None."""
    pending = [word for key in ROOTS if key in document for word in _words(document[key])]
    reachable: dict[str, Any] = {}
    while pending:
        word = pending.pop()
        if word not in reachable and (definition := block(word)) is not None:
            reachable[word] = definition
            pending.extend(_words_of(definition))
    return reachable


def _words_of(definition: Any) -> Iterator[str]:
    """Return the words in a block's definition, without its parameters and lets, which hide blocks of the same name."""
    if not isinstance(definition, dict):
        return iter(())
    parts = [definition.get(key) for key in ("parameters", "let")]
    own = {name for part in parts if isinstance(part, dict) for name in part}
    texts = [value for key, value in definition.items() if key not in PROSE]
    return (word for word in _words(texts) if word not in own)


def _words(value: Any) -> Iterator[str]:
    """Yield every word in the values and steps."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _words(item)
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)
    elif isinstance(value, str):
        yield from _WORD.findall(value)
