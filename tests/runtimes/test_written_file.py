"""`build --verify` runs the new file before it replaces an earlier one, and a wrong file replaces nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import rescompile
from rescompile.cli import app
from rescompile.diagnostics.errors import CheckFailed, UsageError
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import parameters
from rescompile.weights import draw

pytest.importorskip("torch", reason="runs the source and torch targets")
pytest.importorskip("onnxruntime", reason="runs the ONNX files")

SPEC = """
rescompile: 1
name: small
input: [3, 12, 12]
network:
  - conv1: {conv: {channels: 8, kernel: 3}}
  - bn1: norm
  - relu
  - residual: {branch: [{conv2: {conv: {channels: 8, kernel: 3}}}, {bn2: norm}]}
  - relu
  - global_avgpool
  - flatten
  - fc: {linear: 10}
"""
Patch = pytest.MonkeyPatch
onnx_file: Any = import_module("rescompile.backends.onnx.file")
artifact: Any = import_module("rescompile.backends.onnx.artifact")
source_file: Any = import_module("rescompile.backends.torch.source_file")
module: Any = import_module("rescompile.backends.torch.module")
quantizer: Any = import_module("rescompile.quantize.quantizer")


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """Write the spec of a small residual network with about twelve kilobytes of weights, and return its path."""
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return str(path)


def external(patch: Patch) -> None:
    patch.setattr(onnx_file, "EXTERNAL_ABOVE", 0)


#: Three different channels, in the order of OpenCV.
STATISTICS = [
    *("--set", "preprocess.mean=[0.4, 0.5, 0.6]", "--set", "preprocess.std=[0.2, 0.3, 0.4]"),
    *("--set", "preprocess.channel_order=bgr"),
]
VARIANTS: dict[str, tuple[list[str], Callable[[Patch], None]]] = {
    "onnx": (["onnx"], lambda patch: None),
    "external data": (["onnx"], external),
    "folded, batch 3": (["onnx", "--fold-batchnorm", "--batch", "3"], lambda patch: None),
    "dynamic": (["onnx", "--dynamic", "height,width"], lambda patch: None),
    "normalized": (["onnx", "--normalize", *STATISTICS], lambda patch: None),
    "bytes": (["onnx", "--input", "uint8", *STATISTICS], lambda patch: None),
    "bytes, channels last, dynamic, softmax": (
        ["onnx", "--input", "uint8-nhwc", "--dynamic", "height,width", "--softmax", *STATISTICS],
        lambda patch: None,
    ),
    "softmax": (["onnx", "--softmax"], lambda patch: None),
    "softmax, fp16": (["onnx", "--softmax", "--precision", "fp16"], lambda patch: None),
    "fp16": (["onnx", "--precision", "fp16"], lambda patch: None),
    "int8": (["onnx", "--precision", "int8", "--calibrate", "8"], lambda patch: None),
    "torch": (["torch"], lambda patch: None),
    "torch, dynamic": (["torch", "--dynamic", "height,width"], lambda patch: None),
    "source": (["source"], lambda patch: None),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_correct_file_is_written(variant: str, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A correct file is written with its error and bound in the report; dynamic ones are run at another size."""
    words, prepare = VARIANTS[variant]
    prepare(monkeypatch)
    (tmp_path / "out").mkdir()
    done = CliRunner().invoke(app, ["build", spec, "--verify", "--json", "-o", str(tmp_path / "out"), "-t", *words])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert 0 < data["verified"]["error"] <= data["verified"]["bound"] < (0.2 if variant == "int8" else 1e-2)
    batch, *shape = data["verified"]["input"]
    assert batch == (3 if "batch 3" in variant else 2)
    assert (shape == [3, 12, 12]) == ("dynamic" not in variant)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {Path(file).name for file in data["files"]}


@pytest.mark.parametrize("name", ["net.py", "net", "net.v2.pt2", "net.safetensors"])
def test_weights_of_a_program_of_any_name(name: str, spec: str, tmp_path: Path) -> None:
    """The check reads the weights file that was written, whatever the name of the program."""
    done = CliRunner().invoke(app, ["build", spec, "--verify", "-t", "torch", "-o", str(tmp_path / name)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / f"{name.removesuffix('.pt2')}.safetensors").is_file()


@pytest.mark.parametrize("name", ["net.py", "net.v2", "net.safetensors"])
def test_weights_never_replace_their_source(name: str, spec: str, tmp_path: Path) -> None:
    """Whatever the name of the source, its weights file has another name."""
    done = CliRunner().invoke(app, ["build", spec, "--seed", "1", "-t", "flax", "-o", str(tmp_path / name)])
    assert done.exit_code == 0, done.output
    assert "import" in (tmp_path / name).read_text()
    assert (tmp_path / f"{name.removesuffix('.py')}.safetensors").stat().st_size > 0


def zeros(patch: Patch) -> None:
    """Zero the values of all kernels as they are written."""
    right = onnx_file._bytes
    patch.setattr(onnx_file, "_bytes", lambda array: right(array * 0 if array.ndim == 4 else array))


def another_source(patch: Patch) -> None:
    right = source_file.source
    patch.setattr(source_file, "source", lambda *args, **options: right(*args, **options).replace("F.relu", "F.silu"))


def another_weight(patch: Patch) -> None:
    right = module._tensor
    patch.setattr(module, "_tensor", lambda array: right(array * 2 if array.ndim == 4 else array))


def a_broken_file(patch: Patch) -> None:
    right = onnx_file._node
    patch.setattr(onnx_file, "_node", lambda call: right(call).replace(b"Relu", b"Rulu"))


def another_division(patch: Patch) -> None:
    right = onnx_file._node
    patch.setattr(onnx_file, "_node", lambda call: right(call).replace(b"Div", b"Mul"))


def another_softmax(patch: Patch) -> None:
    right = onnx_file._node
    patch.setattr(onnx_file, "_node", lambda call: right(call).replace(b"Softmax", b"Hardmax"))


def scales_of_weights(patch: Patch) -> None:
    """Make the weight scales of int8 files too large by half."""
    from onnx import numpy_helper

    right = quantizer.fix

    def wrong(model: Any, batch: Any) -> None:
        right(model, batch)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("weight_scale"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))

    patch.setattr(quantizer, "fix", wrong)


