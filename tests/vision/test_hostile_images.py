"""Unusual images, broken images and decompression bombs give a coded error for the image, in bounded memory."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="images are decoded with Pillow: pip install Pillow")
from PIL import Image

from rescompile.vision import images
from rescompile.vision.images import decode, prepare
from rescompile.vision.preprocessing import MAX_PIXELS, Preparation, UnusableImage

HOW = Preparation((0.5,) * 3, (0.5,) * 3, (32,), (32, 32))


def chunk(name: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, channels: int, path: Path) -> Path:
    """Write a PNG of zeros, compressed row by row."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + channels * width)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[channels], 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def peak(program: str, *arguments: Path) -> tuple[str, int]:
    """Run a Python program and return its output and its peak memory in MiB."""
    measure = "next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) // 1024"
    script = f"import sys\n{program}\nprint({measure})"  # ru_maxrss would be at least that of the parent process
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    output, _, size = done.stdout.strip().rpartition("\n")
    return output, int(size)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """An image of 132 million pixels in half a megabyte is refused before decoding, which would take 2.6 GB."""
    path = png(11_500, 11_500, 4, tmp_path / "bomb.png")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UnusableImage, match="it has 11500x11500 pixels, more than 67,108,864"):
        decode(path, 3)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.slow_for("3", "4")
def test_the_largest_image_takes_twice_its_pixels(channels: int, tmp_path: Path) -> None:
    """The largest accepted image takes two copies of four bytes a pixel: as decoded, and without transparency."""
    path = png(1 << 13, 1 << 13, channels, tmp_path / "large.png")
    program = (
        "from pathlib import Path\nfrom rescompile.vision.images import prepare\n"
        "from rescompile.vision.preprocessing import Preparation\n"
        "print(prepare(Path(sys.argv[1]), Preparation((0.5,) * 3, (0.5,) * 3, (32,), (32, 32))).shape)"
    )
    output, size = peak(program, path)
    assert output == "(3, 32, 32)"
    assert size < 200 + (2 * 4 * MAX_PIXELS >> 20)


def test_large_images_are_prepared_one_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Large images are prepared one at a time, since eight threads would need eight times the memory."""
    monkeypatch.setattr(images, "_LARGE", 15)
    at_once, most = 0, 0
    whole = Preparation.apply

    def counted(how: Preparation, image: Image.Image) -> np.ndarray:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        for _ in range(20):
            whole(how, image)
        at_once -= 1
        return whole(how, image)

    monkeypatch.setattr(Preparation, "apply", counted)
    paths = [tmp_path / f"{at}.png" for at in range(8)]
    for path in paths:
        Image.new("RGB", (64, 64)).save(path)
    assert len([*images.stream(paths, HOW, 8)]) == 8
    assert most == 1


def test_a_large_jpeg_is_decoded_at_reduced_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A JPEG above the pixel limit is decoded at 1/2 to 1/8 of its size, and refused if that is too large too."""
    path = tmp_path / "large.jpg"
    Image.linear_gradient("L").convert("RGB").resize((640, 480)).save(path)
    assert decode(path, 3).size == (640, 480)
    for limit, size in ((640 * 480 - 1, (320, 240)), (320 * 240 - 1, (160, 120)), (160 * 120 - 1, (80, 60))):
        monkeypatch.setattr(images, "MAX_PIXELS", limit)
        assert decode(path, 3).size == size
    monkeypatch.setattr(images, "MAX_PIXELS", 80 * 60 - 1)
    with pytest.raises(UnusableImage, match="it has 640x480 pixels"):
        decode(path, 3)


def test_resizing_to_something_huge_is_refused(tmp_path: Path) -> None:
    """Preprocessing that would make an enormous image is refused."""
    Image.new("RGB", (1, 1000)).save(tmp_path / "thin.png")
    for how in (Preparation((0,) * 3, (1,) * 3, (60_000,)), Preparation((0,) * 3, (1,) * 3, None, (60_000, 60_000))):
        with pytest.raises(UnusableImage, match="60000"):
            prepare(tmp_path / "thin.png", how)


def test_special_files_are_refused(tmp_path: Path) -> None:
    """A pipe, a folder or a device is refused as not a regular file."""
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, Path("/dev/zero")):
        with pytest.raises(UnusableImage, match="it is not a regular file"):
            decode(path, 3)


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    """Files above the size limit are refused unread: here a sparse 4 GB WebP file, whose decoder reads all of it."""
    with (tmp_path / "huge.webp").open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\xffWEBPVP8 ")
        file.truncate(1 << 32)
    with pytest.raises(UnusableImage, match="it has more than 268,435,456 bytes"):
        decode(tmp_path / "huge.webp", 3)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"])
def test_mutated_images(format: str, tmp_path: Path) -> None:
    """Truncated files and files with changed bytes give either an image or `UnusableImage`, and memory stays bounded."""
    if format not in Image.SAVE and not Image.init():
        pytest.skip(f"this Pillow does not write {format}")
    buffer = BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 20, 3)).astype(np.uint8)
    Image.fromarray(noise).save(buffer, format)
    chance = random.Random(0)
    path = tmp_path / "image"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        data = bytearray(buffer.getvalue())
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.randrange(1, len(data))] if chance.random() < 0.3 else data)
        with contextlib.suppress(UnusableImage):
            assert prepare(path, HOW).shape == (3, 32, 32)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 20
