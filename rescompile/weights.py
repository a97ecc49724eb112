"""Weights: a mapping from parameter name to array, apart from the tree and made on demand.

New weights are drawn from (seed, name), so they are the same in every backend, in any order, on any number of threads, and
adding a block does not move the others. Nothing is held after it was asked for: a network costs kilobytes until written.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescompile.errors import CheckFailed, Diagnostic, UsageError, nearest
from rescompile.network import Network, parameters
from rescompile.ops import Parameter

Array = NDArray[Any]
#: Arrays that are drawn ahead of the one being written hold at most so many bytes.
AHEAD = 32 << 20
#: An array of fewer bytes is made where it is used: handing it to a thread would take longer.
SMALL = 16 << 10


class Weights(Mapping[str, Array]):
    """Arrays by parameter name, each made anew when asked for."""

    def __init__(self, makers: Mapping[str, Callable[[], Array]]) -> None:
        self._makers = dict(makers)

    def __getitem__(self, name: str) -> Array:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def replaced(self, makers: Mapping[str, Callable[[], Array]], dropped: Iterable[str] = ()) -> Weights:
        """These weights with some made differently and some left out; what a pass does to them."""
        gone = set(dropped)
        return Weights({**{name: make for name, make in self._makers.items() if name not in gone}, **makers})

    def in_order(
        self, names: Iterable[str], sizes: Callable[[str], int], threads: int | None = None
    ) -> Iterator[Array]:
        """The arrays of `names` in order, made on several threads but never far ahead of their use."""
        workers = threads or os.cpu_count() or 1
        pending: deque[tuple[int, Callable[[], Array]]] = deque()
        ahead = 0
        with ThreadPoolExecutor(workers) as pool:
            try:
                for name in names:
                    size = sizes(name)
                    while pending and (ahead + size > AHEAD or len(pending) > 64):
                        done, array = pending.popleft()
                        ahead -= done
                        yield array()
                    make = self._makers[name]
                    pending.append((size, make if size < SMALL else pool.submit(make).result))
                    ahead += size
                while pending:
                    yield pending.popleft()[1]()
            finally:
                pool.shutdown(cancel_futures=True)


def draw(network: Network, seed: int = 0) -> Weights:
    """New weights by the init rules of the network. `seed` is a whole number from 0. Raises UsageError for another."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise UsageError(Diagnostic("E0802", f"a seed is a whole number from 0 to 2^64 - 1, and this is {seed}"))

    return Weights({name: partial(_draw, name, parameter, seed) for name, parameter in parameters(network)})


def _draw(name: str, parameter: Parameter, seed: int) -> Array:
    if not isinstance(parameter.fill, str):
        return np.full(parameter.shape, parameter.fill, parameter.dtype)
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), "<u4").tolist()
    entropy = [seed & 0xFFFFFFFF, seed >> 32, *words]
    return RULES[parameter.fill](np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy))), parameter)


def _normal(fan: Callable[[Parameter], int]) -> Callable[[np.random.Generator, Parameter], Array]:
    """He et al. 2015b: a normal distribution of variance 2 / fan."""

    def rule(generator: np.random.Generator, parameter: Parameter) -> Array:
        values = generator.standard_normal(parameter.shape, np.float32)
        values *= np.float32(math.sqrt(2 / fan(parameter)))
        return values

    return rule


def _torch_default(generator: np.random.Generator, parameter: Parameter) -> Array:
    """torch's own rule for weights and biases: uniform within 1 / sqrt(fan_in)."""
    bound = np.float32(1 / math.sqrt(parameter.fan_in))
    values = generator.random(parameter.shape, np.float32)
    values *= 2 * bound
    values -= bound
    return values


RULES: dict[str, Callable[[np.random.Generator, Parameter], Array]] = {
    "he_normal_fan_out": _normal(lambda parameter: parameter.fan_out),
    "he_normal_fan_in": _normal(lambda parameter: parameter.fan_in),
    "torch_default": _torch_default,
}


# --- from a file ------------------------------------------------------------------------------------------------------


