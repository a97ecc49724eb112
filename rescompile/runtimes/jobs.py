"""Jobs: what a runtime needs to run a network with weights, a live module or a file."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from rescompile import backend as backend_api
from rescompile.ir.network import Network
from rescompile.runtimes import MODULE_TARGET, Job, Runtime
from rescompile.weights import Array, Weights


def live_module(network: Network, weights: Weights | None, target: str = MODULE_TARGET) -> Any:
    """Return the live module of a network in evaluation mode; without weights, its tensors have no values. Raises
    Unavailable if the target that builds modules is missing."""
    backend = backend_api.load(target)
    return backend.emit(network, weights, **backend_api.checked(backend, target, {})).module


def job(
    runtime: Runtime, network: Network, weights: Weights, x: Array, precision: str, folder: Path, threads: int | None = None
) -> Job:  # fmt: skip
    """Return the job of running a network on an input: a live module if the runtime's target builds modules, else a file in
    `folder`, with a fixed batch, and in float16 if that is the precision. Raises Unavailable if the target is missing."""
    backend = backend_api.load(runtime.takes)
    wanted = {"batch": len(x), "precision": "fp16" if precision == "fp16" else "fp32"}
    known = {option.name for option in backend.OPTIONS}
    given = {name: value for name, value in wanted.items() if name in known}
    options = backend_api.checked(backend, runtime.takes, given)
    artifact = backend.emit(network, weights, **options)
    if (module := artifact.module) is not None:  # a runtime may change its module in place
        return Job(network.name, None, lambda: copy.deepcopy(module), x, precision, threads)
    model = folder / (network.name + backend.SUFFIX)
    artifact.write(model)
    return Job(network.name, model, None, x, precision, threads)


def run(
    runtime: Runtime, options: Mapping[str, Any], precision: str, network: Network, weights: Weights, x: Array
) -> tuple[Mapping[str, Array], Mapping[str, Any]]:
    """Return the outputs of a network in a runtime, and the facts that the runtime reports. Raises as
    `Runtime.prepare` does."""
    with tempfile.TemporaryDirectory() as folder:
        work = job(runtime, network, weights, x, precision, Path(folder))
        with closing(runtime.prepare(work, options)) as prepared:
            return prepared.outputs(), prepared.facts
