"""Programs before a template prints them: run by numpy, without a framework, they compute what the interpreter
computes.

Each is lowered for dialects that end lines in other places, or overwrite fewer values; neither may change the value of
a variable.
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
from spec_texts import elaborated
from variants import STALE, shallow, without_hints

from rescompile.codegen import lowering
from rescompile.codegen.planner import plan_classes
from rescompile.ir.interpreter import calibrated, interpret
from rescompile.ir.network import Network, parameters

Array = NDArray[Any]
DIALECTS = {"plain": Plain(), "stress": Stress(), "modules": Modules(), "greedy": Greedy()}
SEEDS = range(60)
#: Relative to the largest output. Both are float64, and differ only in the order of sums.
BOUND = 1e-9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder for specs."""
    path: Path = tmp_path_factory.mktemp("specs")
    return path


def variants(network: Network, seed: int) -> Iterator[Network]:
    """Yield the network with its hints, without hints, and with outdated hints."""
    yield network
    yield without_hints(network)
    stale = STALE[seed % len(STALE)](network, Random(seed))
    if stale is not None:
        yield stale


def drawn(network: Network, seed: int) -> tuple[dict[str, Array], Array]:
    """Return weights under which every mistake shows, and an input."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, *network.input))
    weights: dict[str, Array] = {}
    for name, parameter in parameters(network):
        values = rng.standard_normal(parameter.shape) * np.sqrt(1.5 / max(1, parameter.fan_in or 1))
        weights[name] = values if parameter.shape else np.array(1)
    weights |= calibrated(network, weights, x)
    return {name: np.asarray(value, np.float64) for name, value in weights.items()}, x


def failure(network: Network, weights: dict[str, Array], x: Array, exact: dict[str, Array]) -> str | None:
    """Return how the program of a network fails in one of the dialects, or None."""
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


#: One network of each family that is interpreted quickly.
ZOO = (
    "resnet20_cifar", "preact_resnet164_cifar", "densenet_bc_100_k12_cifar", "stochastic_depth_110", "highway_mnist_fc_10",
    "wrn_40_2", "googlenet", "plain_mnist_fc_10", "he2016_shortcut_original",
)  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.slow_for("googlenet")
def test_network_of_the_zoo(name: str) -> None:
    """Programs of zoo networks, with rows of at most three copies on a small image, compute what the interpreter computes."""
    network = shallow(name)
    for variant in variants(network, facts.zoo().index(name)):
        weights, x = drawn(variant, 0)
        assert failure(variant, weights, x, interpret(variant, weights, x)) is None


Case = tuple[Network, dict[str, Array], Array, dict[str, Array]]


@cache
def cases(seed: int, folder: Path) -> tuple[Case, ...]:
    """Return the variants of a random network with their expected outputs."""
    found = []
    for network in variants(elaborated(generate(seed).text, folder), seed):
        weights, x = drawn(network, seed)
        found.append((network, weights, x, interpret(network, weights, x)))
    return tuple(found)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] if n >= 6 else []) for n in SEEDS])
def test_random_network(seed: int, folder: Path) -> None:
    """Programs of random networks compute what the interpreter computes."""
    for case in cases(seed, folder):
        assert failure(*case) is None


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
def test_values_are_kept_while_they_are_needed(text: str, folder: Path) -> None:
    """Variables behind a side branch, and the only value of a merge, which is not a new value, stay available."""
    network = elaborated(text, folder)
    weights, x = drawn(network, 0)
    assert failure(network, weights, x, interpret(network, weights, x)) is None


@pytest.mark.parametrize("name", OF_PROGRAMS)
def test_mutants_of_lowering_are_detected(name: str, folder: Path) -> None:
    """Each mutant of lowering fails in a random network or in the one with a side branch, without any framework."""
    tapped = elaborated(TAPPED, folder)
    weights, x = drawn(tapped, 0)
    listed = [(tapped, weights, x, interpret(tapped, weights, x))]
    listed += [case for seed in SEEDS[:40] for case in cases(seed, folder)]
    with pytest.MonkeyPatch.context() as patch:
        OF_PROGRAMS[name](patch)
        assert any(failure(*case) for case in listed), f"{name} is not detected"
