"""`run` on images and specs: preparation as in torchvision, classes as in torch, one error per broken file."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import re
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke, run_after, run_on_terminal, screen
from numpy.typing import NDArray
from ort import ran
from safetensors.numpy import save_file

import rescompile
from rescompile.diagnostics.errors import Diagnostic, Unavailable, UsageError
from rescompile.ir.network import parameters
from rescompile.runtimes.ort_session import Model
from rescompile.vision import images, labels
from rescompile.vision.images import decode
from rescompile.vision.preprocessing import Preparation, UnusableImage, preparation
from rescompile.vision.recognition import best, softmax

Image = pytest.importorskip("PIL.Image", reason="images are read with Pillow: pip install 'rescompile[image]'")
pytest.importorskip("onnxruntime", reason="models run in ONNX Runtime: pip install 'rescompile[run]'")

Array = NDArray[Any]
#: A small classifier of 5 classes with its own preprocessing.
NETWORK: dict[str, Any] = {
    "rescompile": 1,
    "name": "seer",
    "input": [3, 24, 24],
    "preprocess": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "resize": 28, "crop": 24},
    "network": [
        {"conv": {"channels": 8, "kernel": 3}}, "relu", {"avgpool": {"kernel": 12}}, "flatten", {"linear": 5},
    ],
}  # fmt: skip


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> Array:
    """Return independent random pixels, so that an offset by one pixel is detected."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def saved(path: Path, pixels: Array, **options: Any) -> Path:
    """Save pixels as an image file whose format follows from the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def spec(folder: Path, **changes: Any) -> Path:
    """Write the spec of the small network (JSON is valid YAML); a change to None removes the key."""
    path = folder / "seer.yaml"
    path.write_text(json.dumps({key: value for key, value in {**NETWORK, **changes}.items() if value is not None}))
    return path


def model(folder: Path, *options: str, **changes: Any) -> Path:
    """Build the small network as an ONNX file."""
    path = folder / "seer.onnx"
    built = invoke("build", spec(folder, **changes), "-t", "onnx", "-o", path, "--force", *options)
    assert built.exit_code == 0, built.stderr
    return path


def data(*arguments: str | Path, code: int = 0) -> Any:
    """Return the output of `run --json`."""
    result = invoke("run", *arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


# --- preprocessing: torchvision is the reference ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def transforms() -> Any:
    """Import torchvision's transforms, which work without its C++ operators."""
    pytest.importorskip("torch", reason="the reference, torchvision, needs torch")
    import peers  # noqa: F401

    pytest.importorskip("torchvision", reason="the reference for preprocessing: pip install --no-deps torchvision")
    from torchvision import transforms

    return transforms


CASES = [
    (resize, crop, interpolation, size)
    for resize, crop in [(256, 224), (342, 299), (32, None), (None, 28), (None, None), (20, 33), ((40, 60), (31, 64))]
    for interpolation, size in [
        ("bilinear", (61, 97)),
        ("bicubic", (300, 201)),
        ("nearest", (33, 32)),
        ("lanczos", (9, 30)),
    ]
]


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_equals_that_of_torchvision(channels: int, transforms: Any) -> None:
    """Preprocessing is bit-identical to torchvision's, for both orientations and crops beyond the border."""
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    for resize, crop, interpolation, size in CASES:
        image = Image.fromarray(noise(*size, channels))
        mode = transforms.InterpolationMode[interpolation.upper()]
        steps = [transforms.Resize(resize, mode)] if resize else []
        steps += [transforms.CenterCrop(crop)] if crop else []
        expected = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])(image).numpy()
        lengths = (resize,) if isinstance(resize, int) else resize
        window = (crop, crop) if isinstance(crop, int) else crop
        actual = Preparation(mean, std, lengths, window, interpolation).apply(image)
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(actual, expected, err_msg=str((resize, crop, interpolation, size)))


@pytest.mark.parametrize("name", ["resnet50", "inception_v3", "darknet53"])
def test_preprocessing_of_the_zoo(name: str, transforms: Any) -> None:
    """Preprocessing of zoo specs gives the network's input size; resnet50's is bit-identical to torchvision's."""
    network = rescompile.elaborate(rescompile.load(name))
    assert network.preprocess is not None
    how = preparation(network.preprocess, ["batch", *network.input], name)
    image = Image.fromarray(noise(375, 500))
    actual = how.apply(image)
    assert actual.shape == network.input
    if name == "resnet50":
        from torchvision.models import ResNet50_Weights

        np.testing.assert_array_equal(actual, ResNet50_Weights.IMAGENET1K_V1.transforms()(image).numpy())


def test_interpolation_is_recorded_and_used(tmp_path: Path) -> None:
    """The spec's interpolation is stored in the metadata, extracted again, and used to resize images."""
    changed = {**NETWORK["preprocess"], "interpolation": "bicubic"}
    path = model(tmp_path, preprocess=changed)
    assert json.loads(Model(path).metadata["rescompile.preprocess"]) == changed
    assert "interpolation: bicubic" in invoke("extract", path).stdout
    image = saved(tmp_path / "a.png", noise(50, 40))
    assert data(path, "--image", image)["preprocess"]["interpolation"] == "bicubic"
    refused = invoke("validate", spec(tmp_path, preprocess={**changed, "interpolation": "cubic"}))
    assert refused.exit_code == 3


