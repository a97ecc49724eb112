"""Calibration data: the inputs that determine the ranges of activations, and further ones to validate the result.

The source is a folder of images, preprocessed as the spec specifies; a folder of `.npy` files with prepared inputs of
[channels, height, width] or batches of them; arrays in memory; or standard-normal values drawn from a seed, which fit any
network but represent no task.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from rescompile.diagnostics.errors import UsageError
from rescompile.ir.network import Network
from rescompile.ir.ops import Shape
from rescompile.records import record
from rescompile.weights import Array, numpy_files

#: The default number of random inputs.
COUNT = 32
#: The number of random inputs for validation.
_VALIDATED = 32
#: Every fifth given input is used for validation.
_EVERY = 5
_MOST = 100_000
SUFFIX = ".npy"
_HELP = f"name a folder of images or of {SUFFIX} files, or the number of inputs to draw"

Input = Callable[[], Array]


@record
class Data:
    """Inputs, each a function that makes a float32 array of [1, channels, height, width]: those for calibration, and those for
    validation, possibly none. `description` is recorded in artifacts, as is the `seed` of drawn inputs."""

    description: str
    calibration: Sequence[Input]
    validation: Sequence[Input]
    seed: int | None = None

    def digest(self) -> str:
        """Return the SHA-256 of the calibration inputs, in order."""
        sha256 = hashlib.sha256()
        for make in self.calibration:
            sha256.update(np.ascontiguousarray(make(), "<f4").data)
        return sha256.hexdigest()


def data(source: str | int | os.PathLike[str] | Array | None, network: Network, seed: int) -> Data:
    """Return the inputs of a source: a folder, an array of inputs, or the number of inputs to draw, also as text; None draws
    COUNT. Raises UsageError if it cannot be used, and Unavailable if images cannot be read."""
    shape = network.input
    if isinstance(source, np.ndarray):
        array: Array = source
        return _split("arrays", _inputs(array, shape, "the calibration data", lambda: array))
    if isinstance(source, str) and source.isascii() and source.isdecimal() and len(source) < 20:
        source = int(source)
    if source is None or isinstance(source, int):
        return drawn(shape, COUNT if source is None else source, seed)
    if not isinstance(source, str | os.PathLike):
        message = f"calibration data must be a folder, a number or a numpy array, not a {type(source).__name__}"
        raise UsageError.of("E0840", message)
    if not os.fspath(source):  # an empty path would be the current folder
        raise UsageError.of("E0840", "--calibrate is empty", help=_HELP)
    return _folder(Path(source), network)


def drawn(shape: Shape, count: int, seed: int) -> Data:
    """Return standard-normal inputs of a shape. Each has its own random stream, so that a larger count begins with the same
    inputs."""
    if isinstance(count, bool) or not 0 < count <= _MOST:
        raise UsageError.of("E0840", f"the number of calibration inputs must be from 1 to {_MOST}, not {count}")

    def make(at: int) -> Array:
        return np.random.default_rng([seed, at]).standard_normal((1, *shape), np.float32)

    calibration = [partial(make, at) for at in range(count)]
    validation = [partial(make, at) for at in range(_MOST, _MOST + _VALIDATED)]
    return Data(f"standard-normal values, seed {seed}", calibration, validation, seed)


def _folder(path: Path, network: Network) -> Data:
    if not os.path.isdir(path):
        what = "is not a folder" if os.path.exists(path) else "does not exist"
        raise UsageError.of("E0840", f"{path} {what}", help=_HELP)
    files = sorted(Path(folder) / name for folder, _, names in os.walk(path) for name in names if name.endswith(SUFFIX))
    if not files:
        return _images(path, network)
    inputs = [each for file in files for each in _inputs(_read(file), network.input, str(file), partial(_read, file))]
    return _split(f"inputs of {len(files)} file{'' if len(files) == 1 else 's'}", inputs)


def _images(path: Path, network: Network) -> Data:
    from rescompile.vision import images, preprocessing

    images.require()
    try:
        files = images.find([path])
        how = preprocessing.preparation(network.preprocess or {}, (1, *network.input), network.name)
    except UsageError as error:
        (problem,) = error.diagnostics
        help = f"or a folder of {SUFFIX} files" if problem.code == "E0801" else "its key is 'preprocess', in the spec"
        raise UsageError.of("E0840", problem.message, help=help) from None

    def make(file: Path) -> Array:
        try:
            value = images.prepare(file, how)
        except preprocessing.UnusableImage as error:
            raise UsageError.of("E0840", f"{file}: {error}") from None
        if value.shape != network.input:
            size, wanted = ("x".join(map(str, sizes)) for sizes in (value.shape[1:], network.input[1:]))
            help = "add 'resize' and 'crop' under 'preprocess' in the spec"
            raise UsageError.of("E0840", f"{file} is {size}, but {network.name} takes {wanted}", help=help)
        return value[None]

    return _split(f"{len(files)} image{'' if len(files) == 1 else 's'}", [partial(make, file) for file in files])


def _read(path: Path) -> Array:
    """Return the memory-mapped array of a file. Raises UsageError for another file."""
    try:
        return numpy_files.read(path, mapped=True)
    except numpy_files.Unreadable as error:
        raise UsageError.of("E0840", f"{path}: {error}", help=error.help) from None


def _inputs(array: Array, shape: Shape, name: str, read: Callable[[], Array]) -> Iterator[Input]:
    """Return the inputs in an array, which `read` reads again for each. Raises UsageError for the wrong shape or type here,
    and for values that are not finite when the input is made."""
    if array.dtype.kind != "f":
        help = "preprocess the inputs as for the network: scale them, then normalise with mean and standard deviation"
        raise UsageError.of("E0840", f"{name}: inputs must be floats, not {array.dtype}", help=help)
    one = array.shape == shape
    if not one and (array.shape[1:] != shape or not len(array)):
        given, wanted = (list(map(int, sizes)) for sizes in (array.shape, shape))
        raise UsageError.of("E0840", f"{name} has the shape {given}, but the network takes {wanted}, or a batch of it")

    def make(at: int) -> Array:
        values = read()
        value = np.array(values if one else values[at], np.float32)[None]
        if not np.isfinite(value).all():
            raise UsageError.of("E0840", f"{name} has a value that is not finite")
        return value

    return (partial(make, at) for at in range(1 if one else len(array)))


def _split(description: str, inputs: Iterator[Input] | Sequence[Input]) -> Data:
    """Return the data with every fifth input for validation, so that folders of classes contribute from every class."""
    listed = list(inputs)
    calibration = [make for at, make in enumerate(listed, 1) if at % _EVERY]
    return Data(description, calibration, listed[_EVERY - 1 :: _EVERY])
