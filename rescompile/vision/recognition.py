"""Classify images: run them through a session in batches, and rank the classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.ir.network import LOGITS
from rescompile.ir.ops import AXIS_NAMES
from rescompile.records import record
from rescompile.runtimes import memory, onnx_graph
from rescompile.runtimes.ort_session import TYPES, Model
from rescompile.vision.images import stream
from rescompile.vision.labels import fit
from rescompile.vision.preprocessing import Preparation, assignments, preparation
from rescompile.weights import Array

#: The names that the main output can have; `probabilities` with --softmax.
MAIN = (LOGITS, "probabilities")


@record
class Prediction:
    """The outputs for one image, without the batch axis, or the reason why there are none."""

    path: Path
    outputs: dict[str, Array] | None = None
    problem: Diagnostic | None = None


def predict(model: Model, paths: Sequence[Path], how: Preparation, batch: int) -> Iterator[Prediction]:
    """Run the model on images, `batch` at a time, and yield the results in order. If the model has a fixed batch, the last
    batch is padded with zeros, and the outputs for these are dropped."""
    memory.check_array([n if isinstance(n, int) else 1 for n in model.sizes], f"the input of {model.path}")
    wanted = model.sizes[2:] if how.layout == "nchw" else model.sizes[1:3]
    waiting: list[Prediction] = []
    arrays: list[Array] = []
    for path, prepared in stream(paths, how, 2 * batch):
        if isinstance(prepared, Diagnostic):
            waiting.append(Prediction(path, problem=prepared))
        elif problem := _size_error(path, how.size(prepared), wanted):
            waiting.append(Prediction(path, problem=problem))
        else:
            waiting.append(Prediction(path))
            arrays.append(prepared)
        if len(arrays) == batch or not arrays:
            yield from _predicted(model, waiting, arrays)
            waiting, arrays = [], []
    yield from _predicted(model, waiting, arrays)


def _size_error(path: Path, got: Sequence[int], wanted: Sequence[int | str]) -> Diagnostic | None:
    """Return the error for a prepared image of another height and width than the network needs, or None."""
    if all(isinstance(size, str) or size == n for n, size in zip(got, wanted, strict=True)):
        return None
    message = f"{path}: the image is {got[0]}x{got[1]} (height x width), but the network needs {wanted[0]}x{wanted[1]}"
    help = "resize or crop it: --preprocess resize=..., --preprocess crop=..."
    return Diagnostic("E0730", message, help=help)


def _predicted(model: Model, waiting: Sequence[Prediction], arrays: list[Array]) -> Iterator[Prediction]:
    """Yield the images of a batch with their outputs; images with errors are unchanged."""
    outputs: dict[str, Array] = {}
    if arrays:
        fixed = model.batch
        filled = arrays + [np.zeros_like(arrays[0])] * ((fixed or 0) - len(arrays))
        outputs = model.run({model.inputs[0].name: np.stack(filled)})
        for name, array in outputs.items():
            if array.shape[:1] != (len(filled),):
                message = f"output '{name}' of {model.path} has no batch axis: its shape is {list(array.shape)} for {len(filled)} images"
                raise UsageError.of("E0801", message, help="'rescompile run' without --image prints all outputs")
    at = 0
    for prediction in waiting:
        if prediction.problem is not None:
            yield prediction
            continue
        yield Prediction(prediction.path, {name: array[at] for name, array in outputs.items()})
        at += 1


def preparation_of(model: Model, shown: str, given: Sequence[str]) -> Preparation:
    """Return the preprocessing for a model: what the file records, with the changes of `given` (`name=value`). Raises
    UsageError."""
    if len(model.inputs) != 1 or model.inputs[0].type not in TYPES:
        kinds = ", ".join(value.type for value in model.inputs[:3])
        raise UsageError.of("E0830", f"{shown} must have one float32 or uint8 input to run on images, but has {kinds}")
    try:
        recorded = json.loads(model.metadata.get("rescompile.preprocess", "{}"))
    except (ValueError, RecursionError):
        recorded = None
    if not isinstance(recorded, dict):
        raise UsageError.of("E0830", f"the metadata entry rescompile.preprocess of {shown} is not valid")
    dtype = TYPES[model.inputs[0].type]
    if dtype == "uint8" or "rescompile.normalize" in model.metadata:  # the graph applies the rest
        recorded = {name: value for name, value in recorded.items() if name not in ("mean", "std", "channel_order")}
        recorded |= {name: [n] * _channels(model.sizes) for name, n in (("mean", 0), ("std", 1))}
    how = preparation(recorded | assignments(given), model.sizes, shown, dtype)
    for name, n in zip(AXIS_NAMES[2], how.crop or how.resize or (), strict=False):
        if name in model.free:
            model.free[name].check(n)
    return how


def _channels(sizes: Sequence[int | str]) -> int:
    """Return the number of channels of an input, which may be last."""
    return next((n for n in (*sizes[1:2], *sizes[3:4]) if n in (1, 3) and isinstance(n, int)), 3)


class Classes:
    """The classes of a model. `output` is the name of the logits or of the probabilities (`scores` is which of them), or
    None if the model is not a classifier; `labels` are the names of the classes, if they are known."""

    def __init__(self, model: Model, shown: str, labels: list[str] | None) -> None:
        shapes = {output.name: output.shape for output in model.outputs}
        name = next((known for known in MAIN if known in shapes), None)
        name = name or (next(iter(shapes)) if len(shapes) == 1 else None)
        self.output = name if name is not None and len(shapes[name]) == 2 else None
        graph = onnx_graph.read(model.path)
        self.scores = graph.activation(self.output) if self.output else "logits"
        self.is_known = graph.is_read
        # The softmax of a single logit is always 1; folded norms no longer stand in the graph.
        single = self.output is not None and shapes[self.output][1] == 1 and self.scores == "logits"
        if single or self.scores == "features" or model.metadata.get("rescompile.output") == "features":
            self.output = None
        self.labels, self.shown = labels, shown
        if labels is None:
            return
        if self.output is None:
            raise UsageError.of("E0831", f"{shown} is not a classifier, so --labels does not apply")
        count = shapes[self.output][1]
        if isinstance(count, int):  # otherwise the first image decides
            fit(labels, count, shown)

    def problem(self, prediction: Prediction) -> Diagnostic | None:
        """Return the error for outputs that are not finite, as in deep networks with random weights; None for finite ones."""
        assert prediction.outputs is not None
        if self.output is None or np.isfinite(prediction.outputs[self.output]).all():
            return None
        return Diagnostic("E0730", f"{prediction.path}: the logits are not finite")

    def top(self, outputs: Mapping[str, Array], count: int) -> list[dict[str, Any]]:
        """Return the most likely classes with their labels and probabilities."""
        assert self.output is not None
        scores = outputs[self.output]
        if self.labels is not None:
            fit(self.labels, scores.size, self.shown)
        return [
            {"class": at, "label": self.labels[at] if self.labels else None, "probability": probability}
            for at, probability in best(_PROBABILITIES[self.scores](scores.astype(np.float64)), count)
        ]


def softmax(logits: Array) -> Array:
    """Return the probabilities of classes."""
    shifted = np.exp(logits - logits.max())
    probabilities: Array = shifted / shifted.sum()
    return probabilities


#: How to compute class probabilities from the output of the last op of a graph.
_PROBABILITIES: Mapping[str, Callable[[Array], Array]] = {
    "logits": softmax,
    "log-probabilities": np.exp,
    "probabilities": lambda scores: scores,
}


def best(probabilities: Array, count: int) -> list[tuple[int, float]]:
    """Return the most likely classes with their probabilities; ties are in the order of the classes."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(at), float(probabilities[at])) for at in order]