@pytest.mark.parametrize(("resize", "crop"), [([30, 28], [24, 20]), ([24, 20], None), (26, [24, 20])])
def test_height_and_width_of_a_spec(tmp_path: Path, transforms: Any, resize: Any, crop: Any) -> None:
    """`resize` and `crop` of a spec may be height and width, as in torchvision; the ONNX file records them."""
    how = {"resize": resize, "crop": crop} if crop else {"resize": resize}
    recorded = {**NETWORK["preprocess"], **how}
    recorded = recorded if crop else {name: value for name, value in recorded.items() if name != "crop"}
    path = model(tmp_path, input=[3, 24, 20], network=["global_avgpool", "flatten", {"linear": 5}], preprocess=recorded)
    assert json.loads(Model(path).metadata["rescompile.preprocess"]) == recorded
    photo = saved(tmp_path / "a.png", noise(50, 70))
    (found,) = data(path, "--image", photo, "--runtime", "ort-cpu")["images"]
    steps = [transforms.Resize(resize), *([transforms.CenterCrop(crop)] if crop else []), transforms.ToTensor()]
    prepare = transforms.Compose([*steps, transforms.Normalize(recorded["mean"], recorded["std"])])
    image = prepare(Image.open(photo)).numpy()
    network = rescompile.elaborate(rescompile.load(tmp_path / "seer.yaml"))
    np.testing.assert_array_equal(images.prepare(photo, preparation(recorded, (1, *network.input), "")), image)
    expected = best(softmax(ran(path, {"input": image[None]})["logits"][0].astype(np.float64)), 5)
    assert [(row["class"], row["probability"]) for row in found["top"]] == expected


@pytest.mark.parametrize("key", ["resize", "crop"])
@pytest.mark.parametrize("value", [0, True, 2.5, "wide", [], [24], [24, 0], [24, 24, 24], [24, True], {"height": 24}])
def test_lengths_of_a_spec_are_checked(tmp_path: Path, key: str, value: Any) -> None:
    result = invoke("validate", spec(tmp_path, preprocess={**NETWORK["preprocess"], key: value}))
    assert (result.exit_code, "E0104" in result.stderr) == (3, True)
    assert f"'{key}' must be an integer of at least 1 or [height, width], got " in result.stderr


# --- decoding ---------------------------------------------------------------------------------------------------------

#: Upright images by EXIF orientation, which names the sides where the first stored row and column belong.
UPRIGHT: dict[int, Callable[[Array], Array]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: lambda stored: stored[::-1],  # bottom, left
    5: lambda stored: stored.swapaxes(0, 1),  # left, top
    6: lambda stored: stored.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda stored: stored.swapaxes(0, 1)[::-1],  # left, bottom
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation(orientation: int, tmp_path: Path) -> None:
    """Images are turned upright for all eight EXIF orientations, as the standard defines them."""
    stored = noise(5, 7)
    exif = Image.Exif()
    exif[274] = orientation
    path = saved(tmp_path / "a.png", stored, exif=exif)
    np.testing.assert_array_equal(np.asarray(decode(path, 3)), UPRIGHT[orientation](stored))


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    """Transparent pixels are blended onto white: RGBA, grey with alpha, palettes and a single transparent colour."""
    rgba = np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    on_white = [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]
    np.testing.assert_array_equal(np.asarray(decode(saved(tmp_path / "a.png", rgba), 3)), on_white)
    Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA").save(tmp_path / "b.png")
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "b.png", 1)), [[10, 255]])
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([1, 2, 3, 40, 50, 60, 7, 8, 9])
    palette.save(tmp_path / "c.png")
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "c.png", 3)), [[[1, 2, 3], [40, 50, 60], [7, 8, 9]]])
    palette.save(tmp_path / "d.gif", transparency=1)
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "d.gif", 3)), [[[1, 2, 3], [255] * 3, [7, 8, 9]]])
    saved(tmp_path / "e.png", np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8), transparency=(9, 9, 9))
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "e.png", 3)), [[[1, 2, 3], [255] * 3]])


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_rounded_to_eight(ending: str, tmp_path: Path) -> None:
    """All 16-bit greys are scaled and rounded to 0..255, where Pillow's own conversion would clip them at 255."""
    values = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    path = saved(tmp_path / f"a.{ending}", values)
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(decode(path, 1)), expected)
    np.testing.assert_array_equal(np.asarray(decode(path, 3)), np.stack([expected] * 3, axis=2))


def test_colours_of_sixteen_bits(tmp_path: Path) -> None:
    """16-bit colours keep their upper eight bits, as documented."""
    row = b"\0" + struct.pack(">6H", 0, 0x0102, 0xFFFF, 0x8000, 0x7FFF, 0x00FF)
    (tmp_path / "a.png").write_bytes(_png(2, 1, row, depth=16))
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "a.png", 3)), [[[0, 1, 255], [128, 127, 0]]])


