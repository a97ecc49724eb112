"""Spec -> artifact: elaborate, apply passes, draw or load weights, hand over to a backend."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from rescompile import backend as door
from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.elaboration import elaborate
from rescompile.ir.network import Network
from rescompile.lang.load import load
from rescompile.lang.spec.spec import Spec
from rescompile.passes import PASSES, apply
from rescompile.quantize import calibration
from rescompile.runtimes import recipes
from rescompile.weights import Array, Weights, draw, from_arrays

WeightSource = Mapping[str, Array] | str | os.PathLike[str] | None

#: The targets in which zeros that a pass puts among weights would not stay zeros, and why.
_FILLED = {"source": "the source draws its own weights", "torch": "a module that is trained fills them"}


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
    how many to draw from `seed`. `say` is told what is done to a checkpoint, such as
    to take the `module.` of DataParallel off its names.

    Raises SpecError, CheckFailed where weights do not fit, UsageError for wrong options or calibration data, Unavailable
    for the target or the quantiser.
    """
    if structure_only and weights is not None:
        raise UsageError(Diagnostic("E0802", "weights are given, and 'structure_only' leaves weights out"))
    backend = door.load(target)
    if target == "source" and weights is not None:
        help = "leave them out here; the module of the source takes them by load_state_dict"
        raise UsageError(Diagnostic("E0802", f"weights are given, and {_FILLED[target]}", help=help))
    made_for = options.get("made_for")
    if made_for is not None:
        if all(option.name != "made_for" for option in backend.OPTIONS):
            raise UsageError(Diagnostic("E0802", f"recipes are for ONNX files, and the target is '{target}'"))
        options = {**recipes.options(made_for, options.get("precision")), **options}
    keywords = {step.keyword for step in PASSES}
    for_passes = {key: value for key, value in options.items() if key in keywords}
    for_backend = door.checked(backend, target, {key: value for key, value in options.items() if key not in keywords})
    int8 = target == "onnx" and for_backend["precision"] == "int8"
    if calibrate is not None and not int8:
        raise UsageError(
            Diagnostic("E0802", "calibration data are for an ONNX file in int8", help="add --precision int8")
        )
    if int8:
        if structure_only:
            raise UsageError(Diagnostic("E0802", "an int8 file has weights: their scales are in it"))
        if for_passes.get("fold_batchnorm") is False:
            raise UsageError(
                Diagnostic("E0802", "norms are folded in an int8 file", help="leave --no-fold-batchnorm out")
            )
        for_passes["fold_batchnorm"] = True  # a norm between two convolutions would be computed in floats
        scheme = recipes.scheme(made_for)
    for step in PASSES:
        if step.made_of_weights and for_passes.get(step.keyword) and (structure_only or target in _FILLED):
            what = _FILLED.get(target, "there are none without weights")
            message = f"--{step.name} puts zeros among the weights, and {what}"
            raise UsageError(Diagnostic("E0802", message, help=f"leave --{step.name} out"))
    if isinstance(spec, str | os.PathLike):
        spec = load(spec)
    network = spec if isinstance(spec, Network) else elaborate(spec)
    data = calibration.data(calibrate, network, seed) if int8 else None
    given: Weights | None = None
    if not structure_only:
        given = _weights(weights, network, seed, say)
    network, given = apply(network, given, for_passes)
    if data is not None and given is not None:
        from rescompile.quantize import quantizer  # only this needs it

        return quantizer.artifact(network, given, data, scheme, **for_backend)
    return backend.emit(network, given, **for_backend)


def _weights(weights: WeightSource, network: Network, seed: int, say: Callable[[str], None]) -> Weights:
    if weights is None:
        return draw(network, seed)
    if isinstance(weights, str | os.PathLike):
        from rescompile.weights import checkpoints  # only this needs it

        return checkpoints.load(weights, network, say)
    if not isinstance(weights, Mapping):
        message = f"weights are a file or a mapping from names to arrays, and this is a {type(weights).__name__}"
        help = "give its state_dict()" if hasattr(weights, "state_dict") else None
        raise UsageError(Diagnostic("E0802", message, help=help))
    return from_arrays(weights, network)
