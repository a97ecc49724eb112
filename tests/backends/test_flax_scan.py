"""`--scan`: equal blocks of a row in one scan, compared with the same network without it: outputs, training steps,
weights, text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from differential import seeds
from generator import generate
from typer.testing import CliRunner

for package in ("torch", "jax", "flax"):
    pytest.importorskip(package, reason="runs one of the targets: pip install 'rescompile[torch,flax]'")

from flax import nnx
from flax_models import ALL, Array, Step, apart, arrays, by_flax, in_double, model_of, module, source_file, tensors
from frameworks import texts
from sources import agree, drawn
from spec_texts import elaborated

import rescompile
from rescompile.cli import app
from rescompile.codegen.execution import executed
from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.files.atomic_write import write_files
from rescompile.ir.network import Network
from rescompile.weights import draw, from_arrays


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with in_double():
        yield


#: A row whose first block differs, one whose last blocks differ, and one without equal blocks; dropout draws random
#: numbers.
ROWS = """
rescompile: 1
name: rows
input: [3, 8, 8]
blocks:
  unit:
    stage: true
    members: "MEMBERS"
    parameters: {rate: 1}
    body:
    - residual:
        branch:
        - conv1: {conv: {channels: in_channels, kernel: 3, dilation: rate, padding: rate}}
        - bn1: norm
        - dropout: 0.25
    - relu
network:
- conv0: {conv: {channels: 4, kernel: 3}}
- features:
  - layer1: {block: unit, depth: 4, rate: "2 if index == 0 else 1"}
  - layer2: {block: unit, depth: 5, rate: "3 if index >= 3 else index // 4 + 1"}
  - layer3: {block: unit, depth: 2, rate: index + 1}
- global_avgpool
- flatten
- fc: {linear: 10}
"""
SURVIVAL = "survival: {schedule: linear, last: 0.5, unit: UNIT, rescale: RESCALE}\n"


def rows(folder: Path, members: str = "{index}", unit: str = "", rescale: str = "test") -> Network:
    """Return the network ROWS; with `unit`, its residuals have survival probabilities of this unit."""
    text = ROWS.replace("MEMBERS", members)
    if unit:
        text += SURVIVAL.replace("UNIT", unit).replace("RESCALE", rescale)
    return elaborated(text, folder)


def stacked(network: Network, values: Mapping[str, Array]) -> dict[str, Array]:
    """Return arrays by their Flax names, with those of the blocks of a scan stacked."""
    places = tensors.stacked(tensors.places(network), source_file.scans_of(network))
    return {
        place.path: np.stack([values[each.path] for each in place.places])
        if isinstance(place, tensors.Stack)
        else values[place.path]
        for place in places
        if (place.places[0].path if isinstance(place, tensors.Stack) else place.path) in values
    }


def executed_scans(network: Network) -> tuple[Any, Any]:
    """Return the module of a file with scans and its model factory, whose initialisers return zeros so that nothing is
    compiled for them."""
    home, factory = executed(network, source_file.source(network, scan=True))
    vars(home).update(dict.fromkeys(module._INITIALISERS, lambda key, shape, dtype: np.zeros(shape, dtype)))
    return home, factory


def same_step(network: Network, seed: int = 0) -> None:
    """Assert that a training step is the same with scans and without, random choices included."""
    weights, x = drawn(network, seed, batch=4)
    plain, scanned = (by_flax(network, weights, x, scan=scan) for scan in (False, True))
    wanted = Step(plain.outputs, stacked(network, plain.gradients), stacked(network, plain.statistics))
    for one, other in zip(scanned, wanted, strict=True):
        assert apart(one, other) < 1e-9


def same_outputs(network: Network, seed: int = 0) -> None:
    """Assert that the scanned model has the expected tensors, and the outputs of the interpreter."""
    weights, x = drawn(network, seed, batch=2)
    model = model_of(network, weights, scan=True)
    places = tensors.stacked(tensors.places(network), source_file.scans_of(network))
    shapes = {path: array.shape for path, array in arrays(nnx.state(model, ALL)).items()}
    assert shapes == {place.path: place.shape for place in places}
    model.eval()
    agree(network, weights, x, module.outputs(model, x))


@pytest.mark.parametrize("size", ["8", "4, 4, 4"])
def test_rows_of_series_and_volumes(size: str, tmp_path: Path) -> None:
    """Rows on series and on volumes become scans, and compute what the interpreter computes."""
    text = ROWS.replace("MEMBERS", "{index}").replace("input: [3, 8, 8]", f"input: [3, {size}]")
    network = elaborated(text, tmp_path)
    assert len(source_file.scans_of(network)) == 2
    same_outputs(network)


@pytest.mark.parametrize("members", ["{index}", pytest.param("unit{index + 1}", marks=pytest.mark.slow)])
def test_rows(members: str, tmp_path: Path) -> None:
    """A scan contains the equal blocks only; the blocks before and after it keep their names, numbers or words."""
    network = rows(tmp_path, members)
    names = [(scan.path, scan.names[scan.start : scan.stop]) for scan in source_file.scans_of(network)]
    unit = "unit" if "unit" in members else ""
    first = 1 if unit else 0
    assert names == [
        ("features.layer1", tuple(f"{unit}{at + first}" for at in (1, 2, 3))),
        ("features.layer2", tuple(f"{unit}{at + first}" for at in (0, 1, 2))),
    ]
    same_outputs(network)


@pytest.mark.slow
def test_a_step_of_rows(tmp_path: Path) -> None:
    """Gradients, statistics and dropout are the same with scans and without."""
    same_step(rows(tmp_path))


@pytest.mark.parametrize(
    ("unit", "rescale"), [("batch", "test"), ("batch", "train"), ("sample", "test"), ("sample", "train")]
)
@pytest.mark.slow
def test_survival(unit: str, rescale: str, tmp_path: Path) -> None:
    """Blocks that differ in their survival probability alone share a scan, and the same ones are dropped as without a scan."""
    network = rows(tmp_path, unit=unit, rescale=rescale)
    same_outputs(network)
    same_step(network)


@pytest.mark.slow
def test_recomputed_activations(tmp_path: Path) -> None:
    for unit in ("", "batch"):
        same_step(replace(rows(tmp_path, unit=unit), checkpoint=True))


#: A row whose blocks shake and drop branches, and a merge outside of it.
MERGES = """
rescompile: 1
name: merges
input: [3, 6, 6]
blocks:
  unit:
    body:
    - residual:
        branch: {parallel: {merge: shake, branches: [[{conv1: {conv: {channels: 4, kernel: 3}}}, {bn1: norm}], tanh]}}
    - parallel: {merge: mean, branches: [{conv2: {conv: {channels: 4, kernel: 1}}}, identity, tanh]}
