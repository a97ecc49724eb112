"""What classes are called: a file of labels, or those of ImageNet as an installed library lists them.

No labels are shipped. The thousand of ImageNet are read from the files of torchvision or timm, without importing either:
that would take seconds, and torch.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rescompile.diagnostics.errors import Diagnostic, Place, Source, Unavailable, UsageError, nearest
from rescompile.files import file_types

IMAGENET = "imagenet"
_CLASSES = 1000
_MAX_BYTES = 1 << 24


def read(name: str) -> list[str]:
    """The labels of classes in their order: of a text file (one in each line), of a JSON file (a list, or a mapping from
    numbers of classes to labels, or to lists that end in one), or `imagenet`, in the order of torchvision and timm.

    Raises UsageError where the file holds something else, and Unavailable where no library lists those of ImageNet.
    """
    if name == IMAGENET:
        return _imagenet()
    path = Path(name)
    file_types.check_file(name, nearest(name, [IMAGENET]) or "name a file, or say --labels imagenet")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(Diagnostic("E0831", f"{path} is no file of labels: it has more than {_MAX_BYTES:,} bytes"))
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        help = "a line for each class, or JSON"
        raise UsageError(Diagnostic("E0831", f"{path} is no file of labels: it is not UTF-8 text", help=help)) from None
    except OSError as error:
        raise UsageError(Diagnostic("E0831", f"{path} cannot be read: {error.strerror}")) from None
    return _of_json(text, path) if path.suffix.lower() == ".json" else _of_lines(text, path)


def fit(labels: list[str], classes: int, shown: str) -> None:
    """Raise UsageError unless there is one label for each class of the network."""
    if len(labels) != classes:
        message = f"there are {len(labels):,} labels, and {shown} gives {classes:,} numbers"
        raise UsageError(Diagnostic("E0831", message))


def _of_lines(text: str, path: Path) -> list[str]:
    labels = [line.strip() for line in text.rstrip().split("\n")]
    for number, label in enumerate(labels, 1):
        if not label:
            place = Place(Source(str(path), text), number, 1, 2)
            raise UsageError(Diagnostic("E0831", "an empty line has no label", place))
    return labels


def _of_json(text: str, path: Path) -> list[str]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        place = Place(Source(str(path), text), error.lineno, error.colno, error.colno + 1)
        raise UsageError(Diagnostic("E0831", f"this is no JSON: {error.msg}", place)) from None
    except RecursionError:
        raise UsageError(Diagnostic("E0831", f"{path} is nested too deeply")) from None
    if isinstance(found, dict):
        if set(found) != {str(at) for at in range(len(found))}:
            message = f"{path} maps other keys than the numbers of classes, 0 to {len(found) - 1}"
            raise UsageError(Diagnostic("E0831", message))
        found = [found[str(at)] for at in range(len(found))]
        # {"0": ["n01440764", "tench"], ...}, as Keras has them
        found = [label[-1] if isinstance(label, list) and label else label for label in found]
    if not isinstance(found, list) or not found or not all(isinstance(label, str) for label in found):
        raise UsageError(Diagnostic("E0831", f"{path} holds no list of labels and no mapping to them"))
    return found


# --- ImageNet ---------------------------------------------------------------------------------------------------------


def _imagenet() -> list[str]:
    for library, labels_of in _LIBRARIES.items():
        spec = find_spec(library)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            try:
                labels = labels_of(Path(folder))
            except (OSError, SyntaxError, ValueError, KeyError):
                continue  # a release that keeps them elsewhere
            if len(labels) == _CLASSES:
                return labels
    raise Unavailable(
        Diagnostic(
            "E0902", "the labels of ImageNet are read from torchvision or timm, and neither with them is installed",
            help="pip install torchvision, or name a file with --labels",
        )
    )  # fmt: skip


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