def test_other_modes(tmp_path: Path) -> None:
    """1-bit images, CMYK and colour as grey are converted; values without a defined range are refused."""
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "a.png", 3)), [[[0] * 3, [255] * 3]])
    cmyk = np.array([[[0, 0, 0, 0], [255, 255, 0, 0], [0, 0, 0, 255]]], np.uint8)  # white, blue, black
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "b.tif")
    np.testing.assert_array_equal(
        np.asarray(decode(tmp_path / "b.tif", 3)), [[[255, 255, 255], [0, 0, 255], [0, 0, 0]]]
    )
    Image.fromarray(np.full((16, 16, 4), [0, 255, 255, 0], np.uint8), "CMYK").save(tmp_path / "c.jpg", quality=100)
    red = np.asarray(decode(tmp_path / "c.jpg", 3)).astype(int)
    assert (abs(red - [255, 0, 0]) < 8).all()
    grey = np.asarray(decode(saved(tmp_path / "d.png", np.array([[[200, 100, 50]]], np.uint8)), 1))
    assert abs(grey.item() - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)) < 1  # the luma of ITU-R BT.601
    assert np.asarray(decode(tmp_path / "b.tif", 1)).shape == (1, 3)
    for kind, name in ((np.int32, "e.tif"), (np.float32, "f.tif")):
        with pytest.raises(UnusableImage, match="no defined value range"):
            decode(saved(tmp_path / name, np.ones((4, 4), kind)), 1)


