"""The runtimes of frameworks with channels last, `jax-cpu`, `keras` and `mlx`, meet the same rules as the other runtimes."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="the expected error is that of PyTorch: pip install 'rescompile[torch]'")

import facts

import rescompile
from rescompile import backend
from rescompile.bench.timed_models import of_spec
from rescompile.cli import app
from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.runtimes import RUNTIMES, Job, Runtime, find
from rescompile.runtimes.device import usable
from rescompile.runtimes.runtime_check import trials

#: The packages without which the tests of a runtime are skipped.
NEEDS = {"jax-cpu": ("jax", "flax"), "keras": ("rescompile.backends.keras.engine",), "mlx": ("mlx.core",)}


def skip_without(name: str) -> None:
    """Skip a test whose runtime is not installed."""
    for package in NEEDS[name]:
        pytest.importorskip(package, reason=f"needed by {name}: {RUNTIMES[name].how()}")


@pytest.fixture(params=NEEDS)
def row(request: pytest.FixtureRequest) -> Runtime:
    """Return each of the runtimes that are installed."""
    skip_without(request.param)
    return RUNTIMES[request.param]


def test_doctor_passes(row: Runtime) -> None:
    """The trial of `doctor` passes, with an error within the bound."""
    (trial,) = trials(row)
    assert trial.passed
    assert trial.facts is not None
    assert trial.facts["precision"] == "fp32"
    assert trial.facts["threads"] == usable()
    assert trial.facts["versions"]


def test_a_prepared_network_is_the_one_of_the_job(row: Runtime, tmp_path: Path) -> None:
    """Outputs have channels first and repeat; another number of threads than that of the process, and a file instead of
    a module, are refused."""
    network = facts.network("highway_mnist_fc_10")
    model = of_spec(network, {"fold_batchnorm": True}, 0)
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)
    job = Job(model.name, None, lambda: model.module(row.takes), x)
    prepared = row.prepare(job, {})
    first = prepared.outputs()["logits"]
    prepared.run()
    assert np.array_equal(prepared.outputs()["logits"], first)
    exact = model.exact(x)["logits"]
    assert np.abs(first - exact).max() < 1e-5 * np.abs(exact).max()
    prepared.close()
    with pytest.raises(Unavailable, match=f"uses all {usable()} CPU cores of its process, not {usable() + 1}"):
        row.prepare(Job(model.name, None, job.module, x, threads=usable() + 1), {})
    with pytest.raises(UsageError, match=f"{row.name} needs a live module of the target {row.takes}"):
        row.prepare(Job(model.name, tmp_path / "a.onnx", None, x), {})
    with pytest.raises(Unavailable, match="reports no times of layers"):
        row.profile(job, {})


def test_a_module_that_cannot_run_is_unavailable(row: Runtime) -> None:
    """An error of the framework, such as insufficient memory, is reported as one error with its first line."""

    def fails() -> Any:
        raise RuntimeError("no memory\nat all")

    with pytest.raises(Unavailable, match=f"{row.name} cannot run large: no memory$"):
        row.prepare(Job("large", None, fails, np.zeros((1, 3, 8, 8), np.float32)), {})


#: Step names that the framework of each runtime reserves.
RESERVED = {"jax-cpu": "sow", "keras": "add_1", "mlx": "freeze"}


def test_a_refused_network_is_reported_as_by_the_target(row: Runtime, tmp_path: Path) -> None:
    """A network that the framework refuses is reported with one code and the help of the target."""
    (tmp_path / "named.yaml").write_text(MAP.replace("{conv:", f"{RESERVED[row.name]}: {{conv:"), encoding="utf-8")
    done = CliRunner().invoke(app, ["bench", str(tmp_path / "named.yaml"), "--runtime", row.name])
    assert done.exit_code == 4, done.output
    assert done.stderr.count("E0901") == 1
    assert re.search("help: (rename the step|give the step another name)", done.stderr)


MAP = """
rescompile: 1
name: map
input: [3, 8, 12]
network: [{conv: {channels: 5, kernel: 3, bias: true}}]
"""


def test_maps_come_back_with_channels_first(row: Runtime, tmp_path: Path) -> None:
    """An output that is a map has the axes of the spec, channels first."""
    path = tmp_path / "map.yaml"
    path.write_text(MAP)
    model = of_spec(rescompile.elaborate(rescompile.load(path)), {}, 0)
    x = np.random.default_rng(0).standard_normal((2, *model.input), np.float32)
    outputs = row.prepare(Job(model.name, None, lambda: model.module(row.takes), x), {}).outputs()
    assert outputs["logits"].shape == (2, 5, 8, 12)
    assert np.allclose(outputs["logits"], model.exact(x)["logits"], atol=1e-5)


def test_mlx_under_compile() -> None:
    """`mlx:compile` has the outputs of `mlx`, and its facts record the option."""
    skip_without("mlx")
    row, options = find("mlx:compile")
    network = facts.network("highway_mnist_fc_10")
    model = of_spec(network, {}, 0)
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)
    prepared = row.prepare(Job(model.name, None, lambda: model.module("mlx"), x), options)
    exact = model.exact(x)["logits"]
    assert np.abs(prepared.outputs()["logits"] - exact).max() < 1e-5 * np.abs(exact).max()
    assert prepared.facts["options"] == {"compile": True}


@pytest.mark.parametrize("command", ["bench", "verify"])
def test_a_missing_framework_is_one_error_with_the_extra(
    row: Runtime, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing framework is reported before anything is computed, with the extra to install."""
    for package in backend.load(row.takes).EVALUATION_REQUIRES:
        monkeypatch.setitem(sys.modules, package, None)
    targets = [] if command == "bench" else ["--targets", "onnx"]
    done = CliRunner().invoke(app, [command, "resnet20_cifar", *targets, "--runtime", row.name])
    assert done.exit_code == 4, done.output
    assert done.stdout == ""
    assert done.stderr.count("error[E0901]") == 1
    assert f"{row.name} cannot run here" in done.stderr
    assert f"pip install 'rescompile[{row.extra}]'" in done.stderr


