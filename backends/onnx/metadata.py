"""What an ONNX file records: its origin, so that `extract` and a new build give the same file, and facts about it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescompile.backend import Recorded, origin
from rescompile.diagnostics.errors import UsageError
from rescompile.files.protobuf_reader import entry, fields
from rescompile.ir.network import Network
from rescompile.weights import Weights

from .deployment import input_value

if TYPE_CHECKING:
    from rescompile.analysis.dynamic_shapes import Sizes

SPEC, SHA256, PASSES = "rescompile.spec", "rescompile.sha256", "rescompile.passes"
WEIGHTS, PREPROCESS, DYNAMIC = "rescompile.weights", "rescompile.preprocess", "rescompile.dynamic"
CALIBRATION, OUTPUT = "rescompile.calibration", "rescompile.output"
#: The key that records an option with a value other than its default.
OPTION_KEYS = {
    "precision": "rescompile.precision",
    "made_for": "rescompile.for",
    "opset": "rescompile.opset",
    "ir": "rescompile.ir",
    "batch": "rescompile.batch",
    "normalize": "rescompile.normalize",
    "input": "rescompile.input",
    "softmax": "rescompile.softmax",
    "training": "rescompile.training",
}


def metadata(
    network: Network, weights: Weights | None, sizes: Sizes | None, changed: Mapping[str, Any]
) -> dict[str, str]:
    """Return what a model records of its origin; `changed` contains the options that differ from their defaults."""
    entries = {SPEC: network.text, SHA256: network.sha256, PASSES: json.dumps(network.passes)}
    entries |= {key: str(changed[name]) for name, key in OPTION_KEYS.items() if name in changed}
    if (source := origin(weights)) is not None:
        entries[WEIGHTS] = source
    if network.preprocess:
        entries[PREPROCESS] = json.dumps(network.preprocess, sort_keys=True)
    if network.gives_features:
        entries[OUTPUT] = "features"
    if sizes:
        entries[DYNAMIC] = json.dumps(sizes.data())
    return entries


def facts(
    network: Network,
    sizes: Sizes | None,
    outputs: Mapping[str, Sequence[int | str]],
    nodes: int,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return statements about a model, for people and for --json."""
    batch = options["batch"] or "batch"
    taken = input_value(sizes.input if sizes else network.input, batch, options)
    return {
        "input": list(taken.shape),
        **({"input_type": taken.dtype} if taken.dtype != "float32" else {}),
        "outputs": {name: [batch, *shape] for name, shape in outputs.items()},
        "nodes": nodes,
        "opset": options["opset"],
        "precision": options["precision"],
        **({"preprocess": network.preprocess} if network.preprocess else {}),
        **({"for": options["made_for"]} if options["made_for"] is not None else {}),
        **({"free": sizes.data()} if sizes else {}),
    }


def extract(path: Path) -> Recorded | None:
    """Return what a model records of the spec it was built from; None if it records nothing. Raises UsageError for
    any other file."""
    entries: dict[str, str] = {}
    numbers = set()
    try:
        with path.open("rb") as file:
            for part in fields(file, 0, os.fstat(file.fileno()).st_size):
                numbers.add(part.number)
                if part.number == 14:
                    key, text = entry(file, part)
                    entries[key] = text
        if not {1, 7} <= numbers:
            raise ValueError("it has no version or no graph")
    except (OSError, ValueError) as error:
        raise UsageError.of("E0801", f"{path} cannot be read as an ONNX model: {error}") from None
    if SPEC not in entries:
        return None
    try:
        passes = tuple(json.loads(entries.get(PASSES, "[]")))
        return Recorded(entries[SPEC], entries.get(SHA256, ""), passes, tuple(_options(entries)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UsageError.of("E0801", f"the metadata of {path} cannot be read") from None


def _options(entries: Mapping[str, str]) -> Iterator[str]:
    """Yield the options that a model was built with, as they are typed. With a recipe the precision is always included,
    since the recipe may have another one."""
    keys = OPTION_KEYS
    if keys["made_for"] in entries:
        yield f"for={entries[keys['made_for']]}"
    if keys["precision"] in entries or keys["made_for"] in entries:
        yield f"precision={entries.get(keys['precision'], 'fp32')}"
    for option in ("opset", "ir", "batch", "input", "training"):
        if keys[option] in entries:
            yield f"{option}={entries[keys[option]]}"
    yield from (flag for flag in ("normalize", "softmax") if keys[flag] in entries)
    if DYNAMIC in entries:
        yield f"dynamic={','.join(json.loads(entries[DYNAMIC]))}"
    if WEIGHTS in entries:
        yield from entries[WEIGHTS].split()
    if CALIBRATION in entries:
        calibration = json.loads(entries[CALIBRATION])
        seed = calibration.get("seed")  # of inputs that were drawn
        yield "calibrate=FOLDER" if seed is None else f"calibrate={calibration['inputs']}"
        if seed and not entries.get(WEIGHTS, "").startswith("seed="):
            yield f"seed={seed}"
