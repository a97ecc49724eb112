"""Multiply-adds by the conventions of the tools that count them, whose figures for one network differ by a factor of two.

Each tool counts other ops, and a few count operations rather than multiply-adds. A convention is a table: what one op adds, for
each group of ops. Figures are those of one input in evaluation, with each op as the module of `torch.nn` that computes it; no
tool counts the merges of branches. tests/facts/counters.yaml has the figures that the tools themselves print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from rescompile.ir.network import EVALUATION, Network, Op, walk
from rescompile.ir.ops import (
    Act,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    ConvTranspose,
    GlobalAvgPool,
    GlobalMaxPool,
    Kind,
    Linear,
    MaxPool,
    Norm,
    Softmax,
    Upsample,
)
from rescompile.records import record

Group: TypeAlias = Literal["layers", "biases", "norms", "activations", "pools", "resizing"]
#: The groups of ops in the order of a table, with their titles.
GROUPS: Mapping[Group, str] = {
    "layers": "conv and linear", "biases": "biases", "norms": "norms", "activations": "activations",
    "pools": "pools", "resizing": "upsampling",
}  # fmt: skip
#: What one op of a group adds.
Rule: TypeAlias = Callable[[Op], int]


@record
class Convention:
    """How a tool counts. `unit` is what its figure counts, `counts` describes it in a sentence; `rules` has the groups that are
    counted at all. `source` is the file of the tool that defines it, for the `version` that the figures were held to."""

    name: str
    tool: str
    unit: Literal["multiply-adds", "operations"]
    counts: str
    rules: Mapping[Group, Rule]
    source: str
    version: str


@record
class Count:
    """The figure of a convention for a network, with the part of each group."""

    convention: Convention
    parts: Mapping[Group, int]

    @property
    def total(self) -> int:
        """The figure that the tool prints."""
        return sum(self.parts.values())


def counts(network: Network) -> list[Count]:
    """Return the figures of all conventions for a network, its side branches by their mode."""
    ops = [node for _, node in walk(network.root, modes=EVALUATION, again=True) if isinstance(node, Op)]
    return [Count(each, {group: sum(map(rule, ops)) for group, rule in each.rules.items()}) for each in CONVENTIONS]


# --- what one op adds -------------------------------------------------------------------------------------------------


def _inputs(op: Op) -> int:
    return math.prod(op.input)


def _outputs(op: Op) -> int:
    return math.prod(op.output)


def _macs(op: Op) -> int:
    return op.kind.macs(op.input)


def _dense(op: Op) -> int:
    """Transposed convolutions as though each output had the whole kernel, of which it has one value in stride x stride."""
    kind = op.kind
    if not isinstance(kind, ConvTranspose):
        return _macs(op)
    return _outputs(op) * (op.input[0] // kind.groups) * math.prod(kind.kernel)


def _bias(op: Op) -> int:
    return _outputs(op) if isinstance(op.kind, Conv | ConvTranspose | Linear) and op.kind.bias else 0


def by_kind(factors: Mapping[type[Kind], Rule]) -> Rule:
    """Return the rule that adds for an op what the entry of its own type gives; nothing for other types."""
    return lambda op: factors[type(op.kind)](op) if type(op.kind) in factors else 0


def _times_inputs(ops: type[Norm] | type[Act], factors: Mapping[str, int]) -> Rule:
    """Return a multiple of the inputs of a norm or an activation, by its kind."""
    return lambda op: factors.get(op.kind.kind, 0) * _inputs(op) if isinstance(op.kind, ops) else 0


def _upsampled(nearest: Sequence[int], linear: Sequence[int]) -> Rule:
    """Return a multiple of the outputs of an upsampling, by its interpolation and the axes of the map: one, two or three."""
    factors = {"nearest": nearest, "bilinear": linear}
    return lambda op: (
        factors[op.kind.kind][len(op.kind.factor) - 1] * _outputs(op) if isinstance(op.kind, Upsample) else 0
    )


def _of_images(rule: Rule) -> Rule:
    """Return a rule for maps of two axes; others count nothing."""
    return lambda op: rule(op) if len(op.input) == 3 else 0


def _adaptive(op: Op) -> int:
    """Return a sum over each window and a division, for windows of the mean size."""
    return int((math.prod(op.input[1:]) / math.prod(op.output[1:]) + 1) * _outputs(op))


def _softmax(op: Op) -> int:
    """Return an exponential, a sum and a division for each value."""
    return (3 * op.input[0] - 1) * math.prod(op.input[1:])


def _plain_softmax(count: Rule, others: Rule) -> Rule:
    """`count` for a softmax over all channels, which has a module, and another rule for everything else."""
    return lambda op: (count if isinstance(op.kind, Softmax) and op.kind.ranges is None else others)(op)


CONVENTIONS: tuple[Convention, ...] = (
    Convention(
        "rescompile", "rescompile, and most papers", "multiply-adds",
        "multiply-adds of convolutions and linear layers; nothing else",
        {"layers": _macs}, "rescompile/analysis/cost.py", "",
    ),
    Convention(
        "torchvision", "torchvision, GFLOPS of the weights", "multiply-adds",
        "multiply-adds of convolutions and matrix products; called FLOPS, but one multiply-add is one",
        {"layers": _macs}, "test/common_extended_utils.py", "0.28",
    ),
    Convention(
        "fvcore", "fvcore.nn.FlopCountAnalysis", "multiply-adds",
        "those, 2 for each input of a batch norm and 5 of other norms, 1 for each input of an adaptive pool, 1 or 4 for each output "
        "of an upsampling; biases, activations and other pools count nothing",
        {
            "layers": _macs,
            "norms": _times_inputs(Norm, {"batch": 2, "group": 5, "instance": 5, "layer": 5}),
            "pools": _of_images(by_kind({GlobalAvgPool: _inputs, AdaptiveAvgPool: _inputs})),
            "resizing": _upsampled((0, 1, 0), (0, 4, 0)),
        },
        "fvcore/nn/flop_count.py", "0.1.5",
    ),
    Convention(
        "thop", "thop.profile", "multiply-adds",
        "those, 4 for each input of a norm but none for group norms, 1 for each output of a pool with windows, the sums and divisions "
        "of adaptive pools and softmax; biases, relu and max pools count nothing; transposed convolutions count a whole kernel "
        "for each output",
        {
            "layers": _dense,
            "norms": _times_inputs(Norm, {"batch": 4, "instance": 4, "layer": 4}),
            "activations": _plain_softmax(_softmax, _times_inputs(Act, {"prelu": 1})),
            "pools": by_kind({AvgPool: _outputs, GlobalAvgPool: _adaptive, AdaptiveAvgPool: _adaptive}),
            "resizing": _upsampled((1, 1, 1), (5, 11, 31)),
        },
        "thop/vision/basic_hooks.py", "0.1.1",
    ),
    Convention(
        "ptflops", "ptflops, backend pytorch", "multiply-adds",
        "those, 1 for each output of a layer with a bias, 2 for each input of a norm and 1 of a layer norm, and for each input of an "
        "activation or pool 1, which becomes 2 where the module calls a function that is counted too: relu, elu, gelu, prelu, pools, upsampling",
        {
            "layers": _macs,
            "biases": _bias,
            "norms": _times_inputs(Norm, {"batch": 2, "group": 2, "instance": 2, "layer": 1}),
            "activations": _plain_softmax(_inputs, _times_inputs(Act, {"relu": 2, "relu6": 1, "leaky_relu": 1, "elu": 2, "gelu": 2, "gelu_tanh": 2, "prelu": 2, "silu": 1})),
            "pools": by_kind(dict.fromkeys((MaxPool, AvgPool, GlobalAvgPool, GlobalMaxPool, AdaptiveAvgPool), lambda op: 2 * _inputs(op))),
            "resizing": _upsampled((2, 2, 2), (2, 2, 2)),
        },
        "ptflops/pytorch_ops.py", "0.7.5",
    ),
    Convention(
        "ptflops-aten", "ptflops, backend aten", "multiply-adds",
        "multiply-adds of convolutions and matrix products, and 1 for each output of a layer with a bias",
        {"layers": _macs, "biases": _bias}, "ptflops/aten_ops.py", "0.7.5",
    ),
    Convention(
        "torch", "torch.utils.flop_counter", "operations",
        "convolutions and matrix products, a multiply-add as two operations: twice the multiply-adds",
        {"layers": lambda op: 2 * _macs(op)}, "torch/utils/flop_counter.py", "2.13",
    ),
)  # fmt: skip
