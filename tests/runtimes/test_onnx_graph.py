"""The output activation of ONNX files from any tool is recognised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rescompile.cli import app
from rescompile.runtimes.onnx_graph import read

onnx = pytest.importorskip("onnx", reason="builds foreign models")
from onnx import TensorProto, helper, numpy_helper

CLASSES = 5
Step = tuple[str, list[str], str]
Head = list[tuple[Any, ...]]

#: Heads by their output: nodes as (operator, inputs, output, attributes); `z` are the logits, `y` is the output.
PROBABILITIES: dict[str, Head] = {
    "softmax": [("Softmax", ["z"], "y")],
    "softmax of another axis number": [("Softmax", ["z"], "y", {"axis": 1})],
    "sigmoid": [("Sigmoid", ["z"], "y")],
    "hard sigmoid": [("HardSigmoid", ["z"], "y")],
    "a softmax that is passed on": [
        ("Softmax", ["z"], "a"),
        ("Reshape", ["a", "shape"], "b"),
        ("Cast", ["b"], "c", {"to": TensorProto.DOUBLE}),
        ("Cast", ["c"], "d", {"to": TensorProto.FLOAT}),
        ("Identity", ["d"], "y"),
    ],
    "a clipped softmax": [("Softmax", ["z"], "a"), ("Clip", ["a", "zero", "one"], "y")],
    "a softmax written out": [
        ("Exp", ["z"], "a"),
        ("ReduceSum", ["a", "axes"], "b", {"keepdims": 1}),
        ("Div", ["a", "b"], "y"),
    ],
    "a sigmoid written out": [
        ("Neg", ["z"], "a"),
        ("Exp", ["a"], "b"),
        ("Add", ["b", "one"], "c"),
        ("Div", ["one", "c"], "y"),
    ],
    "a sigmoid by its reciprocal": [
        ("Neg", ["z"], "a"),
        ("Exp", ["a"], "b"),
        ("Add", ["one", "b"], "c"),
        ("Reciprocal", ["c"], "y"),
    ],
    "a quantised softmax": [
        ("Softmax", ["z"], "a"),
        ("QuantizeLinear", ["a", "scale", "point"], "b"),
        ("DequantizeLinear", ["b", "scale", "point"], "y"),
    ],
    "a softmax in a function": [("Ends", ["z"], "y", {"domain": "own"})],
}
LOGARITHMS: dict[str, Head] = {
    "log-softmax": [("LogSoftmax", ["z"], "y")],
    "the logarithm of a softmax": [("Softmax", ["z"], "a"), ("Log", ["a"], "y")],
}
LOGITS: dict[str, Head] = {
    "none": [("Identity", ["z"], "y")],
    "a softmax before other layers": [("Softmax", ["z"], "a"), ("Mul", ["a", "hundred"], "y")],
    "a sum": [("Add", ["z", "one"], "y")],
    "a quotient": [("Div", ["z", "hundred"], "y")],
    "a function": [("Doubles", ["z"], "y", {"domain": "own"})],
}
HEADS = {**PROBABILITIES, **LOGARITHMS, **LOGITS}
CONSTANTS = {
    "shape": np.array([-1, CLASSES]), "axes": np.array([1]), "zero": np.float32(0), "one": np.float32(1),
    "hundred": np.float32(100), "scale": np.float32(1 / 255), "point": np.uint8(0),
}  # fmt: skip


def model(head: Head, path: Path) -> Path:
    """Write a classifier of images by mean colour with this head, and return its path."""
    weight = np.random.default_rng(0).normal(size=(CLASSES, 3, 1, 1)).astype(np.float32) * 20
    body = [
        helper.make_node("Conv", ["image", "weight"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["means"]),
        helper.make_node("Flatten", ["means"], ["z"]),
    ]
    nodes = [helper.make_node(op, inputs, [out], **dict(*rest)) for op, inputs, out, *rest in head]
    tensors = {"weight": weight, **CONSTANTS}
    graph = helper.make_graph(
        [*body, *nodes], "heads",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function("own", name, ["a"], ["b"], inner, opset[:1])
        for name, inner in {
            "Ends": [helper.make_node("Softmax", ["a"], ["t"]), helper.make_node("Identity", ["t"], ["b"])],
            "Doubles": [helper.make_node("Add", ["a", "a"], ["b"])],
        }.items()
    ]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8, functions=functions), path)
    return path


@pytest.mark.parametrize("name", HEADS)
def test_an_activation_is_applied_once(name: str, tmp_path: Path) -> None:
    """`run` recognises a final softmax or sigmoid in any form and does not apply another one."""
    path, image, saved = model(HEADS[name], tmp_path / "m.onnx"), tmp_path / "i.png", tmp_path / "out.npz"
    wanted = "probabilities" if name in PROBABILITIES else "log-probabilities" if name in LOGARITHMS else "logits"
    assert read(path).activation("y") == wanted
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(image)
    how = [word for key in ("mean", "std") for word in ("--preprocess", f"{key}=0.5,0.5,0.5")]
    given = ["run", str(path), "--image", str(image), *how, "--json", "--save", str(saved)]
    ran = CliRunner().invoke(app, given, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    values = np.load(saved)["y"][0].astype(np.float64)
    shares = {"probabilities": values, "log-probabilities": np.exp(values)}.get(
        wanted, np.exp(values) / np.exp(values).sum()
    )
    found = {row["class"]: row["probability"] for row in json.loads(ran.stdout)["images"][0]["top"]}
    assert [found[at] for at in range(CLASSES)] == pytest.approx(shares)


@pytest.mark.parametrize(("last", "activation"), [("sigmoid", "probabilities"), ("relu", "logits")])
@pytest.mark.parametrize("more", [[], ["--precision", "fp16"], ["--precision", "int8", "--calibrate", "2"]])
def test_heads_of_specs(last: str, activation: str, more: list[str], tmp_path: Path) -> None:
    """The activation at the end of a spec is recognised, also where casts or quantisation follow it."""
    if "int8" in more:
        pytest.importorskip("onnxruntime.quantization")
    spec = {"rescompile": 1, "name": "s", "input": [3, 8, 8]}
    network = [{"c": {"conv": {"channels": 4, "kernel": 3}}}, "global_avgpool", "flatten", {"fc": {"linear": 5}}, last]
    (tmp_path / "s.yaml").write_text(json.dumps({**spec, "network": network}))
    given = ["build", str(tmp_path / "s.yaml"), "-t", "onnx", "-o", str(tmp_path / "s.onnx"), *more]
    built = CliRunner().invoke(app, given, catch_exceptions=False)
    assert built.exit_code == 0, built.output
    assert read(tmp_path / "s.onnx").activation("logits") == activation


def test_a_single_logit_is_not_a_probability(tmp_path: Path) -> None:
    """A single logit is not reported as a probability, because its softmax is 1 for any value."""
    spec = {"rescompile": 1, "name": "s", "input": [3, 8, 8], "preprocess": {"mean": [0, 0, 0], "std": [1, 1, 1]}}
    Image.new("RGB", (8, 8), "red").save(tmp_path / "i.png")
    for last, key in (([], "outputs"), (["sigmoid"], "top")):
        network = ["global_avgpool", "flatten", {"fc": {"linear": 1}}, *last]
        (tmp_path / "s.yaml").write_text(json.dumps({**spec, "network": network}))
        given = ["run", str(tmp_path / "s.yaml"), "--image", str(tmp_path / "i.png"), "--json"]
        (entry,) = json.loads(CliRunner().invoke(app, given, catch_exceptions=False).stdout)["images"]
        assert key in entry


@pytest.mark.parametrize(
    "content", [b"", b"ORTM" * 9, b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 99, b"\x0b", b"\x3a\x03\x0a\x09a"]
)
def test_other_files_have_no_graph(content: bytes, tmp_path: Path) -> None:
    """Files that are not ONNX models have no graph, so their outputs count as logits."""
    (tmp_path / "f").write_bytes(content)
    found = read(tmp_path / "f")
    assert not found.is_read
    assert found.activation("y") == "logits"
