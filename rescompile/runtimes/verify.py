"""Whether what was compiled computes what it should: every target against the tree in float64, on the same weights.

The rule is relative to rounding itself: an output passes if its error against float64 is at most three times that of plain
torch in the same precision, on the same weights and input, or what rounding does to the longest mean. Statistics are calibrated first: a deep network with fresh norms overflows,
and would compare one infinity with another.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rescompile import backend as door
from rescompile.analysis.dynamic_shapes import AXES, sizes
from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError, nearest, one_of
from rescompile.ir.network import LOGITS, Network, Op, Parallel, Series, Side, join, name_of, parameters, walk
from rescompile.ir.ops import AdaptiveAvgPool, AvgPool, GlobalAvgPool, Norm
from rescompile.ir.precision import FLOATS, PRECISIONS
from rescompile.passes import PASSES, apply
from rescompile.runtimes import RUNTIMES, Runtime, find
from rescompile.runtimes.jobs import job
from rescompile.weights import Array, Weights, draw

TARGETS = ("onnx", "torch", "source")
#: A correct result is at most so many times as far from float64 as torch's own float32 ...
TIMES = 3
#: ... or as this: the rounding of a single operation in float32, and in the others by the bits that their numbers keep ...
FLOOR = 2e-7
#: ... or as this, times the root of how many values a mean of the network is taken over: what adding them one after the other
#: does in float32, which runtimes sum in whatever the precision (Higham and Mary 2019). Torch adds by pairs, and a mean takes
#: away what rounding did before it, so next to it three times its error is less than ONNX Runtime's sum of a map of 16x16.
UNIT = FLOATS["fp32"].unit

Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one target gave: the worst error of its outputs, the bound, and the first part that is past it. `runtime` is the
    one that it ran in, with its options, if one was asked for; `facts` are what the runtime says of itself."""

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


def verify(
    network: Network,
    targets: Sequence[str] = TARGETS,
    seed: int = 0,
    batch: int = 2,
    weights: Weights | None = None,
    passes: Mapping[str, Any] | None = None,
    runtimes: Sequence[str] = (),
    precisions: Sequence[str] = ("fp32",),
    dynamic: str | None = None,
) -> Iterator[Verdict]:
    """Compare each target with float64, one verdict after the other; then what each of `runtimes` gives, in those of
    `precisions` that it has.

    `weights` are used as they are; without them new ones are drawn, norms get scales of random sign, and the statistics are
    those of a seeded batch. `passes` are applied to what is compiled, and not to the reference. With `dynamic`, the targets
    leave these axes of the image free, and are compared at another size than the spec's. Raises UsageError for an unknown
    target or precision and for an axis that cannot be free, and Unavailable where a target or runtime is not there or does
    not do what was asked.
    """
    for target in targets:
        if target not in TARGETS:
            help = nearest(target, TARGETS) or f"the targets are {', '.join(TARGETS)}"
            raise UsageError(Diagnostic("E0802", f"'{target}' cannot be verified", help=help))
    cases = [_Case(target, partial(_RUNS[target], dynamic=dynamic)) for target in targets] + _cases(
        runtimes, precisions
    )
    if not cases:
        raise UsageError(Diagnostic("E0802", "there is nothing to verify", help="name a target or a runtime"))
    passes = dict(passes or {})
    other = {step.keyword: passes.pop(step.keyword) for step in PASSES if not step.exact and step.keyword in passes}
    if other:  # passes that make another function: the reference is that one too
        network, weights = apply(network, weights, other)
    shape = network.input if dynamic is None else other_size(network, dynamic)
    torch: Any = door.load("torch")
    x = np.random.default_rng(seed).standard_normal((batch, *shape), np.float32)
    held = weights if weights is not None else trial(network, seed)
    exact = torch.evaluate(network, held, x, double=True)
    bounds: dict[str, float] = {}
    compiled, its = apply(network, held, passes)
    assert its is not None
    for case in cases:
        if case.precision not in bounds:
            plain = _eager(case.precision)(network, held, x)
            bounds[case.precision] = _bound(plain, exact, floor(network, FLOATS[case.precision].bits))
        bound = bounds[case.precision]
        error = relative_error(case.run(compiled, its, x), exact)
        facts = case.run.facts if isinstance(case.run, _InRuntime) else None
        first = None
        if not error <= bound:
            first = _first_difference(case, torch, network, held, x, passes)
        yield Verdict(case.target, error, bound, first, case.runtime, case.precision, facts)


