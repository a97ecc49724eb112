"""Laws that hold for every spec: relations between specs, or between ways to compile one, that need no expected
outputs.

Each law is a function that raises a Fault if it fails, and returns whether it applies to the case.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import numpy as np
from cases import Array, Case, Fault
from drawn_documents import written

import rescompile
from rescompile import backend, passes
from rescompile.analysis.cost import cost
from rescompile.diagnostics.errors import SpecError
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Op, parameters, walk
from rescompile.ir.ops import Conv
from rescompile.ir.refitting import runs_again
from rescompile.passes.plain_weights import plain_weights
from rescompile.runtimes.verify import tap_all
from rescompile.weights import from_arrays


def elaborated(case: Case, document: Mapping[str, Any], name: str = "law") -> Network:
    """Elaborate another document in the folder of the case."""
    path = case.folder / f"{name}.yaml"
    path.write_text(written(document), encoding="utf-8")
    return rescompile.elaborate(rescompile.load(path))


def variant(
    case: Case, check: str, document: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> dict[str, Array]:
    """Return the outputs of another document with the weights of the case; `names` maps changed prefixes of names from
    new to old."""
    try:
        network = elaborated(case, document)
    except SpecError as error:
        raise Fault(check, f"refused: {error}") from error

    def old(name: str) -> str:
        return next((was + name[len(new) :] for new, was in (names or {}).items() if name.startswith(new)), name)

    arrays = {name: case.arrays[old(name)] for name, _ in parameters(network)}
    return interpret(network, from_arrays(arrays, network), case.x)


def equal(check: str, first: Mapping[str, Array], second: Mapping[str, Array]) -> None:
    """Raise a Fault unless two runs of the interpreter are bit-identical."""
    if first.keys() != second.keys():
        raise Fault(check, f"outputs {sorted(first)} and {sorted(second)}")
    for name, value in first.items():
        if not np.array_equal(value, second[name]):
            raise Fault(check, f"{name} differs")


def splitting_a_stage(case: Case) -> bool:
    """Check that a row of n copies is equal to two rows of a and n - a copies."""
    document = copy.deepcopy(dict(case.drawn.document))
    for at, row in enumerate(document["network"]):
        ((name, own),) = row.items() if isinstance(row, dict) and len(row) == 1 else [("", None)]
        block = document["blocks"].get(own.get("block", document.get("block"))) if _repeated(own, document) else None
        if (
            block is None
            or f"'again': '{name}'" in str(document)
            or _COUNTS.search(str([block, own, document.get("defaults")]))
        ):
            continue
        half = own["depth"] // 2
        given = block.get("parameters", {}).items()
        once = {key: facts["default"] for key, facts in given if isinstance(facts, dict) and "only" in facts}
        rest = own | once  # also where `defaults` has another value
        document["network"][at : at + 1] = [
            {f"{name}_a": {**own, "depth": half}},
            {f"{name}_b": {**rest, "depth": own["depth"] - half}},
        ]
        names = {f"{name}_a.{n}.": f"{name}.{n}." for n in range(half)}
        names |= {f"{name}_b.{n}.": f"{name}.{n + half}." for n in range(own["depth"] - half)}
        equal("splitting a stage", case.reference.exact, variant(case, "splitting a stage", document, names))
        return True
    return False


#: Text by which copies depend on their index or on the depth, other than `only: first`.
_COUNTS = re.compile(r"\bindex\b|\bdepth (?!')|'each'|'first':|'members'")


def _repeated(own: Any, document: Mapping[str, Any]) -> bool:
    return isinstance(own, dict) and own.get("depth", 1) > 1 and "blocks" in document and "features" not in document


def survival_of_one(case: Case) -> bool:
    """Check that survival with probability 1 has no effect, and that in evaluation only `rescale: test` has one."""
    document = dict(case.drawn.document)
    if "survival" not in document:
        return False
    own = document.pop("survival")
    without = variant(case, "survival", document)
    if own["rescale"] == "train":
        equal("survival", case.reference.exact, without)
    certain = {**own, "schedule": "uniform", "last": 1}
    equal("survival", variant(case, "survival", {**document, "survival": certain}), without)
    return True


def drop_path_in_evaluation(case: Case) -> bool:
    """Check that the network has the numbers of `drop_path`, which has no effect in evaluation."""
    document = dict(case.drawn.document)
    if "drop_path" not in document:
        return False
    own, found = document.pop("drop_path"), case.network.drop_path
    if found is None or own != {"rate": found.rate, "columns": found.columns, "unit": found.unit}:
        raise Fault("drop path", f"{found} instead of {own}")
    equal("drop path", case.reference.exact, variant(case, "drop path", document))
    return True


def forms(case: Case) -> bool:
    """Check that the forms a and b of ResNeXt have the outputs, parameters and MACs of form c."""
    again = runs_again(case.network.root)
    if not any(
        isinstance(node, Op) and isinstance(node.kind, Conv) and node.kind.groups > 1 and not again(name)
        for name, node in walk(case.network.root)
    ):
        return False
    plain, _ = plain_weights(case.network, None)
    exact = plain is case.network  # standardised weights are rounded to float32 where a form divides them
    for form in ("a", "b"):
        network, weights = case.passed({"form": form})
        case.hold(f"form {form}", interpret(network, weights, case.x), double=exact)
        first, second = cost(plain), cost(network)
        if (first.parameters, first.macs) != (second.parameters, second.macs):
            raise Fault(f"form {form}", f"costs {second} instead of {first}")
        if "flatten" not in str(case.drawn.document) and case.seed % 4 == 0:
            emitted = backend.load("torch").evaluate  # type: ignore[attr-defined]
            case.hold(f"torch form {form}", emitted(network, weights, case.x))
    return True


def features(case: Case) -> bool:
    """Check that features equal the inner values of the network without them, and that the other outputs do not change."""
    wanted = case.drawn.document.get("features")
    if not wanted:
        return False
    plain = elaborated(case, {key: value for key, value in case.drawn.document.items() if key != "features"})
    exact = case.reference.exact
    equal("features", {k: v for k, v in exact.items() if k not in wanted}, interpret(plain, case.weights, case.x))
    parts = interpret(tap_all(plain), case.weights, case.x)
    common = {name: exact[name] for name in wanted if name in parts}
    equal("features", common, {name: parts[name] for name in common})
    return True


def extracting(case: Case) -> bool:
    """Check that the spec and the options recorded in a file build the same bytes."""
    options: dict[str, Any] = {"seed": case.seed % 5, "opset": 13 + case.seed % 14}
    if case.seed % 2:
        options["fold_batchnorm"] = True
    path = case.folder / "model.onnx"
    data = rescompile.build(case.network, "onnx", **options).to_bytes()
    path.write_bytes(data)
    recorded = backend.extract(path)
    assert recorded is not None
    (case.folder / "extracted.yaml").write_text(recorded.text, encoding="utf-8")
    again = passes.options(recorded.passes)  # with nothing but what is recorded
    for option in recorded.options:
        key, _, value = option.partition("=")
        again[key] = int(value) if value.isdigit() else value
    if rescompile.build(rescompile.load(case.folder / "extracted.yaml"), "onnx", **again).to_bytes() != data:
        raise Fault("extracting", "other bytes")
    return True


def inheriting(case: Case) -> bool:
    """Check that a chain of `extends` with `set` has the canonical text of the complete document."""
    document = {key: value for key, value in case.drawn.document.items() if key != "expect"}
    random = Random(case.seed)
    for at, member in enumerate(chain(document, random)):
        path = case.folder / f"chain{at}.yaml"
        path.write_text(written(member), encoding="utf-8")
    try:
        found = rescompile.elaborate(rescompile.load(path))
    except SpecError as error:
        raise Fault("inheriting", f"refused: {error}") from error
    if found.sha256 != case.network.sha256:
        raise Fault("inheriting", "another canonical text")
    return True


def chain(document: Mapping[str, Any], random: Random) -> Iterator[dict[str, Any]]:
    """Yield documents of which each extends the one before. The last is equivalent to the given one; the first has
    wrong values in many places."""
    base, child = copy.deepcopy(dict(document)), {"rescompile": 1, "name": document["name"], "extends": "chain1.yaml"}
    middle: dict[str, Any] = {"rescompile": 1, "name": "middle", "extends": "chain0.yaml"}
    base["name"] = "base"
    for key in ("init", "survival", "drop_path", "features", "checkpoint", "block"):
        if key in base and random.random() < 0.5:
            random.choice((middle, child))[key] = base.pop(key)
    for key in ("parameters", "defaults", "blocks"):
        for name in list(base.get(key, {})):
            if random.random() < 0.3 and key != "parameters":
                random.choice((middle, child)).setdefault(key, {})[name] = base[key].pop(name)
            elif random.random() < 0.3 and key == "parameters":
                random.choice((middle, child)).setdefault(key, {})[name] = base[key][name]
                base[key][name] = 999
    settings = random.choice((middle, child))
    for path, wrong in paths(base["network"], random):
        settings.setdefault("set", {})[path] = wrong
    if "input" in base and random.random() < 0.3:
        child.setdefault("set", {})["input"] = base["input"]
        base["input"] = [1] * len(base["input"])
    yield from (base, middle, child)


def paths(rows: list[Any], random: Random) -> Iterator[tuple[str, Any]]:
    """Replace values of rows in place by wrong ones, and yield their paths with the right values."""
    for row in rows:
        if not (isinstance(row, dict) and len(row) == 1):
            continue
        ((name, own),) = row.items()
        if isinstance(own, dict) and "block" in own:
            for key in [key for key in own if key not in ("members", "when") and random.random() < 0.4]:
                right, own[key] = own[key], 77 if key != "block" else "basic"
                yield f"{name}.{key}", right


LAWS = (splitting_a_stage, survival_of_one, drop_path_in_evaluation, forms, features, extracting, inheriting)
