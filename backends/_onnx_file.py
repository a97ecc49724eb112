"""An ONNX file written as a stream: the graph first, then each tensor as it is made, so that weights are never held twice.

The bytes are those that protobuf itself would write, in the order of field numbers (a test compares them), with the seal
of `rescompile.seal` as the last metadata entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    StringStringEntryProto,
    TensorProto,
    ValueInfoProto,
)

from rescompile.output import Chunk, File
from rescompile.seal import sealed
from rescompile.weights import Array, Weights

IR_VERSION = 10
#: Protobuf cannot hold 2 GiB in one message; above this, weights go to a file beside the model.
EXTERNAL_ABOVE = 3 << 29
_ALIGNMENT = 4096
_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
_WIDTHS = {"float32": 4, "int64": 8}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An initializer: a weight by its name, or a small constant of the graph itself."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    constant: Array | None = None

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        size = _WIDTHS[self.dtype]
        for n in self.shape:
            size *= n
        return size


@dataclass(frozen=True, slots=True)
class Model:
    """Everything of a model but the values of its weights."""

    name: str
    nodes: Sequence[NodeProto]
    tensors: Sequence[Tensor]
    inputs: Sequence[ValueInfoProto]
    outputs: Sequence[ValueInfoProto]
    opset: int
    producer: tuple[str, str]
    metadata: Mapping[str, str]


def files(model: Model, weights: Weights | None, name: str) -> list[File]:
    """The file of a model called `name`, after the file of its weights where they are too large for one."""
    total = sum(tensor.nbytes for tensor in model.tensors)
    if weights is None or total <= EXTERNAL_ABOVE:
        return [File(name, lambda: _model(model, weights, None), total)]
    outside = [tensor for tensor in model.tensors if tensor.constant is None]
    data: list[str] = []
    return [
        # Named after its contents: a model never meets the weights of another one.
        File(f"{name}.{{checksum}}.data", lambda: sealed(_data(outside, weights), b"", b"  "), total, data.append),
        File(name, lambda: _model(model, weights, data[-1])),
    ]


def _model(model: Model, weights: Weights | None, data: str | None) -> Iterator[Chunk]:
    return sealed(_pieces(model, weights, data), *_seal_entry())


def _pieces(model: Model, weights: Weights | None, data: str | None) -> Iterator[Chunk]:
    model_head = ModelProto(ir_version=IR_VERSION, producer_name=model.producer[0], producer_version=model.producer[1])
    graph_head = GraphProto(node=model.nodes, name=model.name).SerializeToString(deterministic=True)
    graph_tail = GraphProto(input=model.inputs, output=model.outputs).SerializeToString(deterministic=True)
    offsets = _offsets([tensor for tensor in model.tensors if tensor.constant is None]) if data else {}
    heads = [_tensor_head(tensor, data, offsets.get(tensor.name)) for tensor in model.tensors]
    inline = [tensor for tensor in model.tensors if tensor.name not in offsets]
    payload = sum(
        len(head) + (0 if tensor.name in offsets else tensor.nbytes)
        for head, tensor in zip(heads, model.tensors, strict=True)
    )
    yield model_head.SerializeToString(deterministic=True)
    yield _tag(7) + _varint(len(graph_head) + payload + len(graph_tail))
    yield graph_head
    arrays = _arrays(inline, weights)
    for head_bytes, tensor in zip(heads, model.tensors, strict=True):
        yield head_bytes
        if tensor.name not in offsets:
            yield _bytes(next(arrays))
    yield graph_tail
    entries = [StringStringEntryProto(key=key, value=value) for key, value in model.metadata.items()]
    tail = ModelProto(opset_import=[OperatorSetIdProto(domain="", version=model.opset)], metadata_props=entries)
    yield tail.SerializeToString(deterministic=True)


def _seal_entry() -> tuple[bytes, bytes]:
    """What stands around the mark: a metadata entry with key `rescompile.seal` and a value of eight characters."""
    entry = StringStringEntryProto(key="rescompile.seal", value="00000000").SerializeToString(deterministic=True)
    return _tag(14) + _varint(len(entry)) + entry[:2], entry[-10:-8]


def _tensor_head(tensor: Tensor, data: str | None, offset: int | None) -> bytes:
    """An initializer of the graph up to its raw bytes; all of it where they are in another file."""
    proto = TensorProto(dims=tensor.shape, data_type=_TYPES[tensor.dtype], name=tensor.name)
    if offset is not None:
        facts = {"location": data, "offset": str(offset), "length": str(tensor.nbytes)}
        proto.external_data.extend(StringStringEntryProto(key=key, value=value) for key, value in facts.items())
        proto.data_location = TensorProto.EXTERNAL
        whole: bytes = proto.SerializeToString(deterministic=True)
        return _tag(5) + _varint(len(whole)) + whole
    head: bytes = proto.SerializeToString(deterministic=True) + _tag(9) + _varint(tensor.nbytes)
    return _tag(5) + _varint(len(head) + tensor.nbytes) + head


def _arrays(tensors: Iterable[Tensor], weights: Weights | None) -> Iterator[Array]:
    """The values of tensors in order, weights made ahead on several threads."""
    tensors = list(tensors)
    sizes = {tensor.name: tensor.nbytes for tensor in tensors}
    drawn = (
        weights.in_order([t.name for t in tensors if t.constant is None], sizes.__getitem__) if weights else iter(())
    )
    for tensor in tensors:
        yield next(drawn) if tensor.constant is None else tensor.constant


def _offsets(tensors: Iterable[Tensor]) -> dict[str, int]:
    """Where each tensor begins in the data file: on pages of its own, so that it can be mapped."""
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
    """The raw bytes of an array, little-endian, without a copy where that is its order already."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data if little.size else b""


def _tag(field: int) -> bytes:
    """The tag of a length-delimited protobuf field."""
    return _varint(field << 3 | 2)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
