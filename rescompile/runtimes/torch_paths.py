"""Gradients along single paths, computed by torch's backward pass: the forward pass runs the whole network, and every
merge passes the gradient into one of its branches only (Veit et al. 2016, section 4.3).

Imports torch, so `path_gradients` loads it on demand. The tree is evaluated node by node, since a module
offers no way to control a merge; each op is still computed by its generated module, as a network of this one op.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from rescompile.analysis.paths import entered
from rescompile.ir.network import Network, Op, Parallel, Series
from rescompile.ir.ops import Kind, Shape
from rescompile.ir.provenance import NO_HINTS
from rescompile.ir.traversal import ThreadRules, thread
from rescompile.runtimes.jobs import live_module
from rescompile.weights import Weights

Array = np.ndarray[Any, Any]
#: A run of a merge, in the order of execution: its full name, and 1 for its first run.
Run = tuple[str, int]
#: The branch of a path at each run of a merge on it.
Path = Mapping[Run, int]


class Unravelled:
    """A network in evaluation mode, and the gradient of its loss with respect to its input along any of its paths.

    No gradient flows through branches that are not paths, such as gates: they count as constants.
    """

    def __init__(self, network: Network, weights: Weights, double: bool = False):
        self._network, self._weights = network, weights
        self._type = torch.float64 if double else torch.float32
        self._path: Path | None = None
        self._modules: dict[tuple[Kind, Shape], nn.Module] = {}

    def forward(self, x: Array, labels: Array) -> Array:
        """Run a batch, return its logits, and keep the graph for `backward`. The loss of an example is its
        cross-entropy, summed over positions if there are several."""
        self._x = torch.from_numpy(np.array(x)).to(self._type).requires_grad_()
        self._runs: Counter[str] = Counter()
        logits = thread(self._network.root, self._x, ThreadRules[Tensor](self._apply, self._merge, split=_split))
        self._loss = nn.functional.cross_entropy(logits, torch.from_numpy(np.array(labels)), reduction="sum")
        found: Array = logits.detach().numpy()
        return found

    def backward(self, path: Path | None = None) -> Array:
        """Return the gradient [batch, *input] of each example's loss along one path; without one, along all of them
        together."""
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
            if parameter.dtype != "int64":  # evaluation does not read counters
                own = torch.from_numpy(np.array(self._weights[f"{name}.{parameter.name}"]))
                state[f"layer.{parameter.name}"] = own.to(self._type)
        value: Tensor = functional_call(module, state, (x,))
        return value

    def _merge(self, name: str, node: Parallel, values: list[Tensor]) -> Tensor:
        self._runs[name] += 1
        run = name, self._runs[name]
        values = [
            value.detach() if added is None else _path_filter(value, self, run, at)
            for at, (value, added) in enumerate(zip(values, entered(node), strict=True))
        ]
        if node.survival and node.survival.rescale == "test":
            values[0] = node.survival.probability * values[0]
        return _MERGES[node.merge](values)


def _split(_: str, node: Parallel, x: Tensor) -> Sequence[Tensor]:
    return torch.split(x, [shape[0] for shape in node.given], 1) if node.split else [x] * len(node.branches)


class _PathFilter(torch.autograd.Function):
    """The identity, which passes the gradient only if the current path enters this branch; otherwise nothing before it
    is computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: Unravelled, run: Run, at: int) -> Tensor:
        """Return the input unchanged."""
        ctx.set_materialize_grads(False)
        ctx.owner, ctx.run, ctx.at = owner, run, at
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        """Return the gradient, or none."""
        path = ctx.owner._path
        opened = path is None or path.get(ctx.run) == ctx.at
        return gradients[0] if opened else None, None, None, None


_path_filter: Callable[[Tensor, Unravelled, Run, int], Tensor] = getattr(_PathFilter, "apply")  # noqa: B009  # untyped in torch


def _gate(values: Sequence[Tensor]) -> Tensor:
    branch, gate, shortcut = values
    return gate * branch + (1 - gate) * shortcut


def _mean(values: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, values) / len(values)


_MERGES: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "add": lambda values: reduce(torch.add, values),
    "concat": lambda values: torch.cat(list(values), 1),
    "mul": lambda values: reduce(torch.mul, values),
    "gate": _gate,
    "mean": _mean,
    "shake": _mean,
}