@dataclass(frozen=True, slots=True)
class _Case:
    """What is compared: what runs a target, where, and in which precision."""

    target: str
    run: Callable[[Network, Weights, Array], Arrays]
    runtime: str | None = None
    precision: str = "fp32"


def _cases(runtimes: Sequence[str], precisions: Sequence[str]) -> list[_Case]:
    """Every runtime in every precision that it has, before anything is computed."""
    for precision in precisions:
        if precision not in FLOATS:
            if precision in PRECISIONS:
                message, help = f"{precision} cannot be verified: torch has no eager {precision} to compare with", None
            else:
                message, help = f"there is no precision '{precision}'", nearest(precision, FLOATS)
            raise UsageError(Diagnostic("E0802", message, help=help or f"there are {one_of(FLOATS)}"))
    cases: list[_Case] = []
    if runtimes and not precisions:
        raise UsageError(
            Diagnostic("E0802", "runtimes are verified in a precision", help=f"there are {one_of(FLOATS)}")
        )
    for text in runtimes:
        runtime, options = find(text)
        done = [precision for precision in precisions if precision in runtime.precisions]
        reason = runtime.missing() if done else f"it does not run {one_of(precisions)}"
        if reason is not None:
            help = runtime.how() if done else f"it has {one_of(runtime.precisions)}"
            raise Unavailable(Diagnostic("E0901", f"{runtime.name} cannot run here: {reason}", help=help))
        cases += [_Case(runtime.takes, _InRuntime(runtime, options, each), text.strip(), each) for each in done]
    return cases


