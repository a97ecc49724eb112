"""Data to calibrate with: inputs that show how large the activations of a network become, and others to check the result on.

A folder of images, prepared as the spec says; a folder of `.npy` files, each an input of [channels, height, width] or several of
them, prepared already; arrays in memory; or standard-normal values drawn from a seed, which any network takes and which stand for no task.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, UsageError
from rescompile.ir.network import Network
from rescompile.ir.ops import Shape
from rescompile.weights import Array, numpy_files

#: How many inputs are drawn where nobody says.
COUNT = 32
#: As many are drawn beside them to check with.
_CHECKED = 32
#: Of inputs that are given, each fifth is kept apart to check with.
_EVERY = 5
_MOST = 100_000
SUFFIX = ".npy"
_HELP = f"name a folder of images or of {SUFFIX} files, or how many inputs to draw"


@dataclass(frozen=True, slots=True)
class Data:
    """Inputs, each made anew when it is asked for, as float32 of [1, channels, height, width]: those to calibrate with, and
    those kept apart, of which there may be none. `kind` says in words what they are, `seed` what they were drawn from."""

    kind: str
    fit: Sequence[Callable[[], Array]]
    held: Sequence[Callable[[], Array]]
    seed: int | None = None

    def digest(self) -> str:
        """The SHA-256 of the values that are calibrated with, in order."""
        found = hashlib.sha256()
        for make in self.fit:
            found.update(np.ascontiguousarray(make(), "<f4").data)
        return found.hexdigest()


def data(source: str | int | os.PathLike[str] | Array | None, network: Network, seed: int) -> Data:
    """What a user names: a folder, how many inputs to draw (also as text of digits), or an array of inputs; None draws COUNT
    of them. Raises UsageError where it cannot be used, and Unavailable where images cannot be read."""
    shape = network.input
    if isinstance(source, np.ndarray):
        array: Array = source
        return _split("arrays", _parts(array, shape, "the calibration data", lambda: array))
    if isinstance(source, str) and source.isascii() and source.isdecimal() and len(source) < 20:
        source = int(source)
    if source is None or isinstance(source, int):
        return drawn(shape, COUNT if source is None else source, seed)
    if not isinstance(source, str | os.PathLike):
        message = f"calibration data are a folder, a number or an array of numpy, and this is a {type(source).__name__}"
        raise UsageError(Diagnostic("E0840", message))
    if not os.fspath(source):  # the path of nothing would be this folder
        raise UsageError(Diagnostic("E0840", "the calibration data have no name", help=_HELP))
    return _folder(Path(source), network)


def drawn(shape: Shape, count: int, seed: int) -> Data:
    """Standard-normal inputs of a shape. Each has a stream of its own, so that more of them begin with the same ones."""
    if isinstance(count, bool) or not 0 < count <= _MOST:
        raise UsageError(Diagnostic("E0840", f"a calibration draws 1 to {_MOST} inputs, and this is {count}"))

    def make(at: int) -> Array:
        return np.random.default_rng([seed, at]).standard_normal((1, *shape), np.float32)

    return Data(
        f"standard-normal values, seed {seed}",
        [partial(make, at) for at in range(count)],
        [partial(make, _MOST + at) for at in range(_CHECKED)],
        seed,
    )


def _folder(path: Path, network: Network) -> Data:
    if not os.path.isdir(path):
        what = "is no folder" if os.path.exists(path) else "does not exist"
        raise UsageError(Diagnostic("E0840", f"{path} {what}", help=_HELP))
    files = sorted(Path(folder) / name for folder, _, names in os.walk(path) for name in names if name.endswith(SUFFIX))
    if not files:
        return _images(path, network)
    makers: list[Callable[[], Array]] = []
    for file in files:
        makers += _parts(_read(file), network.input, str(file), partial(_read, file))
    return _split(f"inputs of {len(files)} file{'' if len(files) == 1 else 's'}", makers)


def _images(path: Path, network: Network) -> Data:
    from rescompile.vision import images

    images.require()
    try:
        files = images.find([path])
        how = images.preparation(network.preprocess or {}, (1, *network.input), network.name)
    except UsageError as error:
        (found,) = error.diagnostics
        help = f"or a folder of {SUFFIX} files" if found.code == "E0801" else "its key is 'preprocess', in the spec"
        raise UsageError(Diagnostic("E0840", found.message, help=help)) from None

    def make(file: Path) -> Array:
        try:
            value = how.apply(images.decode(file, len(how.mean)))
        except images.Broken as error:
            raise UsageError(Diagnostic("E0840", f"{file}: {error}")) from None
        if value.shape != network.input:
            found, wanted = ("x".join(map(str, sizes)) for sizes in (value.shape[1:], network.input[1:]))
            help = "say 'resize' and 'crop' under 'preprocess' of the spec"
            raise UsageError(Diagnostic("E0840", f"{file} is {found}, and {network.name} takes {wanted}", help=help))
        return value[None]

    return _split(f"{len(files)} image{'' if len(files) == 1 else 's'}", [partial(make, file) for file in files])


def _read(path: Path) -> Array:
    """The array of a file, mapped and not read. Raises UsageError for another file."""
    try:
        return numpy_files.read(path, mapped=True)
    except numpy_files.Unreadable as error:
        raise UsageError(Diagnostic("E0840", f"{path}: {error}", help=error.help)) from None


def _parts(array: Array, shape: Shape, name: str, again: Callable[[], Array]) -> Iterator[Callable[[], Array]]:
    """What makes each input of an array. Raises UsageError for one of another form, here or when it is made."""
    if array.dtype.kind != "f":
        help = "prepare the inputs as the network takes them: scaled, and mean and deviation taken out"
        raise UsageError(Diagnostic("E0840", f"{name} holds values of {array.dtype}, and inputs are floats", help=help))
    one = array.shape == shape
    if not one and (array.shape[1:] != shape or not len(array)):
        found, wanted = (list(map(int, sizes)) for sizes in (array.shape, shape))
        message = f"{name} is of {found}, and the network takes {wanted}, or several of those"
        raise UsageError(Diagnostic("E0840", message))

    def make(at: int) -> Array:
        values = again()
        value = np.array(values if one else values[at], np.float32)[None]
        if not np.isfinite(value).all():
            raise UsageError(Diagnostic("E0840", f"{name} holds a value that is not finite"))
        return value

    return (partial(make, at) for at in range(1 if one else len(array)))


def _split(kind: str, makers: Iterator[Callable[[], Array]] | Sequence[Callable[[], Array]]) -> Data:
    """Each fifth input is kept apart: with folders of classes, from all of them."""
    listed = list(makers)
    held = listed[_EVERY - 1 :: _EVERY]
    return Data(kind, [make for at, make in enumerate(listed) if at % _EVERY != _EVERY - 1], held)
