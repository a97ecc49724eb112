"""ONNX files for deployment without preprocessing: --normalize, --input uint8 and --softmax."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from rescompile.cli import app

onnx = pytest.importorskip("onnx", reason="it checks the files")
onnxruntime = pytest.importorskip("onnxruntime", reason="it runs the files")

SPEC: dict[str, Any] = {
    "rescompile": 1,
    "name": "small",
    "input": [3, 8, 9],
    "preprocess": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]},
    "network": [{"conv1": {"conv": {"channels": 4, "kernel": 3, "padding": 1}}}, "norm", "relu", "global_avgpool", "flatten", {"fc": {"linear": 5}}],
}  # fmt: skip
FORMS = [
    [],
    ["--normalize"],
    ["--input", "uint8"],
    ["--input", "uint8-nhwc"],
    ["--softmax"],
    ["--input", "uint8-nhwc", "--softmax", "--opset", "13"],
    ["--input", "uint8", "--softmax", "--precision", "fp16"],
    ["--input", "uint8-nhwc", "--precision", "fp16", "--fold-batchnorm"],
    ["--normalize", "--precision", "fp16"],
    ["--input", "uint8-nhwc", "--softmax", "--dynamic", "height,width"],
    ["--normalize", "--batch", "2", "--fold-batchnorm"],
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    Image.fromarray(noise).save("image.png")


def invoke(*arguments: str, code: int = 0) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def built(name: str, *options: str, **changes: Any) -> Any:
    """Build the small network, check the file, and return it."""
    document = {key: value for key, value in {**SPEC, **changes}.items() if value is not None}
    Path("small.yaml").write_text(json.dumps(document), "utf-8")
    invoke("build", "./small.yaml", "-t", "onnx", "-o", name, "--force", *options)
    model = onnx.load(name)
    onnx.checker.check_model(model, full_check=True)
    return model


def top(model: str) -> dict[int, float]:
    """Return the probability of each class of the image."""
    how = ["--preprocess", "crop=8,9"]
    (entry,) = json.loads(invoke("run", model, "--image", "image.png", "--json", *how).stdout)["images"]
    return {row["class"]: row["probability"] for row in entry["top"]}


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("options", FORMS, ids=" ".join)
def test_every_form_gives_the_same_probabilities(options: list[str], order: str) -> None:
    preprocess = {**SPEC["preprocess"], "channel_order": order}
    built("plain.onnx", preprocess=preprocess)
    built("small.onnx", *options, preprocess=preprocess)
    close = {"abs": 3e-3} if "fp16" in options else {"rel": 1e-5}
    assert top("small.onnx") == pytest.approx(top("plain.onnx"), **close)


@pytest.mark.parametrize("options", FORMS, ids=" ".join)
def test_build_reports_the_input_and_the_outputs_of_the_file(options: list[str]) -> None:
    """`build --json` reports the names, shapes and types of the graph, which differ from those of the network."""
    built("small.onnx")
    command = ("build", "./small.yaml", "-t", "onnx", "-o", "small.onnx", "--json", *options)
    data = json.loads(invoke(*command).stdout)
    graph = onnx.load("small.onnx").graph
    (value,) = graph.input
    types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}
    assert data.get("input_type", "float32") == types[value.type.tensor_type.elem_type]

    def shape(value: onnx.ValueInfoProto) -> list[int | str]:
        return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]

    assert data["input"] == shape(value)
    assert data["outputs"] == {output.name: shape(output) for output in graph.output}


@pytest.mark.parametrize("options", FORMS[1:], ids=" ".join)
def test_extract_and_build_give_the_same_bytes(options: list[str]) -> None:
    built("small.onnx", *options)
    stderr = invoke("extract", "small.onnx", "-o", "again.yaml").stderr
    again = stderr[stderr.index("built with") :].splitlines()[0].split()[2:]
    invoke("build", "./again.yaml", "-t", "onnx", "-o", "again.onnx", *again)
    assert Path("again.onnx").read_bytes() == Path("small.onnx").read_bytes()


@pytest.mark.parametrize(
    ("kind", "shape"), [("uint8", (1, 3, 8, 9)), ("uint8-nhwc", (1, 8, 9, 3)), ("float", (1, 3, 8, 9))]
)
def test_the_graph_preprocesses_as_torchvision(kind: str, shape: tuple[int, ...]) -> None:
    """The nodes normalise bytes to the same bits as torchvision's steps."""
    built("plain.onnx")
    built("small.onnx", "--input", kind, "--normalize")
    session = onnxruntime.InferenceSession("small.onnx", providers=["CPUExecutionProvider"])
    raw = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    given = raw.astype(np.float32) / np.float32(255) if kind == "float" else raw
    images = (raw.transpose(0, 3, 1, 2) if kind == "uint8-nhwc" else raw).astype(np.float32) / np.float32(255)
    mean, std = (np.array(SPEC["preprocess"][name], np.float32).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    plain = onnxruntime.InferenceSession("plain.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(
        session.run(None, {"input": given})[0], plain.run(None, {"input": (images - mean) / std})[0]
    )


def test_run_feeds_bytes() -> None:
    for options in (["--input", "uint8"], ["--input", "uint8-nhwc", "--dynamic", "height,width"]):
        built("small.onnx", *options)
        assert "CPUExecutionProvider" in invoke("run", "small.onnx", "--repeats", "1").stdout


def test_evaluate_accepts_inputs_of_the_network() -> None:
    """`evaluate`, which `verify` calls, converts inputs of the network to the pixels that give them."""
    import rescompile
    from rescompile import backend
    from rescompile.ir.interpreter import interpret
    from rescompile.weights.batch_statistics import trial

    Path("small.yaml").write_text(json.dumps(SPEC), "utf-8")
    network = rescompile.elaborate(rescompile.load("./small.yaml"))
    weights, onnx_target = trial(network), backend.load("onnx")
    raw = np.random.default_rng(0).integers(0, 256, (2, *network.input)).astype(np.float64) / 255
    mean, std = (np.array(SPEC["preprocess"][name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    x = ((raw - mean) / std).astype(np.float32)
    exact = interpret(network, weights, x)["logits"]
    for given in ({"normalize": True}, {"input": "uint8"}, {"input": "uint8-nhwc"}):
        assert onnx_target.evaluate is not None
        found = onnx_target.evaluate(network, weights, x, **backend.checked(onnx_target, "onnx", given))
        np.testing.assert_allclose(found["logits"], exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (["--normalize"], {"preprocess": None}, "does not record mean and std"),
        (["--input", "uint8"], {"preprocess": None}, "does not record mean and std"),
        (["--normalize"], {"input": [3, 16]}, "but --normalize and --input uint8 need images"),
        (["--input", "int8"], {}, "input must be float, uint8 or uint8-nhwc, not 'int8'"),
        (["--softmax"], {"network": [*SPEC["network"], "sigmoid"]}, "ends in a sigmoid already"),
        *(
            ([flag, *more, "--precision", precision], {}, message.format(flag))
            for flag, more in (
                ("--normalize", []),
                ("--softmax", []),
                ("--input", ["uint8"]),
                ("--input", ["uint8-nhwc"]),
            )
            for precision, message in (
                ("int8", "error[E0802]: {} and --precision int8 cannot be used together"),
                ("bf16", "not 'bf16'"),
            )
        ),
    ],
)
def test_invalid_combinations_are_refused(options: list[str], changes: dict[str, Any], message: str) -> None:
    document = {key: value for key, value in {**SPEC, **changes}.items() if value is not None}
    Path("small.yaml").write_text(json.dumps(document), "utf-8")
    assert message in invoke("build", "./small.yaml", "-t", "onnx", "-o", "x.onnx", *options, code=2).stderr
    assert not Path("x.onnx").exists()
