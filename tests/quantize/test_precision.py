"""Files in precisions other than float32, and files for a runtime: their content, their error, and refused options.
The output of ONNX Runtime's quantiser is checked against first principles (ranges, scales, roundings) and against
float64."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cpu import INT8_SATURATES
from onnx.numpy_helper import to_array
from ort import ran
from typer.testing import CliRunner

import rescompile
from rescompile import backend
from rescompile.cli import app
from rescompile.diagnostics.errors import CheckFailed, UsageError
from rescompile.files import checksum
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, parameters
from rescompile.quantize import calibration
from rescompile.runtimes import RUNTIMES, Job, recipes
from rescompile.weights import Array

pytest.importorskip("onnxruntime.quantization", reason="int8 quantisation: pip install 'rescompile[quantize]'")

exact_int8 = pytest.mark.skipif(INT8_SATURATES, reason="integer sums saturate on this CPU: it lacks VNNI")

SPEC = """
rescompile: 1
name: small
input: [3, 12, 10]
preprocess: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
network:
  - conv1: {conv: {channels: 16, kernel: 3, padding: 1}}
  - bn1: norm
  - relu
  - body:
      residual:
        branch:
          - conv2: {conv: {channels: 16, kernel: 3, padding: 1, groups: 4}}
          - bn2: norm
  - relu
  - parallel: {merge: concat, branches: [identity, [conv3: {conv: {channels: 8, kernel: 1, bias: true}}]]}
  - bn3: norm
  - relu
  - global_avgpool
  - flatten
  - fc: {linear: 7}
"""
INT8, UINT8 = onnx.TensorProto.INT8, onnx.TensorProto.UINT8
FLOAT = onnx.TensorProto.FLOAT


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the spec of a small network with grouped convolutions, a norm that cannot be folded, and two kinds of
    merges, all of which the quantiser treats specially, and return its path."""
    path = tmp_path_factory.mktemp("spec") / "small.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def small(path: Path) -> Network:
    """Return the small network."""
    return rescompile.elaborate(rescompile.load(path))


@pytest.fixture(scope="module")
def weights(small: Network) -> dict[str, Array]:
    """Return weights whose channels differ in scale, as in trained networks."""
    generator = np.random.default_rng(3)
    drawn = {}
    for name, parameter in parameters(small):
        value = generator.standard_normal(parameter.shape).astype(np.float32)
        if name.endswith("running_var"):
            value = 0.5 + value**2
        elif len(parameter.shape) > 1:
            sizes = generator.uniform(0.2, 2, (len(value), *(1,) * (value.ndim - 1)))
            value = (value * sizes / np.sqrt(parameter.fan_in)).astype(np.float32)
        drawn[name] = value if parameter.shape else np.array(7)
    return drawn


@pytest.fixture(scope="module")
def images() -> Array:
    """Return inputs that are not centred, so that ranges are asymmetric."""
    return (1 + np.random.default_rng(4).standard_normal((20, 3, 12, 10))).astype(np.float32)


def off(found: Array, exact: Array) -> float:
    """Return the relative root mean square error."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def int8(network: Network, weights: Any, images: Any, **options: Any) -> onnx.ModelProto:
    """Return the network as an int8 model that passes the checks of onnx."""
    artifact = rescompile.build(network, "onnx", weights, precision="int8", calibrate=images, **options)
    model = onnx.load_from_string(artifact.to_bytes())
    onnx.checker.check_model(model, full_check=True)
    return model


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of a model."""
    return {entry.key: entry.value for entry in model.metadata_props}


