"""`run`: a model, or a spec that becomes one, in ONNX Runtime: on seeded input, or on images."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import (
    DynamicOption,
    FeaturesOption,
    ForceOption,
    Format,
    FormatOption,
    JsonOption,
    SetOption,
    with_passes,
)
from rescompile.cli.progress import Progress
from rescompile.cli.reporting import print_json, report, say
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import CheckFailed, Diagnostic, UsageError, clipped

if TYPE_CHECKING:
    from rescompile.runtimes.ort_session import Model
    from rescompile.vision.images import Preparation
    from rescompile.vision.recognition import Seen
    from rescompile.weights import Array


class Provider(StrEnum):
    """Where a model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


@with_passes
@command
def run_model(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An ONNX model; or a spec file or a name of the zoo, compiled first.")
    ],
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", metavar="PATH", help="Say what is on an image, or on those of a folder. Repeatable."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="What classes are called: lines, JSON, or 'imagenet'. Default: their numbers."
        ),
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="How many classes to print per image. Default: 5.")] = None,
    preprocess: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="How images become inputs, where the model does not record it or otherwise: mean=0.5,0.5,0.5, std, resize=256, crop=224, interpolation. Repeatable.",
        ),
    ] = None,
    provider: Annotated[
        Provider, typer.Option(help="Where to run; auto takes a GPU if ONNX Runtime has one.")
    ] = Provider.auto,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Size of a free batch axis; with --image, so many at a time. Default: 1.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="Size of the seeded input where that is free, as by --dynamic. Default: that of the spec.",
        ),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Timed runs after the first. Default: 5.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="Weights of a spec. Default: new ones by the spec's init.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of new weights, and of the input without --image. Default: 0.")
    ] = None,
    dynamic: DynamicOption = None,
    set: SetOption = None,
    features: FeaturesOption = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Write the outputs to a file of numpy arrays.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = Format.text,
    *,
    passes: dict[str, Any],
) -> None:
    """Run a model or a spec in ONNX Runtime: on images, the likeliest classes of each; else on seeded input, shapes and time."""
    of_images = {"--labels": labels, "--top": top, "--preprocess": preprocess}
    if not image:
        for name, value in of_images.items():
            if value is not None:
                raise UsageError(Diagnostic("E0802", f"{name} is about images", help="say which: --image PATH"))
    elif repeats is not None:
        raise UsageError(Diagnostic("E0802", "--repeats and --image exclude one another: each image is run once"))
    elif size is not None:
        message = "--size and --image exclude one another: images are prepared"
        raise UsageError(Diagnostic("E0802", message, help="say how: --preprocess crop=320,256"))
    if save is not None:
        from rescompile.weights.numpy_files import check

        check(save, force)
    if image:
        from rescompile.vision import images
        from rescompile.vision.labels import read

        images.require()
        paths = images.find(image)
        words = read(labels) if labels is not None else None
    of_specs = {"--weights": weights, "--dynamic": dynamic, "--set": set, "--features": features, **passes}
    if image:
        of_specs["--seed"] = seed
    with _compiled(model, of_specs, seed or 0, passes) as path:
        if not image:
            wanted = _size(size) if size is not None else None
            _run_seeded(path, provider.value, seed or 0, batch, repeats or 5, wanted, save, force, as_json)
        else:
            _run_images(
                path, model, provider.value, paths, words, top or 5, preprocess or [], batch, save, force, as_json,
                format.value,
            )  # fmt: skip


@contextlib.contextmanager
def _compiled(model: str, of_specs: dict[str, Any], seed: int, passes: dict[str, Any]) -> Iterator[Path]:
    """The ONNX file of what the user named: the file itself, or one that is compiled for this run and removed after it."""
    path = Path(model)
    if _is_model(model):
        for name, value in of_specs.items():
            if value is not None:
                option = name if name.startswith("--") else f"--{name.replace('_', '-')}"
                raise UsageError(Diagnostic("E0802", f"{option} is about specs, and {model} is a model already"))
        yield path
        return
    from rescompile.files import file_types
    from rescompile.pipeline import build

    file_types.refuse(model, "'run' takes an ONNX model, a spec or a name of the zoo", file_types.SPEC)
    _, network = elaborated(model, of_specs["--set"], of_specs["--features"])
    weights = of_specs["--weights"]
    dynamic = of_specs["--dynamic"]
    free = {} if dynamic is None else {"dynamic": dynamic}
    artifact = build(network, "onnx", weights, seed=seed, say=say, **free, **passes)
    with tempfile.TemporaryDirectory(prefix="rescompile-") as folder:
        path = Path(folder) / f"{network.name}.onnx"
        artifact.write(path)
        if weights is None:
            say(f"{network.name} has new weights, drawn from seed {seed}: it has learnt nothing (--weights FILE)")
        yield path