def _png(width: int, height: int, rows: bytes = bytes(1000), depth: int = 8) -> bytes:
    """Return an RGB PNG with these rows; by default a few bytes whose header declares any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _torn(ending: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, ending)
    return buffer.getvalue()[: buffer.tell() // 2]


BROKEN = {
    "bomb": (_png(60_000, 60_000), "pixels"),
    "bomb that Pillow only warns of": (_png(15_000, 10_000), "pixels"),
    "bomb once resized": (None, "resizing"),
    "empty": (b"", "not an image"),
    "text": (b"no image", "not an image"),
    "torn PNG": (_torn("PNG"), ""),
    "torn JPEG": (_torn("JPEG"), ""),
    "bytes of no pixels": (_png(8, 8)[:45], ""),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", "not an image"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.filterwarnings("error")
def test_a_broken_image_is_reported_and_the_others_are_classified(kind: str, tmp_path: Path) -> None:
    """A broken image gives a coded error that names the file; the others are classified and the exit code is 1."""
    content, why = BROKEN[kind]
    folder = tmp_path / "photos"
    for name in ("a.png", "c.png"):
        saved(folder / name, noise(30, 40))
    broken = folder / "b.png"
    if content is None:
        saved(broken, noise(1, 8000, 1))
    else:
        broken.write_bytes(content)
    path = model(tmp_path, preprocess={**NETWORK["preprocess"], "resize": 300, "crop": 24})
    result = invoke("run", path, "--image", folder)
    assert result.exit_code == 1
    assert re.findall(r"^(\S*)$", result.stdout, re.MULTILINE)[:2] == [str(folder / "a.png"), str(folder / "c.png")]
    (message,) = re.findall(r"error\[E0730\]: (.*)", result.stderr)
    assert message.startswith(f"{broken}: ")
    assert why in message
    assert "2 of 3 images" in result.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_special_and_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    """A pipe, a folder or a missing file is refused at once, without waiting for data."""
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", tmp_path, tmp_path / "gone.png"):
        with pytest.raises(UnusableImage, match="regular"):
            decode(path, 3)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own warning, which `stream` suppresses
def test_damaged_files_give_no_other_exception(tmp_path: Path) -> None:
    """Files of every format with changed or missing bytes give an image or `UnusableImage`, and no other exception."""
    chance = random.Random(0)
    made = []
    for name in images.FORMATS:
        buffer = io.BytesIO()
        try:
            Image.fromarray(noise(24, 20)).save(buffer, name)
        except (KeyError, OSError):
            continue  # this Pillow lacks the format
        made.append(buffer.getvalue())
    assert len(made) >= 5
    path, refused = tmp_path / "x", 0
    for content in made * 12:
        damaged = bytearray(content)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.randrange(8, len(damaged) + 1)])
        try:
            decode(path, 3)
        except UnusableImage:
            refused += 1
    assert refused > len(made)


# --- files and folders ------------------------------------------------------------------------------------------------


def test_folders_are_walked_in_order(tmp_path: Path) -> None:
    """Folders are searched recursively, sorted by path, without hidden files; named files are always taken."""
    listed = ["b/1.JPG", "b/sub/2.png", "c.webp", "z.tif"]
    for name in [*listed, "b/.hidden.png", "b/notes.txt", "odd"]:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folder = tmp_path / "photos"
    assert images.find([folder / "odd", folder]) == [folder / "odd", *(folder / name for name in listed)]
    (tmp_path / "empty").mkdir()
    for wrong, why in ((tmp_path / "no.png", "does not exist"), (tmp_path / "empty", "contains no images")):
        with pytest.raises(UsageError, match=why):
            images.find([folder, wrong])


# --- results ----------------------------------------------------------------------------------------------------------


def test_classes_are_those_of_torch(tmp_path: Path, transforms: Any) -> None:
    """Classes and probabilities match torchvision's preprocessing, ONNX Runtime and torch's softmax and topk."""
    import torch

    path, photo = model(tmp_path), saved(tmp_path / "a.png", noise(50, 70))
    recorded = NETWORK["preprocess"]
    prepare = transforms.Compose(
        [
            transforms.Resize(recorded["resize"]), transforms.CenterCrop(recorded["crop"]), transforms.ToTensor(),
            transforms.Normalize(recorded["mean"], recorded["std"]),
        ]
    )  # fmt: skip
    logits = ran(path, {"input": prepare(Image.open(photo))[None].numpy()})["logits"][0]
    expected = torch.softmax(torch.from_numpy(logits).double(), 0).topk(3)
    (found,) = data(path, "--image", photo, "--top", "3", "--runtime", "ort-cpu")["images"]
    assert [row["class"] for row in found["top"]] == expected.indices.tolist()
    np.testing.assert_allclose([row["probability"] for row in found["top"]], expected.values.numpy(), rtol=1e-6)
    assert found["image"] == str(photo)


def test_best() -> None:
    """`best` breaks ties by class, does not overflow for large logits, and returns at most one row per class."""
    assert best(softmax(np.array([0, np.log(3)], np.float32)), 5) == [
        (1, pytest.approx(0.75)),
        (0, pytest.approx(0.25)),
    ]
    assert best(softmax(np.array([1000, 1000, -1000], np.float32)), 2) == [(0, 0.5), (1, 0.5)]


def test_the_table_of_an_image(tmp_path: Path) -> None:
    """The table lists the five likeliest classes; escape codes in labels and file names are escaped."""
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncat\n\x1b[31mdog\nelk\n")
    photo = saved(tmp_path / "a\x1b.png", noise(40, 40))
    result = invoke("run", model(tmp_path), "--image", photo, "--labels", names)
    assert (result.exit_code, "\x1b" in result.output) == (0, False)
    first, *rows = result.stdout.splitlines()
    assert first == str(photo).replace("\x1b", "\\x1b")
    parsed = [re.fullmatch(r" +(\d+\.\d\d)% +(\d)  (.*)", row) for row in rows]
    assert {(match[2], match[3]) for match in parsed if match} == set(
        zip("01234", ["ant", "bee", "cat", "\\x1b[31mdog", "elk"], strict=True)
    )
    shares = [float(match[1]) for match in parsed if match]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize("fixed", [False, True], ids=["free", "fixed"])
def test_batches(fixed: bool, tmp_path: Path) -> None:
    """Batches of three give the results of single images, also where the last is padded to a fixed size."""
    folder = tmp_path / "photos"
    for at in range(4):
        saved(folder / f"{at}.png", noise(30 + at, 40, seed=at))
    (folder / "2b.png").write_bytes(b"")
    alone = data(model(tmp_path), "--image", folder, code=1)["images"]
    path = model(tmp_path, *(["--batch", "3"] if fixed else []))
    together = data(path, "--image", folder, *([] if fixed else ["--batch", "3"]), code=1)["images"]
    assert [found["image"] for found in together] == [str(folder / f"{n}.png") for n in ("0", "1", "2", "2b", "3")]
    for one, other in zip(alone, together, strict=True):
        assert one["image"] == other["image"]
        assert one.get("error") == other.get("error")
        for a, b in zip(one.get("top", ()), other.get("top", ()), strict=True):
            assert a["class"] == b["class"]
            assert a["probability"] == pytest.approx(b["probability"], rel=1e-5)
    assert together[3]["error"]["code"] == "E0730"
    if fixed:
        refused = invoke("run", path, "--image", folder, "--batch", "2")
        assert (refused.exit_code, "fixed to 3" in refused.stderr) == (2, True)


def test_errors_in_other_formats(tmp_path: Path) -> None:
    """`--format github` prints an annotation per image, `--format json` one document."""
    broken = tmp_path / "b.png"
    broken.write_bytes(b"")
    path = model(tmp_path)
    done = invoke("run", path, "--image", broken, "--image", broken, "--format", "github")
    assert (done.exit_code, done.stdout.count("::error title=E0730::")) == (1, 2)
    done = invoke("run", path, "--image", broken, "--format", "json")
    assert done.exit_code == 1
    assert [problem["code"] for problem in json.loads(done.stdout)["diagnostics"]] == ["E0730"]


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_keeps_what_is_done(as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the third image keeps the results of the first two and exits with 130."""
    for at in range(6):
        saved(tmp_path / "photos" / f"{at}.png", noise(30, 40))
    path, calls, once = model(tmp_path), itertools.count(), Model.run

    def run(self: Model, feeds: Any) -> dict[str, Array]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return once(self, feeds)

    monkeypatch.setattr(Model, "run", run)
    result = invoke("run", path, "--image", tmp_path / "photos", *(["--json"] if as_json else []))
    assert result.exit_code == 130
    if as_json:
        found = json.loads(result.stdout)
        assert (len(found["images"]), found["interrupted"]) == (2, True)
    else:
        assert re.findall(r"(\d)\.png", result.stdout) == ["0", "1"]
        assert "2 of 6 images" in result.stderr


