"""JAX as a runtime: a live module of Flax under `jax.jit`, its weights and its input on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rescompile.runtimes import Job, Runtime, channels_last
from rescompile.runtimes.channels_last import profile
from rescompile.weights import Array

__all__ = ["missing", "prepare", "profile"]

#: How JAX multiplies float32 in each precision; its default on GPUs is TF32.
MULTIPLIED = {"fp32": "highest", "tf32": "tensorfloat32"}


def missing(runtime: Runtime) -> str | None:
    """Return the reason why JAX cannot run on this device."""
    reason = channels_last.missing(runtime)
    if reason is not None:
        return reason
    import jax

    try:
        jax.devices(runtime.device)
    except RuntimeError:
        return f"this JAX finds no {'NVIDIA GPU' if runtime.device == 'cuda' else 'CPU'}"
    return None


def prepare(runtime: Runtime, job: Job, options: Mapping[str, Any]) -> channels_last.Module:
    """Return the compiled function of a module's variables and its input, both on the device, run once."""
    import jax
    from flax import nnx

    device = jax.devices(runtime.device)[0]
    wait: Any = jax.block_until_ready

    def load(module: Any, x: Array) -> Callable[[], Any]:
        graph, variables = nnx.split(module)
        given = jax.device_put((variables, x), device)
        forward = jax.jit(lambda variables, x: nnx.merge(graph, variables)(x))
        with jax.default_matmul_precision(MULTIPLIED[job.precision]):
            run = forward.lower(*given).compile()
        return lambda: wait(run(*given))

    facts = {"device": device.device_kind, "versions": {"jax": jax.__version__}}
    return channels_last.Module(runtime, job, load, facts)
