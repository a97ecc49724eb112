"""An ONNX file written as a stream: the graph, then each tensor as it is computed; no weight is in memory twice.

The bytes equal those that the onnx package would write, in the order of field numbers. The last metadata entry is the
checksum of `rescompile.files.checksum`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rescompile.files.atomic_write import Chunk, File
from rescompile.files.checksum import MARK, with_checksum
from rescompile.version import __version__
from rescompile.weights import Array, Weights

from .model import Call, Model, Tensor, Value
from .protobuf import data, head, number, numbers, real, text, texts

#: The size limit of a Protobuf message is 2 GiB; larger weights go to a file next to the model.
EXTERNAL_ABOVE = 3 << 29
_ALIGNMENT = 4096
TYPES = {"float32": 1, "uint8": 2, "int64": 7, "bool": 9, "float16": 10}  # TensorProto.DataType
_EXTERNAL = 1  # TensorProto.DataLocation


def files(model: Model, weights: Weights | None, name: str) -> list[File]:
    """Return the file of a model with this name, preceded by a file of its weights if they are too large for one."""
    total = sum(tensor.nbytes for tensor in model.tensors)
    if weights is None or total <= EXTERNAL_ABOVE:
        return [File(name, lambda: _model(model, weights, None), total)]
    outside = [tensor for tensor in model.tensors if tensor.constant is None]
    names: list[str] = []
    return [
        # Named after its contents, so that a model is never loaded with the weights of another model.
        File(
            f"{name}.{{checksum}}.data", lambda: with_checksum(_data(outside, weights), b"", b"  "), total, names.append
        ),
        File(name, lambda: _model(model, weights, names[-1])),
    ]


def described(model: bytes, metadata: Mapping[str, str], name: str) -> File:
    """Return the file of a ModelProto without metadata, with the given metadata and the checksum appended."""
    entries = b"".join(data(14, _entry(key, value)) for key, value in metadata.items())
    return File(name, lambda: with_checksum([model, entries], *_seal_entry()), len(model) + len(entries))


def _model(model: Model, weights: Weights | None, file: str | None) -> Iterator[Chunk]:
    return with_checksum(_pieces(model, weights, file), *_seal_entry())


def _pieces(model: Model, weights: Weights | None, file: str | None) -> Iterator[Chunk]:
    """Yield a ModelProto, its fields in the order of their numbers."""
    offsets = _offsets([tensor for tensor in model.tensors if tensor.constant is None]) if file else {}
    before = b"".join(data(1, _node(call)) for call in model.nodes) + text(2, model.name)
    after = b"".join(data(11, _value(value)) for value in model.inputs)
    after += b"".join(data(12, _value(value)) for value in model.outputs)
    heads = [_initializer(tensor, file, offsets.get(tensor.name)) for tensor in model.tensors]
    inline = [tensor for tensor in model.tensors if tensor.name not in offsets]
    size = len(before) + sum(map(len, heads)) + sum(tensor.nbytes for tensor in inline) + len(after)
    yield number(1, model.ir) + text(2, "rescompile") + text(3, __version__)
    yield head(7, size) + before
    arrays = _arrays(inline, weights)
    for start, tensor in zip(heads, model.tensors, strict=True):
        yield start
        if tensor.name not in offsets:
            values = _bytes(next(arrays))
            assert len(values) == tensor.nbytes, f"{tensor.name} does not have the size of its shape"
            yield values
    yield after
    yield data(8, text(1, "") + number(2, model.opset))
    yield b"".join(data(14, _entry(key, value)) for key, value in model.metadata.items())


def _node(call: Call) -> bytes:
    """Return a NodeProto; viewers group nodes by the metadata entry `namespace`."""
    where = call.name.rpartition(".")[0].replace(".", "/")
    return b"".join(
        (
            texts(1, call.inputs),
            texts(2, [call.output, *call.others]),
            text(3, call.name),
            text(4, call.operator),
            *(data(5, _attribute(key, call.attributes[key])) for key in sorted(call.attributes)),
            data(9, _entry("namespace", where)) if where else b"",
        )
    )


def _attribute(name: str, value: Any) -> bytes:
    """Return an AttributeProto: its name, its value in the field of its type, and the number of that type."""
    match value:
        case str():
            return text(1, name) + text(4, value) + number(20, 3)
        case float():
            return text(1, name) + real(2, value) + number(20, 1)
        case tuple() if any(isinstance(item, float) for item in value):
            return text(1, name) + b"".join(real(7, item) for item in value) + number(20, 6)
        case tuple():
            return text(1, name) + numbers(8, value) + number(20, 7)
    return text(1, name) + number(3, value) + number(20, 2)


def _value(value: Value) -> bytes:
    """Return the ValueInfoProto of a tensor."""
    sizes = (text(2, n) if isinstance(n, str) else number(1, n) for n in value.shape)
    shape = b"".join(data(1, size) for size in sizes)
    return text(1, value.name) + data(2, data(1, number(1, TYPES[value.dtype]) + data(2, shape)))


def _entry(key: str, value: str) -> bytes:
    """Return a StringStringEntryProto."""
    return text(1, key) + text(2, value)


def _seal_entry() -> tuple[bytes, bytes]:
    """Return the bytes before and after the checksum: a metadata entry with a value of eight characters."""
    entry = _entry(MARK.decode(), "00000000")
    at = entry.index(MARK)
    return head(14, len(entry)) + entry[:at], entry[at + len(MARK) : -8]


def _initializer(tensor: Tensor, file: str | None, offset: int | None) -> bytes:
    """Return a TensorProto of the graph, up to its raw bytes; all of it if they are in another file."""
    proto = numbers(1, tensor.shape) + number(2, TYPES[tensor.dtype]) + text(8, tensor.name)
    if offset is None:
        proto += head(9, tensor.nbytes)
        return head(5, len(proto) + tensor.nbytes) + proto
    assert file is not None
    facts = {"location": file, "offset": str(offset), "length": str(tensor.nbytes)}
    proto += b"".join(data(13, _entry(key, value)) for key, value in facts.items())
    return data(5, proto + number(14, _EXTERNAL))


def _arrays(tensors: Iterable[Tensor], weights: Weights | None) -> Iterator[Array]:
    """Yield the values of tensors in order; weights are computed ahead on several threads."""
    tensors = list(tensors)
    sizes = {tensor.name: tensor.nbytes for tensor in tensors}
    drawn = (
        weights.in_order([t.name for t in tensors if t.constant is None], sizes.__getitem__) if weights else iter(())
    )
    for tensor in tensors:
        yield next(drawn) if tensor.constant is None else tensor.constant


def _offsets(tensors: Iterable[Tensor]) -> dict[str, int]:
    """Return the offset of each tensor in the data file: on a page boundary, so that it can be memory-mapped."""
    offsets, at = {}, 0
    for tensor in tensors:
        offsets[tensor.name] = at
        at += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    return offsets


def _data(tensors: Sequence[Tensor], weights: Weights) -> Iterator[Chunk]:
    for tensor, array in zip(tensors, _arrays(tensors, weights), strict=True):
        yield _bytes(array)
        yield bytes(-tensor.nbytes % _ALIGNMENT)


def _bytes(array: Array) -> Chunk:
    """Return the raw bytes of an array, little-endian, without a copy if that is its byte order already."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data if little.size else b""