def test_a_bar_on_a_terminal_only(tmp_path: Path) -> None:
    """The progress bar appears on a terminal only and is erased before each result; the clock is sped up here."""
    for at in range(5):
        saved(tmp_path / "photos" / f"{at}.png", noise(30, 40))
    hurry = "import time; clock = time.monotonic; time.monotonic = lambda: 10000 * clock()"
    arguments = ["run", str(model(tmp_path)), "--image", str(tmp_path / "photos"), "--top", "1"]
    start = f"import sys; {hurry}; from rescompile.cli import main; sys.argv[0] = 'rescompile'; main()"
    code, output = run_on_terminal([sys.executable, "-c", start, *arguments])
    assert code == 0
    assert re.search(r"\d+%.*\d:\d\d", output)
    for line in screen(output):
        assert "%" not in line or re.fullmatch(r" +\d+\.\d\d% +\d+", line), line
    piped = run_after(hurry, *arguments)
    assert piped.returncode == 0
    assert "\x1b" not in piped.stdout + piped.stderr


def test_logits_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """Logits that are not finite give an error instead of probabilities."""
    network = rescompile.elaborate(rescompile.load(spec(tmp_path)))
    huge = {name: np.full(parameter.shape, 3e38, np.float32) for name, parameter in parameters(network)}
    save_file(huge, tmp_path / "huge.safetensors")
    photo = saved(tmp_path / "a.png", noise(30, 40))
    result = invoke("run", spec(tmp_path), "--weights", tmp_path / "huge.safetensors", "--image", photo)
    assert result.exit_code == 1
    assert "error[E0730]" in result.stderr
    assert "not finite" in result.stderr


# --- no recorded preprocessing, or no image input ---------------------------------------------------------------------


def test_a_network_without_recorded_preprocessing(tmp_path: Path) -> None:
    """Without recorded preprocessing, the error suggests options that work; a 1-channel network takes grey images."""
    path = model(tmp_path, input=[1, 24, 24], preprocess=None)
    photo = saved(tmp_path / "a.png", noise(24, 24))
    refused = invoke("run", path, "--image", photo)
    assert refused.exit_code == 2
    assert "error[E0830]" in refused.stderr
    advised = re.findall(r"--preprocess (\S+)", refused.stderr)
    assert advised == ["mean=0.5", "std=0.5"]
    half = invoke("run", path, "--image", photo, "--preprocess", "mean=0.4")
    assert re.findall(r"--preprocess (\S+)", half.stderr) == ["std=0.5"]  # given options are not suggested again
    options = [word for each in advised for word in ("--preprocess", each)]
    (found,) = data(path, "--image", photo, *options)["images"]
    grey = np.asarray(Image.open(photo).convert("L"), np.float32) / np.float32(255)
    logits = ran(path, {"input": ((grey - np.float32(0.5)) / np.float32(0.5))[None, None]})["logits"][0]
    assert found["top"][0]["class"] == int(logits.argmax())
    other = saved(tmp_path / "b.png", noise(25, 24))
    refused = invoke("run", path, "--image", other, *options)
    assert (refused.exit_code, "25x24" in refused.stderr) == (1, True)
    larger = data(path, "--image", other, *options, "--preprocess", "crop=24", "--preprocess", "resize=24,30")
    assert larger["preprocess"]["resize"] == [24, 30]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("mean=0.5", "3 numbers"),
        ("mean=a,b,c", "3 numbers"),
        ("mean=nan,0,0", "3 numbers"),
        ("std=0,1,1", "greater than 0"),
        ("crop=32", "needs 24x24"),
        ("crop=0", "integer from 1"),
        ("crop=1,2,3", "integer from 1"),
        ("resize=²", "integer from 1"),
        ("interpolation=cubic", "did you mean 'bicubic'?"),
        ("men=1,2,3", "did you mean 'mean'?"),
        ("crop", "name=value"),
    ],
)
def test_invalid_preprocessing_options_are_refused(given: str, why: str, tmp_path: Path) -> None:
    """Invalid `--preprocess` values are refused before any image is read, with a message that gives the valid form."""
    refused = invoke("run", model(tmp_path), "--image", saved(tmp_path / "a.png", noise(30, 40)), "--preprocess", given)
    assert refused.exit_code == 2
    assert why in refused.stderr


@pytest.mark.parametrize(
    ("recorded", "why"),
    [
        ("[", "is not valid"),
        ("[]", "is not valid"),
        ('{"mean": "x", "std": [1,1,1]}', "3 numbers"),
        ('{"a": 1}', "'a'"),
    ],
)
def test_invalid_recorded_preprocessing_is_refused(recorded: str, why: str, tmp_path: Path) -> None:
    """Invalid preprocessing in a file's metadata is refused, since anybody may have written it."""
    onnx = pytest.importorskip("onnx", reason="edits the metadata of a model")
    path = model(tmp_path)
    proto = onnx.load(path)
    next(entry for entry in proto.metadata_props if entry.key == "rescompile.preprocess").value = recorded
    onnx.save(proto, path)
    refused = invoke("run", path, "--image", saved(tmp_path / "a.png", noise(30, 40)))
    assert (refused.exit_code, why in refused.stderr) == (2, True)


