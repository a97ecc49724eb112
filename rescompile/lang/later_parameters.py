"""Parameters that blocks of the library gained after the first release of format 1.

All are of type block with the default `identity`. Where a spec does not set one, the block is
read as if the parameter were not there, so that specs of the first release keep their canonical text and their hash: steps that
use the parameter are left out, and of `{if: name == identity, then: ..., else: ...}` the first part remains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rescompile.ir.names import ROW_KEYS
from rescompile.lang.yaml_reader import Items, Located, Mapping, Scalar, entries

#: The parameters by block.
LATER = {
    "basic": ("attention", "antialias"),
    "bottleneck": ("attention", "antialias", "spatial"),
    "preact_basic": ("attention",),
    "preact_bottleneck": ("attention",),
}


def without_unset(word: str, block: Located, is_set: Callable[[str, str], bool]) -> Located:
    """Return the definition of a block without the later parameters that are not set."""
    for name in LATER.get(word, ()):
        if not is_set(word, name):
            block = _without(name, block)
    return block


def settings(document: Mapping) -> Callable[[str, str], bool]:
    """Return whether a document sets a parameter of a block: in a use, in a row without `block`, or among the defaults."""
    own = document.get("block")
    default = own.value if isinstance(own, Scalar) else None
    found = {(str(word), key) for node in _mappings(document) for word, key in _arguments(node, default)}
    for word, (_, given) in document.table("defaults").items():
        found |= {(word, key) for key in (given.entries if isinstance(given, Mapping) else ())}
    return lambda word, name: (word, name) in found


def _arguments(node: Mapping, default: object) -> Iterator[tuple[object, str]]:
    """Yield the blocks and parameters that a use of a block, or a row, sets."""
    block = node.get("block")
    word = (
        block.value if isinstance(block, Scalar) else default if not node.entries.keys().isdisjoint(ROW_KEYS) else None
    )
    if word is not None:
        yield from ((word, key) for key in node.entries)


def _mappings(node: Located) -> Iterator[Mapping]:
    """Yield all mappings inside a node."""
    if isinstance(node, Mapping):
        yield node
    for _, _, inner in entries(node):
        yield from _mappings(inner)


def _without(name: str, block: Located) -> Mapping:
    """Return a block without a parameter and what depends on it."""
    assert isinstance(block, Mapping)
    parameters, body = block.get("parameters"), block.get("body")
    assert isinstance(parameters, Mapping)
    assert isinstance(body, Items)
    return block.put("parameters", parameters.put(name, None)).put("body", _steps(name, body))


def _steps(name: str, steps: Items) -> Items:
    """Return a list of steps without those that use a parameter."""
    kept = (each for item in steps.items for each in _step(name, item))
    return Items(tuple(kept), steps.place)


def _step(name: str, step: Located) -> Iterator[Located]:
    """Yield what remains of a step: nothing, the step, or several of them."""
    if isinstance(step, Items):
        yield _steps(name, step)
    elif isinstance(step, Mapping) and _value(step.get("if")) == f"{name} == identity":
        chosen = step.get("then")
        yield from chosen.items if isinstance(chosen, Items) else () if chosen is None else (chosen,)
    elif isinstance(step, Mapping):
        if not any(_uses(name, value) for value in (step, *(value for _, value in step.entries.values()))):
            entries = {key: (place, _inside(name, value)) for key, (place, value) in step.entries.items()}
            yield Mapping(entries, step.place)
    else:
        yield step


def _inside(name: str, node: Located) -> Located:
    """Return the value of a key of a step, in which steps are found again."""
    if isinstance(node, Items) and any(isinstance(item, Mapping) for item in node.items):
        return _steps(name, node)
    if isinstance(node, Mapping):
        return Mapping({k: (place, _inside(name, v)) for k, (place, v) in node.entries.items()}, node.place)
    return node


def _uses(name: str, node: Located) -> bool:
    """Return whether a step is a use of the block that a parameter is."""
    return isinstance(node, Mapping) and _value(node.get("block")) == name


def _value(node: Located | None) -> object:
    return node.value if isinstance(node, Scalar) else None
