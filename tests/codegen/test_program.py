"""Programs, before a template prints them: run by numpy, with no framework, they give what the tree gives.

Each is lowered for dialects that end lines elsewhere, or may overwrite less: what a variable holds may depend on neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import facts
import numpy as np
import pytest
from generator import generate
from numpy.typing import NDArray
from program_interpreter import Greedy, Modules, Plain, Stress, run
from source_mutants import OF_PROGRAMS
from variants import STALE, shallow, without_hints

import rescompile
from rescompile.codegen import lowering
from rescompile.codegen.planner import plan_classes
from rescompile.ir.interpreter import calibrated, interpret
from rescompile.ir.network import Network, parameters

Array = NDArray[Any]
DIALECTS = {"plain": Plain(), "stress": Stress(), "modules": Modules(), "greedy": Greedy()}
SEEDS = range(60)
#: Relative to the largest output. Both are float64, and differ in nothing but the order of sums.
BOUND = 1e-9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where specs are written."""
    path: Path = tmp_path_factory.mktemp("specs")
    return path


def elaborated(text: str, folder: Path) -> Network:
    """The network of a spec's text."""
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return rescompile.elaborate(rescompile.load(path))


def variants(network: Network, seed: int) -> Iterator[Network]:
    """The network with its hints, with none, and with some that are no longer true."""
    yield network
    yield without_hints(network)
    stale = STALE[seed % len(STALE)](network, Random(seed))
    if stale is not None:
        yield stale


def drawn(network: Network, seed: int) -> tuple[dict[str, Array], Array]:
    """Weights under which every mistake shows, and an input."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, *network.input))
    weights: dict[str, Array] = {}
    for name, parameter in parameters(network):
        values = rng.standard_normal(parameter.shape) * np.sqrt(1.5 / max(1, parameter.fan_in or 1))
        weights[name] = values if parameter.shape else np.array(1)
    weights |= calibrated(network, weights, x)
    return {name: np.asarray(value, np.float64) for name, value in weights.items()}, x


def complaint(network: Network, weights: dict[str, Array], x: Array, exact: dict[str, Array]) -> str | None:
    """How the program of a network comes out wrong in one of the dialects, if it does."""
    for name, dialect in DIALECTS.items():
        for style in lowering.STYLES:
            try:
                plan = plan_classes(network, dialect.reserved, unrolled=style == "flat")
                found, names = run(lowering.lower(plan, dialect, style), weights, x)
            except Exception as error:
                return f"{name}, {style}: {error!r}"
            if names != [key for key, _ in parameters(network)]:
                return f"{name}, {style}: other tensors"
            if found.keys() != exact.keys():
                return f"{name}, {style}: outputs {sorted(found)}"
            for key, value in exact.items():
                if not np.abs(found[key] - value).max() <= BOUND * np.abs(value).max():
                    return f"{name}, {style}: {key} is off"
    return None


#: One of each family, where interpreting it takes no time.
ZOO = (
    "resnet20_cifar", "preact_resnet164_cifar", "densenet_bc_100_k12_cifar", "stochastic_depth_110", "highway_mnist_fc_10",
    "wrn_40_2", "googlenet", "plain_mnist_fc_10", "he2016_shortcut_original",
)  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.slow_for("googlenet")
def test_network_of_the_zoo(name: str) -> None:
    """Rows of at most three copies, on a small image."""
    network = shallow(name)
    for variant in variants(network, facts.zoo().index(name)):
        weights, x = drawn(variant, 0)
        assert complaint(variant, weights, x, interpret(variant, weights, x)) is None


Case = tuple[Network, dict[str, Array], Array, dict[str, Array]]


@cache
def cases(seed: int, folder: Path) -> tuple[Case, ...]:
    """The variants of a random network with what they should give."""
    found = []
    for network in variants(elaborated(generate(seed).text, folder), seed):
        weights, x = drawn(network, seed)
        found.append((network, weights, x, interpret(network, weights, x)))
    return tuple(found)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] if n >= 6 else []) for n in SEEDS])
def test_random_network(seed: int, folder: Path) -> None:
    """Whatever a spec may say."""
    for case in cases(seed, folder):
        assert complaint(*case) is None


TAPPED = """
rescompile: 1
name: tapped
input: [3, 8, 8]
network:
- conv0: {conv: {channels: 4, kernel: 3}}
- side: {mode: always, output: extra, body: [{residual: {branch: [{a: {conv: {channels: 4, kernel: 3}}}], shortcut: [sigmoid]}}]}
- parallel:
    merge: concat
    branches:
    - [relu, {c: {conv: {channels: 4, kernel: 3}}}, relu]
    - [tanh, {d: {conv: {channels: 4, kernel: 3}}}, tanh]
    - [sigmoid, {e: {conv: {channels: 4, kernel: 3}}}, sigmoid]
- global_avgpool
- flatten
- fc: {linear: 10}
"""
ONE_BRANCH = """
rescompile: 1
name: one_branch
input: [3, 8, 8]
network:
- parallel:
    merge: concat
    branches:
    - [{parallel: {merge: add, branches: [[identity]]}}, relu]
    - [{parallel: {merge: mul, branches: [[identity]]}}, relu]
    - [identity]
- global_avgpool
- flatten
- fc: {linear: 10}
"""


@pytest.mark.parametrize("text", [TAPPED, ONE_BRANCH])
def test_what_is_still_needed_is_kept(text: str, folder: Path) -> None:
    """Variables behind a side branch, and the only value of a merge: it is no result of its own."""
    network = elaborated(text, folder)
    weights, x = drawn(network, 0)
    assert complaint(network, weights, x, interpret(network, weights, x)) is None


@pytest.mark.parametrize("name", OF_PROGRAMS)
def test_a_mistake_of_lowering_is_caught(name: str, folder: Path) -> None:
    """Without any framework: planted, it shows in some random network, or in the one with a side branch."""
    tapped = elaborated(TAPPED, folder)
    weights, x = drawn(tapped, 0)
    listed = [(tapped, weights, x, interpret(tapped, weights, x))]
    listed += [case for seed in SEEDS[:40] for case in cases(seed, folder)]
    with pytest.MonkeyPatch.context() as patch:
        OF_PROGRAMS[name](patch)
        assert any(complaint(*case) for case in listed), f"{name} goes unnoticed"
