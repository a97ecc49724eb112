"""Preprocessing: images as network inputs, bit for bit as torchvision's reference transforms do.

Those are `Resize(resize)`, `CenterCrop(crop)`, `ToTensor()` and `Normalize(mean, std)` on the decoded image, with the channels
reversed before the last where the network wants BGR.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from rescompile.diagnostics.errors import UsageError, clipped, nearest, one_of
from rescompile.options import assignment
from rescompile.records import record
from rescompile.weights import Array

if TYPE_CHECKING:
    from PIL.Image import Image

#: The largest number of pixels of an image: a quarter of a gigabyte when decoded, which a file of kilobytes can declare.
MAX_PIXELS = 1 << 26
#: The largest number of pixels of an input, which consists of floats.
MAX_INPUT = 1 << 24
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
CHANNEL_ORDERS = ("rgb", "bgr")
KEYS = ("mean", "std", "resize", "crop", "interpolation", "channel_order")
#: The mode of Pillow's images for each number of channels of a network.
MODES = {1: "L", 3: "RGB"}


class UnusableImage(Exception):
    """An unusable image; the message gives the reason without the name."""


@record
class Preparation:
    """The preprocessing of images. With `uint8` the input is the pixel values themselves, and with `nhwc` it has the
    channels last. `resize` is the length of the shorter side, or height and width; `crop` is height and width; None leaves
    the image unchanged. `mean` and `std` are per channel, in `channel_order`, of values scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[int, ...] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    channel_order: str = "rgb"
    dtype: str = "float32"
    layout: str = "nchw"

    def as_data(self) -> dict[str, Any]:
        """Return the preprocessing as data, for --json."""
        return asdict(self)

    def apply(self, image: Image) -> Array:
        """Return an image as an array of [channels, height, width], or of [height, width, channels]. Raises UnusableImage."""
        if self.resize is not None:
            image = self._resized(image)
        width, height = self.crop[::-1] if self.crop else image.size
        if width * height > MAX_INPUT:
            raise UnusableImage(f"it would be an input of {width}x{height} pixels; set a smaller resize and crop")
        pixels = np.asarray(image)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self.crop is not None:
            pixels = _cropped(pixels, *self.crop)
        if self.channel_order == "bgr":
            pixels = pixels[:, :, ::-1]
        axes = (2, 0, 1) if self.layout == "nchw" else (0, 1, 2)
        values: Array = pixels.transpose(axes).astype(self.dtype, order="C")
        if self.dtype == "uint8":
            return values
        shape = (-1, 1, 1) if self.layout == "nchw" else (-1,)
        mean, std = (np.array(values, np.float32).reshape(shape) for values in (self.mean, self.std))
        prepared: Array = (values / np.float32(255) - mean) / std
        return prepared

    def size(self, array: Array) -> tuple[int, ...]:
        """Return height and width of a prepared image."""
        return array.shape[1:] if self.layout == "nchw" else array.shape[:2]

    def _resized(self, image: Image) -> Image:
        from PIL.Image import Resampling

        assert self.resize is not None
        width, height = image.size
        if len(self.resize) == 2:
            new_height, new_width = self.resize
        else:  # the longer side is rounded down, as in torchvision
            short = self.resize[0]
            long = int(short * max(width, height) / min(width, height))
            new_width, new_height = (short, long) if width <= height else (long, short)
        if new_width * new_height > MAX_PIXELS:
            raise UnusableImage(f"resizing {width}x{height} pixels would give {new_width}x{new_height}")
        if (new_width, new_height) == (width, height):
            return image
        return image.resize((new_width, new_height), Resampling[self.interpolation.upper()])


