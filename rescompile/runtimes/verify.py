"""Checks whether compiled networks compute what their specs mean: every target and runtime is compared with the
interpreter, on the same weights.

`accuracy` distinguishes rounding errors from bugs. The statistics of norms are calibrated first: a deep network with
freshly initialised norms overflows, and infinities would be compared with each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from rescompile import backend as backend_api
from rescompile.analysis.dynamic_shapes import Free, axis_names, sizes
from rescompile.diagnostics.errors import Diagnostic, RescompileError, Unavailable, UsageError, nearest, one_of
from rescompile.diagnostics.text_table import html_table
from rescompile.ir.network import LOGITS, Network, Node, Op, Series, Side, name_of, scope_of, walk
from rescompile.ir.precision import FLOATS, PRECISIONS
from rescompile.ir.refitting import runs_again
from rescompile.ir.traversal import rewrite
from rescompile.passes import PASSES, apply
from rescompile.records import record
from rescompile.runtimes import find, memory
from rescompile.runtimes.accuracy import Arrays, Reference, relative_error
from rescompile.runtimes.jobs import run
from rescompile.weights import Array, Weights
from rescompile.weights.batch_statistics import trial


@record
class Request:
    """A request to verify targets and runtimes.

    `targets` are compared, then each of `runtimes` in those of `precisions` that it supports. Without `weights`, seeded
    ones with calibrated statistics are used. `passes` are applied to the compiled network, not to the reference. With
    `dynamic`, these axes of the image are dynamic, and the targets are compared at a size other than that of the spec.
    With `parts`, the error of each part is measured too. With `refused`, a target that cannot have the network is
    reported to it, with the reason, and left out.
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
    parts: bool = False
    refused: Callable[[str, Diagnostic], None] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the input. Raises UsageError if an axis cannot be dynamic."""
        free = () if self.dynamic is None else sizes(self.network, self.dynamic).free
        return self.batch, *other_size(self.network, free)


Status = Literal["ok", "differs", "not finite", "not compared"]


@record
class Verdict:
    """The result of one target: the largest error of its outputs, the bound, and the first part whose error exceeds it.

    `status` is `not finite` if only the target's outputs are NaN or infinite, and `not compared` if the interpreter's
    own are; `first` is then the first such value. `like` is an earlier target with the same wrong outputs, `at_fault`
    the pass after which the interpreter itself computes something else. `runtime` is the requested runtime with its
    options, or None; `facts` are reported by the runtime. `parts` contains the errors of parts by name, in order, if
    they were requested.
    """

    target: str
    error: float
    bound: float
    status: Status
    first: str | None = None
    runtime: str | None = None
    precision: str = "fp32"
    facts: Mapping[str, Any] | None = None
    like: str | None = None
    at_fault: str | None = None
    parts: Mapping[str, float] | None = None

    @property
    def passed(self) -> bool:
        """Whether the outputs equal those of the interpreter, up to rounding."""
        return self.status == "ok"

    @property
    def name(self) -> str:
        """The target, or the runtime in which it ran."""
        return self.runtime or self.target

    def _repr_html_(self) -> str:
        """Return what a notebook shows: a table of the verdict, and the errors of its parts if they were requested."""
        rows = [("", "precision", "error", "bound", "", "first difference")]
        rows.append(
            (self.name, self.precision, f"{self.error:.2e}", f"{self.bound:.2e}", self.status, self.first or "")
        )
        shown = html_table(rows, "<<>><")
        parts = [(name, f"{error:.2e}") for name, error in (self.parts or {}).items()]
        return shown + (html_table([("part", "error"), *parts], "<>") if parts else "")


def verify(request: Request) -> Iterator[Verdict]:
    """Compare targets and runtimes with the interpreter, one verdict after the other.

    Raises UsageError for an unknown target or precision and for an axis that cannot be dynamic, and Unavailable if a
    target or runtime is missing or does not run as requested, or, without `refused`, if a target cannot have the
    network.
    """
    cases = [_target_case(target, request.dynamic) for target in request.targets]
    cases += _runtime_cases(request.runtimes, request.precisions)
    if not cases:
        raise UsageError.of("E0802", "there is nothing to verify", help="name a target or a runtime")
    passes = dict(request.passes)
    other = {step.keyword: passes.pop(step.keyword) for step in PASSES if not step.exact and step.keyword in passes}
    network, weights = request.network, request.weights
    if other:  # passes that change the function also apply to the reference
        network, weights = apply(network, weights, other)
    memory.check_interpreter(network, request.batch)
    x = np.random.default_rng(request.seed).standard_normal(request.shape, np.float32)
    weights = trial(network, request.seed, x) if weights is None else weights
    reference = Reference(network, weights, x)
    tapped = Reference(tap_all(network), weights, x) if request.parts else None
    wrong: dict[str, Arrays] = {}
    for case in cases:
        try:
            verdict, outputs = _compared(case, reference, passes)
        except Unavailable as error:
            if request.refused is None or case.runtime is not None:
                raise
            request.refused(case.target, error.diagnostics[0])
            continue
        if not verdict.passed and outputs:
            like = next((name for name, each in wrong.items() if relative_error(outputs, each) <= verdict.bound), None)
            verdict = replace(verdict, like=like, at_fault=_wrong_pass(reference, passes, verdict.precision))
            wrong[verdict.name] = outputs
        if tapped is not None and verdict.status != "not compared":
            verdict = replace(verdict, parts=dict(_errors(case, tapped, passes)))
        yield verdict


def _compared(case: _Case, reference: Reference, passes: Mapping[str, Any]) -> tuple[Verdict, Arrays]:
    """Return the verdict on one case, and its outputs, which are empty if there is nothing to compare them with."""
    verdict = Verdict(case.target, math.inf, math.inf, "not compared", None, case.runtime, case.precision)
    if (first := reference.overflow(case.precision)) is not None:
        return replace(verdict, first=first), {}
    network, weights, x = reference.network, reference.weights, reference.x
    outputs, facts = _outputs(case, network, weights, x, passes)
    error = reference.error(outputs)
    bound = reference.bound(case.precision, error=error)
    verdict = replace(verdict, error=error, bound=bound, facts=facts)
    if error <= bound < math.inf:
        return replace(verdict, status="ok"), outputs
    finite = all(np.isfinite(value).all() for value in outputs.values())
    first = _first_difference(case, Reference(tap_all(network), weights, x), passes)
    return replace(verdict, status="differs" if finite else "not finite", first=first), outputs


def _wrong_pass(reference: Reference, passes: Mapping[str, Any], precision: str) -> str | None:
    """Return the first pass after which the interpreter computes something else, in which case no target is at
    fault."""
    options: dict[str, Any] = {}
    for step in PASSES:
        if step.keyword in passes:
            options[step.keyword] = passes[step.keyword]
            network, weights = apply(reference.network, reference.weights, options)
            assert weights is not None
            if not reference.error(Reference(network, weights, reference.x).exact) <= reference.bound(precision):
                return step.name
    return None


def conclusion(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield lines that name what is at fault: a pass, single targets or runtimes, code that several of them share, or
    the weights."""
    right = [verdict.name for verdict in verdicts if verdict.passed]
    for first in dict.fromkeys(verdict.first for verdict in verdicts if verdict.status == "not compared"):
        yield f"the network itself is not finite with these weights, from {first} on: no target can be compared"
    for verdict in verdicts:
        if verdict.status not in ("differs", "not finite"):
            continue
        same = [other.name for other in verdicts if other.like == verdict.name]
        names = one_of([verdict.name, *same], "and")
        if verdict.at_fault is not None:
            yield f"the pass {verdict.at_fault} is at fault: after it the interpreter, too, computes something else"
            return
        if verdict.like is not None:
            continue
        if same and not right:
            yield f"{names} compute the same: what they share is at fault, or the interpreter"
        else:
            others = f": {one_of(right, 'and')} agree{'s' * (len(right) == 1)} with the interpreter" if right else ""
            yield f"{names} {'share one mistake' if same else 'is at fault'}{others}"


