"""`build --verify`: the files of an artifact are loaded and run before they replace earlier ones, and their outputs are
compared with those of the interpreter by the rule of `accuracy`."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rescompile import backend as backend_api
from rescompile.analysis.dynamic_shapes import Free
from rescompile.diagnostics.errors import CheckFailed, RescompileError
from rescompile.ir.network import Network
from rescompile.runtimes.accuracy import Arrays, Reference, relative_error
from rescompile.runtimes.verify import other_size
from rescompile.weights import Array, Weights
from rescompile.weights.batch_statistics import trial

#: The number of compared images; a larger fixed batch repeats them.
IMAGES = 2


def verified(
    artifact: backend_api.Artifact, target: str, network: Network, weights: Weights | None, options: Mapping[str, Any], seed: int,
    images: Sequence[Array] | None = None,
) -> backend_api.Artifact:  # fmt: skip
    """Return the artifact with a check that compares its files when they are written; its facts then contain the shape
    of the input, the error and the bound under `verified`.

    The files must compute `network` with `weights`, those before exact passes, or with other weights if these are None,
    which are then loaded into them. `options` are those of the backend. Without `images` to compare, some are drawn
    from `seed`, in the dynamic axes of another size than the spec's. The check raises CheckFailed if the error exceeds
    the bound, or if the network itself is not finite.
    """
    facts, backend = dict(artifact.facts), backend_api.evaluator(target)
    wrapping = backend_api.Wrapping() if backend.wrapping is None else backend.wrapping(network, **options)
    if images is None:
        free = [Free.of(name, axis) for name, axis in facts.get("free", {}).items()]
        shape = IMAGES, *other_size(network, free)
        x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    else:
        x = np.concatenate(images)
    x = wrapping.nearest(x)
    precision, batch = options.get("precision", "fp32"), options.get("batch") or len(x)

    def check(files: Mapping[str, Path]) -> None:
        *_, name = files  # the last one is the main file
        given = trial(network, seed, x) if weights is None else weights
        reference = Reference(network, given, x, wrapping.outputs)
        if (first := reference.overflow(precision)) is not None:
            message = f"{name} cannot be verified: the network is not finite with these weights, from {first} on"
            raise CheckFailed.of("E0707", message, help=_OVERFLOW)
        with _together(files) as path:
            outputs = _outputs(backend, path, network, given, _repeated(x, batch), options)
        error = relative_error(outputs, {key: _repeated(value, batch) for key, value in reference.exact.items()})
        bound = reference.bound(precision, error=error)
        if not error <= bound < math.inf:
            message = f"{name} was not written: loaded again, its outputs have an error of {error:.2e}, but the bound is {bound:.2e}"
            raise CheckFailed.of("E0708", message, help=_DIFFERS)
        facts["verified"] = {"input": [batch, *x.shape[1:]], "error": error, "bound": bound}

    return replace(artifact, facts=facts, check=check)


_OVERFLOW = "use trained weights, a wider precision, or --calibrate-norms for random weights"
_DIFFERS = "an earlier file is unchanged; `rescompile verify` with the same options reports what is at fault"


def _outputs(
    backend: backend_api.Backend, path: Path, network: Network, weights: Weights, x: Array, options: Mapping[str, Any]
) -> Arrays:
    """Return the outputs of a written file. Raises CheckFailed if it cannot be run."""
    assert backend.evaluate_file is not None
    try:
        return backend.evaluate_file(path, network, weights, x, **options)
    except RescompileError:
        raise
    except Exception as error:  # runtimes raise arbitrary exceptions for invalid files
        message = (
            f"{path.name} was not written: loaded again, it cannot be run: {type(error).__name__}: {str(error)[:300]}"
        )
        raise CheckFailed.of("E0708", message, help=_DIFFERS) from None


def _repeated(values: Array, batch: int) -> Array:
    """Return the images repeated to a batch of this size."""
    return np.ascontiguousarray(np.resize(values, (batch, *values.shape[1:])))


@contextlib.contextmanager
def _together(files: Mapping[str, Path]) -> Iterator[Path]:
    """Link all files into one temporary folder under their final names, by which they refer to each other, and provide
    the main file."""
    with tempfile.TemporaryDirectory(prefix="rescompile-") as folder:
        for name, path in files.items():
            there = Path(folder) / name
            try:
                os.link(path, there)
            except OSError:  # on another file system
                shutil.copyfile(path, there)
        yield there
