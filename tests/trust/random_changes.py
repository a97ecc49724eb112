"""Changes to a random document that is otherwise drawn: steps that run again, and means in place of sums.

Like `random_values.py`, they draw from numbers of their own, so that a document without them stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from op_rules import Misfit
from random_values import lists
from scopes import NOT_NAMES

Steps = list[Any]


def add_reruns(document: dict[str, Any], random: Random) -> None:
    """Change a document in place, by one of several ways to run a step again."""
    ways: list[Callable[[dict[str, Any], Random], None]] = [_named, _named, _new, _new, _recurrent]
    random.choice(ways)(document, random)


def take_means(document: dict[str, Any], random: Random) -> None:
    """Make some sums of a document means, or random means. Branches that can be added have a mean, too."""
    for body in _sums([document["network"], document.get("blocks", {})]):
        mean: dict[str, Any] = random.choice(
            [{}, {"merge": "mean"}, {"merge": "shake"}, {"merge": "shake", "unit": "batch"}]
        )
        body |= mean


def _sums(value: Any) -> Iterator[dict[str, Any]]:
    """The bodies of parallels that add."""
    if isinstance(value, dict) and value.get("merge") == "add":
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _sums(part)


def _once_more(name: str, random: Random) -> Any:
    """A step that runs the one of this name again."""
    again = {"again": name}
    joined = {
        "parallel": {
            "merge": random.choice(["add", "concat", "mean", "mul"]),
            "branches": random.sample([again, "identity"], 2),
        }
    }
    residual = {"residual": {"branch": random.choice([again, [again, {"scale": 0.5}, again]])}}
    short = {"residual": {"branch": [{"scale": 0.5}], "shortcut": [again]}}
    aside = {
        "side": {
            "mode": random.choice(["always", "training"]),
            "output": f"again_{random.randint(0, 999)}",
            "body": [again],
        }
    }
    return random.choice([again, again, [again, again], joined, residual, short, aside])


def _named(document: dict[str, Any], random: Random) -> None:
    """A step that has a name already, again after it or in a branch after it."""
    steps, _ = random.choice([each for each in lists(document) if _names(each[0])] or [([], False)])
    if not steps:
        raise Misfit("no step has a name")
    at, name = random.choice(_names(steps))
    steps.insert(random.randint(at + 1, len(steps)), _once_more(name, random))


def _new(document: dict[str, Any], random: Random) -> None:
    """A new step that most places take, which runs again where as many channels come."""
    steps, _ = random.choice([*lists(document)])
    conv = {"conv": {"channels": "in_channels", "kernel": random.choice([1, 3]), "bias": random.random() < 0.5}}
    layer = random.choice([conv, conv, {"linear": "in_channels"}, "norm", {"prelu": {"per": "one"}}])
    residual = {"residual": {"branch": [{"inner": layer}, {"bn": "norm"}]}}
    halves = {"parallel": {"merge": "concat", "split": random.random() < 0.3, "branches": [{"inner": layer}, "tanh"]}}
    kept = [layer, {"keep": "own"}, "sigmoid", {"parallel": {"merge": "mul", "branches": ["identity", {"use": "own"}]}}]
    step = random.choice([layer, [layer, "norm", "relu"], residual, halves, kept])
    first = random.randint(0, len(steps))
    steps.insert(random.randint(first, len(steps)), _once_more("shared", random))
    steps.insert(first, {"shared": step})


def _recurrent(document: dict[str, Any], random: Random) -> None:
    """A step that runs again in each copy of a macro, which adds what came in to each of its results."""
    body = [{"parallel": {"merge": "add", "branches": ["identity", {"use": "came"}]}}, {"again": "recur"}]
    document.setdefault("blocks", {})["recurring"] = {"inline": True, "values": ["came"], "body": body}
    layer = (
        {"conv": {"channels": "in_channels", "kernel": 3}} if len(document["input"]) > 1 else {"linear": "in_channels"}
    )
    rows, at = document["network"], random.randint(0, len(document["network"]))
    recur = {"recur": random.choice([[layer, "norm", "relu"], layer])}
    rows[at:at] = [{"keep": "came"}, recur, {"block": "recurring", "depth": random.choice([1, 2, 3])}]


def _names(steps: Steps) -> list[tuple[int, str]]:
    """The steps with names, each with its place."""
    keys = ((at, next(iter(step))) for at, step in enumerate(steps) if isinstance(step, dict) and len(step) == 1)
    return [(at, key) for at, key in keys if key not in NOT_NAMES]
