"""Spec -> artifact: elaborate, apply passes, draw or load weights, hand over to a backend."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rescompile import backend as door
from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.elaboration import elaborate
from rescompile.ir.network import Network
from rescompile.lang.load import load
from rescompile.lang.spec.spec import Spec
from rescompile.passes import PASSES, apply
from rescompile.runtimes import recipes
from rescompile.weights import Array, Weights, draw, from_arrays

WeightSource = Mapping[str, Array] | str | os.PathLike[str] | None


@dataclass(frozen=True, slots=True)
class Request:
    """A network to compile, its target and its weights; `build` documents each field."""

    spec: Spec | Network | str | os.PathLike[str]
    target: str
    weights: WeightSource = None
    seed: int = 0
    structure_only: bool = False
    calibrate: str | int | os.PathLike[str] | Array | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = warnings.warn


def build(
    spec: Spec | Network | str | os.PathLike[str],
    target: str,
    weights: WeightSource = None,
    *,
    seed: int = 0,
    structure_only: bool = False,
    say: Callable[[str], None] = warnings.warn,
    calibrate: str | int | os.PathLike[str] | Array | None = None,
    **options: Any,
) -> door.Artifact:
    """Compile a spec (or the name or file of one) to a target such as "onnx".

    `weights` is a file (safetensors, or a checkpoint of torch) or a mapping from names to arrays; without it, new ones are
    drawn from `seed` by the spec's `init`. `structure_only` leaves the weights out. `options` are those of the passes
    (`fold_batchnorm=True`) and of the target (`opset=18`, `batch=8`); `made_for="ort-cuda"` stands for those of a recipe, where
    others are not given. `calibrate` is what an int8 file is calibrated with: a folder of images or .npy files, an array of inputs, or
    how many to draw from `seed`. `say` is called with what is done to a checkpoint, such as
    removing the `module.` of DataParallel from its names.

    Raises SpecError, CheckFailed where weights do not fit, UsageError for wrong options or calibration data, Unavailable
    for the target or the quantiser.
    """
    return execute(Request(spec, target, weights, seed, structure_only, calibrate, options, say))


def execute(request: Request) -> door.Artifact:
    """Compile as requested. Raises as `build` does."""
    backend = door.load(request.target)
    _check_weights(request, backend)
    options = _with_recipe(request, backend)
    for_passes = {step.keyword: options[step.keyword] for step in PASSES if step.keyword in options}
    for_backend = {name: value for name, value in options.items() if name not in for_passes}
    for_backend = door.checked(backend, request.target, for_backend)
    int8 = backend.rewritten is not None and for_backend.get("precision") == "int8"
    if request.calibrate is not None and not int8:
        message = "only a file in int8 is calibrated"
        raise UsageError(Diagnostic("E0802", message, help="add --precision int8"))
    scheme = _scheme(request, for_passes) if int8 else ""
    _check_zeros(request, backend, for_passes)
    spec = load(request.spec) if isinstance(request.spec, str | os.PathLike) else request.spec
    network = spec if isinstance(spec, Network) else elaborate(spec)
    data = None
    if int8:
        from rescompile.quantize import calibration  # only this needs it

        data = calibration.data(request.calibrate, network, request.seed)
    weights = None if request.structure_only else _weights(request, network)
    network, weights = apply(network, weights, {**for_passes, **({"fold_batchnorm": True} if int8 else {})})
    if data is not None and weights is not None:
        from rescompile.quantize import quantizer  # only this needs it

        return quantizer.artifact(backend, network, weights, data, scheme, **for_backend)
    return backend.emit(network, weights, **for_backend)


def _check_weights(request: Request, backend: door.Backend) -> None:
    """Raises UsageError for weights that would be lost."""
    if request.weights is None:
        return
    if request.structure_only:
        raise UsageError(Diagnostic("E0802", "'weights' and 'structure_only' cannot be used together"))
    if backend.IGNORES_WEIGHTS:
        message = f"the target '{request.target}' does not take weights: {backend.IGNORES_WEIGHTS}"
        raise UsageError(Diagnostic("E0802", message))


def _with_recipe(request: Request, backend: door.Backend) -> Mapping[str, Any]:
    """The options of a request, with those of its recipe where others are not given."""
    made_for = request.options.get("made_for")
    if made_for is None:
        return request.options
    if not backend.RECIPE_OPTIONS:
        message = f"the target '{request.target}' has no recipes: --for does not apply to it"
        raise UsageError(Diagnostic("E0802", message))
    allowed = {*backend.RECIPE_OPTIONS, *(step.keyword for step in PASSES)}
    recipe = recipes.options(made_for, request.options.get("precision"))
    return {**{name: value for name, value in recipe.items() if name in allowed}, **request.options}


def _scheme(request: Request, for_passes: Mapping[str, Any]) -> str:
    """The scheme of an int8 file. Raises UsageError for what such a file cannot be."""
    if request.structure_only:
        raise UsageError(
            Diagnostic("E0802", "--precision int8 cannot be used with --no-weights: its scales depend on the weights")
        )
    if for_passes.get("fold_batchnorm") is False:  # a norm between two convolutions would be computed in floats
        message = "--precision int8 always folds norms"
        raise UsageError(Diagnostic("E0802", message, help="remove --no-fold-batchnorm"))
    return recipes.scheme(request.options.get("made_for"))


def _check_zeros(request: Request, backend: door.Backend, for_passes: Mapping[str, Any]) -> None:
    """Raises UsageError for a pass that pads weights with zeros where these would not stay zeros."""
    reason = backend.FILLS_ZEROS or ("so it cannot be used with --no-weights" if request.structure_only else "")
    for step in PASSES:
        if reason and step.made_of_weights and for_passes.get(step.keyword):
            message = f"--{step.name} pads the weights with zeros, {reason}"
            raise UsageError(Diagnostic("E0802", message, help=f"remove --{step.name}"))


def _weights(request: Request, network: Network) -> Weights:
    weights = request.weights
    if weights is None:
        return draw(network, request.seed)
    if isinstance(weights, str | os.PathLike):
        from rescompile.weights import checkpoints  # only this needs it

        return checkpoints.load(weights, network, request.say)
    if not isinstance(weights, Mapping):
        message = f"weights must be a file or a mapping from names to arrays, not a {type(weights).__name__}"
        help = "give its state_dict()" if hasattr(weights, "state_dict") else None
        raise UsageError(Diagnostic("E0802", message, help=help))
    return from_arrays(weights, network)
