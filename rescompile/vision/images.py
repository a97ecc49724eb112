"""Images as network inputs: found, decoded, and preprocessed bit for bit as torchvision's reference transforms do.

Those are `Resize(resize)`, `CenterCrop(crop)`, `ToTensor()` and `Normalize(mean, std)` on the decoded image. Decoding applies the
EXIF orientation, puts transparent pixels on white, rounds 16 bits to 8, and converts CMYK and palettes to RGB, or to grey for a
network with one channel. Colour profiles are ignored, and an animation is its first frame, as in training pipelines.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError, clipped, nearest, one_of
from rescompile.weights import Array

if TYPE_CHECKING:
    from PIL.Image import Image

#: Half a gigabyte once decoded, which a file of kilobytes can claim to be.
MAX_PIXELS = 1 << 27
#: Formats of photographs by Pillow's name, with the suffixes by which their files are found in folders. Pillow reads more, some
#: of them (EPS) by starting another program.
FORMATS: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "MPO": (),  # what some cameras put into a .jpg
}
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_MODES = {1: "L", 3: "RGB"}
_THREADS = min(os.cpu_count() or 1, 8)
_WHITE = (255, 255, 255, 255)


class Broken(Exception):
    """An unusable image; the message gives the reason without the name."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """The preprocessing of images. `resize` is the length of the shorter side, or height and width; `crop` is height and width; None
    leaves the image unchanged. `mean` and `std` are per channel, of values scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[int, ...] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"

    def as_data(self) -> dict[str, Any]:
        """The preprocessing as data, for --json."""
        return asdict(self)

    def apply(self, image: Image) -> Array:
        """An image as float32 of [channels, height, width]. Raises Broken."""
        if self.resize is not None:
            image = self._resized(image)
        pixels = np.asarray(image)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self.crop is not None:
            pixels = _cropped(pixels, *self.crop)
        scaled = pixels.transpose(2, 0, 1).astype(np.float32, order="C") / np.float32(255)
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        prepared: Array = (scaled - mean) / std
        return prepared

    def _resized(self, image: Image) -> Image:
        from PIL.Image import Resampling

        assert self.resize is not None
        width, height = image.size
        if len(self.resize) == 2:
            new_height, new_width = self.resize
        else:  # the longer side is rounded down, as torchvision does
            short = self.resize[0]
            long = int(short * max(width, height) / min(width, height))
            new_width, new_height = (short, long) if width <= height else (long, short)
        if new_width * new_height > MAX_PIXELS:
            raise Broken(f"resizing {width}x{height} pixels would give {new_width}x{new_height}")
        if (new_width, new_height) == (width, height):
            return image
        return image.resize((new_width, new_height), Resampling[self.interpolation.upper()])


