"""Images through an embedding: its features are no scores of classes, so they are not ranked."""

from __future__ import annotations

import json
from pathlib import Path

import facts
import pytest
from typer.testing import CliRunner

from rescompile.cli import app

onnx = pytest.importorskip("onnx", reason="edits a file as another tool would: pip install onnx")
pytest.importorskip("onnxruntime", reason="runs the files: pip install 'rescompile[run]'")
images = pytest.importorskip("PIL.Image", reason="makes an image: pip install pillow")

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
    """A folder with an image and two specs: of an embedding, and of a classifier."""
    monkeypatch.chdir(tmp_path)
    images.radial_gradient("L").convert("RGB").resize((8, 8)).save("it.png")
    Path("embedding.yaml").write_text(TEXT.lstrip())
    Path("classifier.yaml").write_text(TEXT.lstrip().replace("  - features: norm\n", ""))
    return tmp_path


def ran(model: str, *options: str) -> dict[str, object]:
    """What `run` reports of the image."""
    done = CliRunner().invoke(app, ["run", model, "--image", "it.png", "--json", *options])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["images"]
    assert isinstance(found, dict)
    return found


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("options", [[], ["--fold-batchnorm"]], ids=["norm", "folded"])
def test_features_are_not_ranked(options: list[str]) -> None:
    """Whether the norm is in the graph or not, and in a file as in a spec; shapes and statistics take the place of classes."""
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
def test_a_file_of_another_tool() -> None:
    """Which has no record: the norm at the end of the graph tells."""
    CliRunner().invoke(app, ["build", "embedding.yaml", "--target", "onnx", "-o", "it.onnx"])
    model = onnx.load("it.onnx")
    del model.metadata_props[:]
    onnx.save(model, "other.onnx")
    given = [f"--preprocess={name}=0.5,0.5,0.5" for name in ("mean", "std")]
    assert "top" not in ran("other.onnx", *given)


def test_networks_of_the_zoo() -> None:
    """The embedding of faces gives features; all others give scores, or maps."""
    assert [name for name in facts.zoo() if facts.network(name).gives_features] == ["ir50"]
