"""The tensors of a network with the names and axes of MLX: `layer1.0.conv1.weight` as [out, height, width, in]."""

from __future__ import annotations

from collections.abc import Iterator

from rescompile.ir import ops
from rescompile.ir.network import Network
from rescompile.weights import Array
from rescompile.weights import places as of_framework
from rescompile.weights.places import Place, Words

WORDS: Words = {ops.Norm: {"num_batches_tracked": None}}


def places(network: Network) -> Iterator[Place]:
    """Yield the tensors that MLX has, in the order of the tree."""
    return of_framework.places(network, WORDS, _moved)


def _moved(array: Array) -> Array:
    """Return an array of the tree with the axes of MLX: the input channels of a kernel are its last axis."""
    return array.transpose(0, *range(2, array.ndim), 1) if array.ndim > 2 else array
