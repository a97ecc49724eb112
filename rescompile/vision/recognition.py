"""What a network says of images: batches of them through a session, and the classes that it finds likeliest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.ir.network import LOGITS
from rescompile.runtimes.ort_session import Model
from rescompile.vision.images import Preparation, stream
from rescompile.weights import Array


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network gave for one image, by output and without the batch, or why there is nothing."""

    path: Path
    outputs: dict[str, Array] | None = None
    problem: Diagnostic | None = None


def look(model: Model, paths: Sequence[Path], how: Preparation, batch: int) -> Iterator[Seen]:
    """Run the model on images, `batch` at a time, and give what it said of each in order. A last batch that is not full is
    filled up with zeros where the model's batch is fixed, and what comes of those is left out."""
    held: list[Seen] = []
    arrays: list[Array] = []
    for path, prepared in stream(paths, how, 2 * batch):
        if isinstance(prepared, Diagnostic):
            held.append(Seen(path, problem=prepared))
        elif problem := _unlike(path, prepared, model.sizes):
            held.append(Seen(path, problem=problem))
        else:
            held.append(Seen(path))
            arrays.append(prepared)
        if len(arrays) == batch or not arrays:
            yield from _seen(model, held, arrays)
            held, arrays = [], []
    yield from _seen(model, held, arrays)


def _unlike(path: Path, prepared: Array, sizes: Sequence[int | str]) -> Diagnostic | None:
    """What is wrong with the size of an image, where nothing made it the network's."""
    got, wanted = prepared.shape[1:], tuple(sizes[2:])
    if all(isinstance(size, str) or size == n for n, size in zip(got, wanted, strict=True)):
        return None
    message = f"{path}: it has {got[0]}x{got[1]} pixels (height x width), and the network takes {wanted[0]}x{wanted[1]}"
    help = "say how to make it so: --preprocess resize=..., --preprocess crop=..."
    return Diagnostic("E0730", message, help=help)


def _seen(model: Model, held: Sequence[Seen], arrays: list[Array]) -> Iterator[Seen]:
    """The images of a batch with what the model gave for them; those with problems as they are."""
    outputs: dict[str, Array] = {}
    if arrays:
        fixed = model.batch
        filled = arrays + [np.zeros_like(arrays[0])] * ((fixed or 0) - len(arrays))
        outputs = model.run({model.inputs[0].name: np.stack(filled)})
        for name, array in outputs.items():
            if array.shape[:1] != (len(filled),):
                message = f"output '{name}' of {model.path} has no axis of images: it is {list(array.shape)} for {len(filled)}"
                raise UsageError(
                    Diagnostic("E0801", message, help="'rescompile run' without --image shows what it gives")
                )
    at = 0
    for seen in held:
        if seen.problem is not None:
            yield seen
            continue
        yield Seen(seen.path, {name: array[at] for name, array in outputs.items()})
        at += 1


def classifier(model: Model) -> str | None:
    """The output that has one number per class: `logits`, else the only one, if it has no other axis; else None."""
    shapes = {output.name: output.shape for output in model.outputs}
    name = LOGITS if LOGITS in shapes else next(iter(shapes)) if len(shapes) == 1 else None
    return name if name is not None and len(shapes[name]) == 2 else None


def best(logits: Array, count: int) -> list[tuple[int, float]]:
    """The likeliest classes with their probabilities, the softmax of the logits; of equal ones the first class comes first."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = shifted / shifted.sum()
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(at), float(probabilities[at])) for at in order]
