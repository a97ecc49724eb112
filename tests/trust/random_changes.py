"""Changes to a random document: reruns, means instead of sums, activations per copy, widths by arithmetic, side
branches that merge, gates, resizes, chains whose length varies by instance, and steps, branches and blocks that are
nearly alike.

Like `random_values.py`, they use random generators of their own, so that documents without them do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

from op_rules import Misfit
from random_values import add_values, lists
from scopes import NOT_NAMES

Steps = list[Any]
Change = Callable[[dict[str, Any]], None]


def changes(seed: int, large: bool) -> Iterator[Change]:
    """Yield the changes to the document of a seed in order. Only small documents get the rarer ones."""
    if seed % 3 == 0 and not large:
        yield from [partial(add_values, random=Random(f"values {seed}"))] * 3
    yield partial(take_means, random=Random(f"means {seed}"))
    if seed % 5 < 2:
        yield from [partial(add_reruns, random=Random(f"again {seed}"))] * 2
    for change in (
        (vary_acts, calculate_widths, leave_out_copies, add_asides, add_gates, add_resizes, add_lengths, add_alikes)
        if not large
        else ()
    ):
        random = Random(f"{change.__name__} {seed}")
        if random.random() < 0.3:
            yield partial(change, random=random)


def add_reruns(document: dict[str, Any], random: Random) -> None:
    """Change a document in place so that a step runs again, in one of several ways."""
    ways: list[Callable[[dict[str, Any], Random], None]] = [_named, _named, _new, _new, _recurrent]
    random.choice(ways)(document, random)


def take_means(document: dict[str, Any], random: Random) -> None:
    """Replace some sums of a document by means or random means: branches that can be added can be averaged."""
    for body in _sums([document["network"], document.get("blocks", {})]):
        mean: dict[str, Any] = random.choice(
            [{}, {"merge": "mean"}, {"merge": "shake"}, {"merge": "shake", "unit": "batch"}]
        )
        body |= mean


def vary_acts(document: dict[str, Any], random: Random) -> None:
    """Give an activation of a block another kind in its first copy than in the others, or a condition on the size of
    the map, whose names a parameter of the block may hide."""
    acts = [step for step in _dicts(document["blocks"]) if isinstance(step.get("act"), str | dict)]
    step = _any(acts, random)
    own = step["act"] if isinstance(step["act"], dict) else {}
    first, rest = random.sample(["relu", "tanh", "silu", "hardswish"], 2)
    when = random.choice([{key: own[key] for key in own if key == "when"}, {"when": "width > height"}])
    step["act"] = {**when, "kind": {"first": first, "rest": rest}}


def calculate_widths(document: dict[str, Any], random: Random) -> None:
    """Replace a `let`, or a number of channels in a block, by a multiple or a fraction of a difference."""
    blocks = document["blocks"]
    channels = [(own, "channels") for own in _dicts(blocks) if isinstance(own.get("channels"), int | str)]
    lets = [(own["let"], name) for own in blocks.values() for name in own.get("let", ())]
    own, name = _any(random.choice([channels, lets]) or channels, random)
    difference, by = f"({own[name]} - {random.randint(1, 3)})", random.randint(2, 3)
    own[name] = random.choice([f"{difference} * {by}", f"{difference} // {by} + 1"])


def leave_out_copies(document: dict[str, Any], random: Random) -> None:
    """Give a block a condition that only some of its copies meet."""
    block = _any([*document["blocks"].values()], random)
    block["when"] = random.choice(["index > 0", "index != 1", "index + 1 < depth", "index % 2 == 1"])


def add_asides(document: dict[str, Any], random: Random) -> None:
    """Add a merge as a separate output, followed by another merge of the same value."""
    steps = document["network"]
    at = random.randint(0, len(steps))
    count = random.randint(2, 3)
    lines = [_layers(f"aside{at}_{number}", random) for number in range(count + 1)]
    merges: list[Any] = [
        {"residual": {"branch": lines[0], "shortcut": [random.choice(KEPT)]}},
        {"parallel": {"merge": random.choice(["mul", "add"]), "branches": [lines[0], random.choice(KEPT)]}},
    ]
    aside = {"side": {"mode": "always", "output": f"aside{at}", "body": [random.choice(merges)]}}
    steps[at:at] = [aside, {"parallel": {"merge": random.choice(["concat", "add", "mul"]), "branches": lines[1:]}}]


def add_gates(document: dict[str, Any], random: Random) -> None:
    """Multiply a map by an activation of its channel means."""
    steps, back = document["network"], {"unflatten": {"rank": len(document["input"]) - 1}}
    gate = ["global_avgpool", "flatten", random.choice(["sigmoid", "tanh"]), back]
    steps.insert(random.randint(0, len(steps)), {"parallel": {"merge": "mul", "branches": ["identity", gate]}})


def add_resizes(document: dict[str, Any], random: Random) -> None:
    """Add an upsampling, or an average pool whose last windows may be incomplete."""
    steps, axes = document["network"], len(document["input"]) - 1
    factor = [random.randint(1, 3) for _ in range(axes)]
    kind = random.choice(["nearest", "bilinear", "bilinear"])
    pool = {"kernel": random.choice([2, 3]), "stride": 2, "ceil": True, "count_pad": random.random() < 0.5}
    step: dict[str, Any] = random.choice([{"upsample": {"factor": factor, "kind": kind}}, {"avgpool": pool}])
    steps.insert(random.randint(0, len(steps)), step)


def add_lengths(document: dict[str, Any], random: Random) -> None:
    """Add a block that contains rows of copies, whose number differs by instance, with one of several naming rules."""
    own: dict[str, Any] = {"body": [*_layer("layer", document, random), {"tanh": {"when": "index > 0"}}]}
    row: dict[str, Any] = {"block": "link", "depth": random.choice(["length", "length", "length - 1"])}
    own |= random.choice([{}, {}, {"members": "part{index + 1}"}])
    row |= random.choice([{}, {"members": "m{index}"}, {"members": "n{depth - index}"}])
    links: Any = {"links": row}
    if random.random() < 0.4:
        links = {"residual": {"branch": [links, *_layer("last", document, random)]}}
    body = [*_layer("first", document, random), links]
    if random.random() < 0.5:
        body += [{"more": {**row, "depth": random.choice([1, 2, "length"])}}, *_layer("after", document, random)]
    document.setdefault("blocks", {}).update(link=own, chain={"parameters": {"length": "int"}, "body": body})
    rows = document["network"]
    for number in range(random.randint(1, 3)):
        depth = random.randint(1, 3)
        lengths = [random.randint(1, 4) for _ in range(depth)]
        use: dict[str, Any] = {
            "block": "chain",
            "depth": depth,
            "length": random.choice([lengths[0], {"each": lengths}]),
        }
        if random.random() < 0.2:
            use["members"] = "c{index + 1}"
        rows.insert(random.randint(0, len(rows)), {f"chain{number}": use})


def add_alikes(document: dict[str, Any], random: Random) -> None:
    """Add a list, a merge, or instances of a block, with steps that differ in their op, in one argument, or not at all."""
    rows, family = document["network"], random.choice(_alike(len(document["input"]) - 1))
    steps = random.choices(random.choice([family, random.sample(family, 2)]), k=random.randint(2, 5))
    form = random.choice(["list", "list", "branches", "block"])
    made: dict[str, Any] = {"alike": steps}
    if form == "branches":
        branches = [{f"b{at}": [step]} for at, step in enumerate(steps)]
        made = {"mix": {"parallel": {"merge": random.choice(["add", "concat", "mul"]), "branches": branches}}}
    elif form == "block":  # of which some instances may be empty
        chosen: Any = []
        for at, step in enumerate(steps):
            chosen = {"if": f"which == {at}", "then": [{f"step{at}": [step]}], "else": chosen}
        document.setdefault("blocks", {})["alike"] = {"parameters": {"which": "int"}, "body": [chosen]}
        each = [random.randint(0, len(steps)) for _ in range(random.randint(1, 4))]
        made = {"alikes": {"block": "alike", "depth": len(each), "which": {"each": each}}}
    rows.insert(random.randint(0, len(rows)), made)


def _alike(axes: int) -> list[Steps]:
    """Return families of steps for maps with this number of axes. All steps of a family have the same output shape."""
    families: list[Steps] = [
        [*KEPT, "silu", "hardswish"],
        [{"scale": 0.5}, {"scale": -1}, {"scale": 2}],
        [{"leaky_relu": {"slope": 0.2}}, {"leaky_relu": {"slope": -0.5}}, "leaky_relu", {"elu": {"alpha": 0.5}}, "elu"],
        [{"norm": {"eps": 0.1}}, {"norm": {"eps": 0.5}}, "norm", {"norm": {"kind": "group", "groups": 1}}],
        ["affine", *({"linear": {"features": "in_channels", "bias": bias}} for bias in (True, False))],
    ]
    if axes:
        pool, conv = {"kernel": 3, "stride": 1, "padding": 1}, {"channels": "in_channels", "kernel": 3}
        more: Steps = [{}, {"dilation": 2}, {"bias": True}, {"groups": "in_channels"}, {"kernel": 1}, {"kernel": 5}]
        kinds = ("zeros", "reflect", "replicate")
        families += [
            *[[{"conv": {**conv, **each}} for each in more]] * 2,
            [{"reduce": "mean"}, {"reduce": "max"}],
            [{"border": {"before": 1, "after": 0, "kind": kind}} for kind in kinds],
        ]
        if axes < 3:  # torch has no average pool with windows longer than a volume without padding
            families.append([{"maxpool": pool}, {"avgpool": pool}, {"avgpool": {**pool, "count_pad": False}}])
    return families


#: Ops that keep the shape of any input.
KEPT = ("sigmoid", "tanh", "relu", "identity")


def _layer(name: str, document: dict[str, Any], random: Random) -> Steps:
    """Return a layer that keeps the shape, with or without an activation after it."""
    is_map = len(document["input"]) > 1 and random.random() < 0.9
    conv = {"conv": {"channels": "in_channels", "kernel": random.choice([1, 3])}}
    layer = conv if is_map else {"linear": "in_channels"}
    return [{name: layer}, *random.choice([[], [random.choice(KEPT)]])]


def _layers(name: str, random: Random) -> Steps:
    """Return a layer that fits most places, between activations."""
    layer = random.choice([{"conv": {"channels": "in_channels", "kernel": 1}}, {"linear": "in_channels"}])
    return [random.choice(KEPT), {name: layer}, random.choice(KEPT)]


def _any(choices: list[Any], random: Random) -> Any:
    """Return one of the choices. Raises Misfit if there are none."""
    if not choices:
        raise Misfit("nothing to change")
    return random.choice(choices)


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all mappings in a part of a document."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _dicts(part)


def _sums(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the bodies of `parallel` steps that add."""
    if isinstance(value, dict) and value.get("merge") == "add":
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _sums(part)


