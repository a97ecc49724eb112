"""Class names: a file of labels, or the labels of ImageNet from an installed library.

No labels are shipped. Those of ImageNet are read from the files of torchvision or timm, without importing either, which would
take seconds.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rescompile.diagnostics.errors import Place, Source, Unavailable, UsageError, nearest
from rescompile.files import file_types

IMAGENET = "imagenet"
_CLASSES = 1000
_MAX_BYTES = 1 << 24


def read(name: str) -> list[str]:
    """Return the class labels in order: from a text file (one a line), from a JSON file (a list, or a mapping from class
    numbers to labels or to lists that end in one), or `imagenet`, in the order of torchvision and timm.

    Raises UsageError if the file contains anything else, and Unavailable if no installed library lists those of ImageNet.
    """
    if name == IMAGENET:
        return _imagenet()
    path = Path(name)
    file_types.check_file(name, nearest(name, [IMAGENET]) or "name a file, or use --labels imagenet")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError.of("E0831", f"{path} is not a label file: it has more than {_MAX_BYTES:,} bytes")
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        help = "write one label per line, or JSON"
        raise UsageError.of("E0831", f"{path} is not a label file: it is not UTF-8 text", help=help) from None
    except OSError as error:
        raise UsageError.of("E0831", f"{path} cannot be read: {error.strerror}") from None
    return _of_json(text, path) if path.suffix.lower() == ".json" else _of_lines(text, path)


def fit(labels: list[str], classes: int, shown: str) -> None:
    """Raise UsageError unless there is one label for each class of the network."""
    if len(labels) != classes:
        raise UsageError.of("E0831", f"there are {len(labels):,} labels, but {shown} has {classes:,} classes")


def _of_lines(text: str, path: Path) -> list[str]:
    labels = [line.strip() for line in text.rstrip().split("\n")]
    for number, label in enumerate(labels, 1):
        if not label:
            raise UsageError.of("E0831", "empty line in a label file", Place(Source(str(path), text), number, 1, 2))
    return labels


def _of_json(text: str, path: Path) -> list[str]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        place = Place(Source(str(path), text), error.lineno, error.colno, error.colno + 1)
        raise UsageError.of("E0831", f"this is not JSON: {error.msg}", place) from None
    except RecursionError:
        raise UsageError.of("E0831", f"{path} is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise UsageError.of("E0831", f"{path} cannot be read: {str(error).partition(';')[0]}") from None
    if isinstance(data, dict):
        if set(data) != {str(at) for at in range(len(data))}:
            raise UsageError.of("E0831", f"the keys of {path} must be the class numbers 0 to {len(data) - 1}")
        data = [data[str(at)] for at in range(len(data))]
        # {"0": ["n01440764", "tench"], ...}, as Keras has them
        data = [label[-1] if isinstance(label, list) and label else label for label in data]
    if not isinstance(data, list) or not data or not all(isinstance(label, str) for label in data):
        raise UsageError.of("E0831", f"{path} must contain a list of labels, or a mapping from class numbers to labels")
    return data


# --- ImageNet ---------------------------------------------------------------------------------------------------------


def _imagenet() -> list[str]:
    for library, labels_of in _LIBRARIES.items():
        spec = find_spec(library)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            try:
                labels = labels_of(Path(folder))
            except (OSError, SyntaxError, ValueError, KeyError):
                continue  # this release stores them elsewhere
            if len(labels) == _CLASSES:
                return labels
    raise Unavailable.of("E0902", "the labels of ImageNet come from torchvision or timm, and neither is installed",
            help="pip install torchvision, or name a file with --labels")  # fmt: skip


def _of_torchvision(folder: Path) -> list[str]:
    tree = ast.parse((folder / "models/_meta.py").read_text("utf-8"))
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_IMAGENET_CATEGORIES":
            labels: list[Any] = ast.literal_eval(statement.value)
            return labels
    raise KeyError("_IMAGENET_CATEGORIES")


def _of_timm(folder: Path) -> list[str]:
    kept = folder / "data/_info"
    lemmas = dict(csv.reader((kept / "imagenet_synset_to_lemma.txt").read_text("utf-8").splitlines(), delimiter="\t"))
    return [lemmas[synset] for synset in (kept / "imagenet_synsets.txt").read_text("utf-8").splitlines()]


_LIBRARIES: Mapping[str, Callable[[Path], list[str]]] = {"torchvision": _of_torchvision, "timm": _of_timm}