@record
class _Case:
    """One comparison: how to run a target, in which runtime, and in which precision."""

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
    """Return the case of a target that evaluates its own artifacts. Raises UsageError if it cannot evaluate them, and
    Unavailable if it cannot on this machine."""
    known = list(backend_api.targets())
    if target not in known:
        help = nearest(target, known) or f"the targets are {', '.join(known)}"
        raise UsageError.of("E0802", f"unknown target '{target}'", help=help)
    backend = backend_api.evaluator(target)
    options = backend_api.checked(backend, target, {} if dynamic is None else {"dynamic": dynamic})

    def evaluated(network: Network, weights: Weights, x: Array) -> tuple[Arrays, None]:
        assert backend.evaluate is not None
        try:
            return backend.evaluate(network, weights, x, **options), None
        except RescompileError:
            raise
        except Exception as error:
            if target in backend_api.built_in():
                raise
            message = f"the target '{target}' cannot be evaluated: {type(error).__name__}: {error}"
            raise UsageError.of("E0801", message) from error

    return _Case(target, evaluated)


def _runtime_cases(runtimes: Sequence[str], precisions: Sequence[str]) -> list[_Case]:
    """Return every runtime in every precision that it supports, before anything is computed."""
    if runtimes and not precisions:
        raise UsageError.of("E0802", "runtimes are verified in a precision", help=f"use {one_of(FLOATS)}")
    for precision in precisions:
        if precision not in FLOATS:
            message, help = f"unknown precision '{precision}'", nearest(precision, FLOATS)
            if precision in PRECISIONS:
                message, help = f"{precision} cannot be verified: its rounding depends on calibration data", None
            raise UsageError.of("E0802", message, help=help or f"use {one_of(FLOATS)}")
    cases: list[_Case] = []
    for text in runtimes:
        runtime, options = find(text)
        supported = [precision for precision in precisions if precision in runtime.precisions]
        if not supported:
            message = f"{runtime.name} cannot run here: it does not support {one_of(precisions)}"
            raise Unavailable.of("E0901", message, help=f"supported precisions: {', '.join(runtime.precisions)}")
        if (problem := runtime.problem()) is not None:
            raise Unavailable(problem)
        cases += [_Case(runtime.takes, partial(run, runtime, options, each), text.strip(), each) for each in supported]
    return cases


