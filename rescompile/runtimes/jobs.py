"""From a network with weights to what a runtime is asked to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rescompile import backend as door
from rescompile.ir.network import Network
from rescompile.runtimes import Job, Runtime
from rescompile.weights import Array, Weights


def job(
    runtime: Runtime, network: Network, weights: Weights, x: Array, precision: str, folder: Path, threads: int | None = None
) -> Job:  # fmt: skip
    """The job of running a network on an input: an ONNX file in `folder`, of fixed batch and in float16 where that is the
    precision, or what makes the module. Raises Unavailable where the target that it needs is not there."""
    model = None
    if runtime.takes == "onnx":
        model = folder / f"{network.name}.onnx"
        onnx = door.load("onnx")
        given = {"batch": len(x), "precision": "fp16" if precision == "fp16" else "fp32"}
        onnx.emit(network, weights, **door.checked(onnx, "onnx", given)).write(model)
        return Job(network.name, model, None, x, precision, threads)
    torch: Any = door.load("torch")
    return Job(network.name, None, lambda: torch.make(network, weights).eval(), x, precision, threads)
