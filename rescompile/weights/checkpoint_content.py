"""State dicts in the content of a pickle: mappings, whole modules and NumPy arrays, none of which are instantiated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from rescompile.weights.inert_pickle import Object, Unreadable
from rescompile.weights.mapping import Array
from rescompile.weights.tensors import DTYPES, Tensor

#: The depth of the search for state dicts: the content, its entries, and their entries.
DEPTH = 3
#: The maximum number of modules of a pickled network.
MAX_MODULES = 100_000


def state_dicts(content: Any) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each state dict in the content of a checkpoint by its dotted entry; that of the content itself is ''."""
    found: dict[str, dict[str, Tensor]] = {}
    level = [("", content)]
    seen: set[int] = set()
    for _ in range(DEPTH):
        inner: list[tuple[str, Any]] = []
        for name, value in level:
            if id(value) in seen or (items := mapping(value)) is None:
                continue
            seen.add(id(value))
            if tensors := {key: t for key, each in items.items() if (t := tensor(each)) is not None}:
                found[name] = tensors
            if modules(value) is None:
                inner += [(f"{name}.{key}" if name else key, each) for key, each in items.items()]
        level = inner
    return found


def type_name(value: Any) -> str:
    """Return the name of a value's type, or of the class of an object that is not instantiated."""
    return value.name.rpartition(".")[2] if isinstance(value, Object) else type(value).__name__


def mapping(value: Any) -> Mapping[str, Any] | None:
    """Return the entries of a mapping or the state dict of a module, or None for anything else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Object):
        return value.items or modules(value)
    return None


def modules(value: Any) -> dict[str, Any] | None:
    """Return the state dict of a pickled module, or None for anything else."""
    if not isinstance(value, Object) or not isinstance(value.state, dict) or "_modules" not in value.state:
        return None
    found: dict[str, Any] = {}
    todo = [("", value)]
    for number in range(MAX_MODULES + 1):
        if not todo:
            return found
        path, module = todo.pop()
        parts = {name: mapping(module.state.get(name)) or {} for name in ("_parameters", "_buffers", "_modules")}
        unsaved = module.state.get("_non_persistent_buffers_set")
        unsaved = next(iter(unsaved.args), ()) if isinstance(unsaved, Object) else unsaved
        kept = {k: v for k, v in parts["_buffers"].items() if not isinstance(unsaved, list) or k not in unsaved}
        own = {**parts["_parameters"], **kept}
        found.update((path + name, each) for name, each in own.items() if each is not None)
        inner = [(f"{path}{name}.", each) for name, each in parts["_modules"].items()]
        todo += [each for each in inner[::-1] if isinstance(each[1], Object) and isinstance(each[1].state, dict)]
        if len(path) > 4096 or number == MAX_MODULES:
            break
    raise Unreadable("its modules are nested too deeply, or there are too many")


# --- arrays of numpy in pickles ---------------------------------------------------------------------------------------

_RECONSTRUCT = re.compile(r"numpy\._?core\.multiarray\._reconstruct")
_FROM_BUFFER = re.compile(r"numpy\._?core\.numeric\._frombuffer")


def tensor(value: Any) -> Tensor | None:
    """Return a value as a tensor: a torch tensor, or a NumPy array that is not instantiated. None for anything else."""
    if isinstance(value, Tensor) or not isinstance(value, Object):
        return value if isinstance(value, Tensor) else None
    match value:
        case Object(name, _, (_, shape, Object() as kind, fortran, raw)) if _RECONSTRUCT.fullmatch(name):
            return _array(shape, kind, "F" if fortran is True else "C", raw)
        case Object(name, (raw, Object() as kind, shape, order)) if _FROM_BUFFER.fullmatch(name):
            return _array(shape, kind, str(order), raw)
        case Object("torch._utils._rebuild_device_tensor_from_numpy", (inner, *_)) if inner is not value:
            return tensor(inner) if isinstance(inner, Object) and _RECONSTRUCT.fullmatch(inner.name) else None
    return None


def _array(shape: Any, kind: Object, order: str, raw: Any) -> Tensor | None:
    """Return the tensor of a pickled array, or None if it does not contain numbers."""
    word = kind.args[0] if kind.name == "numpy.dtype" and kind.args else None
    if not isinstance(word, str) or not re.fullmatch(r"[fiu][1248]|b1", word) or order not in ("C", "F"):
        return None
    big = isinstance(kind.state, tuple) and len(kind.state) > 1 and kind.state[1] == ">"
    dtype = np.dtype((">" if big else "<") + word)
    if isinstance(raw, Object) and raw.name == "_codecs.encode" and raw.args:
        raw = raw.args[0]
    data = _bytes(raw)
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 32
    if not whole or data is None or math.prod(shape) * dtype.itemsize != len(data):
        raise Unreadable("it is damaged: the values of an array do not match its shape")
    native = dtype.newbyteorder("=")
    return Tensor(shape, DTYPES.get(native.name, native.name), partial(_values, data, dtype, shape, order))


def _bytes(raw: Any) -> bytes | None:
    """Return the bytes of values; Python 2 and old protocols have them as text."""
    if isinstance(raw, str):
        try:
            return raw.encode("latin-1")
        except UnicodeEncodeError:
            return None
    return bytes(raw) if isinstance(raw, bytes | bytearray) else None


def _values(data: bytes, dtype: Any, shape: tuple[int, ...], order: Any) -> Array:
    array = np.frombuffer(data, dtype).reshape(shape, order=order)
    return array.astype(np.float32 if dtype.kind == "f" and dtype.itemsize == 2 else dtype.newbyteorder("="))
