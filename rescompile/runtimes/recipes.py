"""What `--for` means: the options that make an ONNX file fit the runtime it is for, one row each.

A row holds what was measured to pay, or what the vendor's documentation asks for, and says which. Every option that is given
beside it takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rescompile.diagnostics.errors import Diagnostic, UsageError, nearest, one_of
from rescompile.passes import PASSES


@dataclass(frozen=True, slots=True)
class Recipe:
    """The options of passes and of the target onnx for a runtime, why, and the scheme of `rescompile.quantization` that its
    int8 files have; None where it runs none. `int8` are the options that only those have."""

    why: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scheme: str | None = "u8s8"
    int8: Mapping[str, Any] = field(default_factory=dict)


_MEASURED = "measured on a processor: the file loads faster, and runs no slower"
_VENDOR = "by the vendor's documentation, not measured"

RECIPES: Mapping[str, Recipe] = {
    # ONNX Runtime folds norms itself whenever it loads a file, OpenVINO too; docs/runtimes.md has the times. A fixed batch
    # gave neither anything, and float16 has no kernels there. ONNX Runtime's int8 kernels lose much time between narrow groups.
    "ort-cpu": Recipe(_MEASURED, {"fold_batchnorm": True}, int8={"join_groups": 32}),
    "openvino": Recipe(_MEASURED, {"fold_batchnorm": True}),
    # Tensor cores take float16, and a CUDA graph replays one shape ("CUDA Execution Provider" in ONNX Runtime's documentation).
    "ort-cuda": Recipe(_VENDOR, {"fold_batchnorm": True, "precision": "fp16", "batch": 1}, None),
    # TensorRT 11 has no flag for float16 any more: it is that of the file. A free batch would need a profile of shapes.
    "ort-tensorrt": Recipe(_VENDOR, {"fold_batchnorm": True, "precision": "fp16", "batch": 1}, "s8s8"),
}


def find(runtime: str) -> Recipe:
    """The recipe for a runtime. Raises UsageError where there is none."""
    if runtime not in RECIPES:
        help = nearest(runtime, RECIPES) or f"there are {one_of(RECIPES)}"
        raise UsageError(Diagnostic("E0802", f"there is no recipe for the runtime '{runtime}'", help=help))
    return RECIPES[runtime]


def options(runtime: str, precision: str | None) -> Mapping[str, Any]:
    """The options for a runtime, of files in a precision if one is asked for. Raises UsageError where there is no recipe."""
    recipe = find(runtime)
    return {**recipe.options, **(recipe.int8 if precision == "int8" else {})}


def turned_off(runtime: str, precision: str, passes: Iterable[str]) -> Iterator[str]:
    """What turns off the passes that a recipe has and a file does not, as it is typed. A runtime without one has none."""
    had = {record.partition("=")[0] for record in passes}
    given = options(runtime, precision) if runtime in RECIPES else {}
    for step in PASSES:
        if step.keyword in given and step.name not in had:
            yield f"no-{step.name}" if step.type is bool else f"{step.name}=0"


def scheme(runtime: str | None) -> str:
    """The scheme of int8 files for a runtime; without one, that of processors. Raises UsageError where it runs none."""
    found = "u8s8" if runtime is None else find(runtime).scheme
    if found is None:
        having = [name for name, recipe in RECIPES.items() if recipe.scheme is not None]
        message = f"{runtime} has no kernels for int8"
        raise UsageError(Diagnostic("E0802", message, help=f"{one_of(having)} have"))
    return found


def told(runtime: str, options: Mapping[str, Any], passes: tuple[str, ...]) -> str:
    """One line that says what a recipe came to, as options to type."""
    recipe = find(runtime)
    words = [f"--{each}" for each in passes]
    words += [f"--{name} {options[name]}" for name in ("precision", "batch") if options.get(name) is not None]
    return f"for {runtime}: {' '.join(words) or 'nothing'} ({recipe.why})"