def _is_model(argument: str) -> bool:
    """Whether a model is named and not a spec: by its ending; or it is a file by the rule for specs, and its
    first byte is the tag of ModelProto.ir_version, which no text begins with."""
    path = Path(argument)
    if path.suffix in (".onnx", ".ort"):
        return True
    from rescompile.lang.library import is_file  # a spec is worth loading the reader for

    if not is_file(argument) or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(1) == b"\x08"


# --- seeded input -----------------------------------------------------------------------------------------------------


def _run_seeded(
    path: Path, provider: str, seed: int, batch: int | None, repeats: int, size: tuple[int, int] | None, save: Path | None,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    from rescompile.runtimes.ort_session import run

    result = run(path, provider, seed, batch, repeats, size)
    if save is not None:
        from rescompile.weights import numpy_files

        numpy_files.write(result.outputs, save, force)
    if as_json:
        print_json(
            {
                "provider": result.provider, "inputs": result.inputs, "outputs": _summary(result.outputs),
                "load_seconds": result.load_seconds, "first_seconds": result.first_seconds, "seconds": result.seconds,
            }
        )  # fmt: skip
        return
    for name, sizes in result.inputs.items():
        print(f"{name} {sizes}")
    for line in _lines(result.outputs):
        print(line)
    print(
        f"{result.provider}: {result.seconds * 1e3:.2f} ms (median of {repeats}), first run {result.first_seconds * 1e3:.2f} ms, load {result.load_seconds * 1e3:.0f} ms"
    )


def _size(text: str) -> tuple[int, int]:
    """Height and width, written `320x256`. Raises UsageError."""
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text, re.ASCII)
    if match is None:
        message = f"--size is height and width, such as 320x256, and this is '{clipped(text)}'"
        raise UsageError(Diagnostic("E0802", message))
    return int(match[1]), int(match[2])


def _summary(outputs: dict[str, Array]) -> dict[str, Any]:
    """Shapes and statistics; an array without values, as of a detector that found nothing, has none."""
    return {
        name: {
            "shape": list(array.shape),
            "mean": float(array.mean()) if array.size else None,
            "std": float(array.std()) if array.size else None,
        }
        for name, array in outputs.items()
    }


def _lines(outputs: dict[str, Array]) -> list[str]:
    return [
        f"{name} {found['shape']}, "
        + ("empty" if found["mean"] is None else f"mean {found['mean']:.6g}, standard deviation {found['std']:.6g}")
        for name, found in _summary(outputs).items()
    ]


# --- images -----------------------------------------------------------------------------------------------------------


def _run_images(
    path: Path, shown: str, provider: str, paths: Sequence[Path], words: list[str] | None, top: int,
    given: Sequence[str], batch: int | None, save: Path | None, force: bool, as_json: bool, form: str,
) -> None:  # fmt: skip
    """What the model says of images: on standard output as it comes, or all of it as JSON; broken images are reported, the
    others done, and the exit code is 1 in the end."""
    from rescompile.diagnostics.rendering import as_data
    from rescompile.runtimes.ort_session import Model
    from rescompile.vision.recognition import look
    from rescompile.weights import numpy_files

    model = Model(path, provider)
    how = _preparation(model, shown, given)
    if batch is not None and model.batch is not None and batch != model.batch:
        raise UsageError(Diagnostic("E0802", f"the batch of this model is fixed to {model.batch}"))
    said = _Answers(model, shown, words, top)
    listed: list[dict[str, Any]] = []
    problems: list[Diagnostic] = []
    kept: list[Seen] = []
    started = time.perf_counter()

    def ended(interrupted: bool) -> None:
        seconds = time.perf_counter() - started
        if as_json:
            print_json(
                {
                    "model": shown, "provider": model.provider, "preprocess": how.as_data(), "images": listed,
                    "interrupted": interrupted, "load_seconds": model.load_seconds, "seconds": seconds,
                }
            )  # fmt: skip
        else:
            say(f"{len(listed) - len(problems)} of {len(paths)} images on {model.provider} in {seconds:.2f} s")

    try:
        with Progress(len(paths)) as progress:
            for seen in look(model, paths, how, batch or model.batch or 1):
                problem = seen.problem or said.problem(seen)
                found: dict[str, Any] = {"image": str(seen.path)}
                progress.wipe()
                if problem is not None:
                    problems.append(problem)
                    found["error"] = as_data(problem)
                    if not as_json and form in ("text", "github"):
                        report([problem], form)
                else:
                    assert seen.outputs is not None
                    found |= said.data(seen.outputs)
                    if not as_json:
                        _show(found, seen.outputs)
                    if save is not None:
                        kept.append(seen)
                listed.append(found)
                progress.advance(1)
    except KeyboardInterrupt:
        ended(interrupted=True)
        raise
    if save is not None and kept:
        numpy_files.write(_stacked(kept), save, force)
    ended(interrupted=False)
    if problems:
        if not as_json and form in ("json", "sarif"):  # one document, so not one by one
            raise CheckFailed(problems)
        raise typer.Exit(1)


