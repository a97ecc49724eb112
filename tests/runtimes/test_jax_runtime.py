"""The runtime `jax-cpu`: a Flax module under jit, held to the same rules as the other runtimes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

for package in ("torch", "jax", "flax"):
    pytest.importorskip(
        package, reason="jax-cpu, and torch for the expected error: pip install 'rescompile[torch,flax]'"
    )

import facts

from rescompile.bench.timed_models import of_spec
from rescompile.cli import app
from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.runtimes import RUNTIMES, Job, find
from rescompile.runtimes.device import usable
from rescompile.runtimes.runtime_check import trials

ROW = RUNTIMES["jax-cpu"]


def test_it_works() -> None:
    """As `doctor` tries it: an error within the bound, but not below what rounding allows."""
    (trial,) = trials(ROW)
    assert trial.passed
    assert trial.facts is not None
    assert trial.facts["precision"] == "fp32"
    assert trial.facts["threads"] == usable()


def test_a_prepared_network_is_the_one_of_the_job(tmp_path: Path) -> None:
    """Its outputs have channels first, and repeat; another number of threads than that of the process is refused."""
    network = facts.network("highway_mnist_fc_10")
    model = of_spec(network, {"fold_batchnorm": True}, 0)
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)
    made = Job(model.name, None, lambda: model.module("flax"), x)
    prepared = ROW.prepare(made, {})
    first = prepared.outputs()["logits"]
    prepared.run()
    assert np.array_equal(prepared.outputs()["logits"], first)
    exact = model.exact(x)["logits"]
    assert np.abs(first - exact).max() < 1e-5 * np.abs(exact).max()
    prepared.close()
    with pytest.raises(Unavailable, match=f"uses all {usable()} CPU cores of its process, not {usable() + 1}"):
        ROW.prepare(Job(model.name, None, made.module, x, threads=usable() + 1), {})
    with pytest.raises(UsageError, match="jax-cpu needs a live module of the target flax"):
        ROW.prepare(Job(model.name, tmp_path / "a.onnx", None, x), {})
    with pytest.raises(Unavailable, match="reports no times of layers"):
        ROW.profile(made, {})


def test_a_peer_has_no_row() -> None:
    """It is a module of torch, as a reason and as an error."""
    model = replace(of_spec(facts.network("highway_mnist_fc_10"), {}, 0), live=None)
    for target in ("onnx", "torch"):
        assert model.lacks(target) is None
    why = "highway_mnist_fc_10 is a module of the target torch, not of flax"
    assert model.lacks("flax") == why
    with pytest.raises(Unavailable, match=why):
        model.module("flax")


@pytest.mark.slow
def test_bench_and_verify(tmp_path: Path) -> None:
    """Beside the other runtimes, in the same rounds and by the same rules."""
    file = tmp_path / "result.json"
    few = ["--rounds", "5", "--slot-ms", "1"]
    done = CliRunner().invoke(app, ["bench", "resnet20_cifar", "--runtime", "torch-cpu,jax-cpu", *few, "-o", str(file)])
    assert done.exit_code == 0, done.output
    rows = {row["runtime"]: row for row in json.loads(file.read_text())["rows"]}
    assert set(rows) == {"torch-cpu", "jax-cpu"}
    assert rows["jax-cpu"]["error"] <= rows["jax-cpu"]["bound"] == rows["torch-cpu"]["bound"]
    done = CliRunner().invoke(app, ["verify", "resnet20_cifar", "--runtime", "jax-cpu", "--json"])
    assert done.exit_code == 0, done.output


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UsageError, match="jax-cpu has no option 'threads'"):
        find("jax-cpu:threads=1")
