"""The type of a file by its suffix, for errors about files of the wrong type; and a check that a file exists."""

from __future__ import annotations

import os
from pathlib import Path

from rescompile.diagnostics.errors import UsageError
from rescompile.records import record


@record
class FileType:
    """A type of files: their suffixes, its name, and how such a file is used."""

    suffixes: tuple[str, ...]
    name: str
    use: str


WEIGHTS = FileType(
    (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".th", ".pyth", ".pkl", ".h5", ".hdf5", ".npz"),
    "a weights file",
    "use it with a spec: rescompile build SPEC --weights FILE; 'rescompile weights inspect' lists its tensors",
)
SPEC = FileType((".yaml", ".yml"), "a spec", "'rescompile show' prints it, 'rescompile build' compiles it")
ONNX = FileType(
    (".onnx", ".ort"),
    "an ONNX model",
    "'rescompile run' runs it, 'rescompile extract' recovers the spec of one that rescompile built",
)
PROGRAM = FileType(
    (".pt2",),
    "a torch.export program",
    "torch.export.load reads it, 'rescompile extract' recovers the spec of one that rescompile built",
)
FILE_TYPES = (
    WEIGHTS,
    SPEC,
    ONNX,
    PROGRAM,
    FileType(
        (".py",),
        "Python source",
        "import it in Python; to get ONNX, build its spec with --target onnx",
    ),
    FileType(
        (".keras",),
        "a Keras model",
        "model.save_weights('model.weights.h5') writes a weights file that rescompile reads",
    ),
    FileType((".npy",), "a NumPy file", "numpy.load reads it"),
    FileType(
        (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        "an image",
        "rescompile run MODEL --image FILE classifies it",
    ),
)


def file_type(name: str) -> FileType | None:
    """Return the type of a file by its suffix, or None if it is unknown."""
    suffix = Path(name).suffix.lower()
    return next((each for each in FILE_TYPES if suffix in each.suffixes), None)


def refuse(name: str, wanted: str, *fitting: FileType) -> None:
    """Raise UsageError if a file is of a known type that is not in `fitting`; `wanted` describes what is needed."""
    found = file_type(name)
    if found is not None and found not in fitting:
        raise UsageError.of("E0801", f"{name} has the suffix of {found.name}, but {wanted}", help=found.use)


def check_file(name: str | os.PathLike[str], help: str | None = None) -> None:
    """Raise UsageError unless a regular file has this name: files are read more than once, which a pipe does not allow."""
    if not os.path.isfile(name):
        what = (
            "is a folder"
            if os.path.isdir(name)
            else "is not a regular file"
            if os.path.exists(name)
            else "does not exist"
        )
        raise UsageError.of("E0801", f"{os.fspath(name) or repr('')} {what}", help=help)
