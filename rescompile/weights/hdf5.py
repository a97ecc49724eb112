"""Weights as keras writes them into HDF5: `save_weights`, and the older files that it still reads and distributes.

Every tensor is called `layer/variable`, which is the `path` of a variable in a model of keras. The files of `save_weights`
number the variables of a layer, and the oldest call them otherwise, so there the place says which is which, as it does for
keras itself.

HDF5 can say of a tensor that it lies in another file, is compressed, or has any size without a value. Keras writes none of
these, and here they are refused: what is read is in the file, and takes as much memory as it takes there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError, clipped
from rescompile.weights.mapping import Array
from rescompile.weights.tensors import DTYPES, Tensor

#: The endings of these files.
SUFFIXES = (".h5", ".hdf5")
#: What the variables of a layer are, by how many it has: a layer with weights, one without bias, and norms.
VARIABLES = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    3: ("beta", "moving_mean", "moving_variance"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}
_WORDS = {word for words in VARIABLES.values() for word in words}


def read(path: str | os.PathLike[str], notes: list[str]) -> dict[str, Tensor]:
    """The tensors of a file by name; values are read when asked for. What is left out is said in `notes`.

    Raises UsageError for a file that is no such file, and Unavailable where h5py is missing.
    """
    shown = os.fspath(path)
    try:
        import h5py
    except ImportError as error:
        message = f"{shown} is a file of keras, which cannot be read: {error}"
        raise Unavailable(Diagnostic("E0902", message, help="pip install 'rescompile[keras]'")) from None
    tensors: dict[str, Tensor] = {}
    try:
        with h5py.File(shown, "r") as root:
            whole = "layer_names" in root.attrs or "layer_names0" in root.attrs
            held = root if whole else _member(root, "model_weights")
            for name, dataset in _old(held) if held is not None else _new(root):
                if name in tensors:
                    raise _Unfit(f"it has two tensors called {clipped(name)}")
                tensors[name] = _tensor(name, dataset, shown)
            beside = sorted({"optimizer", "optimizer_weights"} & set(root))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(Diagnostic("E0803", f"{shown} is no file of weights of keras: {error}")) from None
    if not tensors:
        raise UsageError(Diagnostic("E0803", f"{shown} is no file of weights of keras: it holds no tensors of layers"))
    if beside:
        notes.append(f"left out: {', '.join(beside)}")
    return tensors


class _Unfit(ValueError):
    """What keras does not write."""


def _member(group: Any, name: str) -> Any:
    """A member of a group, None if there is none. Links that lead elsewhere are refused before they are followed."""
    import h5py

    link = group.get(name, getlink=True)
    if link is None:
        return None
    if type(link) is not h5py.HardLink:
        raise _Unfit(f"{clipped(name)} is a link that leads elsewhere")
    return group[name]


def _new(root: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of a file of `save_weights`: those of a layer lie in its `vars`, which says what the layer is called."""
    import h5py

    todo = [("", _member(root, "layers"))]
    seen = set()
    while todo:
        layer, group = todo.pop()
        if not isinstance(group, h5py.Group):
            raise _Unfit(f"its layer {clipped(layer)} is missing" if layer else "it has no layers")
        where = h5py.h5o.get_info(group.id).addr
        if where in seen:
            raise _Unfit(f"its layer {clipped(layer)} is in two places")
        seen.add(where)
        for key in sorted(group, reverse=True):
            member = _member(group, key)
            if key != "vars":
                todo.append((key, member))
                continue
            called = member.attrs.get("name", layer)
            numbers = sorted(member, key=int)
            words = VARIABLES.get(len(numbers), tuple(numbers))
            yield from ((f"{called}/{word}", _member(member, n)) for word, n in zip(words, numbers, strict=True))


def _old(held: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of a file that lists its layers, and the variables of each. A variable may say itself what it is."""
    for layer in _listed(held, "layer_names"):
        group = _member(held, layer)
        if group is None:
            raise _Unfit(f"its layer {clipped(layer)} is missing")
        names = _listed(group, "weight_names")
        words = VARIABLES.get(len(names), tuple(names))
        for name, word in zip(names, words, strict=True):
            dataset = group
            for part in filter(None, name.split("/")):
                dataset = _member(dataset, part)
                if dataset is None:
                    raise _Unfit(f"its tensor {clipped(name)} is missing")
            own = name.removesuffix(":0").split("/")[-2:]
            yield ("/".join(own) if len(own) == 2 and own[1] in _WORDS else f"{layer}/{word}"), dataset


def _listed(group: Any, name: str) -> list[str]:
    """An attribute that is a list of names; long ones come in numbered parts."""
    parts = [name] if name in group.attrs else []
    while f"{name}{len(parts)}" in group.attrs and name not in parts:
        parts.append(f"{name}{len(parts)}")
    return [n.decode() if isinstance(n, bytes) else str(n) for part in parts for n in group.attrs[part]]


def _tensor(name: str, dataset: Any, path: str) -> Tensor:
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise _Unfit(f"{clipped(name)} is no tensor")
    if dataset.dtype.kind not in "fiu":
        raise _Unfit(
            f"{clipped(name)} is of {dataset.attrs.get('dtype', dataset.dtype)}, not of a type of numbers that numpy has"
        )
    start, size = dataset.id.get_offset(), dataset.id.get_storage_size()
    elsewhere = dataset.is_virtual or dataset.external or dataset.chunks or start is None
    if elsewhere or size != dataset.nbytes or start + size > os.path.getsize(path):
        raise _Unfit(f"the values of {clipped(name)} are not in the file as they are")
    kind = DTYPES.get(dataset.dtype.name, dataset.dtype.name)
    return Tensor(dataset.shape, kind, partial(_values, path, start, dataset.dtype, dataset.shape))


def _values(path: str, start: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """They lie in the file one after the other; keeping it open would lock it."""
    array = np.fromfile(path, dtype, math.prod(shape), offset=start).reshape(shape)
    return array.astype(np.float32) if dtype.name == "float16" else array
