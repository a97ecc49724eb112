"""What a file is by its ending: for messages, where another kind of file is wanted, and its contents could only be misread.
And whether it is a file at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rescompile.diagnostics.errors import Diagnostic, UsageError


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of files: their endings, what one of them is called, and what can be done with it."""

    endings: tuple[str, ...]
    name: str
    use: str


WEIGHTS = Kind(
    (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".h5", ".hdf5"),
    "a file of weights",
    "weights go with a spec, as in rescompile build SPEC --weights FILE; 'rescompile weights inspect' lists them",
)
SPEC = Kind((".yaml", ".yml"), "a spec", "'rescompile show' shows it, 'rescompile build' compiles it")
ONNX = Kind(
    (".onnx", ".ort"),
    "an ONNX model",
    "'rescompile run' runs it, and 'rescompile extract' gives back the spec of one that rescompile wrote",
)
PROGRAM = Kind(
    (".pt2",),
    "a program of torch.export",
    "torch.export.load reads it; 'rescompile extract' gives back the spec of one that rescompile wrote, to build ONNX from",
)
KINDS = (
    WEIGHTS,
    SPEC,
    ONNX,
    PROGRAM,
    Kind(
        (".py",),
        "Python source",
        "Python imports it; rescompile reads the spec that it was built from, and builds ONNX with --target onnx",
    ),
    Kind(
        (".keras",),
        "a model of keras",
        "model.save_weights('it.weights.h5') writes the weights alone, which can be read",
    ),
    Kind((".npy", ".npz"), "a file of numpy arrays", "numpy.load reads it"),
    Kind(
        (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        "an image",
        "rescompile run MODEL --image FILE says what is on it",
    ),
)


def kind(name: str) -> Kind | None:
    """The kind of a file by its name, or None where that says nothing."""
    suffix = Path(name).suffix.lower()
    return next((each for each in KINDS if suffix in each.endings), None)


def refuse(name: str, wanted: str, *fitting: Kind) -> None:
    """Raise UsageError where a file is of a known kind, and that is none of `fitting`; `wanted` says what fits."""
    found = kind(name)
    if found is not None and found not in fitting:
        raise UsageError(Diagnostic("E0801", f"{name} is {found.name} by its ending, and {wanted}", help=found.use))


def check_file(name: str | os.PathLike[str], help: str | None = None) -> None:
    """Raise UsageError unless there is a regular file of a name: what is read is looked at more than once, and a pipe has gone
    by then."""
    if not os.path.isfile(name):
        what = (
            "is a folder" if os.path.isdir(name) else "is no regular file" if os.path.exists(name) else "does not exist"
        )
        raise UsageError(Diagnostic("E0801", f"{os.fspath(name) or repr('')} {what}", help=help))