def test_a_foreign_model(tmp_path: Path) -> None:
    """A foreign model with dynamic sizes and other tensor names runs; one of float64 is refused."""
    onnx = pytest.importorskip("onnx", reason="builds a foreign model")
    helper = onnx.helper

    def foreign(kind: int) -> Path:
        image = helper.make_tensor_value_info("x", kind, ["n", 3, "h", "w"])
        out = helper.make_tensor_value_info("y", kind, ["n", 3])
        nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
        proto = helper.make_model(
            helper.make_graph(nodes, "means", [image], [out]), ir_version=10,
            opset_imports=[helper.make_opsetid("", 17)],
        )  # fmt: skip
        onnx.save(proto, tmp_path / "theirs.onnx")
        return tmp_path / "theirs.onnx"

    path = foreign(onnx.TensorProto.FLOAT)
    photo = saved(tmp_path / "a.png", np.full((9, 9, 3), [0, 255, 51], np.uint8))
    known = ["--preprocess", "mean=0,0,0", "--preprocess", "std=1,1,1"]
    unsized = invoke("run", path, "--image", photo, *known)
    assert (unsized.exit_code, "crop=224" in unsized.stderr) == (2, True)
    (found,) = data(path, "--image", photo, *known, "--preprocess", "crop=9")["images"]
    exact = np.exp([0, 1, 0.2]) / np.exp([0, 1, 0.2]).sum()
    assert {row["class"]: row["probability"] for row in found["top"]} == pytest.approx(dict(enumerate(exact)))
    refused = invoke("run", foreign(onnx.TensorProto.DOUBLE), "--image", photo, *known)
    assert (refused.exit_code, "tensor(double)" in refused.stderr) == (2, True)


def theirs(folder: Path, node: dict[str, Any], kind: str, shape: list[Any] | None) -> Path:
    """Write a foreign model of one node; its output has this type and shape, or is a sequence if the shape is None."""
    onnx = pytest.importorskip("onnx", reason="builds a foreign model")
    helper = onnx.helper
    made = helper.make_tensor_value_info if shape is not None else helper.make_tensor_sequence_value_info
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node(inputs=["x"], outputs=["y"], **node)], "one",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
            [made("y", getattr(onnx.TensorProto, kind), shape)],
        ),
        ir_version=10, opset_imports=[helper.make_opsetid("", 17)],
    )  # fmt: skip
    onnx.save(proto, folder / "theirs.onnx")
    return folder / "theirs.onnx"


@pytest.mark.parametrize(
    ("node", "kind", "shape", "type"),
    [
        ({"op_type": "SplitToSequence", "axis": 1}, "FLOAT", None, "seq(tensor(float))"),
        ({"op_type": "Cast", "to": 8}, "STRING", ["n", 3, 8, 8], "tensor(string)"),
    ],
)
def test_outputs_that_are_not_numeric_are_refused(
    node: dict[str, Any], kind: str, shape: list[Any] | None, type: str, tmp_path: Path
) -> None:
    """An output that is text or a sequence, as of scikit-learn's classifiers, is refused, with and without an image."""
    path = theirs(tmp_path, node, kind, shape)
    known = ["--preprocess", "mean=0,0,0", "--preprocess", "std=1,1,1", "--preprocess", "resize=8,8"]
    for more in ([], ["--save", tmp_path / "a.npz"], ["--image", saved(tmp_path / "a.png", noise(8, 8)), *known]):
        refused = invoke("run", path, *more)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert f"output 'y' of {path} is a {type}" in refused.stderr
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.filterwarnings("error")
def test_an_empty_output(tmp_path: Path) -> None:
    """An empty output, as of a detector that finds nothing, is reported with its shape and without statistics."""
    empty = theirs(tmp_path, {"op_type": "Slice"}, "FLOAT", ["k", 3, 8, 8])
    proto = pytest.importorskip("onnx").load(empty)
    numpy_helper = pytest.importorskip("onnx").numpy_helper
    for name, value in (("from", 0), ("to", 0)):  # an empty slice of the first axis
        proto.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
        proto.graph.node[0].input.append(name)
    pytest.importorskip("onnx").save(proto, empty)
    done = invoke("run", empty)
    assert done.exit_code == 0, done.output
    assert "y [0, 3, 8, 8], empty\n" in done.stdout
    assert data(empty)["outputs"]["y"] == {"shape": [0, 3, 8, 8], "mean": None, "std": None}


@pytest.mark.parametrize("images", [1, 4])
def test_an_output_without_a_batch_axis_is_refused(images: int, tmp_path: Path) -> None:
    """`run` refuses outputs whose first axis is not the batch, rather than reporting their rows as images."""
    path = theirs(tmp_path, {"op_type": "ReduceMean", "axes": [0], "keepdims": 0}, "FLOAT", [3, 8, 8])
    known = ["--preprocess", "mean=0,0,0", "--preprocess", "std=1,1,1", "--preprocess", "resize=8,8"]
    photos = [arg for at in range(images) for arg in ("--image", saved(tmp_path / f"{at}.png", noise(8, 8)))]
    refused = invoke("run", path, *photos, *known, "--batch", "4")
    assert refused.exit_code == 2, refused.output
    assert f"has no batch axis: its shape is [3, 8, 8] for {images} images" in refused.stderr


def test_a_network_of_features_takes_no_images(tmp_path: Path) -> None:
    """A network whose input is not an image is refused with its input shape."""
    path = model(tmp_path, input=[12], preprocess=None, network=[{"linear": 5}])
    refused = invoke("run", path, "--image", saved(tmp_path / "a.png", noise(30, 40)))
    assert (refused.exit_code, "[batch, 12]" in refused.stderr) == (2, True)