def other_size(network: Network, axes: Iterable[Free]) -> tuple[int, ...]:
    """Return the shape of an input that differs from that of the spec in the dynamic axes: 1.5 times as large, and
    narrower if possible."""
    free = {axis.name: axis for axis in axes}
    if not free:
        return network.input
    channels, *sizes = network.input
    own = zip(axis_names(network.input), sizes, strict=True)
    wished = {name: n - n // 4 - 1 if name == "width" else n + n // 2 + 1 for name, n in own}
    own = zip(wished, sizes, strict=True)
    return channels, *(free[name].after(wished[name]) if name in free else n for name, n in own)


# --- the first part that differs --------------------------------------------------------------------------------------


def _first_difference(case: _Case, reference: Reference, passes: Mapping[str, Any]) -> str | None:
    """Return the first part whose feature map exceeds the bound; `reference` is that of the network with all parts as
    outputs."""
    errors = _errors(case, reference, passes)
    return next((name for name, error in errors if not error <= reference.bound(case.precision, name)), None)


def _errors(case: _Case, reference: Reference, passes: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the error of each part in order, the logits last; `reference` is that of the network with all parts as
    outputs."""
    outputs, _ = _outputs(case, reference.network, reference.weights, reference.x, passes)
    for name in [*(name for name in reference.exact if name != LOGITS), LOGITS]:
        yield name, reference.error(outputs, name)


def tap_all(network: Network) -> Network:
    """Return the network with an output after each of its parts outside of merges, named like the part. The network's
    own outputs keep their names, and parts with such a name get no output, nor do those that run again."""
    taken = {node.output_name for _, node in walk(network.root) if isinstance(node, Side)}

    twice = runs_again(network.root)
    outside = {
        path for path, node in walk(network.root, into=Series) if name_of(node) is not None and not twice(path)
    } - taken

    def tap(path: str, node: Node) -> Node | tuple[Node, Node]:
        if path not in outside or name_of(node) is None or (isinstance(node, Op) and scope_of(path)):
            return node
        return node, Side(Series((), node.output, node.output), path, "always", node.output)

    return replace(network, root=rewrite(network.root, tap))