def test_a_peer_runs_in_torch_and_onnx_only() -> None:
    """A peer, which is a torch module, is unavailable in other frameworks, with the reason."""
    model = replace(of_spec(facts.network("highway_mnist_fc_10"), {}, 0), live=None)
    for target in ("onnx", "torch"):
        assert model.lacks(target) is None
    why = "highway_mnist_fc_10 is a module of the target torch, not of flax"
    assert model.lacks("flax") == why
    with pytest.raises(Unavailable, match=why):
        model.module("flax")


@pytest.mark.slow
def test_bench_and_verify(tmp_path: Path) -> None:
    """`bench` and `verify` run these runtimes beside the others, with the same bounds."""
    for name in NEEDS:
        skip_without(name)
    file, beside = tmp_path / "result.json", ",".join(NEEDS)
    few = ["--rounds", "5", "--slot-ms", "1", "-o", str(file)]
    done = CliRunner().invoke(app, ["bench", "resnet20_cifar", "--runtime", f"torch-cpu,{beside}", *few])
    assert done.exit_code == 0, done.output
    rows = {row["runtime"]: row for row in json.loads(file.read_text())["rows"]}
    assert set(rows) == {"torch-cpu", *NEEDS}
    for name in NEEDS:
        assert rows[name]["error"] <= rows[name]["bound"] == rows["torch-cpu"]["bound"]
    done = CliRunner().invoke(app, ["verify", "resnet20_cifar", "--targets", "onnx", "--runtime", beside, "--json"])
    assert done.exit_code == 0, done.output
    verified = {row["runtime"] or row["target"] for row in json.loads(done.stdout)["targets"]}
    assert verified == {"onnx", *NEEDS}


@pytest.mark.parametrize("name", NEEDS)
def test_unknown_options_are_refused(name: str) -> None:
    """These runtimes use the threads of the process, and refuse an option for them."""
    with pytest.raises(UsageError, match=f"{name} has no option 'threads'"):
        find(f"{name}:threads=1")