@pytest.mark.parametrize(
    ("variant", "plant", "message"),
    [
        ("onnx", zeros, "its outputs have an error of"),
        ("external data", zeros, "its outputs have an error of"),
        ("fp16", zeros, "its outputs have an error of"),
        ("dynamic", zeros, "its outputs have an error of"),
        ("int8", scales_of_weights, "its outputs have an error of"),
        ("normalized", another_division, "its outputs have an error of"),
        ("bytes", another_division, "its outputs have an error of"),
        ("softmax", another_softmax, "its outputs have an error of"),
        ("onnx", a_broken_file, "it cannot be run"),
        ("torch", another_weight, "contains other values for"),
        ("source", another_source, "its outputs have an error of"),
    ],
)
@pytest.mark.slow_for("another_source")
def test_a_wrong_file_replaces_nothing(
    variant: str,
    plant: Callable[[Patch], None],
    message: str,
    spec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong file leaves the earlier files unchanged and nothing beside them, with the exit code of a failed check."""
    words, prepare = VARIANTS[variant]
    prepare(monkeypatch)
    (tmp_path / "out").mkdir()
    command = ["build", spec, "--verify", "-o", str(tmp_path / "out"), "-t", *words]
    assert CliRunner().invoke(app, command).exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    plant(monkeypatch)
    done = CliRunner().invoke(app, [*command, "--seed", "1"])
    assert done.exit_code == 1, done.output
    assert "E0708" in done.stderr
    assert message in done.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_file_that_overflows_is_not_written(spec: str, tmp_path: Path) -> None:
    """A network that overflows in fp16 is reported by the value that overflows, and no file is written."""
    network = rescompile.elaborate(rescompile.load(spec))
    arrays = dict(draw(network))
    arrays["conv1.weight"], arrays["conv2.weight"] = arrays["conv1.weight"] * 1e4, arrays["conv2.weight"] * 1e4
    built = rescompile.build(network, "onnx", arrays, precision="fp16", verify=True)
    with pytest.raises(CheckFailed, match=r"E0707: small\.onnx .* from the output of \S+ in fp16 on"):
        built.write(tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "-"], "-o - cannot be used with it"),
        (["--check"], "--check cannot be used with it"),
        (["--no-weights"], "--verify and --no-weights cannot be used together"),
    ],
)
def test_options_that_conflict_with_verify_are_refused(words: list[str], message: str, spec: str) -> None:
    """Options that conflict with `--verify` are refused before a file is written."""
    done = CliRunner().invoke(
        app, ["build", spec, "-t", "onnx", "--verify", *(words if "-o" in words else ["-o", f"{spec}.onnx", *words])]
    )
    assert not Path(f"{spec}.onnx").exists()
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


# --- random weights ---------------------------------------------------------------------------------------------------


def test_norms_of_random_weights_are_calibrated_on_request(spec: str, tmp_path: Path) -> None:
    """`--calibrate-norms` is deterministic and recorded, so a rebuild is identical; it refuses given weights."""
    network = rescompile.elaborate(rescompile.load(spec))
    built = rescompile.build(network, "torch", calibrate_norms=True, seed=3)
    state = {name: built.module.state_dict()[name].numpy() for name, _ in parameters(network)}
    x = np.random.default_rng(0).standard_normal((8, *network.input), np.float32)
    assert 0.1 < interpret(network, state, x)["logits"].std() < 10
    path = tmp_path / "small.onnx"
    rescompile.build(network, "onnx", calibrate_norms=True, seed=3).write(path)
    done = CliRunner().invoke(app, ["extract", str(path), "-o", str(tmp_path / "again.yaml")])
    assert "--seed=3 --calibrate-norms" in done.stderr
    again = rescompile.build(str(tmp_path / "again.yaml"), "onnx", calibrate_norms=True, seed=3)
    assert again.to_bytes() == path.read_bytes()
    with pytest.raises(UsageError, match="--calibrate-norms applies to random weights only"):
        rescompile.build(network, "onnx", dict(draw(network)), calibrate_norms=True)


def test_random_weights_are_reported(spec: str, tmp_path: Path) -> None:
    """Randomly initialised weights are reported on standard error and in JSON; given ones are not."""
    drawn, given = tmp_path / "drawn.onnx", tmp_path / "given.onnx"
    network = rescompile.elaborate(rescompile.load(spec))
    rescompile.build(network, "onnx", seed=2).write(drawn)
    rescompile.build(network, "onnx", dict(draw(network))).write(given)
    for words, how in (
        ([str(drawn)], "seed 2"),
        ([spec], "seed 0"),
        ([spec, "--calibrate-norms"], "seed 0, norms calibrated"),
        ([str(given)], None),
    ):
        done = CliRunner().invoke(app, ["run", *words, "--repeats", "1", "--json"])
        assert json.loads(done.stdout)["random_weights"] == how
        assert (f"randomly initialised weights ({how})" in done.stderr) == (how is not None)