def _cropped(pixels: Array, height: int, width: int) -> Array:
    """The centre of an image; a smaller image is padded with black, an odd row or column at the end."""
    missing = [max(wanted - there, 0) for wanted, there in zip((height, width), pixels.shape, strict=False)]
    if any(missing):
        pixels = np.pad(pixels, [*((n // 2, n - n // 2) for n in missing), (0, 0)])
    top, left = round((pixels.shape[0] - height) / 2), round((pixels.shape[1] - width) / 2)
    return pixels[top : top + height, left : left + width]


def preparation(values: Mapping[str, Any], sizes: Sequence[Any], shown: str) -> Preparation:
    """The preprocessing with these recorded or given values, for an input of `sizes` (batch, channels, height, width; a free one is
    text). Raises UsageError for unusable values, and where no image would fit the input."""
    if len(sizes) != 4 or sizes[1] not in _MODES:
        listed = ", ".join(map(str, sizes))
        message = f"the input of {shown} is [{listed}], but images need [batch, 1 or 3 channels, height, width]"
        raise UsageError(Diagnostic("E0830", message))
    fields = Preparation.__dataclass_fields__
    for name in values:
        if name not in fields:
            help = nearest(name, fields) or f"valid keys: {', '.join(fields)}"
            raise UsageError(Diagnostic("E0830", f"unknown preprocessing key '{clipped(str(name))}'", help=help))
    channels = sizes[1]
    example = ",".join(["0.5"] * channels)
    absent = [name for name in ("mean", "std") if name not in values]
    if absent:
        message = f"{shown} does not record its preprocessing: {' and '.join(absent)} missing"
        help = f"add {' '.join(f'--preprocess {name}={example}' for name in absent)}"
        raise UsageError(Diagnostic("E0830", message, help=help))
    mean, std = (_numbers(name, values[name], channels) for name in ("mean", "std"))
    if min(std) <= 0:
        raise UsageError(Diagnostic("E0830", f"std must be greater than 0, not {min(std):g}"))
    resize, crop = (_lengths(name, values.get(name)) for name in ("resize", "crop"))
    crop = (crop[0], crop[-1]) if crop else None
    interpolation = str(values.get("interpolation", "bilinear"))
    if interpolation not in INTERPOLATIONS:
        message = f"interpolation must be {one_of(INTERPOLATIONS)}, not '{clipped(interpolation)}'"
        raise UsageError(Diagnostic("E0830", message, help=nearest(interpolation, INTERPOLATIONS)))
    free = [not isinstance(size, int) for size in sizes[2:]]
    fixed = crop or (resize if resize and len(resize) == 2 else None)
    if fixed is None and any(free):
        message = f"{shown} takes images of any size, but all images of a batch need one size"
        raise UsageError(Diagnostic("E0830", message, help="set it: --preprocess crop=224"))
    if fixed and any(not any_size and got != size for any_size, got, size in zip(free, fixed, sizes[2:], strict=True)):
        message = f"preprocessing gives images of {fixed[0]}x{fixed[1]}, but {shown} needs {sizes[2]}x{sizes[3]}"
        raise UsageError(Diagnostic("E0830", message, help=f"set it: --preprocess crop={_side(sizes[2:])}"))
    return Preparation(mean, std, resize, crop, interpolation)


def _side(sizes: Sequence[Any]) -> str:
    return str(sizes[0]) if sizes[0] == sizes[1] else ",".join(map(str, sizes))


def _numbers(name: str, value: Any, channels: int) -> tuple[float, ...]:
    """One finite number per channel, from a list or comma-separated text."""
    given = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        numbers = tuple(float(number) for number in given)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != channels or not all(map(math.isfinite, numbers)):
        how = "one number" if channels == 1 else f"{channels} numbers"
        raise UsageError(Diagnostic("E0830", f"{name} must be {how}, one per channel, not {clipped(str(value))}"))
    return numbers


def _lengths(name: str, value: Any) -> tuple[int, ...] | None:
    """One or two integers from 1, from a number, a list or comma-separated text."""
    if value is None:
        return None
    given = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    texts = [str(number).strip() for number in given]
    if len(texts) not in (1, 2) or not all(
        text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16 for text in texts
    ):
        message = f"{name} must be an integer from 1 to 65535, or height,width, not {clipped(str(value))}"
        raise UsageError(Diagnostic("E0830", message))
    return tuple(map(int, texts))


# --- files ------------------------------------------------------------------------------------------------------------


def find(paths: Iterable[Path]) -> list[Path]:
    """The named files, and all images below the named folders, sorted by path. Raises UsageError where a path does not exist or a
    folder contains no image."""
    endings = {ending for listed in FORMATS.values() for ending in listed}
    files: list[Path] = []
    for path in paths:
        if os.path.isdir(path):
            inside = sorted(
                Path(folder) / name
                for folder, _, names in os.walk(path)
                for name in names
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in endings
            )
            if not inside:
                help = f"images are found by their suffixes: {' '.join(sorted(endings))}"
                raise UsageError(Diagnostic("E0801", f"the folder {path} contains no images", help=help))
            files += inside
        elif os.path.exists(path):
            files.append(path)
        else:
            raise UsageError(Diagnostic("E0801", f"{path} does not exist"))
    return files


def require() -> None:
    """Raise Unavailable unless Pillow, which decodes images, is installed."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        help = "pip install 'rescompile[image]'"
        raise Unavailable(
            Diagnostic("E0902", "reading images needs Pillow, which is not installed", help=help)
        ) from None


def decode(path: Path, channels: int) -> Image:
    """The upright 8-bit image of a file: grey for one channel, RGB for three. Raises Broken."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.is_file():  # reading a pipe would block
        raise Broken("it is not a regular file")
    Image.init()
    try:
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Broken(f"it has {width}x{height} pixels, more than {MAX_PIXELS:,}")
            return _eight_bits(ImageOps.exif_transpose(image), image.format).convert(_MODES[channels])
    except UnidentifiedImageError:
        raise Broken("it is not an image of a known format") from None
    except Image.DecompressionBombError:
        raise Broken(f"it has more than {MAX_PIXELS:,} pixels") from None
    except OSError as error:
        raise Broken(error.strerror or str(error) or "it cannot be read") from None
    except (Broken, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on broken files: SyntaxError, struct.error, KeyError
        raise Broken(f"it cannot be decoded: {error}") from None


def _eight_bits(image: Image, format: str | None) -> Image:
    """The image without transparency, with values scaled to 8 bits, where convert() would clip at 255."""
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        raise Broken(f"its {kind} pixels have no defined value range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, _WHITE)
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image


def stream(paths: Sequence[Path], how: Preparation, ahead: int) -> Iterator[tuple[Path, Array | Diagnostic]]:
    """Each image as an input, or what is wrong with it, in order; other threads prepare at least `ahead` more."""

    def prepared(path: Path) -> Array | Diagnostic:
        try:
            return how.apply(decode(path, len(how.mean)))
        except Broken as error:
            return Diagnostic("E0730", f"{path}: {error}")

    waiting: deque[tuple[Path, Future[Array | Diagnostic]]] = deque()
    with _quiet(), ThreadPoolExecutor(_THREADS) as pool:
        try:
            for path in paths:
                waiting.append((path, pool.submit(prepared, path)))
                if len(waiting) > max(ahead, 2 * _THREADS):
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings about decompression bombs, which are refused here, and about metadata, which is not used."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield
