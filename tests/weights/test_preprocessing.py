"""Preprocessing of weights: the libraries' values are recorded on conversion and then used for images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from rescompile import build, elaborate, load
from rescompile.cli import app
from rescompile.lang import library
from rescompile.vision.preprocessing import applicable, preparation
from rescompile.weights import draw, profiles

SPEC = {
    "rescompile": 1,
    "name": "small",
    "input": [3, 8, 8],
    "preprocess": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "resize": 10, "crop": 8},
    "network": [{"conv1": {"conv": {"channels": 4, "kernel": 3}}}, "global_avgpool", "flatten", {"fc": {"linear": 5}}],
}
HALVES = ("--preprocess", "mean=0.5,0.5,0.5", "--preprocess", "std=0.5,0.25,0.5")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in its own folder, with a spec, its weights and an image."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(json.dumps(SPEC), "utf-8")
    save_file(dict(draw(elaborate(load("./small.yaml")), 1)), "plain.safetensors")
    noise = np.random.default_rng(0).integers(0, 255, (9, 14, 3)).astype(np.uint8)
    Image.fromarray(noise).save("image.png")


def invoke(*arguments: str, code: int = 0) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def converted(*options: str) -> Result:
    """Convert the plain weights, and return the result of the command."""
    return invoke("weights", "convert", "plain.safetensors", "./small.yaml", "-o", "w.safetensors", *options)


# --- recorded and used ------------------------------------------------------------------------------------------------


def test_weights_keep_their_preprocessing_up_to_the_image() -> None:
    """Preprocessing recorded on conversion is used by `build` and `run`; options override it."""
    stderr = converted(*HALVES).stderr
    assert "need mean=0.5,0.5,0.5 std=0.5,0.25,0.5, but small has mean=0.4,0.5,0.6 std=0.2,0.25,0.3" in stderr
    wanted = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.25, 0.5], "resize": 10, "crop": 8}
    built = invoke("build", "./small.yaml", "-t", "onnx", "--weights", "w.safetensors", "--json")
    assert json.loads(built.stdout)["preprocess"] == wanted
    for model in (["small.onnx"], ["./small.yaml", "--weights", "w.safetensors"]):
        ran = invoke("run", *model, "--image", "image.png", "--json")
        assert "does not record" not in ran.stderr
        assert json.loads(ran.stdout)["preprocess"] | wanted == {
            **wanted, "interpolation": "bilinear", "channel_order": "rgb", "dtype": "float32", "layout": "nchw",
        }  # fmt: skip
    explicit = invoke("run", "small.onnx", "--image", "image.png", "--json", "--preprocess", "mean=0,0,0")
    assert json.loads(explicit.stdout)["preprocess"]["mean"] == [0, 0, 0]


def test_the_record_survives_another_conversion() -> None:
    """`convert` and `transfer` pass the recorded preprocessing on."""
    converted(*HALVES)
    invoke("weights", "convert", "w.safetensors", "./small.yaml", "-o", "again.safetensors")
    invoke("weights", "transfer", "w.safetensors", "./small.yaml", "./small.yaml", "-o", "moved.safetensors")
    for name in ("w", "again", "moved"):
        with safe_open(f"{name}.safetensors", "np") as file:
            recorded = json.loads(file.metadata()["rescompile.preprocess"])
        assert recorded == {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.25, 0.5]}


@pytest.mark.parametrize("width", [8, 6])
@pytest.mark.parametrize("given", [["resize=8,WIDTH"], ["resize=9,9", "crop=8,WIDTH"], ["resize=9", "crop=8,WIDTH"]])
def test_height_and_width_are_recorded_and_kept(given: list[str], width: int) -> None:
    """Two equal sides of `resize` are not the shorter side; sizes that give the input are kept, square or not."""
    document = SPEC | {"input": [3, 8, width], "preprocess": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}}
    Path("wide.yaml").write_text(json.dumps(document), "utf-8")
    options = [word for each in given for word in ("--preprocess", each.replace("WIDTH", str(width)))]
    invoke("weights", "convert", "plain.safetensors", "./wide.yaml", "-o", "w.safetensors", *options)
    invoke("weights", "convert", "w.safetensors", "./wide.yaml", "-o", "again.safetensors")
    typed = ["./wide.yaml", "--weights", "plain.safetensors", *options]
    found = [
        json.loads(invoke("run", *model, "--image", "image.png", "--json").stdout)
        for model in (
            typed,
            ["./wide.yaml", "--weights", "w.safetensors"],
            ["./wide.yaml", "--weights", "again.safetensors"],
        )
    ]
    assert [each["preprocess"] for each in found] == [found[0]["preprocess"]] * 3
    assert [each["images"] for each in found] == [found[0]["images"]] * 3


def test_unknown_preprocessing_is_reported() -> None:
    """Where weights do not record their preprocessing, that of the spec is used, with a warning."""
    stderr = converted().stderr
    assert (
        "plain.safetensors does not record its preprocessing, so that of small will be used: mean=0.4,0.5,0.6" in stderr
    )
    options = ("./small.yaml", "--weights", "w.safetensors")
    assert "w.safetensors does not record its preprocessing" in invoke("run", *options, "--image", "image.png").stderr
    assert "of the spec, since w.safetensors does not record its own" in invoke("build", *options, "-t", "onnx").stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("mean=0.5",), "mean must be 3 numbers"),
        (("std=0,1,1",), "std must be greater than 0"),
        (("crop=9",), "needs 8x8"),
        (("mode=caffe",), "unknown preprocessing key 'mode'"),
        (("channel_order=rbg",), "channel_order must be rgb or bgr, not 'rbg'"),
        (("mean",), "write --preprocess name=value"),
        (("mean=0,0,0", "mean=0,0,0"), "is given twice"),
    ],
)
def test_unusable_values_are_refused(options: tuple[str, ...], message: str) -> None:
    """Invalid `--preprocess` values are refused by `convert`, and no file is written."""
    given = [word for option in options for word in ("--preprocess", option)]
    stderr = invoke(
        "weights", "convert", "plain.safetensors", "./small.yaml", "-o", "w.safetensors", *given, code=2
    ).stderr
    assert message in stderr
    assert not Path("w.safetensors").exists()


@pytest.mark.parametrize("mean", [3, "x", [[1], [1]], None, [1, 2], {"r": 1}])
def test_a_record_of_wrong_values_is_refused_or_ignored(mean: Any) -> None:
    save_file(
        load_file("plain.safetensors"), "broken.safetensors", {"rescompile.preprocess": json.dumps({"mean": mean})}
    )
    arguments = "weights", "convert", "broken.safetensors", "./small.yaml", "-o", "w.safetensors"
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code in (0, 2)


@pytest.mark.parametrize("entry", ["[", "[]", "7", "[" * 100_000])
def test_a_broken_record_is_refused(entry: str) -> None:
    """Invalid recorded preprocessing is refused with the name of the metadata key."""
    save_file(load_file("plain.safetensors"), "broken.safetensors", {"rescompile.preprocess": entry})
    stderr = invoke("build", "./small.yaml", "-t", "onnx", "--weights", "broken.safetensors", code=2).stderr
    assert "E0803" in stderr
    assert "rescompile.preprocess" in stderr


def test_bgr_reverses_the_channels() -> None:
    """BGR images give the reversed channels of RGB with reversed mean and std."""
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    values = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 0.125]}
    bgr = preparation({**values, "channel_order": "bgr"}, (1, 3, 4, 4), "it").apply(image)
    reversed_ = {name: numbers[::-1] for name, numbers in values.items()}
    np.testing.assert_array_equal(bgr, preparation(reversed_, (1, 3, 4, 4), "it").apply(image)[::-1])


def test_only_applicable_values_of_a_profile_are_recorded() -> None:
    """Sizes of a profile are recorded only if they match the input, and one channel takes equal values only."""
    timm = profiles.load("timm_mobilenetv1").preprocess
    assert applicable(timm, (3, 224, 224)) == timm
    small = applicable(timm, (3, 160, 160))
    assert small == {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    assert applicable(timm, (1, 160, 160)) == {**small, "mean": [0.5], "std": [0.5]}
    assert applicable(profiles.load("timm_darknet53").preprocess, (1, 256, 256)) == {}


# --- values of the libraries ------------------------------------------------------------------------------------------


def test_every_profile_has_preprocessing() -> None:
    """Every profile's preprocessing is a valid `preprocess` of a spec."""
    for name in profiles.files():
        changes = [f"preprocess={json.dumps(dict(profiles.load(name).preprocess))}"]
        assert elaborate(load("resnet18", changes)).preprocess == profiles.load(name).preprocess


TIMM = {
    "timm_convnext": "convnext_tiny.in12k_ft_in1k",
    "timm_darknet53": "darknet53.*",
    "timm_eca": "ecaresnet50d.*",
    "timm_inception_next": "inception_next_tiny.*",
    "timm_mixnet": "mixnet_s.*",
    "timm_mobilenetv1": "mobilenetv1_100.*",
    "timm_nfnet": "dm_nfnet_f0.*",
    "timm_repvgg": "repvgg_a0.*",
    "timm_res2net": "res2n*",
    "timm_resnetv2": "resnetv2_[0-9]*[0-9].*",
    "timm_vgg": "vgg*",
}


@pytest.mark.parametrize("name", [name for name in profiles.files() if name.startswith("timm")])
def test_profiles_have_the_preprocessing_of_timm(name: str) -> None:
    """Preprocessing of timm profiles equals timm's configuration of the pretrained weights."""
    import peers  # noqa: F401

    timm = pytest.importorskip("timm", reason="the reference for preprocessing: pip install timm")
    ours: Any = profiles.load(name).preprocess
    published = [each for each in timm.list_pretrained(TIMM[name]) if "_bit" not in each]
    assert published
    for weights in published:
        theirs = timm.models.get_pretrained_cfg(weights)
        assert (tuple(ours["mean"]), tuple(ours["std"])) == (theirs.mean, theirs.std), weights
        assert ours.get("interpolation", "bilinear") == theirs.interpolation
        assert ours["crop"] == theirs.input_size[1]
        if "resize" in ours:
            assert ours["resize"] == int(theirs.input_size[1] / theirs.crop_pct)


