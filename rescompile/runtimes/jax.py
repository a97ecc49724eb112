"""JAX as a runtime: a live module of Flax under `jax.jit`, its weights and its input on the device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, Unavailable
from rescompile.ir.network import LOGITS
from rescompile.runtimes import Job, Runtime
from rescompile.runtimes.device import usable
from rescompile.runtimes.ort_session import brief
from rescompile.weights import Array

#: How JAX multiplies float32 in each precision; its default on GPUs is TF32.
MULTIPLIED = {"fp32": "highest", "tf32": "tensorfloat32"}


def missing(runtime: Runtime) -> str | None:
    """Return the reason why JAX cannot run on this device."""
    try:
        import flax.nnx  # noqa: F401
        import jax
    except ImportError as error:
        return f"JAX or Flax cannot be imported ({error})"
    try:
        jax.devices(runtime.device)
    except RuntimeError:
        return f"this JAX finds no {'NVIDIA GPU' if runtime.device == 'cuda' else 'CPU'}"
    return None


def prepare(runtime: Runtime, job: Job, options: Mapping[str, Any]) -> Module:
    """Return the compiled module of a job on the device, run once. Raises Unavailable if it cannot be compiled or run, and for
    a number of threads other than the CPU cores of this process, of which XLA uses all."""
    if runtime.device == "cpu" and job.threads not in (None, usable()):
        message = f"{runtime.name} uses all {usable()} CPU cores of its process, not {job.threads}"
        raise Unavailable(Diagnostic("E0901", message, help="limit the process: taskset -c 0 rescompile ..."))
    return Module(runtime, job)


def profile(runtime: Runtime, job: Job, options: Mapping[str, Any], runs: int) -> list[tuple[str, float]]:
    """Raises Unavailable: XLA fuses a network into kernels without the names of its layers."""
    message = f"{runtime.name} reports no times of layers"
    raise Unavailable(Diagnostic("E0901", message, help="use --profile with ort-cpu or torch-cpu"))


class Module:
    """A compiled function of a module's variables and its input, both of which are on the device."""

    def __init__(self, runtime: Runtime, job: Job) -> None:
        import jax
        from flax import nnx

        assert job.module is not None
        device = jax.devices(runtime.device)[0]
        self._jax: Any = jax
        self._run: Any = None
        started = time.perf_counter()
        try:
            graph, variables = nnx.split(job.module())
            self._variables = jax.device_put(variables, device)
            self._input = jax.device_put(np.moveaxis(job.input, 1, -1), device)
            forward = jax.jit(lambda variables, x: nnx.merge(graph, variables)(x))
            with jax.default_matmul_precision(MULTIPLIED[job.precision]):
                self._run = forward.lower(self._variables, self._input).compile()
            self.build_seconds = time.perf_counter() - started
            started = time.perf_counter()
            self.run()
        except Exception as error:  # such as too little memory
            self.close()
            raise Unavailable(Diagnostic("E0901", f"{runtime.name} cannot run {job.name}: {brief(error)}")) from None
        self.first_seconds = time.perf_counter() - started
        self.facts: Mapping[str, Any] = {
            "device": device.device_kind,
            "precision": job.precision,
            "tf32": job.precision == "tf32",
            "threads": usable() if runtime.device == "cpu" else None,
            "options": {},
            "versions": {"jax": jax.__version__},
        }

    def run(self) -> None:
        """Run one inference, and wait until the device has finished."""
        self._given = self._jax.block_until_ready(self._run(self._variables, self._input))

    def outputs(self) -> Mapping[str, Array]:
        """Return the outputs of the last run by name, with channels first."""
        named = self._given if isinstance(self._given, Mapping) else {LOGITS: self._given}
        return {name: np.moveaxis(np.asarray(value), -1, 1) for name, value in named.items()}

    def close(self) -> None:
        """Release the variables and the compiled function."""
        self._run = self._variables = self._input = self._given = None
