"""The scripts in examples/ run, on tiny data here, and the figures in the docs are those of the committed results."""

from __future__ import annotations

import importlib.util
import json
import math
import xml.dom.minidom
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the examples train: pip install 'rescompile[examples]'")

import rescompile
from rescompile.passes.drop import droppable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/lesions.md").read_text("utf-8")
RESULTS: dict[str, Any] = json.loads((ROOT / "docs/lesions.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def lesions() -> Iterator[ModuleType]:
    """Import the script, with torch on one thread, since its networks are too small for more."""
    spec = importlib.util.spec_from_file_location("lesions", ROOT / "examples/lesions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spec.loader.exec_module(module)
    yield module
    torch.set_num_threads(threads)


def patterns() -> Any:
    """Return ten classes of [1, 8, 8] images in place of digits: a random pattern per class, with noise."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(320) % 10
    images = torch.randn(10, 1, 8, 8, generator=generator).sign()[classes]
    images += 0.3 * torch.randn(images.shape, generator=generator)
    return images[:256], classes[:256], images[256:], classes[256:]


@pytest.mark.slow
def test_the_lesion_study(
    lesions: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lesion study runs with one seed and one epoch, measures every lesion, and saves the weights it measured."""
    monkeypatch.setattr(lesions, "digits", patterns)
    json_file, saved = tmp_path / "r.json", tmp_path / "saved"
    arguments = ["--seeds", "1", "--epochs", "1", "--draws", "1", "--json", str(json_file), "--save", str(saved)]
    lesions.main(arguments)
    printed = capsys.readouterr().out
    results = json.loads(json_file.read_text())
    for name in (lesions.RESNET, lesions.PLAIN):
        network = rescompile.elaborate(rescompile.load(ROOT / f"examples/{name}.yaml"))
        (run,) = results["runs"][name]
        assert list(run["without"]) == droppable(network)
        assert len(run["without_several"]) == len(droppable(network)) // 2
        assert f"{name}: error {run['whole']:.1%}, with one seed\n" in printed  # one seed gives no interval
        weights = rescompile.build(network, "torch", saved / f"{name}.safetensors").module.state_dict()  # type: ignore[attr-defined]
        again = lesions.error(network, {key: value.numpy() for key, value in weights.items()}, patterns())
        assert again == pytest.approx(run["whole"])
    assert all(-1 <= point["tau"] <= 1 for point in results["runs"][lesions.RESNET][0]["reordered"])
    pytest.importorskip("matplotlib", reason="figures need the extra 'plot'")
    lesions.main(["--again", "--json", str(json_file), "--figure", str(tmp_path / "r.svg")])
    assert capsys.readouterr().out == printed
    assert "several left out" in xml.dom.minidom.parse(str(tmp_path / "r.svg")).toxml()


@pytest.mark.parametrize("option", ["--seeds", "--epochs", "--draws"])
def test_a_study_of_nothing_is_refused(lesions: ModuleType, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A study without seeds, epochs or draws is refused before training."""
    with pytest.raises(SystemExit, match="2"):
        lesions.main([option, "0"])
    assert "at least one seed, one epoch and one draw" in capsys.readouterr().err


def test_training_works(lesions: ModuleType) -> None:
    """After 25 epochs the ResNet classifies most patterns correctly, where chance is one in ten."""
    network = rescompile.elaborate(rescompile.load(ROOT / "examples/digits_resnet.yaml"))
    weights = lesions.trained(network, patterns(), 25, 0)
    assert lesions.error(network, weights, patterns()) < 0.3


def test_intervals(lesions: ModuleType) -> None:
    """Confidence intervals use Student's t, by the textbook: 2.776 s / sqrt(5) for five seeds."""
    mean, half = lesions.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, half) == (3, pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5)))
    assert math.isnan(lesions.interval([1.0])[1])


def test_the_figures_of_the_page(lesions: ModuleType) -> None:
    """The figures and specs in docs/lesions.md are those of the committed results and examples."""
    for line in lesions.summary(RESULTS):
        assert line in PAGE
    assert f"{RESULTS['settings']['seeds']} seeds" in PAGE
    for name in (lesions.RESNET, lesions.PLAIN):
        assert f"```yaml file: examples/{name}.yaml\n{(ROOT / f'examples/{name}.yaml').read_text('utf-8')}```" in PAGE
        network = rescompile.elaborate(rescompile.load(ROOT / f"examples/{name}.yaml"))
        assert all(list(run["without"]) == droppable(network) for run in RESULTS["runs"][name])
