"""`predict`: networks as steps of ONNX Runtime, times on an invented device with known rates, and refused input."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import rescompile
from rescompile.analysis.cost import cost
from rescompile.bench import json_files, op_times, predicting
from rescompile.bench.execution_steps import Step, steps
from rescompile.bench.predicting import Device, Predictor, Timed
from rescompile.cli import app
from rescompile.diagnostics.errors import UsageError
from rescompile.ir.network import Network, Parallel, walk
from rescompile.passes import apply

pytest.importorskip("scipy", reason="fits need SciPy: pip install 'rescompile[bench]'")

#: Seconds by regime on an invented device: fixed, and per 1000 multiply-adds, bytes of feature maps, bytes of weights.
RATES = {
    "pointwise": (2e-6, 8e-9, 5e-9, 1e-9), "dense": (3e-6, 9e-9, 2e-9, 1e-9), "stem": (5e-6, 8e-9, 5e-9, 0.0),
    "grouped": (3e-6, 1e-8, 1e-8, 0.0), "unfolded": (5e-6, 9e-9, 7e-8, 0.0), "depthwise": (2e-6, 9e-9, 8e-9, 0.0),
    "elementwise": (2e-6, 0.0, 1e-8, 0.0), "concat": (1e-6, 0.0, 9e-9, 0.0), "pool": (1e-6, 6e-9, 8e-9, 0.0),
    "global": (5e-6, 0.0, 9e-9, 0.0), "linear": (4e-6, 0.0, 0.0, 2e-8),
}  # fmt: skip


def true(step: Step) -> float:
    """Return the seconds of a step on the invented device."""
    return float(np.dot(RATES[step.regime], step.terms[:4]))


@pytest.fixture(scope="module")
def probed() -> list[Step]:
    """Return the steps of all ops that `predict --measure` times."""
    return [probe.step for probe in op_times.design()]


@pytest.fixture(scope="module")
def device(probed: list[Step]) -> Device:
    """Return the invented device, as read from a file."""
    machine = {"processor": {"name": "CPU 9000"}}
    ops = [Timed(step, true(step)) for step in probed]
    return Device(1, "0.1.0", "2026-01-01T00:00:00Z", machine, "ort-cpu", 1, ops)


def network(name: str, *settings: str) -> Network:
    """Return a network of the zoo."""
    return rescompile.elaborate(rescompile.load(name, set=settings))


# --- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "preact_resnet50", "mobilenet_v1", "resnet20_cifar"])
def test_steps_have_the_weights_of_the_network(name: str) -> None:
    """Steps count everything once: all weights except those of norms, and all multiply-adds, rounded up to whole
    vectors."""
    tree = network(name)
    found, total = steps(tree), cost(tree)
    norms = total.parameters - sum(step.weights for step in found)
    assert 0 < norms < 0.02 * total.parameters
    work = sum(step.macs for step in found if step.regime not in ("pool",))
    assert total.macs <= work < 1.35 * total.macs


def test_steps_are_fused_like_the_nodes_of_a_profile() -> None:
    """Steps match the nodes of ONNX Runtime's profile: convolutions fuse with norms and activations after them, and
    what remains are pools, the head, leading norms of pre-activation networks, and concatenations."""
    counted = {
        name: {regime: sum(step.regime == regime for step in steps(network(name))) for regime in RATES}
        for name in ("resnet50", "preact_resnet50", "densenet121", "mobilenet_v1")
    }
    assert (
        counted["resnet50"] | {"pointwise": 36, "dense": 16, "stem": 1, "pool": 1, "global": 1, "linear": 1}
        == counted["resnet50"]
    )
    assert counted["resnet50"]["elementwise"] == 0
    assert counted["preact_resnet50"]["elementwise"] == 16  # all units but the first, and the last norm
    assert counted["densenet121"]["concat"] == 58
    assert counted["densenet121"]["elementwise"] == 58 + 3 + 1
    assert counted["mobilenet_v1"]["depthwise"] == 13


def test_steps_of_concatenated_paths() -> None:
    """In ResNeXt as concatenated paths, every split and concatenation moves feature maps, and the multiply-adds do
    not decrease."""
    tree, _ = apply(network("resnext50_32x4d", "input=[3, 64, 64]"), None, {"form": "b"})
    parallels = [node for _, node in walk(tree.root) if isinstance(node, Parallel)]
    moves = sum(node.split + (node.merge == "concat") for node in parallels)
    assert moves >= 16
    found = steps(tree)
    assert sum(step.regime == "concat" for step in found) == moves
    assert sum(step.macs for step in found) >= cost(tree).macs


@pytest.mark.slow
def test_the_profile_has_as_many_nodes() -> None:
    """Apart from layout changes, the real profile has as many nodes as there are steps, give or take two."""
    pytest.importorskip("onnxruntime", reason="the profiled runtime")
    import tempfile

    from rescompile.runtimes import RUNTIMES
    from rescompile.runtimes.jobs import job
    from rescompile.weights import draw

    for name in ("resnet50", "densenet121"):
        tree = network(name, "input=[3, 64, 64]")
        x = np.zeros((1, *tree.input), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            work = job(RUNTIMES["ort-cpu"], tree, draw(tree), x, "fp32", Path(folder), 1)
            nodes = [node for node, _ in RUNTIMES["ort-cpu"].profile(work, {}, 1)]
        moved = [node for node in nodes if "Reorder" in node or "flatten" in node]
        assert abs(len(nodes) - len(moved) - len(steps(tree))) <= 2, nodes


@pytest.mark.parametrize(
    ("rows", "regime"),
    [
        ("{channels: 64, kernel: 1}", "pointwise"), ("{channels: 64, kernel: 3}", "dense"),
        ("{channels: 64, kernel: 3, groups: 64}", "depthwise"), ("{channels: 64, kernel: 3, groups: 2}", "grouped"),
        ("{channels: 64, kernel: 3, groups: 16}", "unfolded"),
    ],
)  # fmt: skip
def test_regimes(rows: str, regime: str) -> None:
    """The regime of a convolution follows from its kernel and groups."""
    assert op_times.Probe([f"probe: {{conv: {rows}}}"], 64, 14).step.regime == regime


# --- times ------------------------------------------------------------------------------------------------------------


def test_the_design_covers_every_regime(probed: list[Step]) -> None:
    """Every regime has more measured ops than terms to fit."""
    for regime in RATES:
        assert sum(step.regime == regime for step in probed) >= 6, regime


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "densenet121", "preact_resnet50", "mobilenet_v1"])
def test_times_on_a_device_with_known_rates(name: str, device: Device) -> None:
    """On a device with known rates, times of networks whose ops were not measured are predicted within 3%."""
    tree = network(name)
    found = sum(Predictor(device).network(tree).values())
    assert found == pytest.approx(sum(true(step) for step in steps(tree)), rel=0.03)


def test_noise_of_measurements_averages_out(device: Device) -> None:
    """With errors of 20% per op, the time of a network is accurate to 5%."""
    draw = np.random.default_rng(0)
    ops = [Timed(each.step, each.seconds * math.exp(draw.normal(0, 0.2))) for each in device.ops]
    tree = network("resnet50")
    found = sum(Predictor(Device(1, "", "", {}, "ort-cpu", 1, ops)).network(tree).values())
    assert found == pytest.approx(sum(true(step) for step in steps(tree)), rel=0.05)


def test_deviations_from_the_fit_are_interpolated(probed: list[Step]) -> None:
    """On a device where small feature maps take twice as long, measured ops are reproduced and others
    interpolated."""

    def strange(step: Step) -> float:
        return true(step) * (2 if step.side < 10 and step.regime == "dense" else 1)

    predictor = Predictor(Device(1, "", "", {}, "ort-cpu", 1, [Timed(step, strange(step)) for step in probed]))
    for step in probed:
        if step.regime == "dense":
            assert predictor.seconds(step) == pytest.approx(strange(step), rel=0.02)
    between = op_times.Probe(["probe: {conv: {channels: 64, kernel: 3}}"], 64, 7).step
    assert predictor.seconds(between) == pytest.approx(strange(between), rel=0.25)


def test_weights_that_exceed_the_cache(probed: list[Step]) -> None:
    """Where bytes of large layers take longer, the weights of large networks do too, and those of small ones do
    not."""

    def cached(step: Step) -> float:
        return true(step) * (10 if step.regime == "linear" and step.weights > 1 << 20 else 1)

    plain, slow = (
        Predictor(Device(1, "", "", {}, "ort-cpu", 1, [Timed(step, rule(step)) for step in probed]))
        for rule in (true, cached)
    )
    step = op_times.Probe(["probe: {conv: {channels: 128, kernel: 3}}"], 128, 7).step
    assert slow.seconds(step, step.weights) == pytest.approx(plain.seconds(step, step.weights), rel=0.1)
    more = slow.seconds(step, 1 << 24) - plain.seconds(step, 1 << 24)
    assert more == pytest.approx(4 * step.weights * 9 * 2e-11, rel=0.3)


@pytest.fixture(scope="module")
def spearman() -> Iterator[Any]:
    """Import the function from benchmarks/predict.py, with its folder on the path."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import predict

        yield predict.spearman
    finally:
        sys.path.remove(folder)


