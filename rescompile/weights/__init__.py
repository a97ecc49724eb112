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
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rescompile.diagnostics.errors import CheckFailed, Diagnostic, UsageError, clipped, nearest, one_of
from rescompile.ir.network import Network, parameters
from rescompile.ir.ops import Parameter

Array = NDArray[Any]
#: Arrays that are drawn ahead of the one being written hold at most so many bytes.
AHEAD = 32 << 20
#: An array of fewer bytes is made where it is used: handing it to a thread would take longer.
SMALL = 16 << 10


class Weights(Mapping[str, Array]):
    """Arrays by parameter name, each made anew when asked for. `seed` is the one that they were drawn from, None where they
    were given."""

    def __init__(self, makers: Mapping[str, Callable[[], Array]], seed: int | None = None) -> None:
        self._makers = dict(makers)
        self.seed = seed

    def __getitem__(self, name: str) -> Array:
        return self._makers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def replaced(self, makers: Mapping[str, Callable[[], Array]], dropped: Iterable[str] = ()) -> Weights:
        """These weights with some made differently and some left out; what a pass does to them."""
        gone = set(dropped)
        kept = {name: make for name, make in self._makers.items() if name not in gone}
        return Weights({**kept, **makers}, self.seed)

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
        raise UsageError(Diagnostic("E0802", f"a seed is a whole number from 0 to 2^64 - 1, and this is {seed!r}"))

    return Weights({name: partial(_draw, name, parameter, seed) for name, parameter in parameters(network)}, seed)


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


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a checkpoint: its shape, its type as safetensors calls it (`F32`, `BF16`), and how to get its values.

    Values of a type narrower than float32 come as float32, which holds them exactly; all others as they are.
    """

    shape: tuple[int, ...]
    kind: str
    make: Callable[[], Array]

    @classmethod
    def of(cls, array: Array) -> Tensor:
        """A tensor whose values are at hand."""
        return cls(array.shape, KINDS.get(array.dtype.name, array.dtype.name), lambda: array)


#: What numpy calls the types; `bfloat16` is that of a package beside it.
KINDS = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
}  # fmt: skip
#: The types that float32 holds: nothing is narrowed silently.
FLOATS = ("F32", "F16", "BF16")
#: The types that are taken for a parameter of each type; counters come in any that counts.
HELD = {"float32": FLOATS, "int64": tuple(KINDS.values())}


STATUSES = ("differs", "missing", "unexpected", "other type")


@dataclass(frozen=True, slots=True)
class Misfit:
    """A tensor that a checkpoint and a network do not agree on; `found` and `wanted` are its shapes there and here."""

    name: str
    status: Literal["differs", "missing", "unexpected", "other type"]
    found: tuple[int, ...] | None
    wanted: tuple[int, ...] | None
    kind: str | None = None

    def __str__(self) -> str:
        shape = list((self.wanted if self.found is None else self.found) or ())
        more = {"differs": f" instead of {list(self.wanted or ())}", "other type": f" of {self.kind}"}
        return f"{self.status:<10}  {self.name}  {shape}{more.get(self.status, '')}"


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; values are read when asked for. Raises UsageError for another file."""
    shown = os.fspath(path)
    from safetensors import SafetensorError, safe_open

    try:
        handle: Any = safe_open(shown, framework="np")
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        facts = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise UsageError(Diagnostic("E0803", f"{shown} is not a safetensors file: {error}")) from None
    starts = _starts(shown) if any(kind == "BF16" for _, kind in facts.values()) else {}
    return {
        name: Tensor(
            shape,
            kind,
            partial(_halves, shown, starts[name], shape) if kind == "BF16" else partial(_stored, handle, name),
        )
        for name, (shape, kind) in facts.items()
    }


def _stored(handle: Any, name: str) -> Array:
    value: Array = handle.get_tensor(name)
    return value.astype(np.float32) if value.dtype == np.float16 else value


