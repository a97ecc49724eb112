"""`run`: runs a model, or a spec that is compiled first, in ONNX Runtime, on random input or on images."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rescompile.cli.command import command
from rescompile.cli.options import (
    CalibrateNormsOption,
    DynamicOption,
    FeaturesOption,
    ForceOption,
    FormatOption,
    JsonOption,
    Passes,
    Selection,
    SetOption,
    option,
)
from rescompile.cli.progress import Progress
from rescompile.cli.reporting import clear, print_json, report, say
from rescompile.cli.specs import elaborated
from rescompile.diagnostics.errors import CheckFailed, Diagnostic, UsageError, clipped
from rescompile.ir.ops import Size
from rescompile.records import record

if TYPE_CHECKING:
    from rescompile.runtimes.ort_session import Model
    from rescompile.vision.preprocessing import Preparation
    from rescompile.vision.recognition import Classes, Prediction
    from rescompile.weights import Array
    from rescompile.weights.checkpoints import WeightsFile


@record
class Options:
    """The options that only `run` has."""

    image: list[Path] | None = option("Classify an image, or the images of a folder. Repeatable.", metavar="PATH")
    labels: str | None = option(
        "Class names: a text or JSON file, or imagenet. Default: class numbers.", metavar="FILE"
    )
    top: int | None = option("Number of classes to print per image. Default: 5.", min=1)
    preprocess: list[str] | None = option(
        "Set mean, std, resize, crop, interpolation or channel_order. Repeatable.", metavar="NAME=VALUE"
    )
    runtime: Literal["auto", "ort-cpu", "ort-cuda", "ort-tensorrt"] = option(
        "Runtime to use; auto takes a GPU if ONNX Runtime has one.", "auto"
    )
    batch: int | None = option("Batch size, if it is dynamic in the model. Default: 1.", min=1, max=1 << 20)
    size: str | None = option(
        "Input size, if it is dynamic in the model. Default: that of the spec.", metavar="HEIGHTxWIDTH"
    )
    repeats: int | None = option("Number of timed runs after the first. Default: 5.", min=1, max=1_000_000)
    seed: int | None = option("Seed of random weights and random input. Default: 0.", min=0)
    save: Path | None = option("Write the outputs to a NumPy archive.", metavar="FILE.npz")


@record
class Compilation:
    """The options that compile a spec to a model; they do not apply to a MODEL that is an ONNX file."""

    weights: WeightsFile | None
    dynamic: str | None
    set: list[str] | None
    features: str | None
    seed: int | None
    calibrate_norms: bool | None
    passes: Mapping[str, Any]

    def given(self) -> Iterator[str]:
        """Yield the given options, as typed."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "passes"}
        for name, value in {**values, **self.passes}.items():
            if value is not None:
                yield f"--{name.replace('_', '-')}"


@record
class Request:
    """A model to run, and how to report the results."""

    model: str
    options: Options
    force: bool
    as_json: bool
    form: str


@command
def run_model(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="ONNX model; or spec file or zoo name, compiled first.")
    ],
    options: Options,
    selection: Selection,
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="Weights of the spec. Default: random.")] = None,
    calibrate_norms: CalibrateNormsOption = False,
    dynamic: DynamicOption = None,
    set: SetOption = None,
    features: FeaturesOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    format: FormatOption = "text",
    *,
    passes: Passes,
) -> None:
    """Run a model or a spec on images or on a random input.

    ONNX Runtime runs it; a spec is compiled first.
    """
    _check_combination(options)
    if options.save is not None:
        from rescompile.weights import numpy_files

        numpy_files.check(options.save, force)
    paths: list[Path] = []
    words = None
    if options.image:
        from rescompile.vision import images
        from rescompile.vision.labels import read

        images.require()
        paths = images.find(options.image)
        words = read(options.labels) if options.labels is not None else None
    request = Request(model, options, force, as_json, format)
    seed = options.seed or 0
    compilation = Compilation(
        selection.of(weights), dynamic, set, features, options.seed if options.image else None,
        calibrate_norms or None, passes,
    )  # fmt: skip
    size = _size(options.size) if options.size is not None else None
    with _compiled(model, compilation, seed, images=bool(options.image)) as path:
        if options.image:
            _run_images(request, path, paths, words)
        else:
            _run_seeded(request, path, seed, size)


def _check_combination(options: Options) -> None:
    """Raise UsageError if options cannot be used together."""
    if not options.image:
        of_images = {"--labels": options.labels, "--top": options.top, "--preprocess": options.preprocess}
        for name, value in of_images.items():
            if value is not None:
                raise UsageError.of("E0802", f"{name} needs --image", help="name an image or a folder: --image PATH")
    elif options.repeats is not None:
        raise UsageError.of("E0802", "--repeats and --image cannot be used together: each image runs once")
    elif options.size is not None:
        message = "--size and --image cannot be used together"
        raise UsageError.of("E0802", message, help="set the size of images: --preprocess crop=320,256")


