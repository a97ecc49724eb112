"""Times of single ops on this machine: each op is part of a small network, and its time is read from the runtime's profile.

A convolution with a ReLU precedes the op, so that the op is not fused into it, and another one follows. The nodes between the
two are the op with everything that it causes, including layout changes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rescompile.bench.execution_steps import Step, steps
from rescompile.bench.predicting import FORMAT, Device, Timed
from rescompile.diagnostics.errors import Source, Unavailable
from rescompile.elaboration import elaborate
from rescompile.ir.network import Network
from rescompile.lang.load import load_text
from rescompile.records import record
from rescompile.runtimes import RUNTIMES, device
from rescompile.runtimes.jobs import job
from rescompile.version import __version__
from rescompile.weights import draw

#: The runtime whose profiles are supported.
RUNTIME = "ort-cpu"
RUNS = 15
#: Ops with more multiply-adds take long and add no information.
MOST = 400_000_000


@record
class Probe:
    """An op as rows of a spec, for feature maps with this number of channels and side."""

    rows: Sequence[str]
    channels: int
    side: int
    lead: bool = True
    tail: bool = True

    @property
    def network(self) -> Network:
        """The network that measures it."""
        before = [f"lead: {{conv: {{channels: {self.channels}, kernel: 1}}}}", "lead_act: act"] if self.lead else []
        after = ["tail: {conv: {channels: 16, kernel: 1}}", "global_avgpool", "flatten"] if self.tail else []
        given = 16 if self.lead else self.channels
        rows = "".join(f"  - {row}\n" for row in (*before, *self.rows, *after))
        text = f"rescompile: 1\nname: probe\ninput: [{given}, {self.side}, {self.side}]\nnetwork:\n{rows}"
        return elaborate(load_text(Source("probe", text)))

    @property
    def step(self) -> Step:
        """Its step, the input of a predictor."""
        (step,) = steps(self.network)[self.lead :][: -2 if self.tail else None]
        return step


def design() -> list[Probe]:
    """Return the ops to measure: every regime over the channels, sides, kernels and strides that occur in networks of this
    family."""
    probes = [
        _conv(inner, outer, 1, side)
        for side in (56, 28, 14, 7)
        for inner in (16, 64, 160, 512, 2048)
        for outer in (16, 64, 160, 512, 2048)
    ]
    probes += [_conv(inner, 2 * inner, 1, side, stride=2) for side in (56, 28, 14) for inner in (64, 256, 1024)]
    probes += [
        _conv(inner, outer, 3, side)
        for side in (112, 56, 28, 14, 7)
        for inner in (16, 48, 128, 320, 512)
        for outer in dict.fromkeys((32, inner))
    ]
    probes += [_conv(width, width, 3, side, stride=2) for side in (56, 28, 14) for width in (32, 128, 256, 512)]
    probes += [_conv(width, width, kernel, side) for kernel in (5, 7) for side in (28, 14) for width in (16, 64, 160)]
    probes += [
        _conv(groups * width, groups * width, kernel, side, groups=groups, stride=stride)
        for width in (4, 8, 16, 32)
        for groups in (2, 8, 32)
        for side, kernel, stride in ((56, 3, 1), (28, 3, 1), (28, 3, 2), (14, 3, 1), (7, 3, 1), (14, 5, 1))
    ]
    probes += [
        _conv(width, width, kernel, side, groups=width, stride=stride)
        for width in (32, 128, 512)
        for side, kernel, stride in ((56, 3, 1), (28, 3, 2), (14, 3, 1), (7, 3, 1), (28, 5, 1), (14, 7, 1))
    ]
    probes += [
        _conv(3, width, kernel, side, stride=stride, lead=False)
        for width in (16, 32, 64, 96)
        for side, kernel, stride in ((224, 7, 2), (128, 7, 2), (64, 3, 1), (224, 3, 2), (128, 3, 1))
    ]
    for width in (32, 128, 512, 1024):
        for side in (56, 28, 14, 7):
            probes.append(Probe(["probe: norm", "act"], width, side))
            probes.append(Probe(["parallel: {merge: concat, branches: [identity, identity]}"], width, side))
            if side > 7:
                probes.append(Probe(["probe: {maxpool: {kernel: 3, stride: 2, padding: 1}}"], width, side))
                probes.append(Probe(["probe: {avgpool: {kernel: 2}}"], width, side))
    probes += [Probe(["probe: global_avgpool", "flatten"], w, s, tail=False) for w in (64, 512, 2048) for s in (14, 7)]
    probes += [
        Probe(["flatten", f"probe: {{linear: {features}}}"], width, 1, lead=False, tail=False)
        for width in (64, 256, 1024, 4096)
        for features in (10, 100, 1000, 4096)
    ]
    probes += [_conv(w, w, kernel, side, sums=True) for w in (64, 256) for kernel in (1, 3) for side in (28, 14)]
    return [probe for probe in probes if probe.step.macs <= MOST]


def _conv(
    inner: int, outer: int, kernel: int, side: int, *, stride: int = 1, groups: int = 1, lead: bool = True, sums: bool = False
) -> Probe:  # fmt: skip
    conv = f"{{conv: {{channels: {outer}, kernel: {kernel}, stride: {stride}, groups: {groups}}}}}"
    if sums:
        return Probe([f"residual: {{branch: [{conv}, norm], shortcut: []}}", "act"], inner, side, lead)
    return Probe([f"probe: {conv}", "norm", "act"], inner, side, lead)


def measure(probes: Sequence[Probe], threads: int | None) -> Iterator[Timed]:
    """Measure probes one after the other. Raises Unavailable if ONNX Runtime is missing."""
    runtime = RUNTIMES[RUNTIME]
    if (problem := runtime.problem()) is not None:
        raise Unavailable(problem)
    for probe in probes:
        network = probe.network
        x = np.random.default_rng(0).standard_normal((1, *network.input), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            work = job(runtime, network, draw(network), x, "fp32", Path(folder), threads)
            yield Timed(probe.step, between(runtime.profile(work, {}, RUNS), probe.lead, probe.tail))


def between(nodes: Sequence[tuple[str, float]], lead: bool, tail: bool) -> float:
    """Return the seconds of the nodes after the leading convolution and before the last one; of all nodes if there is none."""
    names = [name for name, _ in nodes]
    first = max(at for at, name in enumerate(names) if name.startswith("lead")) + 1 if lead else 0
    end = next(at for at, name in enumerate(names) if name.startswith("tail")) if tail else len(names)
    return max(sum(seconds for _, seconds in nodes[first:end]), 1e-7)


def described(ops: Sequence[Timed], threads: int | None) -> Device:
    """Return the device with these measured ops."""
    return Device(FORMAT, __version__, device.now(), device.describe(), RUNTIME, threads, list(ops))