network:
- conv0: {conv: {channels: 4, kernel: 3}}
- layer1: {block: unit, depth: 4}
- parallel: {merge: mean, branches: [sigmoid, {bn0: norm}]}
- global_avgpool
- flatten
- fc: {linear: 10}
drop_path: {rate: 0.5, columns: 0.5, unit: UNIT}
"""


@pytest.mark.parametrize("unit", ["batch", "sample"])
@pytest.mark.slow
def test_merges(unit: str, tmp_path: Path) -> None:
    """Blocks draw the same shares and drop the same branches as without a scan, columns of the network included, also
    if activations are recomputed."""
    network = elaborated(MERGES.replace("UNIT", unit), tmp_path)
    same_outputs(network)
    for checkpoint in (False, True):
        same_step(replace(network, checkpoint=checkpoint))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param("resnet20_cifar", ("input=[3,8,8]",), marks=pytest.mark.slow),
        pytest.param(
            "preact_resnet110_cifar",
            ("input=[3,8,8]", *(f"layer{row}.depth=3" for row in (1, 2, 3))),
            marks=pytest.mark.slow,
        ),
        pytest.param("resnext50_32x4d", ("input=[3,32,32]",), marks=pytest.mark.slow),
    ],
)
def test_networks_of_the_zoo(name: str, settings: tuple[str, ...]) -> None:
    network = facts.network(name, *settings)
    same_outputs(network)
    same_step(network)


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.slow
def test_random_networks(seed: int, tmp_path: Path) -> None:
    """Random networks with a row of equal blocks agree with and without scans."""
    network = elaborated(generate(seed).text, tmp_path)
    try:
        source_file.check(network)
        source_file.scans_of(network)
    except Unavailable:
        return
    same_outputs(network, seed)
    same_step(network, seed)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", ["{index}", "unit{index + 1}"])
@pytest.mark.slow
def test_load_takes_stacked_and_separate_blocks(members: str, tmp_path: Path) -> None:
    """`load` accepts the weights of the same build, and those of a build without scans."""
    network = rows(tmp_path, members)
    weights, x = drawn(network, 0)
    home, factory = executed_scans(network)
    for scans in (source_file.scans_of(network), ()):
        model = factory(rngs=nnx.Rngs(0))
        write_files(
            [source_file.weights_file(network, from_arrays(weights, network), "w", scans)], tmp_path, force=True
        )
        home.load(model, str(tmp_path / "w"))
        model.eval()
        agree(network, weights, x, module.outputs(model, x))


def test_load_refuses_blocks_that_do_not_fit(tmp_path: Path) -> None:
    """`load` refuses weights with one block too many or too few."""
    network = facts.network("resnet20_cifar")
    home, factory = executed_scans(network)
    for depth in (2, 4):
        other = facts.network("resnet20_cifar", f"layer1.depth={depth}")
        write_files([source_file.weights_file(other, draw(other), "w")], tmp_path, force=True)
        with pytest.raises(ValueError, match=r"lacks layer1\.rest\."):
            home.load(factory(rngs=nnx.Rngs(0)), str(tmp_path / "w"))


@pytest.mark.slow
def test_build_writes_stacked_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--scan` and `--option scan=true` write the same stacked weights, and `--verify` runs the files."""
    monkeypatch.chdir(tmp_path)
    build = ["build", "resnet20_cifar", "--target", "flax", "--seed", "1"]
    first = CliRunner().invoke(app, [*build, "--scan", "--verify"])
    assert first.exit_code == 0, first.output
    header = (tmp_path / "resnet20_cifar_flax.safetensors").read_bytes()[:20000]
    assert b'"layer2.rest.conv1.kernel":{"dtype":"F32","shape":[2,3,3,32,32]' in header.replace(b" ", b"")
    assert CliRunner().invoke(app, [*build, "--option", "scan=true", "--check"]).exit_code == 0
    assert CliRunner().invoke(app, [*build, "--check"]).exit_code == 1


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.slow
def test_orbax_saves_and_restores(scan: bool, tmp_path: Path) -> None:
    """A model restored from a checkpoint of the state has the same outputs."""
    checkpoints = pytest.importorskip("orbax.checkpoint", reason="saves states of NNX: pip install orbax-checkpoint")
    network = rows(tmp_path, unit="batch")
    weights, x = drawn(network, 0)
    model, other = model_of(network, weights, scan=scan), module.make(network, scan=scan)
    kinds = nnx.Any(nnx.Param, nnx.BatchStat)
    with checkpoints.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", nnx.to_pure_dict(nnx.state(model, kinds)))
    with checkpoints.StandardCheckpointer() as checkpointer:
        state = nnx.state(other, kinds)
        nnx.replace_by_pure_dict(
            state, checkpointer.restore(tmp_path / "saved", nnx.to_pure_dict(nnx.state(model, kinds)))
        )
    nnx.update(other, state)
    model.eval(), other.eval()
    assert apart(module.outputs(other, x), module.outputs(model, x)) == 0


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ruff_accepts_scans_of_the_zoo(tmp_path: Path) -> None:
    """ruff neither reformats nor rejects the file of any network with a row of equal blocks."""
    count = 0
    for name, _ in texts("flax"):
        network = facts.network(name)
        try:
            scans = source_file.scans_of(network)
        except Unavailable:
            continue
        count += 1
        text = source_file.source(network, scan=True)
        assert len(re.findall(r"Scanned\(\s*dict\(", text)) == len(scans)
        (tmp_path / f"{name.replace('/', '_')}.py").write_text(text, encoding="utf-8")
    assert count > 100
    for command in (["format", "--diff"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", "."],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:]


def test_scan_needs_equal_blocks_and_classes() -> None:
    with pytest.raises(Unavailable, match="no row of densenet121 has neighbouring blocks that are equal"):
        rescompile.build("densenet121", "flax", structure_only=True, scan=True)
    with pytest.raises(UsageError, match="the style 'flat' has one class per block"):
        rescompile.build("resnet50", "flax", structure_only=True, scan=True, style="flat")