def _preparation(model: Model, shown: str, given: Sequence[str]) -> Preparation:
    """How images become the input of this model: what it records, and what the user says otherwise."""
    from rescompile.analysis.dynamic_shapes import AXES
    from rescompile.vision.images import preparation

    if len(model.inputs) != 1 or model.inputs[0].type != "tensor(float)":
        kinds = ", ".join(value.type for value in model.inputs[:3])
        raise UsageError(Diagnostic("E0830", f"{shown} does not take one tensor of float32, but {kinds}"))
    try:
        recorded = json.loads(model.metadata.get("rescompile.preprocess", "{}"))
    except (ValueError, RecursionError):
        recorded = None
    if not isinstance(recorded, dict):
        raise UsageError(Diagnostic("E0830", f"what {shown} records under rescompile.preprocess cannot be read"))
    values: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(Diagnostic("E0802", f"--preprocess {clipped(text)}: write --preprocess name=value"))
        if name in values:
            raise UsageError(Diagnostic("E0802", f"--preprocess {clipped(name)} is given twice"))
        values[name] = value
    how = preparation(recorded | values, model.sizes, shown)
    for name, n in zip(AXES, how.crop or how.resize or (), strict=False):
        if name in model.free:
            model.free[name].check(n)
    return how


class _Answers:
    """What is told of the outputs of an image: classes, where the network gives some, else shapes."""

    def __init__(self, model: Model, shown: str, words: list[str] | None, top: int) -> None:
        from rescompile.vision.recognition import classifier

        self.classes, self.words, self.top, self.shown = classifier(model), words, top, shown
        if words is None:
            return
        if self.classes is None:
            raise UsageError(Diagnostic("E0831", f"{shown} gives no classes that labels could be of"))
        shape = next(output.shape for output in model.outputs if output.name == self.classes)
        if isinstance(shape[1], int):  # before any work; else when the first image shows it
            self._fit(shape[1])

    def problem(self, seen: Seen) -> Diagnostic | None:
        """Infinities have no probabilities. Deep networks with new weights give them: their norms have seen no data."""
        import numpy as np

        assert seen.outputs is not None
        if self.classes is None or np.isfinite(seen.outputs[self.classes]).all():
            return None
        return Diagnostic("E0730", f"{seen.path}: what the network gives for it is not finite")

    def data(self, outputs: dict[str, Array]) -> dict[str, Any]:
        """What --json says of one image."""
        from rescompile.vision.recognition import best

        if self.classes is None:
            return {"outputs": _summary(outputs)}
        self._fit(outputs[self.classes].size)
        return {
            "top": [
                {"class": at, "label": self.words[at] if self.words else None, "probability": probability}
                for at, probability in best(outputs[self.classes], self.top)
            ]
        }

    def _fit(self, classes: int) -> None:
        from rescompile.vision.labels import fit

        if self.words is not None:
            fit(self.words, classes, self.shown)


def _show(found: dict[str, Any], outputs: dict[str, Array]) -> None:
    """One image as a small table, at once, so that a long run can be watched."""
    print(clipped(found["image"], 1000))
    for row in found.get("top", ()):
        label = f"  {clipped(row['label'], 100)}" if row["label"] is not None else ""
        print(f"  {row['probability']:7.2%}  {row['class']:>5}{label}")
    if "top" not in found:
        for line in _lines(outputs):
            print(f"  {line}")
    sys.stdout.flush()


def _stacked(kept: Sequence[Seen]) -> dict[str, Array]:
    """The outputs of all images, by output name, and their paths in the same order as `images`."""
    import numpy as np

    outputs = [seen.outputs for seen in kept if seen.outputs is not None]
    stacked = {name: np.stack([each[name] for each in outputs]) for name in outputs[0]}
    return {"images": np.array([str(seen.path) for seen in kept]), **stacked}