def test_spearman(spearman: Any) -> None:
    """Spearman's correlation is right on textbook cases, for each resample; ties share the mean of their ranks, and
    constants give NaN."""

    def of(first: list[float], second: list[float]) -> float:
        return float(spearman(first, second, np.arange(len(first))[None])[0])

    assert of([1, 2, 3, 4], [10, 100, 1000, 10000]) == pytest.approx(1)
    assert of([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Kendall & Gibbons, and by hand: 1 - 6 * sum(d^2) / (n^3 - n), d = (0, 1, 1, 0, 0)
    assert of([1, 2, 3, 4, 5], [1, 3, 2, 4, 5]) == pytest.approx(1 - 6 * 2 / 120)
    assert of([1, 1, 2], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)
    assert math.isnan(of([1, 1, 1], [1, 2, 3]))
    draw = np.random.default_rng(0)
    first = draw.normal(size=50)
    second = first + draw.normal(size=50)
    samples = draw.integers(0, 50, (500, 50))
    found = spearman(first, second, samples)
    assert np.quantile(found, 0.025) < of(first, second) < np.quantile(found, 0.975) < 1
    assert (found == spearman(np.exp(first), second, samples)).all(), "ranks do not depend on scale"
    assert found[7] == pytest.approx(of(first[samples[7]], second[samples[7]]))


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    """Run the command."""
    return CliRunner().invoke(app, ["predict", *arguments])


def test_predict(device: Device, tmp_path: Path) -> None:
    """`predict` prints networks as a table or JSON, and runs none of them."""
    path = tmp_path / "device.json"
    json_files.write(device, path)
    assert predicting.read(path) == device
    done = run("resnet50", "densenet121", "--device-file", str(path))
    assert done.exit_code == 0, done.output
    assert "ort-cpu on CPU 9000, 1 thread, one input; ops measured 2026-01-01" in done.stdout
    assert "| resnet50 |" in done.stdout
    data = json.loads(run("resnet50", "--device-file", str(path), "--json", "--set", "input=[3, 64, 64]").stdout)
    (row,) = data["rows"]
    tree = network("resnet50", "input=[3, 64, 64]")
    assert row["milliseconds"] == pytest.approx(1e3 * sum(true(step) for step in steps(tree)), rel=0.05)
    assert sum(row["parts"].values()) == pytest.approx(row["milliseconds"])
    assert row["macs"] == cost(tree).macs


def test_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`predict --measure` times real ops and writes them to the device file."""
    pytest.importorskip("onnxruntime", reason="the measured runtime")
    some = [probe for probe in op_times.design() if probe.side <= 14 and probe.channels <= 128]
    few = list({probe.step.regime: probe for probe in some}.values())
    assert len(few) >= 9
    monkeypatch.setattr(op_times, "design", lambda: few)
    path = tmp_path / "device.json"
    done = run("--measure", "--threads", "1", "--device-file", str(path), "resnet20_cifar")
    assert done.exit_code == 0, done.output
    found = predicting.read(path)
    assert [timed.step for timed in found.ops] == [probe.step for probe in few]
    assert all(1e-7 <= timed.seconds < 1 for timed in found.ops)
    assert found.machine["processor"]["name"]
    assert "| resnet20_cifar |" in done.stdout


def test_nodes_of_an_op() -> None:
    """The nodes of an op are those between the surrounding convolutions, layout changes included."""
    nodes = [
        ("ReorderInput", 1.0),
        ("lead_act_nchwc", 2.0),
        ("ReorderOutput", 4.0),
        ("probe", 8.0),
        ("tail_nchwc", 16.0),
    ]
    assert op_times.between(nodes, lead=True, tail=True) == 12.0
    assert op_times.between(nodes, lead=True, tail=False) == 28.0
    assert op_times.between(nodes[2:], lead=False, tail=True) == 12.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet50"], "--device-file is missing"),
        (["--device-file", "x.json"], "neither a SPEC nor --measure"),
        (["resnet50", "--device-file", "x.json"], "does not exist"),
        (["resnet50", "--device-file", "x.json", "--threads", "2"], "--threads needs --measure"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong options are reported before anything is measured."""
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"predict": 1', '"predict": 2', "its format is 2, not 1"), ('"macs"', '"mcas"', "unknown key 'mcas'"),
        ('"seconds": [^,\\s]+', '"seconds": "x"', "must be a number"), ('"inner": [0-9]+', '"inner": 0', "at least 1"),
        ('"seconds": [^,\\s]+', '"seconds": -1.0', "must be positive"), ('"columns": 0', '"columns": -1', "at least 0"),
    ],
)  # fmt: skip
def test_broken_device_files(old: str, new: str, message: str, device: Device, tmp_path: Path) -> None:
    """Mistakes in a device file are reported, never with a traceback."""
    path = tmp_path / "device.json"
    json_files.write(Device(1, "", "", {}, "ort-cpu", 1, device.ops[:3]), path)
    text, count = re.subn(old, new, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        predicting.read(path)
    assert any(message in diagnostic.message for diagnostic in caught.value.diagnostics), caught.value.diagnostics


def test_a_device_without_ops(tmp_path: Path) -> None:
    """A device file without ops is refused."""
    json_files.write(Device(1, "", "", {}, "ort-cpu", 1, []), tmp_path / "device.json")
    done = run("resnet50", "--device-file", str(tmp_path / "device.json"))
    assert done.exit_code == 2
    assert "no measured op" in done.stderr


def test_a_foreign_file_is_refused_before_measuring(tmp_path: Path) -> None:
    """An existing file that rescompile did not write is refused before the measurement."""
    path = tmp_path / "device.json"
    path.write_text('{"mine": true}\n')
    done = run("--measure", "--device-file", str(path))
    assert done.exit_code == 5
    assert path.read_text() == '{"mine": true}\n'


def test_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing SciPy is reported before anything is measured, with the command that installs it."""
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setattr(op_times, "measure", lambda *_: pytest.fail("nothing may be measured"))
    done = run("resnet50", "--measure", "--device-file", str(tmp_path / "device.json"))
    assert (done.exit_code, list(tmp_path.iterdir())) == (4, [])
    assert "error[E0902]: intervals and fits need SciPy" in done.stderr
    assert "pip install 'rescompile[bench]'" in done.stderr
