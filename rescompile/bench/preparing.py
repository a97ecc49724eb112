"""Prepares contenders: the file of a model in a configuration, the prepared runtime, and a check of its outputs against the
reference."""

from __future__ import annotations

import math
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from rescompile import backend
from rescompile.bench.contenders import Configuration, Contender
from rescompile.bench.reference import Reference
from rescompile.bench.results import Roofline
from rescompile.bench.timed_models import BenchModel, form_of
from rescompile.diagnostics.errors import CheckFailed
from rescompile.ir.precision import FLOATS
from rescompile.quantize import quantizer
from rescompile.runtimes import FILE_TARGET, RUNTIMES, Job, roofline
from rescompile.runtimes.onnx_graph import digest
from rescompile.weights import Array


class Preparer:
    """Prepares contenders, with their files in one folder, and measures the roofline of each device once."""

    def __init__(self, folder: Path, threads: int | None) -> None:
        self._folder, self._threads = folder, threads
        self._roofs: dict[tuple[str, str, int | None], roofline.Roofline] = {}

    def contender(
        self, model: BenchModel, configuration: Configuration, x: Array, reference: Reference, stack: ExitStack
    ) -> Contender:
        """Return a contender whose outputs match the reference; `stack` closes it. Raises CheckFailed if they do not
        match, and Unavailable if it does not run as requested."""
        runtime, precision = configuration.runtime, configuration.precision
        reference.check_range(precision)
        file = model.write(self._folder, x, form_of(runtime.name, precision)) if runtime.takes == FILE_TARGET else None
        job = Job(model.name, file, partial(model.module, runtime.takes), x, precision, self._threads)
        _learn_expected_error(precision, runtime.device, reference, replace(job, module=model.module))
        prepared = stack.enter_context(closing(runtime.prepare(job, configuration.options)))
        error, bound = reference.error(prepared.outputs()), reference.bound(precision)
        recorded = None if file is None else backend.extract(file)
        contender = Contender(
            model, configuration, prepared, reference, file, digest(file) if file else None,
            model.passes if recorded is None else recorded.passes, job, error, bound,
            prepared.build_seconds, prepared.first_seconds,
        )  # fmt: skip
        check(contender)
        return contender

    def limit(self, contender: Contender, batch: int) -> Roofline | None:
        """Return the least time of a compiled network on its device; None for a peer."""
        if contender.model.network is None:
            return None
        configuration = contender.configuration
        key = configuration.runtime.device, configuration.precision, contender.prepared.facts.get("threads")
        if key not in self._roofs:
            self._roofs[key] = roofline.measure(*key)
        roof = self._roofs[key]
        limit = roofline.limit(contender.model.network, batch, roof)
        if limit is None or roof.product is None:
            return None
        return Roofline(limit.seconds, 0.0, roof.bandwidth(math.inf), roof.product)


def check(contender: Contender) -> None:
    """Raise CheckFailed if the error of a contender is above its bound."""
    if contender.error <= contender.bound:
        return
    configuration = contender.configuration
    message = (
        f"{contender.model.name} on {configuration} has wrong outputs: the relative error against float64 is "
        f"{contender.error:.2g}, above the rounding bound {contender.bound:.2g}"
    )
    help = "its time would be meaningless"
    if configuration.precision in FLOATS:
        help += "; 'rescompile verify' finds the first part that differs"
    raise CheckFailed.of("E0721", message, help=help)


def _learn_expected_error(precision: str, device: str, reference: Reference, job: Job) -> None:
    """Learn the error to expect in a precision from one run of eager torch, if it supports the precision, or, for int8, of
    the file with its sums in floats."""
    if precision == "int8" and precision not in reference.expected:
        assert job.model is not None
        reference.expect(precision, quantizer.simulated(job.model, job.input))
    eager = RUNTIMES[f"torch-{device}"]
    if precision in reference.expected or precision not in eager.precisions or eager.missing() is not None:
        return
    with closing(eager.prepare(job, {})) as prepared:
        reference.expect(precision, prepared.outputs())