def other_size(network: Network, dynamic: str) -> tuple[int, ...]:
    """The shape of an image whose free axes are not those of the spec: higher by half, and narrower where it may be. Raises
    UsageError where an axis cannot be free."""
    found = {axis.name: axis for axis in sizes(network, dynamic).free}
    channels, *own = network.input
    wished = {"height": own[0] + own[0] // 2 + 1, "width": own[1] - own[1] // 4 - 1}
    return channels, *(
        found[name].after(wished[name]) if name in found else n for name, n in zip(AXES, own, strict=True)
    )


# --- weights ----------------------------------------------------------------------------------------------------------


def trial(network: Network, seed: int) -> Weights:
    """Weights under which every mistake shows and nothing overflows or vanishes: scales of random sign, and the statistics
    of a seeded batch. They stay in memory. Raises Unavailable where torch, which computes the statistics, is missing."""
    torch: Any = door.load("torch")
    return _held(torch.calibrated(network, _lively(network, seed), seed))


def _lively(network: Network, seed: int) -> Weights:
    """New weights, with scales of random sign and shifts: fresh norms hide what stands on which side of them.

    Shifts are positive, about as large as scales. Where a norm is followed by a ReLU and half of its values are cut off, each
    layer enlarges a small difference (Schoenholz et al. 2017; Yang et al. 2019): in resnet50 bfloat16 was then off by
    12%, and float32 by 1.4e-5, under which small mistakes hide. With these shifts it is 0.8% and 5e-7, as in trained networks.
    """
    drawn = draw(network, seed)
    generator = np.random.default_rng(seed)
    makers: dict[str, Callable[[], Array]] = {}
    norms = {f"{name}." for name, node in walk(network.root) if isinstance(node, Op) and isinstance(node.kind, Norm)}
    for name, parameter in parameters(network):
        scope, last = name[: name.rfind(".") + 1], name.rpartition(".")[2]
        if scope in norms and last in ("weight", "bias"):
            value = generator.uniform(0.5, 1.5, parameter.shape)
            value = value if last == "bias" else value * generator.choice((-1.0, 1.0), parameter.shape)
            makers[name] = _give(value.astype(np.float32))
    return drawn.replaced(makers)


def _held(arrays: Arrays) -> Weights:
    """Weights that stay in memory."""
    return Weights({name: _give(array) for name, array in arrays.items()})


def _give(array: Array) -> Callable[[], Array]:
    return lambda: array


# --- errors -----------------------------------------------------------------------------------------------------------


def relative_error(outputs: Arrays, exact: Arrays) -> float:
    """The worst relative error of all outputs, each by root mean square; infinite where something is missing or odd."""
    worst = 0.0
    for name, wanted in exact.items():
        given = outputs.get(name)
        if given is None or given.shape != wanted.shape:
            return math.inf
        difference = math.sqrt(float(np.mean((given.astype(np.float64) - wanted) ** 2)))
        size = math.sqrt(float(np.mean(wanted**2)))
        error = difference / size if size else difference
        worst = max(worst, error) if math.isfinite(error) else math.inf
    return worst


def floor(network: Network | None, bits: int) -> float:
    """How far an output of a network may be off where numbers keep so many bits, however little torch is. None is a network
    of which nothing is known."""
    longest = 1 if network is None else _longest_mean(network)
    return max(FLOOR * 2.0 ** (FLOATS["fp32"].bits - bits), UNIT * math.sqrt(longest))


def _longest_mean(network: Network) -> int:
    """The most values that one mean over positions of a map is taken over; 1 where there is no such mean."""
    longest = 1
    for _, node in walk(network.root):
        if isinstance(node, Op) and isinstance(node.kind, AvgPool):
            longest = max(longest, math.prod(node.kind.kernel))
        elif isinstance(node, Op) and isinstance(node.kind, GlobalAvgPool | AdaptiveAvgPool):
            longest = max(longest, math.prod(-(-n // m) for n, m in zip(node.input[1:], node.output[1:], strict=True)))
    return longest


def _bound(plain: Arrays, exact: Arrays, least: float) -> float:
    """How far an output may be off, where plain torch gave `plain`, and at `least`."""
    return max(TIMES * relative_error(plain, exact), least)


def _first_difference(
    case: _Case, torch: Any, network: Network, held: Weights, x: Array, passes: Mapping[str, Any]
) -> str | None:
    """The first part whose map is past the bound: every part outside of merges becomes an output."""
    tapped = tap_all(network)
    exact = torch.evaluate(tapped, held, x, double=True)
    plain = _eager(case.precision)(tapped, held, x)
    compiled, its = apply(tapped, held, passes)
    assert its is not None
    given = case.run(compiled, its, x)
    least = floor(network, FLOATS[case.precision].bits)
    order: list[str] = [*(name for name in exact if name != LOGITS), LOGITS]
    for name in order:
        bound = _bound({name: plain[name]}, {name: exact[name]}, least)
        if name not in given or not relative_error({name: given[name]}, {name: exact[name]}) <= bound:
            return name
    return None


def tap_all(network: Network) -> Network:
    """The network with an output after each of its parts outside of merges, called as the part."""

    def visit(series: Series, path: str) -> Series:
        children: list[Any] = []
        for child in series.children:
            full = join(path, name_of(child))
            inside = isinstance(child, Series)
            children.append(visit(child, full) if isinstance(child, Series) else child)
            named = not isinstance(child, Side) and name_of(child) is not None
            if named and (inside or isinstance(child, Parallel) or path == ""):
                children.append(Side(Series((), child.output, child.output), full, "always", child.output))
        return replace(series, children=tuple(children))

    taken = {node.output_name for _, node in walk(network.root) if isinstance(node, Side)}
    root = visit(network.root, "")
    if taken - {None}:  # the network's own outputs keep their names, and what is called like them gets none
        root = _without(root, {name for name in taken if name})
    return replace(network, root=root)


def _without(series: Series, names: set[str]) -> Series:
    """The tree without added outputs of these names."""
    children: list[Any] = []
    for child in series.children:
        if isinstance(child, Side) and child.output_name in names and not child.child.children and child.origin is None:
            continue
        children.append(_without(child, names) if isinstance(child, Series) else child)
    return replace(series, children=tuple(children))


# --- targets ----------------------------------------------------------------------------------------------------------


def _torch(network: Network, weights: Weights, x: Array, dynamic: str | None = None) -> Arrays:
    """The module, which takes images of any size that the network takes."""
    torch: Any = door.load("torch")
    outputs: Arrays = torch.evaluate(network, weights, x)
    return outputs


def _onnx(network: Network, weights: Weights, x: Array, dynamic: str | None) -> Arrays:
    from rescompile.runtimes.ort_session import evaluate

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        options = {} if dynamic is None else {"dynamic": dynamic}
        door.load("onnx").emit(network, weights, **door.checked(door.load("onnx"), "onnx", options)).write(path)
        return evaluate(path, x)


def _source(network: Network, weights: Weights, x: Array, dynamic: str | None) -> Arrays:
    """The file alone, in a process of its own that has no rescompile."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        door.load("source").emit(network, None, style="classes", dynamic=dynamic).write(here / "network_source.py")
        arrays = {name: weights[name] for name, _ in parameters(network) if name in weights}
        np.savez(str(here / "weights.npz"), allow_pickle=False, **arrays)
        np.save(here / "input.npy", x)
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSTARTUP")}
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT], cwd=here, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise UsageError(
                Diagnostic("E0801", f"the source cannot be run: {lines[-1] if lines else 'it said nothing'}")
            )
        with np.load(here / "outputs.npz") as outputs:
            return {name: outputs[name] for name in outputs.files}


_SCRIPT = """
import types
import numpy, torch, network_source
assert "rescompile" not in __import__("sys").modules
torch.manual_seed(0)
make = [value for value in vars(network_source).values() if isinstance(value, types.FunctionType)][-1]
module = make()
state = {name: torch.from_numpy(array) for name, array in numpy.load("weights.npz").items()}
missing, unexpected = module.load_state_dict(state, strict=False)
assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), (missing, unexpected)
with torch.no_grad():
    outputs = module.eval()(torch.from_numpy(numpy.load("input.npy")))
outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
numpy.savez("outputs.npz", **{name: value.numpy() for name, value in outputs.items()})
"""


class _InRuntime:
    """Runs a network in a runtime: as an ONNX file, or as a module of torch."""

    def __init__(self, runtime: Runtime, options: Mapping[str, Any], precision: str) -> None:
        self.runtime, self.options, self.precision = runtime, options, precision
        self.facts: Mapping[str, Any] = {}

    def __call__(self, network: Network, weights: Weights, x: Array) -> Arrays:
        """The outputs by name."""
        with tempfile.TemporaryDirectory() as folder:
            wanted = job(self.runtime, network, weights, x, self.precision, Path(folder))
            prepared = self.runtime.prepare(wanted, self.options)
            try:
                self.facts = prepared.facts
                return prepared.outputs()
            finally:
                prepared.close()


def _eager(precision: str) -> Callable[[Network, Weights, Array], Arrays]:
    """Plain torch in a precision: on the processor where it has it, for float32 always, which TF32 cannot touch there."""
    if precision == "fp32":
        return _torch
    for name in ("torch-cpu", "torch-cuda"):
        if precision in RUNTIMES[name].precisions and RUNTIMES[name].missing() is None:
            return _InRuntime(RUNTIMES[name], {}, precision)
    message = f"{precision} is measured by torch in {precision}, which needs a GPU"
    raise Unavailable(Diagnostic("E0901", message, help=RUNTIMES["torch-cuda"].how()))


_RUNS: dict[str, Callable[..., Arrays]] = {"onnx": _onnx, "torch": _torch, "source": _source}
