"""Kept values in a random document: insert `keep` and `use` among its steps.

The values are inserted last, with a random generator of their own, so that documents without them do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from op_rules import Misfit

Steps = list[Any]


def add_values(document: dict[str, Any], random: Random) -> None:
    """Change a document in place so that it keeps and uses a value, in one of several ways."""
    ways: list[Callable[[dict[str, Any], Random], None]] = [_along, _along, _again, _into_a_block, _per_copy, _macro]
    random.choice(ways)(document, random)


def lists(document: dict[str, Any]) -> Iterator[tuple[Steps, bool]]:
    """Yield the lists of steps, including those of branches, each with whether it is in a block."""
    yield from ((steps, False) for steps in _inside(document["network"]))
    for block in document.get("blocks", {}).values():
        yield from ((steps, True) for steps in _inside(block["body"]))


def _inside(value: Any) -> Iterator[Steps]:
    if isinstance(value, list) and value and all(isinstance(step, str | dict | list) for step in value):
        yield value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        # The last op of a gate is fixed, and side branches may not be computed.
        if isinstance(part, dict | list) and key not in ("gate", "side"):
            yield from _inside(part)


def _reader(name: str, random: Random) -> Any:
    """Return a step that uses a value, or merges it with its input."""
    use, plain = {"use": name}, random.choice(["identity", "sigmoid", [], {"scale": 0.5}])
    branches = random.sample(
        [
            plain,
            random.choice([use, [use, "tanh"], [use, {"scale": -1}, "relu"], [use, {"part": {"number": 0, "of": 1}}]]),
        ],
        2,
    )
    merge = random.choice(["add", "concat", "mul", "add"])
    joined = {"parallel": {"merge": merge, "branches": branches}}
    residual = {"residual": {"branch": [{"scale": 0.5}], "shortcut": [use]}}
    aside = {"side": {"mode": "always", "output": f"kept_{random.randint(0, 999)}", "body": [use, {"scale": 2}]}}
    return random.choice([joined, joined, joined, residual, use, [use, "relu"], aside])


def _along(document: dict[str, Any], random: Random) -> None:
    """Keep a value and use it in one list of steps."""
    steps, _ = random.choice(list(lists(document)))
    name = random.choice(["y", "x", "kept", "s[0]", "s[2]"])
    first = random.randint(0, len(steps))
    last = random.randint(first, len(steps))
    steps.insert(last, _reader(name, random))
    steps.insert(first, {"keep": name})


def _again(document: dict[str, Any], random: Random) -> None:
    """Keep a value twice under one name: the later one is used."""
    steps = document["network"]
    places = sorted(random.randint(0, len(steps)) for _ in range(4))
    made = [{"keep": "y"}, _reader("y", random), {"keep": "y"}, _reader("y", random)]
    for at, step in reversed(list(zip(places, made, strict=True))):
        steps.insert(at, step)


def _into_a_block(document: dict[str, Any], random: Random) -> None:
    """Use a value of the network in a block, which may keep another value of the same name for itself."""
    word = _any(sorted(document["blocks"]), random)
    body, indexed = document["blocks"][word]["body"], random.random() < 0.5
    name = "s[1]" if indexed else "s"
    document["blocks"][word]["values"] = ["s"]
    body.insert(random.randint(0, len(body)), _reader(name, random))
    if random.random() < 0.5:
        body.append({"keep": name})
    at = random.randint(0, len(document["network"]))
    document["network"].insert(at, {"keep": name})
    if random.random() < 0.6:
        document["network"].insert(random.randint(at + 1, len(document["network"])), _reader(name, random))
    if random.random() < 0.3:
        others = [each for each in document["blocks"] if each != word]
        for other in others[:1]:
            inner = document["blocks"][other]["body"]
            inner.insert(0, {"keep": name})
            inner.append(_reader(name, random))


def _per_copy(document: dict[str, Any], random: Random) -> None:
    """Keep values by the index of the copy in a row, and use them after it."""
    row = _any([row for row in document["network"] if isinstance(row, dict) and _depth(row, document) > 0], random)
    (own,) = row.values()
    word, depth = own.get("block", document.get("block")), _depth(row, document)
    body = document["blocks"][word]["body"]
    document["blocks"][word]["values"] = ["s"]
    body.append({"keep": random.choice(["s[index]", "s[depth - index - 1]"])})
    if random.random() < 0.5:
        body.insert(-1, {"if": "index > 0", "then": _reader("s[index - 1]", random)})
        body[-1] = {"keep": "s[index]"}
    at = document["network"].index(row) + 1
    document["network"].insert(random.randint(at, len(document["network"])), _reader(f"s[{depth - 1}]", random))


def _any(choices: list[Any], random: Random) -> Any:
    """Return one of the choices. Raises Misfit if there are none."""
    if not choices:
        raise Misfit("nothing to keep values in")
    return random.choice(choices)


def _depth(row: dict[str, Any], document: dict[str, Any]) -> int:
    """Return the depth of a row whose block is defined in the document and whose copies are all present, else 0."""
    own = next(iter(row.values())) if len(row) == 1 else None
    if not isinstance(own, dict) or own.get("block", document.get("block")) not in document["blocks"] or "when" in own:
        return 0
    return own.get("depth", 0) if isinstance(own.get("depth", 0), int) else 0


def _macro(document: dict[str, Any], random: Random) -> None:
    """Add a macro with values of its own and one of the network's, between a value of the same name and its use."""
    own = [{"keep": "y"}, random.choice(["relu", {"scale": 0.5}]), _reader("y", random)]
    shared = [{"keep": "z"}, {"scale": -1}] if random.random() < 0.5 else [_reader("z", random)]
    document.setdefault("blocks", {})["between"] = {"inline": True, "values": ["z"], "body": [*own, *shared]}
    steps = document["network"]
    places = sorted(random.randint(0, len(steps)) for _ in range(3))
    made: list[Any] = [{"block": "between"}, {"block": "between"}, [_reader("y", random), _reader("z", random)]]
    for at, step in reversed(list(zip(places, made, strict=True))):
        steps.insert(at, step)
    steps.insert(random.randint(0, places[0]), {"keep": "y"})
    steps.insert(random.randint(0, places[0]), {"keep": "z"})