def test_the_zoo_has_the_preprocessing_of_torchvision() -> None:
    """Zoo preprocessing equals torchvision's, including the second normalisation (`transform_input`) of two models."""
    import peers  # noqa: F401

    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision", reason="the reference for preprocessing").models
    compared = 0
    for name in library.zoo():
        if name not in models.list_models(models):
            continue
        network = elaborate(load(name))
        theirs = models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
        assert network.preprocess is not None
        how = preparation(network.preprocess, (1, *network.input), name)
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 500, 3)).astype(np.uint8))
        wanted = theirs(image)
        if name in ("googlenet", "inception_v3"):
            plain = getattr(models, name)(weights=None, init_weights=False, transform_input=True)
            wanted = plain._transform_input(wanted[None])[0]
        np.testing.assert_allclose(how.apply(image), torch.Tensor(wanted).numpy(), atol=2e-6, err_msg=name)
        compared += 1
    assert compared > 20


KERAS = {
    "keras_densenet": "densenet",
    "keras_inception_v3": "inception_v3",
    "keras_resnet": "resnet",
    "keras_vgg16": "vgg16",
    "keras_vgg19": "vgg19",
}


@pytest.mark.parametrize("name", [name for name in profiles.files() if name.startswith("keras")])
def test_profiles_have_the_preprocessing_of_keras(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preprocessing of Keras profiles equals `preprocess_input` of keras.applications."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("torch", reason="the backend of Keras")
    keras = pytest.importorskip("keras", reason="the reference for preprocessing: pip install keras")
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    theirs = getattr(keras.applications, KERAS[name]).preprocess_input(pixels[None].astype(np.float32))[0]
    ours = preparation(profiles.load(name).preprocess, (1, 3, 8, 8), name).apply(Image.fromarray(pixels))
    np.testing.assert_allclose(ours, theirs.transpose(2, 0, 1), rtol=1e-5, atol=2e-5)


def test_the_preprocessing_of_a_profile_is_recorded() -> None:
    """`--from` records the library's preprocessing with the weights, and it replaces that of the spec."""
    network = elaborate(load("mobilenet_v1"))
    weights, shapes = profiles.load("timm_mobilenetv1").to_theirs(draw(network, 0), network)
    save_file({name: weights[name] for name in shapes}, "theirs.safetensors")
    options = ("mobilenet_v1", "--from", "timm_mobilenetv1", "-o", "ours.safetensors")
    stderr = invoke("weights", "convert", "theirs.safetensors", *options).stderr
    assert re.search(r"need mean=0\.5,0\.5,0\.5 std=0\.5,0\.5,0\.5.*, but mobilenet_v1 has mean=0\.485", stderr)
    artifact = build("mobilenet_v1", "onnx", "ours.safetensors")
    assert artifact.facts["preprocess"] == profiles.load("timm_mobilenetv1").preprocess