def _size(text: str) -> Size:
    """Return the sizes of all axes, written `320x256`. Raises UsageError."""
    if re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){0,2}", text, re.ASCII) is None:
        message = f"--size must be HEIGHTxWIDTH, such as 320x256, not '{clipped(text)}'"
        raise UsageError.of("E0802", message, help="for inputs of one or three axes write LENGTH or DEPTHxHEIGHTxWIDTH")
    return tuple(map(int, text.split("x")))


@contextlib.contextmanager
def _compiled(model: str, compilation: Compilation, seed: int, images: bool) -> Iterator[Path]:
    """Provide the ONNX file to run: the given one, or a temporary one compiled from the spec. For images, print a note
    if the weights do not record their preprocessing."""
    if _is_model(model):
        for name in compilation.given():
            raise UsageError.of("E0802", f"{name} applies only to specs, but {model} is an ONNX model")
        yield Path(model)
        return
    from rescompile.files import file_types
    from rescompile.pipeline import build
    from rescompile.runtimes import FILE_TARGET

    file_types.refuse(model, "'run' needs an ONNX model, a spec or a zoo name", file_types.SPEC)
    _, network = elaborated(model, compilation.set, compilation.features)
    options = {"dynamic": compilation.dynamic, **compilation.passes}
    norms = bool(compilation.calibrate_norms)
    artifact = build(network, FILE_TARGET, compilation.weights, seed=seed, say=say, calibrate_norms=norms, **options)
    with tempfile.TemporaryDirectory(prefix="rescompile-") as folder:
        path = Path(folder) / f"{network.name}.onnx"
        artifact.write(path)
        if (
            compilation.weights is not None
            and images
            and artifact.network.preprocess is network.preprocess
            and network.preprocess is not None
        ):
            say(
                f"{compilation.weights} does not record its preprocessing, so that of {network.name} is used"
                " (change it with --preprocess)"
            )
        yield path


def _warn(model: str, drawn: str | None) -> None:
    """Warn if the weights are random, and print how they were drawn."""
    if drawn is not None:
        how = f"{'build it with' if _is_model(model) else 'use'} --weights FILE"
        say(f"{model} has randomly initialised weights ({drawn}): predictions are meaningless ({how})")


def _is_model(argument: str) -> bool:
    """Return whether an argument names a model, not a spec: by its suffix, or by the first byte of the file, the tag of
    ModelProto.ir_version, with which no text begins."""
    path = Path(argument)
    if path.suffix in (".onnx", ".ort"):
        return True
    from rescompile.lang.library import is_file  # imported only for specs, which need the YAML reader

    if not is_file(argument) or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(1) == b"\x08"


# --- seeded input -----------------------------------------------------------------------------------------------------


def _run_seeded(request: Request, path: Path, seed: int, size: Size | None) -> None:
    from rescompile.runtimes.ort_session import run

    options = request.options
    repeats = options.repeats or 5
    result = run(path, options.runtime, seed, options.batch, repeats, size)
    _warn(request.model, result.drawn)
    if options.save is not None:
        from rescompile.weights import numpy_files

        numpy_files.write(result.outputs, options.save, request.force)
    if request.as_json:
        print_json(
            {
                "provider": result.provider, "random_weights": result.drawn, "inputs": result.inputs, "outputs": _summary(result.outputs),
                "load_seconds": result.load_seconds, "first_seconds": result.first_seconds, "seconds": result.seconds,
            }
        )  # fmt: skip
        return
    for name, sizes in result.inputs.items():
        print(f"{name} {sizes}")
    for line in _lines(_summary(result.outputs)):
        print(line)
    first, load = f"first run {result.first_seconds * 1e3:.2f} ms", f"load {result.load_seconds * 1e3:.0f} ms"
    print(f"{result.provider}: {result.seconds * 1e3:.2f} ms (median of {repeats}), {first}, {load}")


def _summary(outputs: dict[str, Array]) -> dict[str, Any]:
    """Return shapes and statistics; an empty array has no statistics."""
    return {
        name: {
            "shape": list(array.shape),
            "mean": float(array.mean()) if array.size else None,
            "std": float(array.std()) if array.size else None,
        }
        for name, array in outputs.items()
    }


