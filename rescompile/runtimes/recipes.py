"""The meaning of `--for`: the options that suit an ONNX file to a runtime, one row each.

A row contains options that were faster in measurements or that the vendor's documentation recommends, and records
which. Options on the command line override those of the recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Any

from rescompile.diagnostics.errors import UsageError, nearest, one_of
from rescompile.passes import PASSES
from rescompile.records import record


@record
class Recipe:
    """The options of passes and targets for a runtime, the reason for them, and the quantisation scheme of its int8
    files (see `rescompile.quantize`), or None if it does not run int8. `int8` are options of int8 files only."""

    why: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scheme: str | None = "u8s8"
    int8: Mapping[str, Any] = field(default_factory=dict)


_MEASURED = "measured on CPUs: the file loads faster and runs no slower"
_VENDOR = "by the vendor's documentation, not measured"

RECIPES: Mapping[str, Recipe] = {
    # ONNX Runtime and OpenVINO fold norms themselves whenever they load a file; docs/runtimes.md lists the times. A
    # fixed batch made no difference to either, and neither has float16 kernels for CPUs. ONNX Runtime's int8 kernels
    # are slow for narrow groups.
    "ort-cpu": Recipe(_MEASURED, {"fold_batchnorm": True}, int8={"join_groups": 32}),
    "openvino": Recipe(_MEASURED, {"fold_batchnorm": True}),
    # Tensor cores compute in float16, and a CUDA graph replays one shape ("CUDA Execution Provider" in ONNX Runtime's
    # documentation).
    "ort-cuda": Recipe(_VENDOR, {"fold_batchnorm": True, "precision": "fp16", "batch": 1}, None),
    # TensorRT 11 has no flag for float16: the file decides. A dynamic batch would need an optimisation profile.
    "ort-tensorrt": Recipe(_VENDOR, {"fold_batchnorm": True, "precision": "fp16", "batch": 1}, "s8s8"),
}


def find(runtime: str) -> Recipe:
    """Return the recipe for a runtime. Raises UsageError if there is none."""
    if runtime not in RECIPES:
        help = nearest(runtime, RECIPES) or f"recipes exist for {one_of(RECIPES)}"
        raise UsageError.of("E0802", f"there is no recipe for the runtime '{runtime}'", help=help)
    return RECIPES[runtime]


def options(runtime: str, precision: str | None) -> Mapping[str, Any]:
    """Return the options for a runtime, for files in `precision` if it is given. Raises UsageError if there is no
    recipe."""
    recipe = find(runtime)
    return {**recipe.options, **(recipe.int8 if precision == "int8" else {})}


def turned_off(runtime: str, precision: str | None, passes: Iterable[str]) -> Iterator[str]:
    """Yield, as typed, the options that turn off passes of the recipe that were not applied to a file; none for a
    runtime without a recipe."""
    had = {record.partition("=")[0] for record in passes}
    given = options(runtime, precision) if runtime in RECIPES else {}
    for step in PASSES:
        if step.keyword in given and step.name not in had:
            yield f"no-{step.name}" if step.type is bool else f"{step.name}=0"


def scheme(runtime: str | None) -> str:
    """Return the quantisation scheme for a runtime; by default that of CPUs. Raises UsageError if the runtime does not
    run int8."""
    found = "u8s8" if runtime is None else find(runtime).scheme
    if found is None:
        having = [name for name, recipe in RECIPES.items() if recipe.scheme is not None]
        raise UsageError.of("E0802", f"{runtime} has no kernels for int8", help=f"use {one_of(having)}")
    return found


def describe(runtime: str, options: Mapping[str, Any], passes: tuple[str, ...]) -> str:
    """Return the options of a recipe as they are typed, and the reason for them, in one line."""
    recipe = find(runtime)
    words = [f"--{each}" for each in passes]
    words += [f"--{name} {options[name]}" for name in ("precision", "batch") if options.get(name) is not None]
    return f"for {runtime}: {' '.join(words) or 'nothing'} ({recipe.why})"