def _starts(path: str) -> dict[str, int]:
    """Where the values of each tensor begin in a safetensors file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return {name: 8 + size + facts["data_offsets"][0] for name, facts in header.items() if name != "__metadata__"}


def _halves(path: str, start: int, shape: tuple[int, ...]) -> Array:
    """A tensor of bfloat16, which numpy does not know: its values are the upper halves of float32."""
    halves = np.fromfile(path, "<u2", math.prod(shape), offset=start)
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)


def from_arrays(arrays: Mapping[str, Any], network: Network) -> Weights:
    """Weights from arrays in memory, such as a state_dict, wherever its tensors are. Raises CheckFailed with every name, shape
    or type that does not fit, by the rules of `fitted`, and UsageError for what is no array."""
    made = {name: _in_memory(name, array) for name, array in arrays.items()}
    return fitted({name: Tensor.of(array) for name, array in made.items()}, network, "what was given")


def _in_memory(name: str, value: Any) -> Array:
    """The array that somebody gave, who may have tensors of torch: numpy takes none that are trained or on another device,
    and none of bfloat16."""
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"the weight '{clipped(name)}' is no array: {str(error).splitlines()[0]}"
        raise UsageError(Diagnostic("E0802", message)) from None


def fitted(tensors: Mapping[str, Tensor], network: Network, what: str) -> Weights:
    """The weights that a network is given by tensors, which must be all of its own and nothing else.

    Counters (`num_batches_tracked`) may be missing. Raises CheckFailed with every name, shape or type that does not fit;
    `what` is the subject of that message.
    """
    refuse(misfits(tensors, network), network, what)
    wanted = dict(parameters(network))
    return Weights({name: partial(_as, tensor, wanted[name].dtype) for name, tensor in tensors.items()})


def _as(tensor: Tensor, dtype: str) -> Array:
    return np.ascontiguousarray(tensor.make(), dtype).reshape(tensor.shape)  # which gives a scalar an axis


def misfits(tensors: Mapping[str, Tensor], network: Network) -> list[Misfit]:
    """What does not fit: tensors of another shape, missing, not of the network, of a type that float32 cannot hold."""
    wanted = dict(parameters(network))
    both = [(name, tensor, wanted[name]) for name, tensor in tensors.items() if name in wanted]
    return [
        *(Misfit(n, "differs", t.shape, w.shape, t.kind) for n, t, w in both if t.shape != w.shape),
        *(Misfit(n, "missing", None, w.shape) for n, w in wanted.items() if n not in tensors and w.dtype != "int64"),
        *(Misfit(n, "unexpected", t.shape, None, t.kind) for n, t in tensors.items() if n not in wanted),
        *(
            Misfit(n, "other type", t.shape, w.shape, t.kind)
            for n, t, w in both
            if t.shape == w.shape and t.kind not in HELD[w.dtype]
        ),
    ]


def refuse(rows: list[Misfit], network: Network, what: str, help: str | None = None) -> None:
    """Raise CheckFailed with misfits in one table, if there are any."""
    if not rows:
        return
    listed = "".join(f"\n  {row}" for row in rows[:20]) + (f"\n  and {len(rows) - 20} more" if len(rows) > 20 else "")
    message = f"{what} does not fit {network.name}: {counted(rows)}{listed}"
    raise CheckFailed(Diagnostic("E0702", message, help=help or _near(rows)))


def counted(rows: list[Misfit]) -> str:
    """How many misfits there are of each kind, as a sentence has it."""
    numbers = {status: sum(row.status == status for row in rows) for status in STATUSES}
    words = {"differs": "differ", "other type": "of another type"}
    return ", ".join(f"{number} {words.get(status, status)}" for status, number in numbers.items() if number)


def _near(rows: list[Misfit]) -> str | None:
    """What may be meant by a name that is not wanted; or what to do about types."""
    if all(row.status == "other type" for row in rows):
        return f"convert them to float32 first: only {one_of(FLOATS)} are taken as they are"
    missing = [row.name for row in rows if row.status == "missing"]
    return next((nearest(row.name, missing) for row in rows if row.status == "unexpected" and missing), None)