def tensors(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the initialisers by name."""
    return {tensor.name: to_array(tensor) for tensor in model.graph.initializer}


def folded(small: Network, weights: dict[str, Array]) -> dict[str, Array]:
    """Return the weights of the network with folded norms, in float32."""
    model = rescompile.build(small, "onnx", weights, fold_batchnorm=True).to_bytes()
    return tensors(onnx.load_from_string(model))


# --- float16 ----------------------------------------------------------------------------------------------------------


def test_float16_is_as_exact_as_torch_in_float16(small: Network, weights: dict[str, Array], images: Array) -> None:
    """The error in fp16 is at most three times that of torch in float16."""
    torch: Any = pytest.importorskip("torch", reason="float16 in torch is the reference")
    exact = interpret(small, weights, images)["logits"]
    given = {name: (lambda value=value: value) for name, value in weights.items()}
    module = backend.load("torch").make(small, rescompile.weights.Weights(given)).eval().half()  # type: ignore[attr-defined]
    with torch.inference_mode():
        plain = module(torch.from_numpy(images).half()).float().numpy()
    found = {
        fold: ran(
            rescompile.build(small, "onnx", weights, precision="fp16", fold_batchnorm=fold).to_bytes(),
            {"input": images},
        )["logits"]
        for fold in (False, True)
    }
    for logits in found.values():
        assert logits.dtype == np.float32
        assert 1e-5 < off(logits, exact) <= 3 * off(plain, exact)


# --- int8 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [17, 18, 19, 20, 21])
def test_int8_weights_are_rounded_by_channel(
    small: Network, weights: dict[str, Array], images: Array, opset: int
) -> None:
    """Weights are integers in [-127, 127], scaled per channel, each within half a step of its float."""
    model = int8(small, weights, images, opset=opset)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]
    found, floats = tensors(model), folded(small, weights)
    for name in ("conv1.weight", "body.conv2.weight", "conv3.weight"):
        whole, scale = found[f"{name}_quantized"], found[f"{name}_scale"]
        assert whole.dtype == np.int8
        assert not found[f"{name}_zero_point"].any()
        steps = scale.reshape(-1, 1, 1, 1)
        assert np.abs(np.float64(whole) * steps - floats[name]).max() <= 0.5001 * scale.max()
        assert (np.abs(np.float64(whole) * steps - floats[name]) <= 0.5001 * steps).all()
        largest = np.abs(floats[name]).reshape(len(scale), -1).max(1)
        assert np.allclose(scale, largest / 127, rtol=2e-2)
    assert "fc.weight" not in found
    assert "logits_scale" not in found  # the scale would be shared by all classes
    assert not {"bn1.weight", "body.bn2.weight"} & set(found)
    assert "bn3.weight" in found


def test_int8_ranges_are_those_of_the_data(small: Network, weights: dict[str, Array], images: Array) -> None:
    """The input's scale and zero point follow from the range of the calibration inputs: all but every fifth."""
    images = images.copy()
    images[4] *= 100  # a validation input
    found = tensors(int8(small, weights, images))
    fit = np.delete(images, [4, 9, 14, 19], axis=0)
    low, high = fit.min(), fit.max()
    assert found["input_scale"] == pytest.approx((high - low) / 255, rel=1e-5)
    assert found["input_zero_point"].dtype == np.uint8
    assert int(found["input_zero_point"]) == round(-low * 255 / (high - low))


def test_the_reported_error_of_int8(small: Network, weights: dict[str, Array], images: Array) -> None:
    """The reported error is measured on the validation inputs against float64, and is larger for calibration data of
    another scale."""
    artifact = rescompile.build(small, "onnx", weights, precision="int8", calibrate=images)
    validation = images[4::5]
    exact = interpret(small, weights, validation)["logits"]
    logits = np.concatenate([ran(artifact.to_bytes(), {"input": one[None]})["logits"] for one in validation])
    report = artifact.facts["int8"]
    assert report["inputs"] == len(validation) == 4
    assert report["error"] == pytest.approx(off(logits, exact), rel=1e-3)
    assert report["agreed"] == int((logits.argmax(1) == exact.argmax(1)).sum())
    assert 1e-4 < report["error"] < 0.05
    other = rescompile.build(small, "onnx", weights, precision="int8", calibrate=images / 100)
    given = np.concatenate([ran(other.to_bytes(), {"input": one[None]})["logits"] for one in validation])
    assert off(given, exact) > 5 * report["error"]


@pytest.mark.parametrize("batch", [None, 3])
def test_an_int8_file_replaces_that_of_float32(
    small: Network, weights: dict[str, Array], images: Array, batch: int | None, tmp_path: Path
) -> None:
    """An int8 file is a drop-in replacement: it has the same names, shapes and types, a dynamic or fixed batch,
    recorded options, and a valid checksum."""
    model = int8(small, weights, images, batch=batch)
    plain = onnx.load_from_string(rescompile.build(small, "onnx", weights, batch=batch).to_bytes())
    assert list(model.graph.input) == list(plain.graph.input)
    assert list(model.graph.output) == list(plain.graph.output)
    assert model.graph.name == plain.graph.name
    assert (model.producer_name, model.ir_version) == (plain.producer_name, plain.ir_version)
    found, before = metadata(model), metadata(plain)
    assert {key: found[key] for key in before if key not in ("rescompile.passes", "rescompile.seal")} == {
        key: value for key, value in before.items() if key not in ("rescompile.passes", "rescompile.seal")
    }
    assert found["rescompile.passes"] == '["fold-batchnorm"]'
    assert found["rescompile.precision"] == "int8"
    record = json.loads(found["rescompile.calibration"])
    assert (record["data"], record["inputs"], record["scheme"]) == ("arrays", 16, "u8s8")
    if batch:
        assert ran(model.SerializeToString(), {"input": images[:batch]})["logits"].shape == (batch, 7)
    (written,) = rescompile.build(small, "onnx", weights, precision="int8", calibrate=images, batch=batch).write(
        tmp_path / "small.onnx"
    )
    assert checksum.state(written) == "ours"
    assert written.read_bytes() == model.SerializeToString(deterministic=True)  # so building twice gives the same bytes
    recorded = backend.extract(written)
    assert recorded is not None
    fixed = () if batch is None else (f"batch={batch}",)
    assert recorded.options == ("precision=int8", *fixed, "weights=FILE", "calibrate=FOLDER")
    assert recorded.passes == ("fold-batchnorm",)


def test_int8_with_free_sizes(small: Network, weights: dict[str, Array], images: Array) -> None:
    """A file calibrated at the size of the spec runs at another size."""
    model = int8(small, weights, images, dynamic="height,width")
    sizes = [size.dim_param or size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", 3, "height", "width"]
    x = (1 + np.random.default_rng(6).standard_normal((2, 3, 17, 21))).astype(np.float32)
    plain = rescompile.build(small, "onnx", weights, dynamic="height,width").to_bytes()
    found = ran(model.SerializeToString(), {"input": x})["logits"]
    assert 1e-4 < off(found, ran(plain, {"input": x})["logits"]) < 0.05


def test_schemes_of_tensorrt_and_cpus(small: Network, weights: dict[str, Array], images: Array) -> None:
    """TensorRT's scheme has symmetric int8 activations and float biases, that for CPUs uint8 activations."""
    model = int8(small, weights, images, made_for="ort-tensorrt", batch=None)
    found = tensors(model)
    points = {name: value for name, value in found.items() if name.endswith("_zero_point")}
    assert {value.dtype.name for value in points.values()} == {"int8"}
    assert not any(value.any() for value in points.values())
    assert found["conv1.bias"].dtype == np.float32
    exact = interpret(small, weights, images)["logits"]
    assert 1e-4 < off(ran(model.SerializeToString(), {"input": images[:1]})["logits"], exact[:1]) < 0.1
    processors = {
        value.dtype.name for name, value in tensors(int8(small, weights, images)).items() if "input_zero" in name
    }
    assert processors == {"uint8"}


def test_a_folder_and_an_array_give_the_same_model(
    small: Network, weights: dict[str, Array], images: Array, tmp_path: Path
) -> None:
    """A folder of .npy files gives the same model as an array, in the order of paths; drawing more random inputs starts
    with the same ones."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "a" / "first.npy", images[:12].astype(np.float64))
    for at in range(12, 20):
        np.save(tmp_path / "b" / f"{at}.npy", images[at])
    (tmp_path / "notes.txt").write_text("not an array")
    models = [int8(small, weights, source) for source in (images, tmp_path)]
    assert models[0].graph == models[1].graph
    records = [json.loads(metadata(model)["rescompile.calibration"]) for model in models]
    assert records[0]["sha256"] == records[1]["sha256"]
    assert records[1]["data"] == "inputs of 9 files"
    assert str(tmp_path) not in json.dumps(records)
    few, many = (calibration.drawn((3, 4, 4), count, 7) for count in (2, 5))
    assert all(np.array_equal(one(), other()) for one, other in zip(few.calibration, many.calibration, strict=False))
    assert calibration.drawn((3, 4, 4), 2, 8).digest() != few.digest()
    assert not any(np.array_equal(one(), other()) for one in many.calibration for other in many.validation)


def test_images_are_preprocessed_as_the_spec_records(
    small: Network, weights: dict[str, Array], tmp_path: Path, path: Path
) -> None:
    """Calibration images are preprocessed as the spec records; a spec without mean and std is refused."""
    pillow = pytest.importorskip("PIL.Image", reason="reads images: pip install 'rescompile[image]'")
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 10, 3), np.uint8)
    for at, each in enumerate(pixels):
        pillow.fromarray(each).save(tmp_path / f"{at}.png")
    prepared = ((pixels / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).astype(np.float32)
    models = [int8(small, weights, source) for source in (prepared, tmp_path)]
    scales = [tensors(model)["input_scale"] for model in models]
    assert scales[0] == pytest.approx(scales[1], rel=1e-6)
    record = json.loads(metadata(models[1])["rescompile.calibration"])
    assert (record["data"], record["inputs"]) == ("10 images", 8)
    silent = tmp_path / "silent.yaml"
    silent.write_text(re.sub("preprocess.*\n", "", SPEC), encoding="utf-8")
    with pytest.raises(UsageError, match="E0840: small does not record its preprocessing: mean and std missing"):
        rescompile.build(silent, "onnx", weights, precision="int8", calibrate=tmp_path)


def test_few_inputs_are_used_for_calibration_only(small: Network, weights: dict[str, Array], images: Array) -> None:
    """With four inputs, all are used for calibration and no error is reported."""
    artifact = rescompile.build(small, "onnx", weights, precision="int8", calibrate=images[:4])
    assert artifact.facts["calibration"]["inputs"] == 4
    assert artifact.facts["int8"]["inputs"] == 0
    assert artifact.facts["int8"]["error"] is None


def test_activations_that_are_not_finite_are_refused(small: Network, weights: dict[str, Array], images: Array) -> None:
    """Activations that are not finite are refused by the name of the first, in calibration and in validation."""
    large = {**weights, **{f"{name}.weight": np.full(16, 1e25, np.float32) for name in ("bn1", "body.bn2")}}
    apart = images.copy()
    apart[9] = 3e38
    for these, data, first in ((large, images, r"body\.\S+"), (weights, apart, r"conv1")):
        message = rf"E0740: small cannot be quantised: the output of {first} is not finite$"
        with pytest.raises(CheckFailed, match=message):
            rescompile.build(small, "onnx", these, precision="int8", calibrate=data)


@pytest.mark.parametrize("op", ["act: relu", "conv_transpose: {channels: 3, kernel: 2, stride: 2}"])
def test_nothing_to_quantise(op: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A network without convolutions and linear layers is refused, and ONNX Runtime prints no warning of its own."""
    spec = tmp_path / "plain.yaml"
    spec.write_text(f"rescompile: 1\nname: plain\ninput: [3, 4, 4]\nnetwork: [{{{op}}}, global_avgpool]\n", "utf-8")
    with pytest.raises(CheckFailed, match=r"E0740: plain has nothing to quantise: neither a convolution nor a linear"):
        rescompile.build(str(spec), "onnx", precision="int8")
    assert capfd.readouterr().err == ""


def test_an_error_of_the_quantiser_is_reported(
    small: Network, weights: dict[str, Array], images: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the quantiser is reported by its first line, not as a traceback."""
    import onnxruntime.quantization

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such tensor\nat all")

    monkeypatch.setattr(onnxruntime.quantization, "quantize_static", refuse)
    with pytest.raises(CheckFailed, match=r"E0740: ONNX Runtime cannot quantise small: no such tensor$"):
        rescompile.build(small, "onnx", weights, precision="int8", calibrate=images)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Create folders that are unusable as calibration data, each for another reason, and return their parent."""
    pillow = pytest.importorskip("PIL.Image", reason="reads images: pip install 'rescompile[image]'")
    arrays = {
        "bytes": np.zeros((3, 12, 10), np.uint8),
        "shape": np.zeros((12, 10, 3), np.float32),
        "none": np.zeros((0, 3, 12, 10), np.float32),
        "nan": np.full((3, 12, 10), np.nan, np.float32),
        "objects": np.array([{}], object),
    }
    for name, array in arrays.items():
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", array)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "x.npy").write_text("no array")
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "x.npy").write_bytes((tmp_path / "nan" / "x.npy").read_bytes()[:-1])
    (tmp_path / "archive").mkdir()
    with (tmp_path / "archive" / "x.npy").open("wb") as file:
        np.savez(file, x=np.zeros(3))
    (tmp_path / "empty").mkdir()
    for name in ("broken", "small"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "x.png").write_text("no image")
    pillow.new("RGB", (5, 4)).save(tmp_path / "small" / "x.png")
    (tmp_path / "file").write_text("")
    return tmp_path


def refused(*words: object) -> tuple[int, str]:
    """Return the exit code and message of a build that must fail without writing a file."""
    done = CliRunner().invoke(app, ["build", *map(str, words)])
    assert not Path("x.onnx").exists()
    return done.exit_code, done.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("bytes", "bytes/x.npy: inputs must be floats, not uint8"),
        ("shape", "shape/x.npy has the shape [12, 10, 3], but the network takes [3, 12, 10], or a batch of it"),
        ("none", "none/x.npy has the shape [0, 3, 12, 10]"),
        ("nan", "nan/x.npy has a value that is not finite"),
        ("objects", "objects/x.npy: its array contains objects, not numbers"),
        ("text", "text/x.npy: it is not in .npy format"),
        ("archive", "archive/x.npy: this is an archive of arrays, not a .npy file"),
        ("short", "short/x.npy: the .npy file is broken: "),
        ("empty", "the folder empty contains no images"),
        ("broken", "broken/x.png: it is not an image in a supported format"),
        ("small", "small/x.png is 4x5, but small takes 12x10"),
        ("file", "file is not a folder"),
        ("nowhere", "nowhere does not exist"),
        ("0", "the number of calibration inputs must be from 1 to 100000, not 0"),
        ("100001", "not 100001"),
    ],
)
def test_calibration_data_are_checked(
    source: str, message: str, data: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unusable data are reported by name before anything is written."""
    monkeypatch.chdir(data)
    code, stderr = refused(path, "--target", "onnx", "--precision", "int8", "--calibrate", source, "-o", "x.onnx")
    assert code == 2
    assert "error[E0840]" in stderr
    assert message in stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "onnx", "--calibrate", "3"], "calibration applies only to int8 files"),
        (["--target", "onnx", "--precision", "fp16", "--calibrate", "3"], "calibration applies only to int8 files"),
        (["--target", "source", "--calibrate", "3"], "calibration applies only to int8 files"),
        (["--target", "torch", "--precision", "int8"], "the target 'torch' has no option 'precision'"),
        (["--target", "onnx", "--precision", "int8", "--no-weights"], "--precision int8 cannot be used with --no-weights"),
        (["--target", "onnx", "--precision", "int8", "--no-fold-batchnorm"], "--precision int8 always folds norms"),
        (["--target", "onnx", "--precision", "int9"], "did you mean 'int8'?"),
        (["--target", "onnx", "--for", "ort-cuda", "--precision", "int8"], "ort-cuda has no kernels for int8"),
        (["--target", "onnx", "--for", "tensorrt"], "did you mean 'ort-tensorrt'?"),
        (["--target", "onnx", "--for", "gpu"], "recipes exist for ort-cpu, openvino, ort-cuda or ort-tensorrt"),
        (["--target", "source", "--for", "ort-cpu"], "the target 'source' has no recipes"),
    ],
)  # fmt: skip
def test_conflicting_options_are_refused(
    words: list[str], message: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options that conflict with the precision, target or recipe are refused with the reason."""
    monkeypatch.chdir(tmp_path)
    code, stderr = refused(path, *words, "-o", "x.onnx")
    assert code == 2
    assert "error[E0802]" in stderr
    assert message in stderr


@pytest.mark.parametrize("absent", ["onnx", "onnxruntime", "onnxruntime.quantization"])
def test_without_the_quantiser(absent: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the quantiser, int8 names the package to install; fp16 does not need it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, absent, None)
    code, stderr = refused(path, "--target", "onnx", "--precision", "int8", "-o", "x.onnx")
    assert code == 4
    assert "error[E0902]" in stderr
    assert "pip install 'rescompile[quantize]'" in stderr
    assert CliRunner().invoke(app, ["build", str(path), "--target", "onnx", "--precision", "fp16"]).exit_code == 0


def test_the_backend_alone_refuses_int8(small: Network) -> None:
    """The ONNX backend by itself refuses int8, because it has no calibration data."""
    onnx_backend = backend.load("onnx")
    with pytest.raises(UsageError, match="int8 needs calibration data"):
        onnx_backend.emit(small, None, **backend.checked(onnx_backend, "onnx", {"precision": "int8"}))


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_every_runtime_of_files_has_a_recipe() -> None:
    """Every runtime of ONNX files has a recipe of its name, with a quantisation scheme exactly if it supports int8."""
    takers = {name: runtime for name, runtime in RUNTIMES.items() if runtime.takes == "onnx"}
    assert set(recipes.RECIPES) == set(takers)
    for name, runtime in takers.items():
        recipe = recipes.RECIPES[name]
        assert (recipe.scheme is not None) == ("int8" in runtime.precisions)
        assert recipe.options.get("precision", "fp32") in runtime.precisions


@pytest.mark.parametrize("runtime", recipes.RECIPES)
def test_a_recipe_equals_its_options(runtime: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe gives the same graph as its options typed out, and is recorded in the metadata."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["build", str(path), "--target", "onnx", "--for", runtime])
    assert done.exit_code == 0, done.output
    line = next(line for line in done.stderr.splitlines() if line.strip().startswith(f"for {runtime}: "))
    words = line.split(": ")[1].split(" (")[0].split()
    assert CliRunner().invoke(app, ["build", str(path), "--target", "onnx", *words, "-o", "typed.onnx"]).exit_code == 0
    artifact, typed = onnx.load("small.onnx"), onnx.load("typed.onnx")
    assert artifact.graph == typed.graph
    assert set(metadata(artifact)) - set(metadata(typed)) == {"rescompile.for"}
    assert metadata(artifact)["rescompile.for"] == runtime
    stderr = CliRunner().invoke(app, ["extract", "small.onnx", "-o", "back.yaml"]).stderr
    assert f"--for={runtime}" in stderr
    again = stderr.partition("built with ")[2].split()
    assert (
        CliRunner().invoke(app, ["build", "./back.yaml", "--target", "onnx", *again, "-o", "again.onnx"]).exit_code == 0
    )
    assert Path("again.onnx").read_bytes() == Path("small.onnx").read_bytes()


def test_given_options_override_a_recipe(small: Network, weights: dict[str, Array]) -> None:
    """Each given option overrides that of the recipe, and the others still apply."""
    given = {"precision": "fp32", "batch": 4, "fold_batchnorm": False}
    model = onnx.load_from_string(rescompile.build(small, "onnx", weights, made_for="ort-cuda", **given).to_bytes())
    plain = onnx.load_from_string(rescompile.build(small, "onnx", weights, batch=4).to_bytes())
    assert model.graph == plain.graph
    half = onnx.load_from_string(rescompile.build(small, "onnx", weights, made_for="ort-cuda", batch=4).to_bytes())
    assert half.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert "bn1.weight" not in tensors(half)
    assert {each.dtype.name for each in tensors(half).values()} == {"float16"}


# --- int8 in bench ----------------------------------------------------------------------------------------------------


@exact_int8
def test_the_bound_of_int8_in_bench(small: Network, tmp_path: Path) -> None:
    """The int8 bound is three times the error of the same file with float accumulation, which another file exceeds."""
    pytest.importorskip("torch", reason="the reference of bench")
    from rescompile.bench import timed_models
    from rescompile.bench.reference import Reference
    from rescompile.quantize import quantizer

    artifact = timed_models.of_spec(small, {}, 0)
    x = timed_models.inputs(small.input, 3, 0)
    file = artifact.write(tmp_path, x, timed_models.form_of("ort-cpu", "int8"))
    assert file.name == "small_int8_ort-cpu_batch3.onnx"
    reference = Reference(artifact, x)
    reference.expect("int8", quantizer.simulated(file, x))
    prepared = RUNTIMES["ort-cpu"].prepare(Job("small", file, None, x, "int8"), {})
    assert sum(prepared.facts["multiplied"].get(kind, 0) for kind in ("int8", "uint8")) >= 3
    assert reference.bound("fp32") < reference.error(prepared.outputs()) <= reference.bound("int8")
    other = timed_models.of_spec(small, {}, 1).write(tmp_path / "..", x, "ort-cpu")
    prepared = RUNTIMES["ort-cpu"].prepare(Job("small", other, None, x, "int8"), {})
    other.unlink()
    assert reference.error(prepared.outputs()) > reference.bound("int8")


def grouped(folder: Path) -> Path:
    """Write a spec with a convolution in groups of 8 channels, and return its path."""
    rows = ("stem: {conv: {channels: 64, kernel: 3}}", "bn: norm", "wide: {conv: {channels: 64, kernel: 3, groups: 8}}",
            "global_avgpool", "flatten", "fc: {linear: 10}")  # fmt: skip
    path = folder / "grouped.yaml"
    path.write_text(
        "rescompile: 1\nname: grouped\ninput: [3, 8, 8]\nnetwork:\n" + "".join(f"  - {row}\n" for row in rows)
    )
    return path


def test_int8_files_of_bench_have_the_passes_of_the_recipe(tmp_path: Path) -> None:
    """`bench` measures int8 files with the passes of the runtime's recipe, except those that are disabled."""
    pytest.importorskip("torch", reason="the reference of bench")
    from rescompile.bench import timed_models

    network = rescompile.elaborate(rescompile.load(str(grouped(tmp_path))))
    x = timed_models.inputs(network.input, 2, 0)

    def groups(given: dict[str, Any], runtime: str) -> set[int]:
        file = timed_models.of_spec(network, given, 0).write(
            tmp_path / str(len(given)), x, timed_models.form_of(runtime, "int8")
        )
        convs = (node for node in onnx.load(file).graph.node if node.op_type == "Conv")
        return {attribute.i for node in convs for attribute in node.attribute if attribute.name == "group"}

    for folder in ("0", "1"):
        (tmp_path / folder).mkdir()
    assert groups({}, "ort-cpu") == {1, 2}
    assert groups({"join_groups": 0}, "ort-cpu") == groups({}, "openvino") == {1, 8}


def test_rows_of_bench_list_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The int8 row of `bench` lists the passes of the recipe, and the fp32 row does not."""
    pytest.importorskip("torch", reason="the reference of bench")
    from rescompile.runtimes import roofline

    monkeypatch.setattr(roofline, "measure", lambda *key: roofline.Roofline(key[1], {1 << 20: 1e10}, 1e10))
    words = [
        "--runtime",
        "ort-cpu",
        "--precision",
        "fp32,int8",
        "--threads",
        "1",
        "--rounds",
        "5",
        "--slot-ms",
        "0",
        "--json",
    ]
    done = CliRunner().invoke(app, ["bench", str(grouped(tmp_path)), *words])
    assert done.exit_code == 0, done.output
    found = {row["precision"]: row["passes"] for row in json.loads(done.stdout)["rows"]}
    assert found == {"fp32": [], "int8": ["fold-batchnorm", "join-groups=32"]}


def test_variants_of_files() -> None:
    """Each runtime and precision maps to its variant of the file."""
    from rescompile.bench.timed_models import form_of

    assert form_of("openvino", "bf16") == form_of("ort-cuda", "tf32") == "fp32"
    assert form_of("ort-tensorrt", "fp16") == "fp16"
    assert (form_of("ort-cpu", "int8"), form_of("openvino", "int8"), form_of("ort-tensorrt", "int8")) == (
        "ort-cpu", "openvino", "ort-tensorrt",
    )  # fmt: skip


@exact_int8
def test_bench_in_int8(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench` reports an int8 row whose error is above that of float32 and within the bound."""
    pytest.importorskip("torch", reason="the reference of bench")
    from rescompile.runtimes import roofline

    nothing = roofline.Roofline("fp32", {1: 1.0}, None)
    monkeypatch.setattr(roofline, "measure", lambda *_: nothing)  # measuring takes seconds
    monkeypatch.chdir(tmp_path)
    words = ["bench", str(path), "--runtime", "ort-cpu", "--precision", "fp32,int8", "--rounds", "5", "--slot-ms", "0"]
    done = CliRunner().invoke(app, [*words, "--threads", "1", "-o", "result.json"])
    assert done.exit_code == 0, done.output
    rows = {row["precision"]: row for row in json.loads(Path("result.json").read_text("utf-8"))["rows"]}
    assert set(rows) == {"fp32", "int8"}
    assert rows["fp32"]["error"] < 1e-5 < 1e-3 < rows["int8"]["error"] <= rows["int8"]["bound"]
    assert rows["fp32"]["artifact"] != rows["int8"]["artifact"]


def test_peers_in_int8(small: Network, tmp_path: Path) -> None:
    """An exported peer goes through the same quantiser on the same data, in batches of the file's size."""
    pytest.importorskip("torch", reason="exports the peer")
    pytest.importorskip("peers", reason="the peer is a network of torchvision")
    from rescompile.bench import timed_models
    from rescompile.bench.reference import Reference
    from rescompile.quantize import quantizer

    artifact = timed_models.of_peer("torchvision:squeezenet1_1", (3, 64, 64), 0, "legacy")
    x = timed_models.inputs((3, 64, 64), 5, 0)
    file = artifact.write(tmp_path, x, timed_models.form_of("ort-cpu", "int8"))
    reference = Reference(artifact, x)
    reference.expect("int8", quantizer.simulated(file, x))
    prepared = RUNTIMES["ort-cpu"].prepare(Job("peer", file, None, x, "int8"), {})
    assert 1e-3 < reference.error(prepared.outputs()) <= reference.bound("int8")