def _cropped(pixels: Array, height: int, width: int) -> Array:
    """Return the centre of an image; a smaller image is padded with black, an odd row or column at the end."""
    missing = [max(wanted - there, 0) for wanted, there in zip((height, width), pixels.shape, strict=False)]
    if any(missing):
        pixels = np.pad(pixels, [*((n // 2, n - n // 2) for n in missing), (0, 0)])
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]


def preparation(values: Mapping[str, Any], sizes: Sequence[Any], shown: str, dtype: str = "float32") -> Preparation:
    """Return the preprocessing with these recorded or given values, for an input of `sizes` (batch, channels, height, width,
    or with the channels last; a dynamic axis is a string). Raises UsageError for unusable values, and if no image can fit
    the input."""
    layout = "nchw"
    if len(sizes) == 4 and sizes[1] not in MODES and sizes[3] in MODES:
        layout, sizes = "nhwc", (sizes[0], sizes[3], *sizes[1:3])
    if len(sizes) != 4 or sizes[1] not in MODES:
        listed = ", ".join(map(str, sizes))
        message = f"the input of {shown} is [{listed}], but images need [batch, 1 or 3 channels, height, width]"
        raise UsageError.of("E0830", message)
    for name in values:
        if name not in KEYS:
            help = nearest(name, KEYS) or f"valid keys: {', '.join(KEYS)}"
            raise UsageError.of("E0830", f"unknown preprocessing key '{clipped(str(name))}'", help=help)
    channels = sizes[1]
    if dtype == "uint8":  # the graph normalises these
        values = {"mean": [0] * channels, "std": [1] * channels, **values}
    example = ",".join(["0.5"] * channels)
    absent = [name for name in ("mean", "std") if name not in values]
    if absent:
        message = f"{shown} does not record its preprocessing: {' and '.join(absent)} missing"
        help = f"add {' '.join(f'--preprocess {name}={example}' for name in absent)}"
        raise UsageError.of("E0830", message, help=help)
    mean, std = (_numbers(name, values[name], channels) for name in ("mean", "std"))
    if min(std) <= 0:
        raise UsageError.of("E0830", f"std must be greater than 0, not {min(std):g}")
    resize, crop = (_lengths(name, values.get(name)) for name in ("resize", "crop"))
    crop = (crop[0], crop[-1]) if crop else None
    interpolation = _word("interpolation", values.get("interpolation", "bilinear"), INTERPOLATIONS)
    order = _word("channel_order", values.get("channel_order", "rgb"), CHANNEL_ORDERS)
    free = [not isinstance(size, int) for size in sizes[2:]]
    fixed = crop or (resize if resize and len(resize) == 2 else None)
    if fixed is None and any(free):
        message = f"{shown} takes images of any size, but all images of a batch need one size"
        raise UsageError.of("E0830", message, help="set it: --preprocess crop=224")
    if fixed and any(not any_size and got != size for any_size, got, size in zip(free, fixed, sizes[2:], strict=True)):
        message = f"preprocessing gives images of {fixed[0]}x{fixed[1]}, but {shown} needs {sizes[2]}x{sizes[3]}"
        raise UsageError.of("E0830", message, help=f"set it: --preprocess crop={_side(sizes[2:])}")
    return Preparation(mean, std, resize, crop, interpolation, order, dtype, layout)


def applicable(values: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """Return the part of a library's preprocessing that applies to an input of [channels, height, width]. Sizes are kept
    only if they give this size. If the number of channels differs, mean and std are kept only for one channel and only if
    they are equal for all channels."""
    if not values or len(shape) != 3:
        return {}
    found = dict(values)
    resize, crop = found.get("resize"), found.get("crop")
    size = [crop, crop] if isinstance(crop, int) else crop or resize
    if size != [*shape[1:]]:
        found = {name: value for name, value in found.items() if name not in ("resize", "crop")}
    numbers = {name: _entries(found[name]) for name in ("mean", "std") if name in found}
    if all(len(entries) == shape[0] for entries in numbers.values()):
        return found
    if shape[0] == 1 and all(entries == entries[:1] * len(entries) for entries in numbers.values()):
        return {**found, **{name: entries[:1] for name, entries in numbers.items()}}
    return {}


def validated(
    values: Mapping[str, Any], of_spec: Mapping[str, Any], shape: Sequence[int], shown: str
) -> dict[str, Any]:
    """Return the preprocessing to record with weights: `values`, in the notation of a spec. Raises UsageError if they are
    not usable, together with the other values of the spec, for an input of [channels, height, width]."""
    how = preparation({**of_spec, **values}, (1, *shape), shown)
    return {name: _as_written(name, getattr(how, name)) for name in values}


def _as_written(name: str, value: Any) -> Any:
    """Return a value in the notation of a spec, where one integer is the shorter side for `resize`, and a square for `crop`."""
    if not isinstance(value, tuple):
        return value
    is_one = len(value) == 1 if name == "resize" else name == "crop" and value[0] == value[1]
    return value[0] if is_one else list(value)


def describe(values: Mapping[str, Any]) -> str:
    """Return preprocessing in one line, as it is typed: `mean=0.5,0.5,0.5 std=0.25,0.25,0.25 crop=224`."""
    listed = {name: value if isinstance(value, list | tuple) else [value] for name, value in values.items()}
    return " ".join(f"{name}={','.join(map(_short, value))}" for name, value in listed.items())


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def assignments(given: Iterable[str]) -> dict[str, str]:
    """Return the values of the options `--preprocess name=value`, by name. Raises UsageError for one without a value or
    given twice."""
    values: dict[str, str] = {}
    for name, value in map(assignment, given):
        if value is None:
            raise UsageError.of("E0802", f"--preprocess {clipped(name)}: write --preprocess name=value")
        if name in values:
            raise UsageError.of("E0802", f"--preprocess {clipped(name)} is given twice")
        values[name] = value
    return values


def _word(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return one of a few words."""
    word = str(value)
    if word not in choices:
        message = f"{name} must be {one_of(choices)}, not '{clipped(word)}'"
        raise UsageError.of("E0830", message, help=nearest(word, choices))
    return word


def _side(sizes: Sequence[Any]) -> str:
    return str(sizes[0]) if sizes[0] == sizes[1] else ",".join(map(str, sizes))


def _entries(value: Any) -> list[Any]:
    """Return the entries of a list or of comma-separated text; a single value is one."""
    return value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]


def _numbers(name: str, value: Any, channels: int) -> tuple[float, ...]:
    """Return one finite number per channel, from a list or comma-separated text."""
    try:
        numbers = tuple(float(number) for number in _entries(value))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != channels or not all(map(math.isfinite, numbers)):
        how = "one number" if channels == 1 else f"{channels} numbers"
        raise UsageError.of("E0830", f"{name} must be {how}, one per channel, not {clipped(str(value))}")
    return numbers


def _lengths(name: str, value: Any) -> tuple[int, ...] | None:
    """Return one or two integers from 1, from a number, a list or comma-separated text."""
    if value is None:
        return None
    texts = [str(number).strip() for number in _entries(value)]
    if len(texts) not in (1, 2) or not all(
        text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16 for text in texts
    ):
        message = f"{name} must be an integer from 1 to 65535, or height,width, not {clipped(str(value))}"
        raise UsageError.of("E0830", message)
    return tuple(map(int, texts))
