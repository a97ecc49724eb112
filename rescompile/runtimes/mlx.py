"""MLX as a runtime: a live module on the CPU, with `mx.compile` if that is requested."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from rescompile.runtimes import Job, Runtime
from rescompile.runtimes.channels_last import Module, missing, profile
from rescompile.weights import Array

__all__ = ["missing", "prepare", "profile"]


def prepare(runtime: Runtime, job: Job, options: Mapping[str, Any]) -> Module:
    """Return the module of a job with its input on the CPU, run once."""
    import mlx.core as mx

    def load(module: Any, x: Array) -> Callable[[], Any]:
        given = mx.array(x)
        forward = mx.compile(lambda x: module(x)) if options.get("compile") else module

        def run() -> Any:
            with mx.stream(mx.cpu):
                outputs = forward(given)
                mx.eval(outputs)
            return outputs

        return run

    return Module(runtime, job, load, {"options": dict(options), "versions": {"mlx": version("mlx")}})
