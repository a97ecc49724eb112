"""The common part of runtimes with channels-last modules: preparation, outputs, and the limits of their libraries."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rescompile import backend
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.network import LOGITS
from rescompile.runtimes import Job, Runtime
from rescompile.runtimes.device import usable
from rescompile.runtimes.ort_session import brief
from rescompile.weights import Array

#: Runs a new module on the channels-last input: one inference, which returns when the device has finished.
Load = Callable[[Any, Array], Callable[[], Any]]


class Module:
    """A live module with its input on the device, run once. Raises Unavailable if it cannot be loaded or run, and for a
    number of threads other than the CPU cores of this process, of which these libraries use all."""

    def __init__(self, runtime: Runtime, job: Job, load: Load, facts: Mapping[str, Any]) -> None:
        if runtime.device == "cpu" and job.threads not in (None, usable()):
            message = f"{runtime.name} uses all {usable()} CPU cores of its process, not {job.threads}"
            raise Unavailable.of("E0901", message, help="limit the process: taskset -c 0 rescompile ...")
        assert job.module is not None
        self._infer: Any = None
        started = time.perf_counter()
        try:
            self._infer = load(job.module(), np.moveaxis(job.input, 1, -1))
            self.build_seconds = time.perf_counter() - started
            started = time.perf_counter()
            self.run()
        except Unavailable:  # a network that the framework cannot express
            self.close()
            raise
        except Exception as error:  # such as too little memory
            self.close()
            raise Unavailable.of("E0901", f"{runtime.name} cannot run {job.name}: {brief(error)}") from None
        self.first_seconds = time.perf_counter() - started
        threads = usable() if runtime.device == "cpu" else None
        self.facts = {
            "device": runtime.device, "precision": job.precision, "tf32": job.precision == "tf32", "threads": threads,
            "options": {}, **facts,
        }  # fmt: skip

    def run(self) -> None:
        """Run one inference, and wait until the device has finished."""
        self._given = self._infer()

    def outputs(self) -> Mapping[str, Array]:
        """Return the outputs of the last run by name, channels first."""
        named = self._given if isinstance(self._given, Mapping) else {LOGITS: self._given}
        return {name: np.moveaxis(np.asarray(value), -1, 1) for name, value in named.items()}

    def close(self) -> None:
        """Release the module and its input."""
        self._infer = self._given = None


def missing(runtime: Runtime) -> str | None:
    """Return the reason why the library of a runtime's target cannot be loaded."""
    problem = backend.missing(runtime.takes, evaluation=True)
    return None if problem is None else problem.message


def profile(runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int) -> list[tuple[str, float]]:
    """Raise Unavailable: these libraries report no times of layers."""
    message = f"{runtime.name} reports no times of layers"
    raise Unavailable.of("E0901", message, help="use --profile with ort-cpu or torch-cpu")
