"""Malicious checkpoints: no code is executed, memory and time are bounded, and every refusal has a code."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import drawn, saved, spec, tiny, weights
from command_line import invoke
from safetensors.numpy import save_file

from rescompile.diagnostics.errors import CheckFailed, RescompileError, UsageError
from rescompile.weights import checkpoints, inert_pickle

pytestmark = pytest.mark.usefixtures("own_folder")


def refused(path: str, seconds: float = 10, megabytes: int = 150) -> str:
    """Read a file, which must be refused in bounded time and memory; return the message."""
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(UsageError) as caught:
        checkpoints.read(path)
    assert time.process_time() - start < seconds
    assert tracemalloc.get_traced_memory()[1] < megabytes << 20
    tracemalloc.stop()
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E0803"
    assert "\n" not in diagnostic.message
    return diagnostic.message


# --- code in pickles --------------------------------------------------------------------------------------------------


class Evil:
    """An object that writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return a call of exec."""
        return exec, ("open('ran', 'w').close()",)


class EvilState(Evil):
    """An object that writes a file when its state is restored."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return a call of exec as the state setter."""
        return object, (), "open('ran', 'w').close()", None, None, exec


RUN = b"open('ran','w').close()"
#: Pickles that execute code in the standard unpickler, by the opcode that does it.
PROGRAMS = {
    "REDUCE": b"\x80\x02c__builtin__\nexec\nX" + struct.pack("<I", len(RUN)) + RUN + b"\x85R.",
    "INST": b"\x80\x02(X" + struct.pack("<I", len(RUN)) + RUN + b"i__builtin__\nexec\n.",
    "OBJ": b"\x80\x02(c__builtin__\nexec\nX" + struct.pack("<I", len(RUN)) + RUN + b"o.",
    "NEWOBJ": b"\x80\x02c__builtin__\nexec\nX" + struct.pack("<I", len(RUN)) + RUN + b"\x85\x81.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93X" + struct.pack("<I", len(RUN)) + RUN + b"\x85R.",
    "BUILD": b"\x80\x02c__builtin__\nobject\n)R}X\x0c\x00\x00\x00__setstate__c__builtin__\nexec\nsbX\x01\x00\x00\x001b.",
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("inside", ["plain", "archive"])
def test_no_opcode_executes_anything(program: str, inside: str) -> None:
    """No opcode executes code, and a pickle that consists only of code is refused as not a state dict."""
    content = PROGRAMS[program]
    if inside == "plain":
        Path("x.pth").write_bytes(content)
    else:
        with zipfile.ZipFile("x.pth", "w") as archive:
            archive.writestr("archive/data.pkl", content)
    assert "not a state dict" in refused("x.pth")
    assert not Path("ran").exists()


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("kind", [Evil, EvilState])
def test_code_beside_tensors_is_left_out(kind: type[Evil], new: bool) -> None:
    """Tensors next to an object with code are read, the object is named and ignored, and nothing is executed."""
    path = spec()
    file = saved({**drawn(path, 1), "b": kind()}, _use_new_zipfile_serialization=new)
    for command in (("weights", "inspect", file, path), ("build", path, "-t", "onnx", "--weights", file, "--force")):
        result = invoke(*command)
        assert result.exit_code == 0, result.output
        assert "ignored, since they are not tensors: b" in result.stderr
    assert not Path("ran").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_by_pickle(protocol: int) -> None:
    """Plain values are read as by the standard unpickler, for every protocol."""
    value = {
        "a": [1, -5, 2**70, 1.5, None, True, "é", b"x", (1, (2, 3), ()), {"b": {}}, "y" * 300],
        "c": bytearray(b"z"),
    }
    shared: dict[str, Any] = {"value": value, "again": value["a"], "tuple": (1, 2, 3, 4)}
    found = inert_pickle.read(io.BytesIO(pickle.dumps(shared, protocol=protocol)), {}, lambda name: name)
    assert found["again"] is found["value"]["a"]
    del found["value"]["c"], shared["value"]["c"]
    if protocol < 3:  # these protocols encode bytes as a function call
        assert found["value"]["a"].pop(7).name == "_codecs.encode"
        shared["value"]["a"].pop(7)
    assert found == shared


# --- bounds -----------------------------------------------------------------------------------------------------------


def archive_of(pickled: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> str:
    """Write a torch archive with this pickle and these storages."""
    with zipfile.ZipFile("x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled, **options)
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content, **options)
    return "x.pth"


def tensor(count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Return a pickle of one tensor `a` as torch writes it."""

    class Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
        """The pure-Python pickler, whose memo opcodes `plain` removes."""

    def name(text: str) -> bytes:
        return b"c" + text.replace(" ", "\n").encode() + b"\n"

    def plain(value: Any) -> bytes:
        buffer = io.BytesIO()
        Pickler(buffer, 2).dump(value)
        return buffer.getvalue()[2:-1].replace(b"q\x00", b"").replace(b"q\x01", b"")

    storage = (
        b"(X\x07\x00\x00\x00storage"
        + name("torch FloatStorage")
        + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + plain(count)
        + b"tQ"
    )
    rest = plain(offset) + plain(shape) + plain(stride) + b"\x89Nt"
    return b"\x80\x02}X\x01\x00\x00\x00a" + name("torch._utils _rebuild_tensor_v2") + b"(" + storage + rest + b"Rs."


def test_a_tensor_by_hand() -> None:
    """A valid tensor of the helper is read, so the refusals below have the reasons that they state."""
    found = checkpoints.read(
        archive_of(tensor(6, 1, (2, 2), (2, 1)), {"0": np.arange(6, dtype=np.float32).tobytes()})
    ).tensors
    assert found["a"].make().tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((6, 0, (7,), (1,)), "beyond its storage"),
        ((6, 5, (2,), (1,)), "beyond its storage"),
        ((6, 0, (2, 2), (5, 1)), "beyond its storage"),
        ((6, 0, (1 << 40, 1 << 40), (1 << 40, 1)), "beyond its storage"),
        ((6, -1, (2,), (1,)), "impossible shape"),
        ((6, 0, (-2,), (1,)), "impossible shape"),
        ((6, 2, (2,), (-1,)), "impossible shape"),
        ((6, 0, (2, 2), (1,)), "damaged"),
        ((6, 0, (1,) * 65, (1,) * 65), "damaged"),
        ((7, 0, (7,), (1,)), "values of tensors are missing"),
        ((1 << 60, 0, (1 << 60,), (1,)), "values of tensors are missing"),
        ((-1, 0, (0,), (1,)), "damaged"),
    ],
)
def test_invalid_shapes_strides_and_offsets(arguments: tuple[Any, ...], reason: str) -> None:
    """Shapes, strides and offsets that reach beyond the tensor's storage, or are invalid, are refused."""
    assert reason in refused(archive_of(tensor(*arguments), {"0": bytes(24)}))


def test_a_tensor_of_petabytes_is_never_materialised() -> None:
    """A tensor expanded to petabytes by strides of 0 is listed but not materialised, because it fits no network."""
    file = archive_of(tensor(1, 0, (1 << 30, 1 << 20), (0, 0)), {"0": bytes(4)})
    assert "[1073741824, 1048576]" in weights("inspect", file).stdout
    with pytest.raises(CheckFailed):
        checkpoints.load(file, tiny(spec()), lambda _: None)


def opcodes(number: int) -> bytes:
    """Return a pickle of a list of many values."""
    return b"\x80\x02]" + b"(" + b"N" * number + b"e."


BOMBS: dict[str, Callable[[], bytes]] = {
    "nested lists": lambda: b"\x80\x02" + b"]" * 90_000 + b"a" * 89_999 + b".",
    "nested tuples": lambda: b"\x80\x02N" + b"\x85" * 150_000 + b".",
    "too many opcodes": lambda: opcodes(200_001),
    "a long list in many calls": lambda: b"\x80\x02cx\ny\nq\x00](" + b"N" * 50_000 + b"eq\x01" + b"h\x00h\x01\x85R0" * 10_000 + b".",
    "a list of lists of lists": lambda: b"\x80\x02]q\x00" + b"".join(
        b"](" + b"h" + bytes([n]) * 1 + (b"h" + bytes([n])) * 200 + b"eq" + bytes([n + 1]) for n in range(100)) + b".",
    "a list in itself": lambda: b"\x80\x02]q\x00h\x00a.",
    "a dict in itself": lambda: b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "a module in itself": lambda: b"\x80\x02ca\nb\n)\x81q\x00}(X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00ah\x00sub.",
    "text of 4 GB": lambda: b"\x80\x02X\xff\xff\xff\xffabc.",
    "bytes of 2^62": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
    "an integer of a million digits": lambda: b"(dp0\nI" + b"9" * 1_000_000 + b"\n.",
    "an integer of a million bytes": lambda: b"\x80\x02\x8b" + struct.pack("<I", 1_000_000) + b"\x7f" * 1_000_000 + b".",
    "a memo index of 2^31": lambda: b"\x80\x02]r\xff\xff\xff\x7f.",
    "an empty stack": lambda: b"\x80\x02R.",
    "below the mark": lambda: b"\x80\x02N(a.",
    "no end": lambda: b"\x80\x02}",
    "an extension": lambda: b"\x80\x02\x82\x01.",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("inside", ["plain", "archive"])
@pytest.mark.slow_for("an integer of a million digits", "nested tuples")
def test_pickle_bombs(bomb: str, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickle bombs are refused within bounded time and memory. The opcode limit is a tenth of the real one here."""
    monkeypatch.setattr(inert_pickle, "MAX_OPCODES", 200_000)
    if inside == "plain":
        Path("x.pth").write_bytes(BOMBS[bomb]())
    else:
        archive_of(BOMBS[bomb]())
    refused("x.pth", seconds=30)


def test_a_compressed_archive() -> None:
    """A compressed torch archive is refused, because torch writes none; a compressed .npz is unpacked only on use."""
    deflated = {"compress_type": zipfile.ZIP_DEFLATED}
    assert "compressed" in refused(archive_of(tensor(1 << 24, 0, (1 << 24,), (1,)), {"0": bytes(1 << 26)}, **deflated))
    np.savez_compressed("y.npz", a=np.zeros(1 << 24, np.float32))
    tracemalloc.start()
    assert checkpoints.read("y.npz").tensors["a"].shape == (1 << 24,), "its values are unpacked too early"
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def header(entries: dict[str, Any], values: bytes) -> None:
    """Write a safetensors file with this header and these values."""
    text = json.dumps(entries).encode()
    Path("x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + values)


def entry(start: int, end: int, shape: list[int]) -> dict[str, Any]:
    """Return the header entry of a float32 tensor."""
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "entries",
    [
        {"a": entry(0, 8, [2]), "b": entry(4, 12, [2])},
        {"a": entry(0, 8, [2]), "b": entry(0, 8, [2])},
        {"a": entry(0, 16, [2])},
        {"a": entry(8, 0, [2])},
        {"a": entry(0, 1 << 50, [1 << 48])},
        {"a": entry(0, 8, [1 << 62, 1 << 62])},
        {"a": entry(4, 12, [2])},
        {"a": entry(0, 8, [-2])},
        {"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
        {"a": 3},
    ],
)
def test_safetensors_offsets(entries: dict[str, Any]) -> None:
    """Overlapping, reversed, missing or invalid offsets are refused."""
    header(entries, bytes(16))
    assert "is not a safetensors file" in refused("x.safetensors")


def test_safetensors_nested_header() -> None:
    """A deeply nested JSON header is refused without recursion."""
    text = b'{"a":' + b"[" * 100_000
    Path("x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    refused("x.safetensors")


# --- damage -----------------------------------------------------------------------------------------------------------


def files() -> dict[str, bytes]:
    """Return a valid file of each format."""
    arrays = {"conv1.weight": np.ones((4, 3, 3, 3), np.float32), "n": np.array(3), "fc.bias": np.ones(10, np.float16)}
    saved({"state_dict": arrays, "epoch": 1})
    found = {"archive": Path("x.pth").read_bytes()}
    saved({"state_dict": arrays, "epoch": 1}, _use_new_zipfile_serialization=False)
    found["pickles"] = Path("x.pth").read_bytes()
    save_file(arrays, "x.pth")
    found["safetensors"] = Path("x.pth").read_bytes()
    np.savez("x.npz", **arrays)
    found["npz"] = Path("x.npz").read_bytes()
    found["arrays"] = pickle.dumps(arrays, protocol=2)
    return found


def read_or_refused(content: bytes) -> bool:
    """Read bytes as a checkpoint, values included, and return whether that succeeded; only errors with a code are allowed."""
    Path("x.pth").write_bytes(content)
    try:
        for each in checkpoints.read("x.pth").tensors.values():
            if each.dtype in ("F32", "F16", "I64") and np.prod(each.shape, dtype=object) < 1 << 20:
                assert each.make().shape == each.shape
    except RescompileError:
        return False
    return True


@pytest.mark.parametrize("kind", ["archive", "pickles", "safetensors", "npz", "arrays"])
def test_truncated_files_are_refused(kind: str) -> None:
    """A truncated file is refused, wherever it is cut."""
    content = files()[kind]
    assert read_or_refused(content)
    for length in [*range(0, len(content) - 1, max(len(content) // 80, 1)), len(content) - 1]:
        assert not read_or_refused(content[:length]), length


@pytest.mark.parametrize("kind", ["archive", "pickles", "safetensors", "npz", "arrays"])
def test_changed_bytes(kind: str) -> None:
    """Changed bytes give other values or an error with a code, never another exception."""
    content, draws = files()[kind], random.Random(kind)
    for _ in range(400):
        changed = bytearray(content)
        for _ in range(draws.choice((1, 1, 3))):
            changed[draws.randrange(len(content))] = draws.randrange(256)
        read_or_refused(bytes(changed))