def _lines(summary: Mapping[str, Any]) -> Iterator[str]:
    for name, facts in summary.items():
        if facts["mean"] is None:
            yield f"{name} {facts['shape']}, empty"
        else:
            yield f"{name} {facts['shape']}, mean {facts['mean']:.6g}, standard deviation {facts['std']:.6g}"


# --- images -----------------------------------------------------------------------------------------------------------


def _run_images(request: Request, path: Path, paths: Sequence[Path], words: list[str] | None) -> None:
    """Run the model on images. An unusable image is reported, the others are run, and the exit code is 1 at the end."""
    from rescompile.runtimes.ort_session import Model
    from rescompile.vision.recognition import Classes, predict, preparation_of
    from rescompile.weights import numpy_files

    options = request.options
    model = Model(path, options.runtime)
    _warn(request.model, model.drawn)
    how = preparation_of(model, request.model, options.preprocess or ())
    if options.batch is not None and model.batch is not None and options.batch != model.batch:
        raise UsageError.of("E0802", f"the batch of this model is fixed to {model.batch}")
    classes = Classes(model, request.model, words)
    if classes.output is not None and not classes.is_known:
        say(
            f"{request.model} is not an ONNX file: its output '{classes.output}' is taken for logits, without a softmax"
        )
    results = _Results(request, model, how, classes, len(paths))
    try:
        with Progress(len(paths), "images") as progress:
            for prediction in predict(model, paths, how, options.batch or model.batch or 1):
                clear()
                results.add(prediction)
                progress.advance()
    except KeyboardInterrupt:
        results.finish(interrupted=True)
        raise
    if options.save is not None and results.kept:
        numpy_files.write(_stacked(results.kept), options.save, request.force)
    results.finish(interrupted=False)
    if results.problems:
        if not request.as_json and request.form in ("json", "sarif"):  # a single JSON document for all images
            raise CheckFailed(results.problems)
        raise typer.Exit(1)


class _Results:
    """The results for images: printed one by one, or all together as JSON."""

    def __init__(self, request: Request, model: Model, how: Preparation, classes: Classes, total: int) -> None:
        self.request, self.model, self.how, self.classes, self.total = request, model, how, classes, total
        self.listed: list[dict[str, Any]] = []
        self.problems: list[Diagnostic] = []
        self.kept: list[Prediction] = []
        self.started = time.perf_counter()

    def add(self, prediction: Prediction) -> None:
        """Add the result for one image: its classes, or the shapes of outputs that are not classes, or what is
        wrong."""
        from rescompile.diagnostics.rendering import as_data

        problem = prediction.problem or self.classes.problem(prediction)
        entry: dict[str, Any] = {"image": str(prediction.path)}
        if problem is not None:
            self.problems.append(problem)
            entry["error"] = as_data(problem)
            if not self.request.as_json and self.request.form in ("text", "github"):
                report([problem], self.request.form)
        else:
            assert prediction.outputs is not None
            if self.classes.output is None:
                entry["outputs"] = _summary(prediction.outputs)
            else:
                entry["top"] = self.classes.top(prediction.outputs, self.request.options.top or 5)
            if not self.request.as_json:
                _show(entry)
            if self.request.options.save is not None:
                self.kept.append(prediction)
        self.listed.append(entry)

    def finish(self, interrupted: bool) -> None:
        """Print the summary."""
        seconds = time.perf_counter() - self.started
        if self.request.as_json:
            print_json(
                {
                    "model": self.request.model, "random_weights": self.model.drawn, "provider": self.model.provider, "preprocess": self.how.as_data(),
                    "images": self.listed, "interrupted": interrupted, "load_seconds": self.model.load_seconds,
                    "seconds": seconds,
                }
            )  # fmt: skip
        else:
            done = len(self.listed) - len(self.problems)
            say(f"{done} of {self.total} images on {self.model.provider} in {seconds:.2f} s")


def _show(entry: Mapping[str, Any]) -> None:
    """Print the result for one image as a small table."""
    print(clipped(entry["image"], 1000))
    for row in entry.get("top", ()):
        label = f"  {clipped(row['label'], 100)}" if row["label"] is not None else ""
        print(f"  {row['probability']:7.2%}  {row['class']:>5}{label}")
    for line in _lines(entry.get("outputs", {})):
        print(f"  {line}")
    sys.stdout.flush()


def _stacked(kept: Sequence[Prediction]) -> dict[str, Array]:
    """Return the outputs of all images, by output name, and their paths in the same order as `images`."""
    import numpy as np

    outputs = [prediction.outputs for prediction in kept if prediction.outputs is not None]
    stacked = {name: np.stack([each[name] for each in outputs]) for name in outputs[0]}
    return {"images": np.array([str(prediction.path) for prediction in kept]), **stacked}
