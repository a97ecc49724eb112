"""From a network with weights to what a runtime is asked to run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from rescompile import backend as door
from rescompile.ir.network import Network
from rescompile.runtimes import MODULE_TARGET, Job, Runtime
from rescompile.weights import Array, Weights


def live_module(network: Network, weights: Weights | None) -> Any:
    """The live module of a network in evaluation mode; without weights it has no values. Raises Unavailable where the target that makes
    one is missing."""
    backend = door.load(MODULE_TARGET)
    return backend.emit(network, weights, **door.checked(backend, MODULE_TARGET, {})).module


def job(
    runtime: Runtime, network: Network, weights: Weights, x: Array, precision: str, folder: Path, threads: int | None = None
) -> Job:  # fmt: skip
    """The job of running a network on an input: a live module where the runtime's target makes one, else a file in `folder`, of
    fixed batch and in float16 where that is the precision. Raises Unavailable where the target is missing."""
    backend = door.load(runtime.takes)
    wanted = {"batch": len(x), "precision": "fp16" if precision == "fp16" else "fp32"}
    known = {option.name for option in backend.OPTIONS}
    given = {name: value for name, value in wanted.items() if name in known}
    options = door.checked(backend, runtime.takes, given)
    artifact = backend.emit(network, weights, **options)
    if artifact.module is not None:  # a runtime may change in place what it is given
        return Job(network.name, None, lambda: copy.deepcopy(artifact.module), x, precision, threads)
    model = folder / (network.name + backend.SUFFIX)
    artifact.write(model)
    return Job(network.name, model, None, x, precision, threads)