# --- labels -----------------------------------------------------------------------------------------------------------

GOOD = {
    "a.txt": "tench\n great white shark \ncock\n",
    "b.txt": "\ufefftench\r\ngreat white shark\r\ncock\r\n\r\n",
    "c.json": '["tench", "great white shark", "cock"]',
    "d.json": '{"2": "cock", "0": "tench", "1": "great white shark"}',
    "e.json": '{"0": ["n01440764", "tench"], "1": ["n01484850", "great white shark"], "2": ["n01514668", "cock"]}',
}


@pytest.mark.parametrize("name", GOOD)
def test_labels(name: str, tmp_path: Path) -> None:
    """Labels are read from lines, a JSON list, and the two JSON mappings in common use."""
    (tmp_path / name).write_bytes(GOOD[name].encode())
    assert labels.read(str(tmp_path / name)) == ["tench", "great white shark", "cock"]


BAD = {
    "a.txt": (b"cat\n\ndog\n", "a.txt:2:1: E0831"),
    "b.txt": (b"", "E0831"),
    "c.txt": (b"\xff\xfe", "E0831"),
    "d.json": (b'["cat",', "d.json:1:8: E0831"),
    "e.json": (b'{"cat": 0}', "E0831"),
    "f.json": (b'{"1": "cat"}', "E0831"),
    "g.json": (b"[1, 2]", "E0831"),
    "h.json": (b"[]", "E0831"),
    "i.json": (b"3", "E0831"),
    "j.json": (b"[" * 100_000, "E0831"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_labels_are_refused(name: str, tmp_path: Path) -> None:
    """An invalid label file is refused, with line and column where one can be named."""
    content, why = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(why)):
        labels.read(str(tmp_path / name))


def test_the_number_of_labels_must_be_that_of_the_classes(tmp_path: Path) -> None:
    """The number of labels must be that of the classes, and a network that is not a classifier takes no labels."""
    (tmp_path / "six.txt").write_text("a\nb\nc\nd\ne\nf\n")
    photo = saved(tmp_path / "a.png", noise(30, 40))
    refused = invoke("run", model(tmp_path), "--image", photo, "--labels", tmp_path / "six.txt")
    assert refused.exit_code == 2
    assert "there are 6 labels, but" in refused.stderr
    maps = model(tmp_path, network=[{"conv": {"channels": 6, "kernel": 3}}])
    refused = invoke("run", maps, "--image", photo, "--labels", tmp_path / "six.txt")
    assert (refused.exit_code, "not a classifier" in refused.stderr) == (2, True)
    refused = invoke("run", maps, "--image", photo, "--labels", "imagnet")
    assert (refused.exit_code, "did you mean 'imagenet'?" in refused.stderr) == (2, True)


def test_labels_of_imagenet(transforms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`imagenet` gives the labels of torchvision or timm in order; without either, the error names both packages."""
    from torchvision.models import ResNet50_Weights

    found = labels.read("imagenet")
    assert found == ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    assert len(found) == 1000
    data_of_timm = pytest.importorskip("timm.data", reason="the other source of labels: pip install --no-deps timm")
    both = dict(labels._LIBRARIES)
    monkeypatch.setattr(labels, "_LIBRARIES", {"timm": both["timm"]})
    assert labels.read("imagenet") == data_of_timm.ImageNetInfo().label_descriptions()
    monkeypatch.setattr(labels, "_LIBRARIES", {"no_such_library": both["timm"], "json": both["torchvision"]})
    with pytest.raises(Unavailable, match="torchvision or timm"):
        labels.read("imagenet")


# --- specs, options, files --------------------------------------------------------------------------------------------


def test_a_spec_runs_like_its_model(tmp_path: Path) -> None:
    """A spec gives the outputs of its built model, warns of randomly initialised weights, and leaves no files."""
    photo = saved(tmp_path / "a.png", noise(30, 40))
    options = ["--seed", "3", "--set", "preprocess.resize=26"]
    path = model(tmp_path, *options)
    before = sorted(tmp_path.iterdir())
    ran_spec = data(spec(tmp_path), "--image", photo, *options)
    assert ran_spec["images"] == data(path, "--image", photo)["images"]
    assert ran_spec["preprocess"]["resize"] == [26]
    assert sorted(tmp_path.iterdir()) == before
    seeded = [data(x, "--seed", "3", *more)["outputs"] for x, more in ((spec(tmp_path), options[2:]), (path, []))]
    assert seeded[0] == seeded[1]
    result = invoke("run", spec(tmp_path), "--fold-batchnorm")
    assert (result.exit_code, "randomly initialised weights (seed 0)" in result.stderr) == (0, True)


def test_weights_of_a_spec(tmp_path: Path) -> None:
    """With `--weights`, a spec runs with these weights and without a warning about random ones."""
    path = model(tmp_path, "--seed", "7")
    onnx = pytest.importorskip("onnx", reason="reads the weights of a model")
    held = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    save_file(held, tmp_path / "w.safetensors")
    photo = saved(tmp_path / "a.png", noise(30, 40))
    result = invoke("run", spec(tmp_path), "--weights", tmp_path / "w.safetensors", "--image", photo)
    assert (result.exit_code, "randomly initialised" in result.stderr) == (0, False)
    assert result.stdout == invoke("run", path, "--image", photo).stdout


def test_models_and_specs_are_distinguished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is recognised by content without its suffix; a name of the zoo takes precedence over a file."""
    monkeypatch.chdir(tmp_path)
    built = model(tmp_path)
    for name in ("blob", "resnet20_cifar"):
        (tmp_path / name).write_bytes(built.read_bytes())
    Path("text").write_text((tmp_path / "seer.yaml").read_text())
    for name, sizes in (("./blob", 24), (tmp_path / "blob", 24), ("./text", 24), ("resnet20_cifar", 32)):
        assert data(name)["inputs"] == {"input": [1, 3, sizes, sizes]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["seer.onnx", "--weights", "x.safetensors"],
        ["seer.onnx", "--set", "input=[3,8,8]"],
        ["seer.onnx", "--fold-batchnorm"],
        ["seer.onnx", "--features", "layer1"],
        ["seer.onnx", "--image", "a.png", "--seed", "1"],
        ["seer.onnx", "--top", "3"],
        ["seer.onnx", "--labels", "imagenet"],
        ["seer.onnx", "--preprocess", "crop=8"],
        ["seer.onnx", "--image", "a.png", "--repeats", "3"],
        ["seer.onnx", "--image", "no.png"],
        ["seer.onnx", "--image", "a.png", "--labels", "no.txt"],
        ["seer.onnx", "--save", "out.csv"],
        ["no_such_network", "--image", "a.png"],
        ["no.onnx", "--image", "a.png"],
    ],
    ids=" ".join,
)
def test_options_without_effect_are_refused(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing inputs and options that would have no effect are refused."""
    monkeypatch.chdir(tmp_path)
    model(tmp_path)
    saved(tmp_path / "a.png", noise(30, 40))
    result = invoke("run", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error[E080" in result.stderr


def test_save(tmp_path: Path) -> None:
    """`--save` writes outputs in the order of the images, and overwrites a foreign file only with `--force`."""
    folder, out = tmp_path / "photos", tmp_path / "out.npz"
    for at in range(3):
        saved(folder / f"{at}.png", noise(30, 40, seed=at))
    (folder / "1b.png").write_bytes(b"")
    path = model(tmp_path, features=["relu"])
    for _ in range(2):
        result = invoke("run", path, "--image", folder, "--save", out, "--batch", "2")
        assert result.exit_code == 1
    with np.load(out) as kept:
        assert sorted(kept) == ["images", "logits", "relu"]
        assert kept["images"].tolist() == [str(folder / f"{at}.png") for at in range(3)]
        assert kept["relu"].shape == (3, 8, 24, 24)
        one = data(path, "--image", folder / "2.png")["images"][0]["top"]
        assert best(softmax(kept["logits"][2]), 5) == [(row["class"], pytest.approx(row["probability"])) for row in one]
    assert invoke("run", path, "--save", out, "--batch", "4").exit_code == 0
    with np.load(out) as kept:
        assert kept["logits"].shape == (4, 5)
    np.savez(out, mine=np.zeros(3))
    before = out.read_bytes()
    assert invoke("run", path, "--save", out).exit_code == 5
    assert out.read_bytes() == before
    assert invoke("run", path, "--save", out, "--force").exit_code == 0
    assert invoke("run", path, "--save", tmp_path / "no" / "out.npz").exit_code == 5


def test_outputs_that_are_feature_maps(tmp_path: Path) -> None:
    """A backbone's outputs are reported as feature maps, without invented classes."""
    path = model(tmp_path, network=[{"conv": {"channels": 6, "kernel": 3}}])
    photo = saved(tmp_path / "a.png", noise(30, 40))
    assert "logits [6, 24, 24], mean " in invoke("run", path, "--image", photo).stdout
    (found,) = data(path, "--image", photo)["images"]
    assert found["outputs"]["logits"]["shape"] == [6, 24, 24]
    assert "top" not in found


def test_without_pillow_images_exit_with_4(tmp_path: Path) -> None:
    """Without Pillow, `--image` exits with 4 and names the package to install; `run` without images works."""
    path, photo = model(tmp_path), saved(tmp_path / "a.png", noise(30, 40))
    result = run_after("sys.modules['PIL'] = None", "run", path, "--image", photo)
    assert result.returncode == 4
    assert "pip install 'rescompile[image]'" in result.stderr
    assert run_after("sys.modules['PIL'] = None", "run", path).returncode == 0


def test_stream_keeps_the_order(tmp_path: Path) -> None:
    """`stream` prepares images on several threads and yields them in their original order."""
    paths = [saved(tmp_path / f"{at}.png", np.full((40, 40, 3), at, np.uint8)) for at in range(40)]
    paths.insert(20, tmp_path / "missing.png")
    how = Preparation((0, 0, 0), (1, 1, 1), (20,), (2, 2))
    out = list(images.stream(paths, how, 1))
    assert [path for path, _ in out] == paths
    assert isinstance(out[20][1], Diagnostic)
    values = [float(array.max() * 255) for _, array in out if not isinstance(array, Diagnostic)]
    assert values == pytest.approx(list(range(40)))
