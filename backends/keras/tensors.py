"""The tensors of a network with the names and axes of Keras: `layer1_0_conv1/kernel` as [height, width, in, out]."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from rescompile.ir import ops
from rescompile.ir.network import Network, Op, Side, join, walk
from rescompile.ir.ops import Shape
from rescompile.ir.traversal import ThreadRules, thread
from rescompile.weights.places import Move, Place, Words

#: The Keras names of the tensors of an op; None for a tensor that Keras lacks.
_LAYER = {"weight": "kernel"}
_NORM = {
    "weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance",
    "num_batches_tracked": None,
}  # fmt: skip
WORDS: Words = {
    ops.Conv: _LAYER, ops.ConvTranspose: _LAYER, ops.Linear: _LAYER,
    ops.Norm: _NORM, ops.Affine: {"weight": "scale"}, ops.Act: {"weight": "alpha"},
}  # fmt: skip
#: The names that Keras assigns to unnamed layers and functions: that of a class, and a number.
AUTOMATIC = re.compile(
    r"(add|any|average_pooling[123]d|cast|concatenate|cropping[123]d|depth_to_space|divide|dropout|elu|equal|exp|"
    r"expand_dims|flatten|flip|floor|gaussian_noise|gelu|get_item|global_average_pooling[123]d|global_max_pooling[123]d|"
    r"greater|greater_equal|hard_sigmoid|hard_swish|input_layer|leaky_relu|less|logical_or|max|max_pooling[123]d|mean|"
    r"multiply|negative|ones_like|pad|permute|power|relu|relu6|repeat|reshape|sigmoid|silu|softmax|"
    r"space_to_depth|split|sqrt|square|squeeze|stack|stop_gradient|subtract|sum|swapaxes|take|tanh|transpose|true_divide|"
    r"up_sampling[123]d|where|zero_padding[123]d|zeros_like)(_[0-9]+)?"
)


def layer_name(path: str) -> str:
    """Return the layer name of an op: dots would make it invalid in PyTorch, which may be the backend of Keras."""
    return path.replace(".", "_")


def connected(network: Network) -> Iterator[tuple[str, Op]]:
    """Yield the ops of a network that a functional model contains: those that an output depends on, even in training
    only."""
    runs: list[tuple[str, Sequence[int]]] = [("", ())]  # the input; a step may run more than once
    ends: list[int] = []

    def run(name: str, sources: Sequence[int]) -> int:
        runs.append((name, sources))
        return len(runs) - 1

    def side(name: str, node: Side, value: int, carry: Callable[[int], int]) -> None:
        if node.mode != "never":
            ends.append(carry(value))

    rules = ThreadRules[int](lambda name, _, value: run(name, [value]), lambda name, _, values: run(name, values), side)
    ends.append(thread(network.root, 0, rules))
    found: set[int] = set()
    while ends:
        if (at := ends.pop()) not in found:
            found.add(at)
            ends += runs[at][1]
    names = {runs[at][0] for at in found}
    for path, node in walk(network.root):
        if isinstance(node, Op) and path in names:
            yield path, node


def places(network: Network) -> Iterator[Place]:
    """Yield the tensors that Keras has, in the order of the tree."""
    for path, node in connected(network):
        words = WORDS.get(type(node.kind), {})
        for parameter in node.kind.parameters(node.input):
            word = words.get(parameter.name, parameter.name)
            if word is not None:
                shape = tuple(parameter.shape[axis] for axis in _axes(len(parameter.shape)))
                if isinstance(node.kind, ops.Act):  # a slope has the axes of a map
                    shape = (*(1 for _ in node.input[1:]), *shape)
                yield Place(join(path, parameter.name), f"{layer_name(path)}/{word}", shape, _to(shape))


def _axes(rank: int) -> tuple[int, ...]:
    """Return the axes of a tensor of the tree in Keras order: [height, width, in, out]."""
    return (*range(2, rank), 1, 0) if rank > 1 else tuple(range(rank))


def _to(shape: Shape) -> Move:
    """Return a function that converts an array of the tree to this shape."""
    return lambda array: array.transpose(_axes(array.ndim)).reshape(shape)
