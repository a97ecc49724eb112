"""Keras as a runtime: `predict_on_batch` of a live model, on the backend that Keras is set to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from rescompile.runtimes import Job, Runtime
from rescompile.runtimes.channels_last import Module, missing, profile
from rescompile.weights import Array

__all__ = ["missing", "prepare", "profile"]


def prepare(runtime: Runtime, job: Job, options: Mapping[str, Any]) -> Module:
    """Return the model of a job with its input on the CPU, run once. Keras compiles its prediction, except on PyTorch."""
    import keras

    def load(model: Any, x: Array) -> Callable[[], Any]:
        given = keras.ops.convert_to_tensor(x)

        def run() -> Any:
            with keras.device("cpu:0"):
                return model.predict_on_batch(given)

        return run

    with keras.device("cpu:0"):
        versions = {name: version(name) for name in ("keras", keras.backend.backend())}
        return Module(runtime, job, load, {"versions": versions})
