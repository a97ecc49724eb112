"""PyTorch modules of compiled networks and of peers: reference outputs, checks of activations, calibration, counts, export."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.interpreter import alive
from rescompile.ir.network import INPUT, LOGITS
from rescompile.runtimes.ort_session import brief
from rescompile.weights import Array

#: The exporters of torch by option value, with the opset that each writes: that of our own files, or the lowest that it supports.
EXPORTERS = {"legacy": 17, "dynamo": 18}


def library() -> Any:
    """Return torch. Raises Unavailable if it is missing."""
    try:
        import torch
    except ImportError as error:
        message = f"timed networks are checked against float64 by torch, which cannot be loaded: {error}"
        raise Unavailable.of("E0902", message, help="pip install 'rescompile[torch]'") from None
    return torch


def outputs(module: Any, x: Array, double: bool = False) -> dict[str, Array]:
    """Return the outputs of a module for an input, by name; with `double` those of a copy in float64."""
    torch = library()
    value = torch.from_numpy(x)
    with torch.inference_mode():
        given = copy.deepcopy(module).double()(value.double()) if double else module(value)
    return {name: tensor.numpy() for name, tensor in named(given).items()}


def named(given: Any) -> dict[str, Any]:
    """Return the outputs of a module by name: peers return a tensor, a mapping or a tuple."""
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, tuple | list):
        return {LOGITS if not at else f"output{at}": value for at, value in enumerate(given)}
    return {LOGITS: given}


def irregular(module: Any, x: Array, largest: float) -> str | None:
    """Return the first part whose parameters or activations have a number that is not finite, is larger than `largest`, or is a
    denormal of float32, with the kind of number; None if there is none.

    CPUs take many times as long for denormals, and an infinity spreads through the activations.
    """
    torch = library()
    smallest = torch.finfo(torch.float32).tiny
    problems: list[str] = []

    def look(part: str, value: Any) -> None:
        size = value.detach().abs()
        for what, wrong in (
            ("non-finite values", ~torch.isfinite(size)),
            (f"values above {largest:.3g}", size > largest),
            ("denormals", (size > 0) & (size < smallest)),
        ):
            if bool(wrong.any()):
                problems.append(f"{part} contains {what}")
                return

    def hook(part: str) -> Any:
        def after(_: Any, __: Any, given: Any) -> None:
            for value in named(given).values():
                if not problems and isinstance(value, torch.Tensor) and value.is_floating_point():
                    look(f"the output of {part}", value)

        return after

    for name, value in module.state_dict().items():
        if value.is_floating_point() and not problems:
            look(name, value)
    with ExitStack() as hooks, torch.inference_mode():
        for name, part in module.named_modules():
            hooks.enter_context(part.register_forward_hook(hook(name or "the network")))
        module(torch.from_numpy(x))
    return problems[0] if problems else None


def calibrate(module: Any, shape: tuple[int, ...], seed: int) -> None:
    """Give the norms of a peer the statistics of one seeded batch, as `trial` does for compiled networks: with those of a new
    module, a deep network overflows.

    Shifts become ones, since positive shifts amplify rounding errors no more than trained networks do. A norm whose scales are
    zero gets ones: when exporters fold zeros into the convolution before them, they write the equal tensors once, and the file
    is smaller than a trained one and 3% faster (timm's darknet53).
    """
    torch = library()
    norms = [part for part in module.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # so that the statistics are those of this batch alone
        if norm.affine and not norm.weight.any():
            torch.nn.init.ones_(norm.weight)
        if norm.affine:
            torch.nn.init.ones_(norm.bias)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        module(torch.randn(8, *shape, generator=generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        if norm.running_var is not None:
            norm.running_var.copy_(torch.from_numpy(alive(norm.running_var.numpy(), norm.running_mean.numpy())))
    module.eval()


def counts(module: Any, x: Array) -> tuple[int, int]:
    """Return the trainable values of a module, and the multiply-adds of its convolutions and linear layers for one input,
    counted like those of compiled networks."""
    torch = library()
    total = 0

    def after(part: Any, _: Any, given: Any) -> None:
        nonlocal total
        per_value = math.prod(part.weight.shape[1:])  # for one value of the output
        total += per_value * given[0].numel()

    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
    with ExitStack() as hooks, torch.inference_mode():
        for part in module.modules():
            if isinstance(part, kinds):
                hooks.enter_context(part.register_forward_hook(after))
        module(torch.from_numpy(x[:1]))
    return sum(parameter.numel() for parameter in module.parameters()), total


def export(module: Any, name: str, x: Array, path: Path, exporter: str, precision: str = "fp32") -> None:
    """Write a module to an ONNX file with torch.onnx.export, for the batch of `x`, in float16 for fp16. Raises Unavailable if the
    exporter lacks a library or refuses the module."""
    torch = library()
    value = torch.from_numpy(np.ascontiguousarray(x))
    if precision == "fp16":
        # Tracing runs the module, which takes CPUs seconds for an image in float16.
        where = "cuda" if torch.cuda.is_available() else "cpu"
        module, value = copy.deepcopy(module).to(where, torch.float16), value.to(where, torch.float16)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, (value,), str(path), input_names=[INPUT],
                output_names=[LOGITS], opset_version=EXPORTERS[exporter], dynamo=exporter == "dynamo",
                **({"verbose": False} if exporter == "dynamo" else {}),
            )  # fmt: skip
    except ImportError as error:
        message = f"the {exporter} exporter of torch cannot be used: {error}"
        raise Unavailable.of("E0902", message, help="pip install onnx onnxscript") from None
    except Exception as error:  # third-party code
        raise Unavailable.of("E0901", f"torch.onnx.export cannot export {name}: {brief(error)}") from None
