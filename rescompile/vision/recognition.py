"""Classify images: run them through a session in batches, and rank the classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rescompile.analysis.dynamic_shapes import AXES
from rescompile.diagnostics.errors import Diagnostic, UsageError, clipped
from rescompile.ir.network import LOGITS
from rescompile.options import assignment
from rescompile.runtimes.ort_session import Model
from rescompile.vision.images import Preparation, preparation, stream
from rescompile.vision.labels import fit
from rescompile.weights import Array


@dataclass(frozen=True, slots=True)
class Seen:
    """The outputs for one image, without the batch axis, or what is wrong with it."""

    path: Path
    outputs: dict[str, Array] | None = None
    problem: Diagnostic | None = None


def look(model: Model, paths: Sequence[Path], how: Preparation, batch: int) -> Iterator[Seen]:
    """Run the model on images, `batch` at a time, and yield the results in order. Where the batch of the model is fixed, the last
    batch is padded with zeros, and their outputs are dropped."""
    waiting: list[Seen] = []
    arrays: list[Array] = []
    for path, prepared in stream(paths, how, 2 * batch):
        if isinstance(prepared, Diagnostic):
            waiting.append(Seen(path, problem=prepared))
        elif problem := _unlike(path, prepared, model.sizes):
            waiting.append(Seen(path, problem=problem))
        else:
            waiting.append(Seen(path))
            arrays.append(prepared)
        if len(arrays) == batch or not arrays:
            yield from _seen(model, waiting, arrays)
            waiting, arrays = [], []
    yield from _seen(model, waiting, arrays)


def _unlike(path: Path, prepared: Array, sizes: Sequence[int | str]) -> Diagnostic | None:
    """What is wrong with the size of a prepared image, or None."""
    got, wanted = prepared.shape[1:], tuple(sizes[2:])
    if all(isinstance(size, str) or size == n for n, size in zip(got, wanted, strict=True)):
        return None
    message = f"{path}: the image is {got[0]}x{got[1]} (height x width), but the network needs {wanted[0]}x{wanted[1]}"
    help = "resize or crop it: --preprocess resize=..., --preprocess crop=..."
    return Diagnostic("E0730", message, help=help)


def _seen(model: Model, waiting: Sequence[Seen], arrays: list[Array]) -> Iterator[Seen]:
    """The images of a batch with their outputs; those with problems unchanged."""
    outputs: dict[str, Array] = {}
    if arrays:
        fixed = model.batch
        filled = arrays + [np.zeros_like(arrays[0])] * ((fixed or 0) - len(arrays))
        outputs = model.run({model.inputs[0].name: np.stack(filled)})
        for name, array in outputs.items():
            if array.shape[:1] != (len(filled),):
                message = f"output '{name}' of {model.path} has no batch axis: its shape is {list(array.shape)} for {len(filled)} images"
                raise UsageError(
                    Diagnostic("E0801", message, help="'rescompile run' without --image prints all outputs")
                )
    at = 0
    for seen in waiting:
        if seen.problem is not None:
            yield seen
            continue
        yield Seen(seen.path, {name: array[at] for name, array in outputs.items()})
        at += 1


def preparation_of(model: Model, shown: str, given: Sequence[str]) -> Preparation:
    """The preprocessing for a model: what the file records, with the changes of `given` (`name=value`). Raises UsageError."""
    if len(model.inputs) != 1 or model.inputs[0].type != "tensor(float)":
        kinds = ", ".join(value.type for value in model.inputs[:3])
        raise UsageError(Diagnostic("E0830", f"{shown} must have one float32 input to run on images, but has {kinds}"))
    try:
        recorded = json.loads(model.metadata.get("rescompile.preprocess", "{}"))
    except (ValueError, RecursionError):
        recorded = None
    if not isinstance(recorded, dict):
        raise UsageError(Diagnostic("E0830", f"the metadata entry rescompile.preprocess of {shown} is not valid"))
    values: dict[str, str] = {}
    for name, value in map(assignment, given):
        if value is None:
            raise UsageError(Diagnostic("E0802", f"--preprocess {clipped(name)}: write --preprocess name=value"))
        if name in values:
            raise UsageError(Diagnostic("E0802", f"--preprocess {clipped(name)} is given twice"))
        values[name] = value
    how = preparation(recorded | values, model.sizes, shown)
    for name, n in zip(AXES, how.crop or how.resize or (), strict=False):
        if name in model.free:
            model.free[name].check(n)
    return how


class Classes:
    """The classes of a model: `output` is the name of the logits, or None if the model is not a classifier; `labels` are the names
    of the classes, if they are known."""

    def __init__(self, model: Model, shown: str, labels: list[str] | None) -> None:
        shapes = {output.name: output.shape for output in model.outputs}
        name = LOGITS if LOGITS in shapes else next(iter(shapes)) if len(shapes) == 1 else None
        self.output = name if name is not None and len(shapes[name]) == 2 else None
        self.labels, self.shown = labels, shown
        if labels is None:
            return
        if self.output is None:
            raise UsageError(Diagnostic("E0831", f"{shown} is not a classifier, so --labels does not apply"))
        count = shapes[self.output][1]
        if isinstance(count, int):  # else the first image shows it
            fit(labels, count, shown)

    def problem(self, seen: Seen) -> Diagnostic | None:
        """What is wrong with outputs that are not finite, as of deep networks with random weights; None for others."""
        assert seen.outputs is not None
        if self.output is None or np.isfinite(seen.outputs[self.output]).all():
            return None
        return Diagnostic("E0730", f"{seen.path}: the logits are not finite")

    def top(self, outputs: Mapping[str, Array], count: int) -> list[dict[str, Any]]:
        """The most likely classes with their labels and probabilities."""
        assert self.output is not None
        logits = outputs[self.output]
        if self.labels is not None:
            fit(self.labels, logits.size, self.shown)
        return [
            {"class": at, "label": self.labels[at] if self.labels else None, "probability": probability}
            for at, probability in best(logits, count)
        ]


def best(logits: Array, count: int) -> list[tuple[int, float]]:
    """The most likely classes with their probabilities, the softmax of the logits; ties are in the order of the classes."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = shifted / shifted.sum()
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(at), float(probabilities[at])) for at in order]
