"""Gradients along single paths, by torch's own backward pass: the forward pass stays whole, and every merge sends what comes
back into one of its branches only (Veit et al. 2016, section 4.3).

Imports torch, so `path_gradients` loads it when gradients are asked for. The tree is evaluated
node by node, since a module has no place to control a merge; each op is still computed by its generated module,
as a network of this one op.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from rescompile.ir.network import Network, Op, Parallel, Series
from rescompile.ir.ops import Kind, Shape
from rescompile.ir.provenance import NO_HINTS
from rescompile.ir.traversal import ThreadRules, thread
from rescompile.runtimes.jobs import live_module
from rescompile.weights import Weights

Array = np.ndarray[Any, Any]
#: Which branch a path takes at each merge that it meets, by the merge's full name.
Path = Mapping[str, int]


class Unravelled:
    """A network in evaluation mode, and the gradient of its loss with respect to its input along any of its paths.

    `ways` lists for each merge, by its full name, which of its branches are paths. Nothing goes back through the others, such
    as gates, in any case: they count as constants.
    """

    def __init__(self, network: Network, weights: Weights, ways: Mapping[str, Sequence[bool]], double: bool = False):
        self._network, self._weights, self._ways = network, weights, ways
        self._type = torch.float64 if double else torch.float32
        self._path: Path | None = None
        self._modules: dict[tuple[Kind, Shape], nn.Module] = {}

    def forward(self, x: Array, labels: Array) -> Array:
        """Run a batch, whose gradients `backward` then gives; the loss of each example is the cross-entropy with its label
        (summed where there is one for each position). Returns the logits."""
        self._x = torch.from_numpy(np.array(x)).to(self._type).requires_grad_()
        logits = thread(self._network.root, self._x, ThreadRules[Tensor](self._apply, self._merge, split=_split))
        self._loss = nn.functional.cross_entropy(logits, torch.from_numpy(np.array(labels)), reduction="sum")
        found: Array = logits.detach().numpy()
        return found

    def backward(self, path: Path | None = None) -> Array:
        """The gradient [batch, *input] of each example's loss along one path; without one, along all of them together."""
        self._path = path
        gradient = None
        if self._loss.requires_grad:
            (gradient,) = torch.autograd.grad(self._loss, self._x, retain_graph=True, allow_unused=True)
        found: Array = (torch.zeros_like(self._x) if gradient is None else gradient).detach().numpy()
        return found

    def _apply(self, name: str, op: Op, x: Tensor) -> Tensor:
        module = self._modules.get((op.kind, op.input))
        if module is None:
            alone = replace(op, name="layer", hints=NO_HINTS, origin=None, when=None)
            module = live_module(Network("layer", Series((alone,), op.input, op.output)), None)
            self._modules[op.kind, op.input] = module
        state = {}
        for parameter in op.kind.parameters(op.input):
            if parameter.dtype != "int64":  # a counter, which evaluation does not read
                own = torch.from_numpy(np.array(self._weights[f"{name}.{parameter.name}"]))
                state[f"layer.{parameter.name}"] = own.to(self._type)
        value: Tensor = functional_call(module, state, (x,))
        return value

    def _merge(self, name: str, node: Parallel, values: list[Tensor]) -> Tensor:
        values = [
            _valve(value, self, name, at) if way else value.detach()
            for at, (value, way) in enumerate(zip(values, self._ways[name], strict=True))
        ]
        if node.survival and node.survival.rescale == "test":
            values[0] = node.survival.probability * values[0]
        return _MERGES[node.merge](values)


def _split(_: str, node: Parallel, x: Tensor) -> Sequence[Tensor]:
    return x.chunk(len(node.branches), 1) if node.split else [x] * len(node.branches)


class _Valve(torch.autograd.Function):
    """The identity, through which only a path that enters this branch goes back; beyond a closed one nothing is computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: Unravelled, merge: str, at: int) -> Tensor:
        """x."""
        ctx.set_materialize_grads(False)
        ctx.owner, ctx.merge, ctx.at = owner, merge, at
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        """The gradient, or none."""
        path = ctx.owner._path
        opened = path is None or path.get(ctx.merge) == ctx.at
        return gradients[0] if opened else None, None, None, None


_valve: Callable[[Tensor, Unravelled, str, int], Tensor] = getattr(_Valve, "apply")  # noqa: B009  # torch gives it no type


def _gate(values: Sequence[Tensor]) -> Tensor:
    branch, gate, shortcut = values
    return gate * branch + (1 - gate) * shortcut


_MERGES: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "add": lambda values: reduce(torch.add, values),
    "concat": lambda values: torch.cat(list(values), 1),
    "mul": lambda values: reduce(torch.mul, values),
    "gate": _gate,
}