def load_weights(path: str | os.PathLike[str], network: Network) -> Weights:
    """The weights of a safetensors file, which must hold every tensor of the network and nothing else.

    Floating-point tensors of lesser width are widened to float32; counters (`num_batches_tracked`) may be missing. Raises
    UsageError if the file cannot be read, and CheckFailed with every name or shape that does not fit.
    """
    shown = os.fspath(path)
    if not os.path.isfile(shown):
        raise UsageError(Diagnostic("E0801", f"{shown} {'is a folder' if os.path.isdir(shown) else 'does not exist'}"))
    from safetensors import SafetensorError, safe_open

    try:
        handle: Any = safe_open(shown, framework="np")
        shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
        kinds = {name: handle.get_slice(name).get_dtype() for name in shapes}
    except (SafetensorError, OSError) as error:
        raise UsageError(Diagnostic("E0702", f"{shown} is not a safetensors file: {error}")) from None
    wanted = _fit(network, shapes, shown)
    wide = sorted(
        name for name, kind in kinds.items() if kind not in ("F32", "F16", "BF16") and wanted[name].dtype == "float32"
    )
    _refuse_wide({name: kinds[name] for name in wide}, shown)
    return Weights({name: partial(_stored, handle, shown, name, kinds[name]) for name in shapes})


def _stored(handle: Any, path: str, name: str, kind: str) -> Array:
    """One tensor of a safetensors file, as float32 (or int64 for a counter)."""
    if kind == "BF16":  # which numpy does not know: the upper halves of float32
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            facts = json.loads(file.read(size))[name]
            start, end = facts["data_offsets"]
            halves = np.fromfile(file, "<u2", (end - start) // 2, offset=start)
        return (halves.astype(np.uint32) << 16).view(np.float32).reshape(facts["shape"])
    value = handle.get_tensor(name)
    return np.ascontiguousarray(value, np.int64 if value.dtype.kind in "iu" else np.float32)


def _refuse_wide(kinds: Mapping[str, str], what: str) -> None:
    """Refuse tensors that float32 cannot hold: nothing is narrowed silently."""
    if kinds:
        listed = "".join(f"\n  {name}: {kind}" for name, kind in list(kinds.items())[:20])
        message = f"{what} holds tensors that are no float32 or narrower:{listed}"
        raise CheckFailed(Diagnostic("E0702", message, help="convert them to float32 first"))


def from_arrays(arrays: Mapping[str, Any], network: Network) -> Weights:
    """Weights from arrays in memory, such as a state_dict. Raises CheckFailed with every name, shape or type that does
    not fit, by the rules of `load_weights`."""
    made = {name: np.asarray(array) for name, array in arrays.items()}
    wanted = _fit(network, {name: array.shape for name, array in made.items()}, "the weights")
    types = {name: array.dtype for name, array in made.items() if wanted[name].dtype == "float32"}
    narrow = ("float32", "float16", "bfloat16")
    _refuse_wide({name: dtype.name for name, dtype in types.items() if dtype.name not in narrow}, "the weights")
    return Weights({name: partial(np.ascontiguousarray, array, wanted[name].dtype) for name, array in made.items()})


def _fit(network: Network, shapes: Mapping[str, tuple[int, ...]], what: str) -> dict[str, Parameter]:
    """The parameters of the network by name. Refuses tensors that are missing, not wanted, or of another shape, all of
    them in one table."""
    wanted = dict(parameters(network))
    missing = [name for name, parameter in wanted.items() if name not in shapes and parameter.dtype != "int64"]
    unexpected = [name for name in shapes if name not in wanted]
    differing = [name for name in shapes if name in wanted and shapes[name] != wanted[name].shape]
    if not (missing or unexpected or differing):
        return wanted
    rows = [
        *(f"differs     {name}  {list(shapes[name])} instead of {list(wanted[name].shape)}" for name in differing),
        *(f"missing     {name}  {list(wanted[name].shape)}" for name in missing),
        *(f"unexpected  {name}  {list(shapes[name])}" for name in unexpected),
    ]
    listed = "".join(f"\n  {row}" for row in rows[:20]) + (f"\n  and {len(rows) - 20} more" if len(rows) > 20 else "")
    help = nearest(unexpected[0], missing) if unexpected and missing else None
    message = f"{what} does not fit {network.name}: {len(differing)} differ, {len(missing)} missing, {len(unexpected)} unexpected{listed}"
    raise CheckFailed(Diagnostic("E0702", message, help=help))