def _once_more(name: str, random: Random) -> Any:
    """Return a step that runs the step of this name again."""
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
    """Run an existing named step again, after it or in a branch after it."""
    steps, _ = random.choice([each for each in lists(document) if _names(each[0])] or [([], False)])
    if not steps:
        raise Misfit("no step has a name")
    at, name = random.choice(_names(steps))
    steps.insert(random.randint(at + 1, len(steps)), _once_more(name, random))


def _new(document: dict[str, Any], random: Random) -> None:
    """Add a new step that fits most places, and run it again later."""
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
    """Add a step that runs again in each copy of a macro, which adds the original input to each result."""
    body = [{"parallel": {"merge": "add", "branches": ["identity", {"use": "came"}]}}, {"again": "recur"}]
    document.setdefault("blocks", {})["recurring"] = {"inline": True, "values": ["came"], "body": body}
    layer = (
        {"conv": {"channels": "in_channels", "kernel": 3}} if len(document["input"]) > 1 else {"linear": "in_channels"}
    )
    rows, at = document["network"], random.randint(0, len(document["network"]))
    recur = {"recur": random.choice([[layer, "norm", "relu"], layer])}
    rows[at:at] = [{"keep": "came"}, recur, {"block": "recurring", "depth": random.choice([1, 2, 3])}]


def _names(steps: Steps) -> list[tuple[int, str]]:
    """Return the indices and names of the named steps."""
    keys = ((at, next(iter(step))) for at, step in enumerate(steps) if isinstance(step, dict) and len(step) == 1)
    return [(at, key) for at, key in keys if key not in NOT_NAMES]
