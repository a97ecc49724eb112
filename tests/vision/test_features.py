"""The features of an embedding network are not class scores, so `run` does not rank them."""

from __future__ import annotations

import json
from pathlib import Path

import facts
import pytest
from typer.testing import CliRunner

from rescompile import elaborate, load
from rescompile.analysis.heads import heads
from rescompile.cli import app

onnx = pytest.importorskip("onnx", reason="edits a file as another tool would: pip install onnx")
pytest.importorskip("onnxruntime", reason="runs the files: pip install 'rescompile[run]'")
images = pytest.importorskip("PIL.Image", reason="makes an image: pip install pillow")

#: A side branch that makes the current value an output.
SIDE = "side: {body: identity, output: z, mode: always}"
TEXT = """
rescompile: 1
name: embedding
input: [3, 8, 8]
preprocess: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], crop: 8}
network:
  - conv: {channels: 4, kernel: 3}
  - flatten
  - fc: {linear: 6}
  - features: norm
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with an image, the spec of an embedding and that of a classifier."""
    monkeypatch.chdir(tmp_path)
    images.radial_gradient("L").convert("RGB").resize((8, 8)).save("it.png")
    Path("embedding.yaml").write_text(TEXT.lstrip())
    Path("classifier.yaml").write_text(TEXT.lstrip().replace("  - features: norm\n", ""))
    return tmp_path


def ran(model: str, *options: str) -> dict[str, object]:
    """Return the report of `run` on the image."""
    done = CliRunner().invoke(app, ["run", model, "--image", "it.png", "--json", *options])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["images"]
    assert isinstance(found, dict)
    return found


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("options", [[], ["--fold-batchnorm"]], ids=["norm", "folded"])
def test_features_are_not_ranked(options: list[str]) -> None:
    """Features are reported with shapes and statistics instead of classes, for specs and files, with and without folded norms."""
    assert "top" in ran("classifier.yaml", *options)
    done = CliRunner().invoke(app, ["build", "embedding.yaml", "--target", "onnx", "-o", "it.onnx", *options])
    assert done.exit_code == 0, done.output
    for found in (ran("embedding.yaml", *options), ran("it.onnx")):
        assert "top" not in found
        assert found["outputs"]["logits"]["shape"] == [6]  # type: ignore[index]
    shown = CliRunner().invoke(app, ["run", "it.onnx", "--image", "it.png"])
    assert "logits [6], mean" in shown.stdout
    Path("labels.txt").write_text("a\nb\nc\nd\ne\nf\n")
    refused = CliRunner().invoke(app, ["run", "it.onnx", "--image", "it.png", "--labels", "labels.txt"])
    assert "error[E0831]: it.onnx is not a classifier" in refused.stderr


@pytest.mark.usefixtures("here")
def test_features_of_a_foreign_file() -> None:
    """In a file without metadata, features are recognised by the norm at the end of the graph."""
    CliRunner().invoke(app, ["build", "embedding.yaml", "--target", "onnx", "-o", "it.onnx"])
    model = onnx.load("it.onnx")
    del model.metadata_props[:]
    onnx.save(model, "other.onnx")
    given = [f"--preprocess={name}=0.5,0.5,0.5" for name in ("mean", "std")]
    assert "top" not in ran("other.onnx", *given)


def test_embeddings_of_the_zoo() -> None:
    """Of the zoo, only the face embedding ir50 gives features."""
    assert [name for name in facts.zoo() if facts.network(name).gives_features] == ["ir50"]


@pytest.mark.parametrize(
    ("steps", "features", "classifiers"),
    [
        (["fc: {linear: 6}", "again: fc"], False, ["fc"]),
        (["n: norm", "fc: {linear: 6}", "again: n"], True, []),
        (["fc: {linear: 6}", "n: norm", "again: fc"], False, ["fc"]),
        (["fc: {linear: 6}", "keep: y", "n: norm", SIDE, "use: y"], False, ["fc"]),
        (["n: norm", "keep: y", "fc: {linear: 6}", SIDE, "use: y"], True, []),
        (["parallel: {merge: concat, branches: [a: {linear: 2}, b: {linear: 3}]}"], False, ["a", "b"]),
        (["parallel: {merge: mul, branches: [n: norm, [gate: {linear: 6}, sigmoid]]}"], True, []),
        (["residual: {branch: [fc: {linear: 6}]}", "act: relu"], False, ["fc"]),
        (
            ["fc: {linear: 6}", "keep: y", "side: {body: [use: y, aux: {linear: 2}], output: z, mode: always}"],
            False,
            ["fc", "aux"],
        ),
        (["fc: {linear: 6}", "keep: y", "side: {body: [use: y], output: z, mode: always}"], False, ["fc"]),
    ],
)
def test_the_last_layers(steps: list[str], features: bool, classifiers: list[str], tmp_path: Path) -> None:
    """The last layers are those before the output in the order of execution, one at the end of each branch of a merge."""
    rows = "".join(f"  - {step}\n" for step in steps)
    (tmp_path / "spec.yaml").write_text(f"rescompile: 1\nname: ends\ninput: [6]\nnetwork:\n{rows}", "utf-8")
    network = elaborate(load(str(tmp_path / "spec.yaml")))
    assert network.gives_features is features
    assert [path.rpartition(".")[2] for path, _ in heads(network)] == classifiers
