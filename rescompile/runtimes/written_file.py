"""`build --verify`: the files of an artifact are loaded and run before they replace earlier ones, and their outputs are
compared with those of the interpreter by the rule of `accuracy`."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rescompile import backend as backend_api
from rescompile.analysis.dynamic_shapes import Free
from rescompile.diagnostics.errors import CheckFailed, Diagnostic, RescompileError
from rescompile.ir.network import Network
from rescompile.records import record
from rescompile.runtimes.accuracy import Arrays, Reference, relative_error
from rescompile.runtimes.verify import other_size
from rescompile.weights import Array, Weights
from rescompile.weights.batch_statistics import trial

#: The number of compared images; a larger fixed batch repeats them.
IMAGES = 2


@record
class Expected:
    """The expected function of a file: the network, its weights before exact passes, or None if other weights are
    loaded into the file, and the options of the backend. Images have another size than the spec's in the `free` axes.
    `x` contains the images to compare, drawn from `seed` if that is None."""

    target: str
    network: Network
    weights: Weights | None
    options: Mapping[str, Any]
    free: Sequence[Free] = ()
    seed: int = 0
    x: Array | None = None
    wrapping: backend_api.Wrapping = field(default_factory=backend_api.Wrapping)

    def compare(self, files: Mapping[str, Path]) -> dict[str, Any]:
        """Return the shape of the input, the error and the bound of files, which are given by name; the last one is the
        main file. Raises CheckFailed if the error exceeds the bound, or if the network itself is not finite."""
        x, precision = self.x, self.options.get("precision", "fp32")
        if x is None:
            shape = IMAGES, *other_size(self.network, self.free)
            x = np.random.default_rng(self.seed).standard_normal(shape, np.float32)
        backend = backend_api.evaluator(self.target)
        x = self.wrapping.nearest(x)
        weights = trial(self.network, self.seed, x) if self.weights is None else self.weights
        reference = Reference(self.network, weights, x, self.wrapping.outputs)
        *_, name = files
        if (first := reference.overflow(precision)) is not None:
            message = f"{name} cannot be verified: the network is not finite with these weights, from {first} on"
            raise CheckFailed(Diagnostic("E0707", message, help=_OVERFLOW))
        batch = self.options.get("batch") or len(x)
        with _together(files) as path:
            outputs = _outputs(backend, path, self.network, weights, _repeated(x, batch), self.options)
        error = relative_error(outputs, {key: _repeated(value, batch) for key, value in reference.exact.items()})
        bound = reference.bound(precision, error=error)
        if not error <= bound < math.inf:
            message = f"{name} was not written: loaded again, its outputs have an error of {error:.2e}, but the bound is {bound:.2e}"
            raise CheckFailed(Diagnostic("E0708", message, help=_DIFFERS))
        return {"input": list(_repeated(x, batch).shape), "error": error, "bound": bound}


def verified(
    artifact: backend_api.Artifact, target: str, network: Network, weights: Weights | None, options: Mapping[str, Any], seed: int,
    images: Sequence[Array] | None = None,
) -> backend_api.Artifact:  # fmt: skip
    """Return the artifact with a check that compares its files when they are written; its facts then contain the result
    under `verified`."""
    facts, wrapping = dict(artifact.facts), backend_api.evaluator(target).wrapping
    expected = Expected(
        target, network, weights, options,
        [Free.of(name, axis) for name, axis in facts.get("free", {}).items()] if images is None else (),
        seed, None if images is None else np.concatenate(images),
        backend_api.Wrapping() if wrapping is None else wrapping(network, **options),
    )  # fmt: skip

    def check(files: Mapping[str, Path]) -> None:
        facts["verified"] = expected.compare(files)

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
        raise CheckFailed(Diagnostic("E0708", message, help=_DIFFERS)) from None


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
