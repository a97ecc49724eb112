"""Images as network inputs: they are found, decoded and preprocessed by several threads.

Decoding applies the EXIF orientation, puts transparent pixels on white, rounds 16 bits to 8, and converts CMYK and palettes to
RGB, or to grey for a network with one channel. Colour profiles are ignored, and an animation is its first frame, as in training
pipelines. The memory is bounded: files and images have a limit, and large images are decoded one after the other.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError
from rescompile.vision.preprocessing import MAX_PIXELS, MODES, Preparation, UnusableImage
from rescompile.weights import Array

if TYPE_CHECKING:
    from PIL.Image import Image

#: The largest file: some decoders read all of it first.
MAX_BYTES = 1 << 28
#: From this number of pixels on, images are decoded and prepared one after the other.
_LARGE = 1 << 24
_ONE_LARGE = threading.Lock()
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
    "MPO": (),  # Multi-Picture Format, which some cameras write into .jpg files
}
_THREADS = min(os.cpu_count() or 1, 8)
_WHITE = (255, 255, 255, 255)
_ROWS = 256


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the named files, and all images below the named folders, sorted by path. Raises UsageError if a path does not
    exist or a folder contains no image."""
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
                raise UsageError.of("E0801", f"the folder {path} contains no images", help=help)
            files += inside
        elif os.path.exists(path):
            files.append(path)
        else:
            raise UsageError.of("E0801", f"{path} does not exist")
    return files


def require() -> None:
    """Raise Unavailable unless Pillow, which decodes images, is installed."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        help = "pip install 'rescompile[image]'"
        raise Unavailable.of("E0902", "reading images needs Pillow, which is not installed", help=help) from None


def prepare(path: Path, how: Preparation) -> Array:
    """Return the network input for an image file. Raises UnusableImage."""
    with _opened(path) as image, _ONE_LARGE if image.width * image.height > _LARGE else nullcontext():
        return how.apply(_upright(image, len(how.mean)))


def decode(path: Path, channels: int) -> Image:
    """Return the upright 8-bit image of a file: grey for one channel, RGB for three. Raises UnusableImage."""
    with _opened(path) as image:
        return _upright(image, channels)


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """Return an image whose pixels are not decoded yet. Raises UnusableImage, also for errors that its decoder raises later."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():  # reading a pipe would block
        raise UnusableImage("it is not a regular file")
    Image.init()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnusableImage(f"it has more than {MAX_BYTES:,} bytes")
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            _bound(image)
            yield image
    except UnidentifiedImageError:
        raise UnusableImage("it is not an image in a supported format") from None
    except Image.DecompressionBombError:
        raise UnusableImage(f"it has more than {MAX_PIXELS:,} pixels") from None
    except OSError as error:
        raise UnusableImage(error.strerror or str(error) or "it cannot be read") from None
    except (UnusableImage, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on broken files: SyntaxError, struct.error, KeyError
        raise UnusableImage(f"it cannot be decoded: {error}") from None


def _bound(image: Image) -> None:
    """Make a JPEG decoder reduce an image with too many pixels to a half, a quarter or an eighth of its size. Raises UnusableImage
    for other formats."""
    width, height = image.size
    scale = next((n for n in (1, 2, 4, 8) if -(-width // n) * -(-height // n) <= MAX_PIXELS), 8)
    if scale > 1:  # only once: a second draft would reduce the first one
        image.draft(None, (width // scale, height // scale))
    if image.width * image.height > MAX_PIXELS:
        raise UnusableImage(f"it has {width}x{height} pixels, more than {MAX_PIXELS:,}")


def _upright(image: Image, channels: int) -> Image:
    from PIL import ImageOps

    format = image.format
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    image = _eight_bits(image, format)
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def _eight_bits(image: Image, format: str | None) -> Image:
    """Return the image without transparency, with values scaled to 8 bits, where convert() would clip at 255."""
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        values *= 255
        values += 32767
        values //= 65535
        return Image.fromarray(values.astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        raise UnusableImage(f"its {kind} pixels have no defined value range; convert it to 8 or 16 bits")
    if not image.has_transparency_data:
        return image
    opaque = Image.new("RGB", image.size)
    for top in range(0, image.height, _ROWS):  # in strips, which need little memory beside both images
        box = (0, top, image.width, min(top + _ROWS, image.height))
        strip = image.crop(box).convert("RGBA")
        opaque.paste(Image.alpha_composite(Image.new("RGBA", strip.size, _WHITE), strip).convert("RGB"), box)
    return opaque


def stream(paths: Sequence[Path], how: Preparation, ahead: int) -> Iterator[tuple[Path, Array | Diagnostic]]:
    """Yield each image as an input, or the reason why it is unusable, in order; other threads prepare at least `ahead` more."""

    def prepared(path: Path) -> Array | Diagnostic:
        try:
            return prepare(path, how)
        except UnusableImage as error:
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
