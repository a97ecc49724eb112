"""HDF5 files of Keras: those of `save_weights`, and the older formats that Keras still reads and distributes.

Every tensor is called `layer/variable`, which is the `path` of a variable in a Keras model. `save_weights` numbers the variables
of a layer, and the oldest files use other names, so the position identifies them there, as it does in Keras itself.

An HDF5 dataset can be external, compressed, or declared without values. Keras writes none of these, and they are refused, so a
tensor needs as much memory as it takes in the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import Unavailable, UsageError, clipped
from rescompile.weights.mapping import Array
from rescompile.weights.tensors import DTYPES, Tensor

#: The suffixes of these files.
SUFFIXES = (".h5", ".hdf5")
#: The variables of a layer by their count: a layer without bias, one with bias, a norm without scale, and a norm.
VARIABLES = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    3: ("beta", "moving_mean", "moving_variance"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}
_WORDS = {word for words in VARIABLES.values() for word in words}


def read(path: str, notes: list[str]) -> dict[str, Tensor]:
    """Return the tensors of a file by name; their values are read on demand. `notes` receives what is ignored.

    Raises UsageError for any other file, and Unavailable if h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        message = f"{path} is an HDF5 file; reading it needs h5py, which cannot be imported: {error}"
        raise Unavailable.of("E0902", message, help="pip install 'rescompile[keras]'") from None
    tensors: dict[str, Tensor] = {}
    try:
        with h5py.File(path, "r") as root:
            whole = "layer_names" in root.attrs or "layer_names0" in root.attrs
            layers = root if whole else _member(root, "model_weights")
            for name, dataset in _old(layers) if layers is not None else _new(root):
                if name in tensors:
                    raise _Unfit(f"it has two tensors called {clipped(name)}")
                tensors[name] = _tensor(name, dataset, path)
            beside = sorted({"optimizer", "optimizer_weights"} & set(root))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError.of("E0803", f"{path} is not a Keras weights file: {error}") from None
    if not tensors:
        raise UsageError.of("E0803", f"{path} is not a Keras weights file: it contains no tensors of layers")
    if beside:
        notes.append(f"ignored: {', '.join(beside)}")
    return tensors


class _Unfit(ValueError):
    """The file contains something that Keras does not write."""


def _member(group: Any, name: str) -> Any:
    """Return a member of a group, or None. Links to other places are refused before they are followed."""
    import h5py

    link = group.get(name, getlink=True)
    if link is None:
        return None
    if type(link) is not h5py.HardLink:
        raise _Unfit(f"{clipped(name)} is a link to another place")
    return group[name]


def _new(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a file of `save_weights`: those of a layer are in its `vars`, whose attribute `name` is the layer's."""
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
            name = member.attrs.get("name", layer)
            numbers = sorted(member, key=int)
            words = VARIABLES.get(len(numbers), tuple(numbers))
            yield from ((f"{name}/{word}", _member(member, n)) for word, n in zip(words, numbers, strict=True))


def _old(layers: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a file that lists its layers and their variables. The name of a variable may contain its role."""
    for layer in _listed(layers, "layer_names"):
        group = _member(layers, layer)
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
    """Return an attribute that is a list of names; long lists are split into numbered parts."""
    parts = [name] if name in group.attrs else []
    while f"{name}{len(parts)}" in group.attrs and name not in parts:
        parts.append(f"{name}{len(parts)}")
    return [n.decode() if isinstance(n, bytes) else str(n) for part in parts for n in group.attrs[part]]


def _tensor(name: str, dataset: Any, path: str) -> Tensor:
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise _Unfit(f"{clipped(name)} is not a tensor")
    if dataset.dtype.kind not in "fiu":
        raise _Unfit(
            f"{clipped(name)} has dtype {dataset.attrs.get('dtype', dataset.dtype)}, which numpy does not support"
        )
    start, size = dataset.id.get_offset(), dataset.id.get_storage_size()
    elsewhere = dataset.is_virtual or dataset.external or dataset.chunks or start is None
    if elsewhere or size != dataset.nbytes or start + size > os.path.getsize(path):
        raise _Unfit(f"the values of {clipped(name)} are compressed or outside the file")
    dtype = DTYPES.get(dataset.dtype.name, dataset.dtype.name)
    return Tensor(dataset.shape, dtype, partial(_values, path, start, dataset.dtype, dataset.shape))


def _values(path: str, start: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return values that are contiguous in the file. It is opened anew, since an open handle would lock it."""
    array = np.fromfile(path, dtype, math.prod(shape), offset=start).reshape(shape)
    return array.astype(np.float32) if dtype.name == "float16" else array
