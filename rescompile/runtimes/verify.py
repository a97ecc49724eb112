"""Whether what was compiled computes what its spec means: every target and runtime against the interpreter, on the same weights.

`accuracy` has the rule of what is rounding and what is a mistake. Statistics of norms are calibrated first: a deep network with
fresh norms overflows, and one infinity would be compared with another.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rescompile import backend as door
from rescompile.analysis.dynamic_shapes import AXES, sizes
from rescompile.diagnostics.errors import Diagnostic, RescompileError, Unavailable, UsageError, nearest, one_of
from rescompile.ir.network import LOGITS, Network, Node, Op, Series, Side, name_of, scope_of, walk
from rescompile.ir.precision import FLOATS, PRECISIONS
from rescompile.ir.traversal import rewrite
from rescompile.passes import PASSES, apply
from rescompile.runtimes import Runtime, find
from rescompile.runtimes.accuracy import Arrays, Reference
from rescompile.runtimes.jobs import job
from rescompile.weights import Array, Weights
from rescompile.weights.calibrated import trial


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be verified, and with what.

    `targets` are compared, then each of `runtimes` in those of `precisions` that it supports. Without `weights` seeded ones are
    taken, with calibrated statistics. `passes` are applied to what is compiled, and not to the reference. With `dynamic` the
    targets leave these axes of the image free, and are compared at another size than the spec's.
    """

    network: Network
    targets: Sequence[str]
    seed: int = 0
    batch: int = 2
    weights: Weights | None = None
    passes: Mapping[str, Any] = field(default_factory=dict)
    runtimes: Sequence[str] = ()
    precisions: Sequence[str] = ("fp32",)
    dynamic: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the input. Raises UsageError where an axis cannot be free."""
        own = self.network.input
        return self.batch, *(own if self.dynamic is None else other_size(self.network, self.dynamic))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one target: the worst error of its outputs, the bound, and the first part that is past it. `runtime` is the
    one that it ran in, with its options, if one was asked for; `facts` are what the runtime reports of itself."""

    target: str
    error: float
    bound: float
    first: str | None = None
    runtime: str | None = None
    precision: str = "fp32"
    facts: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound; one that is not a number is not."""
        return math.isfinite(self.error) and self.error <= self.bound


def verify(request: Request) -> Iterator[Verdict]:
    """Compare targets and runtimes with the interpreter, one verdict after the other.

    Raises UsageError for an unknown target or precision and for an axis that cannot be free, and Unavailable where a target or
    runtime is missing or does not do what was asked.
    """
    cases = [_target_case(target, request.dynamic) for target in request.targets]
    cases += _runtime_cases(request.runtimes, request.precisions)
    if not cases:
        raise UsageError(Diagnostic("E0802", "there is nothing to verify", help="name a target or a runtime"))
    passes = dict(request.passes)
    other = {step.keyword: passes.pop(step.keyword) for step in PASSES if not step.exact and step.keyword in passes}
    network, weights = request.network, request.weights
    if other:  # passes that make another function: the reference is that one too
        network, weights = apply(network, weights, other)
    x = np.random.default_rng(request.seed).standard_normal(request.shape, np.float32)
    weights = trial(network, request.seed) if weights is None else weights
    reference = Reference(network, weights, x)
    for case in cases:
        bound = reference.bound(case.precision)
        outputs, facts = _outputs(case, network, weights, x, passes)
        error = reference.error(outputs)
        first = None
        if not error <= bound:
            first = _first_difference(case, Reference(tap_all(network), weights, x), passes)
        yield Verdict(case.target, error, bound, first, case.runtime, case.precision, facts)


@dataclass(frozen=True, slots=True)
class _Case:
    """What is compared: how to run a target, where, and in which precision."""

    target: str
    run: Callable[[Network, Weights, Array], tuple[Arrays, Mapping[str, Any] | None]]
    runtime: str | None = None
    precision: str = "fp32"


def _outputs(
    case: _Case, network: Network, weights: Weights, x: Array, passes: Mapping[str, Any]
) -> tuple[Arrays, Mapping[str, Any] | None]:
    compiled, compiled_weights = apply(network, weights, passes)
    assert compiled_weights is not None
    return case.run(compiled, compiled_weights, x)


def _target_case(target: str, dynamic: str | None) -> _Case:
    """A target that evaluates its own artifacts. Raises UsageError where it does not, Unavailable where it cannot here."""
    known = list(door.targets())
    if target not in known:
        help = nearest(target, known) or f"the targets are {', '.join(known)}"
        raise UsageError(Diagnostic("E0802", f"unknown target '{target}'", help=help))
    backend = door.evaluator(target)
    options = door.checked(backend, target, {} if dynamic is None else {"dynamic": dynamic})

    def run(network: Network, weights: Weights, x: Array) -> tuple[Arrays, None]:
        assert backend.evaluate is not None
        try:
            return backend.evaluate(network, weights, x, **options), None
        except RescompileError:
            raise
        except Exception as error:
            if target in door.built_in():
                raise
            message = f"the target '{target}' cannot be evaluated: {type(error).__name__}: {error}"
            raise UsageError(Diagnostic("E0801", message)) from error

    return _Case(target, run)


def _runtime_cases(runtimes: Sequence[str], precisions: Sequence[str]) -> list[_Case]:
    """Every runtime in every precision that it supports, before anything is computed."""
    if runtimes and not precisions:
        message = "runtimes are verified in a precision"
        raise UsageError(Diagnostic("E0802", message, help=f"use {one_of(FLOATS)}"))
    for precision in precisions:
        if precision not in FLOATS:
            message, help = f"unknown precision '{precision}'", nearest(precision, FLOATS)
            if precision in PRECISIONS:
                message, help = f"{precision} cannot be verified: its rounding depends on calibration", None
            raise UsageError(Diagnostic("E0802", message, help=help or f"use {one_of(FLOATS)}"))
    cases: list[_Case] = []
    for text in runtimes:
        runtime, options = find(text)
        supported = [precision for precision in precisions if precision in runtime.precisions]
        reason = runtime.missing() if supported else f"it does not run {one_of(precisions)}"
        if reason is not None:
            help = runtime.how() if supported else f"supported precisions: {', '.join(runtime.precisions)}"
            raise Unavailable(Diagnostic("E0901", f"{runtime.name} cannot run here: {reason}", help=help))
        cases += [_Case(runtime.takes, _in_runtime(runtime, options, each), text.strip(), each) for each in supported]
    return cases


def _in_runtime(
    runtime: Runtime, options: Mapping[str, Any], precision: str
) -> Callable[[Network, Weights, Array], tuple[Arrays, Mapping[str, Any]]]:
    """Runs a network in a runtime, which reports facts of itself."""

    def run(network: Network, weights: Weights, x: Array) -> tuple[Arrays, Mapping[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            prepared = runtime.prepare(job(runtime, network, weights, x, precision, Path(folder)), options)
            try:
                return prepared.outputs(), prepared.facts
            finally:
                prepared.close()

    return run


def other_size(network: Network, dynamic: str) -> tuple[int, ...]:
    """The shape of an image whose free axes are not those of the spec: higher by half, and narrower where it may be. Raises
    UsageError where an axis cannot be free."""
    free = {axis.name: axis for axis in sizes(network, dynamic).free}
    channels, height, width = network.input
    wished = {"height": height + height // 2 + 1, "width": width - width // 4 - 1}
    own = zip(AXES, (height, width), strict=True)
    return channels, *(free[name].after(wished[name]) if name in free else n for name, n in own)


# --- the first part that differs --------------------------------------------------------------------------------------


def _first_difference(case: _Case, reference: Reference, passes: Mapping[str, Any]) -> str | None:
    """The first part whose map is past the bound; `reference` is that of the network with all parts as outputs."""
    outputs, _ = _outputs(case, reference.network, reference.weights, reference.x, passes)
    for name in [*(name for name in reference.exact if name != LOGITS), LOGITS]:
        if not reference.error(outputs, name) <= reference.bound(case.precision, name):
            return name
    return None


def tap_all(network: Network) -> Network:
    """The network with an output after each of its parts outside of merges, called as the part. The network's own outputs keep
    their names, and parts with such a name get none."""
    taken = {node.output_name for _, node in walk(network.root) if isinstance(node, Side)}

    outside = {path for path, node in walk(network.root, into=Series) if name_of(node) is not None} - taken

    def tap(path: str, node: Node) -> Node | tuple[Node, Node]:
        if path not in outside or name_of(node) is None or (isinstance(node, Op) and scope_of(path)):
            return node
        return node, Side(Series((), node.output, node.output), path, "always", node.output)

    return replace(network, root=rewrite(network.root, tap))
