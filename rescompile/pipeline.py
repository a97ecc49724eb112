"""Compiles a spec to an artifact: elaborates it, applies passes, draws or loads weights, and calls a backend."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, replace
from typing import Any

from rescompile import backend as backend_api
from rescompile.diagnostics.errors import UsageError
from rescompile.elaboration import elaborate
from rescompile.ir.network import Network
from rescompile.lang.load import load
from rescompile.lang.spec.spec import Spec
from rescompile.passes import PASSES, apply
from rescompile.records import record
from rescompile.runtimes import recipes
from rescompile.weights import Array, Weights, draw, from_arrays

WeightSource = Mapping[str, Array] | str | os.PathLike[str] | None


@record
class Request:
    """A network to compile, its target and its weights; `build` documents each field."""

    spec: Spec | Network | str | os.PathLike[str]
    target: str
    weights: WeightSource = None
    seed: int = 0
    structure_only: bool = False
    calibrate: str | int | os.PathLike[str] | Array | None = None
    calibrate_norms: bool = False
    verify: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = warnings.warn
    #: Yields the items of work that takes long, given their number and their name, and shows how many are done.
    track: Callable[[Iterable[Any], int, str], Iterable[Any]] = lambda items, total, unit: items


def build(
    spec: Spec | Network | str | os.PathLike[str],
    target: str,
    weights: WeightSource = None,
    *,
    seed: int = 0,
    structure_only: bool = False,
    say: Callable[[str], None] = warnings.warn,
    calibrate: str | int | os.PathLike[str] | Array | None = None,
    calibrate_norms: bool = False,
    verify: bool = False,
    **options: Any,
) -> backend_api.Artifact:
    """Compile a spec (or the name or file of one) to a target such as "onnx".

    `weights` is a file (safetensors, or a checkpoint of torch) or a mapping from names to arrays; without it, new ones are
    drawn from `seed` by the spec's `init`. `structure_only` leaves the weights out. `options` are those of the passes
    (`fold_batchnorm=True`) and of the target (`opset=18`, `batch=8`); `made_for="ort-cuda"` sets the options of a recipe that
    are not given. `calibrate` is the calibration data of an int8 file: a folder of images or .npy files, an array of inputs, or
    the number of inputs to draw from `seed`. `calibrate_norms` sets the norm statistics of random weights from a batch that is
    drawn from `seed`. With `verify`, `write` loads the file again, runs it and compares it before it replaces an earlier one.
    `say` is called with notes on a checkpoint, such as the removal of `module.` (DataParallel) from its keys.

    Raises SpecError, CheckFailed if weights do not fit, UsageError for wrong options or calibration data, Unavailable
    for the target or the quantiser.
    """
    return execute(
        Request(spec, target, weights, seed, structure_only, calibrate, calibrate_norms, verify, options, say)
    )


def execute(request: Request) -> backend_api.Artifact:
    """Compile as requested. Raises as `build` does."""
    backend = backend_api.load(request.target)
    _check_weights(request, backend)
    options = _with_recipe(request, backend)
    for_passes = {step.keyword: options[step.keyword] for step in PASSES if step.keyword in options}
    for_backend = {name: value for name, value in options.items() if name not in for_passes}
    for_backend = backend_api.checked(backend, request.target, for_backend)
    int8 = backend.rewritten is not None and for_backend.get("precision") == "int8"
    if request.calibrate is not None and not int8:
        raise UsageError.of("E0802", "calibration applies only to int8 files", help="add --precision int8")
    scheme = _scheme(request, for_passes) if int8 else ""
    _check_verify(request)
    _check_zeros(request, backend, for_passes)
    spec = load(request.spec) if isinstance(request.spec, str | os.PathLike) else request.spec
    network = spec if isinstance(spec, Network) else elaborate(spec)
    weights = None if request.structure_only else _weights(request, network)
    if weights is not None and weights.preprocess:  # the spec may define another one
        network = replace(network, preprocess={**(network.preprocess or {}), **weights.preprocess})
    data = None
    if int8:
        from rescompile.quantize import calibration  # only this needs it

        data = calibration.data(request.calibrate, network, request.seed)
    if int8 or (for_backend.get("precision") == "fp16" and _standardises(network)):  # which fp16 could not compute
        for_passes = {**for_passes, "fold_batchnorm": True}
    compiled, changed = apply(network, weights, for_passes)
    if data is not None and changed is not None:
        from rescompile.quantize import quantizer  # only this needs it

        artifact = quantizer.artifact(backend, compiled, changed, data, scheme, request.track, **for_backend)
    else:
        artifact = backend.emit(compiled, changed, **for_backend)
    if not request.verify:
        return artifact
    from rescompile.runtimes import written_file  # only this needs it

    network, weights = apply(
        network, weights, {step.keyword: for_passes.get(step.keyword) for step in PASSES if not step.exact}
    )
    return written_file.verified(
        artifact, request.target, network, None if backend.IGNORES_WEIGHTS else weights, for_backend, request.seed,
        [make() for make in data.calibration[: written_file.IMAGES]] if data is not None else None,
    )  # fmt: skip


def _standardises(network: Network) -> bool:
    from rescompile.passes.plain_weights import is_standardised  # imports numpy

    return is_standardised(network)


def _check_weights(request: Request, backend: backend_api.Backend) -> None:
    """Raise UsageError for weights that the target would ignore."""
    if request.weights is None:
        return
    if request.structure_only:
        raise UsageError.of("E0802", "'weights' and 'structure_only' cannot be used together")
    if backend.IGNORES_WEIGHTS:
        raise UsageError.of("E0802", f"the target '{request.target}' does not take weights: {backend.IGNORES_WEIGHTS}")


def _check_verify(request: Request) -> None:
    """Raise UsageError if the file could not be verified, and Unavailable if a package for that is missing."""
    if not request.verify:
        return
    if request.structure_only:
        raise UsageError.of("E0802", "--verify and --no-weights cannot be used together: nothing can be computed")
    if backend_api.evaluator(request.target).evaluate_file is None:
        help = "its backend has no 'evaluate_file'"
        raise UsageError.of("E0802", f"--verify does not apply to the target '{request.target}'", help=help)


def _with_recipe(request: Request, backend: backend_api.Backend) -> Mapping[str, Any]:
    """Return the options of a request, with those of its recipe for options that are not given."""
    made_for = request.options.get("made_for")
    if made_for is None:
        return request.options
    if not backend.RECIPE_OPTIONS:
        raise UsageError.of("E0802", f"the target '{request.target}' has no recipes: --for does not apply to it")
    allowed = {*backend.RECIPE_OPTIONS, *(step.keyword for step in PASSES)}
    recipe = recipes.options(made_for, request.options.get("precision"))
    return {**{name: value for name, value in recipe.items() if name in allowed}, **request.options}


def _scheme(request: Request, for_passes: Mapping[str, Any]) -> str:
    """Return the quantisation scheme of an int8 file. Raises UsageError for options that int8 files do not support."""
    if request.structure_only:
        raise UsageError.of(
            "E0802", "--precision int8 cannot be used with --no-weights: its scales depend on the weights"
        )
    if for_passes.get("fold_batchnorm") is False:  # a norm between two convolutions would compute in floats
        raise UsageError.of("E0802", "--precision int8 always folds norms", help="remove --no-fold-batchnorm")
    return recipes.scheme(request.options.get("made_for"))


def _check_zeros(request: Request, backend: backend_api.Backend, for_passes: Mapping[str, Any]) -> None:
    """Raise UsageError for a pass that pads weights with zeros where these would not stay zeros."""
    reason = backend.FILLS_ZEROS or ("so it cannot be used with --no-weights" if request.structure_only else "")
    for step in PASSES:
        if reason and step.made_of_weights and for_passes.get(step.keyword):
            message = f"--{step.name} pads the weights with zeros, {reason}"
            raise UsageError.of("E0802", message, help=f"remove --{step.name}")


def _weights(request: Request, network: Network) -> Weights:
    weights = request.weights
    if request.calibrate_norms and weights is not None:
        message = "--calibrate-norms applies to random weights only"
        raise UsageError.of("E0802", message, help="remove --calibrate-norms, or --weights")
    if weights is None and request.calibrate_norms:
        from rescompile.weights.batch_statistics import calibrated  # only this needs it

        return calibrated(network, draw(network, request.seed), request.seed)
    if weights is None:
        return draw(network, request.seed)
    if isinstance(weights, str | os.PathLike):
        from rescompile.weights import checkpoints  # only this needs it

        return checkpoints.load(weights, network, request.say)
    if not isinstance(weights, Mapping):
        message = f"weights must be a file or a mapping from names to arrays, not a {type(weights).__name__}"
        raise UsageError.of("E0802", message, help="give its state_dict()" if hasattr(weights, "state_dict") else None)
    return from_arrays(weights, network)
