"""The differential test detects every mutant, most of them by wrong numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from differential import INPUTS, OPSETS, SAMPLE, Case, Wrong, compare, prepared, random_weights
from generator import generate
from mutants import BY_HAND, OF_BACKENDS, OF_THE_TREE, Hand, Known

import rescompile
from rescompile.diagnostics.errors import SpecError
from rescompile.ir.verifier import MalformedNetwork


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the specs of the random sample and of the networks by hand, and return their folder."""
    path: Path = tmp_path_factory.mktemp("mutants")
    for seed in range(SAMPLE):
        (path / f"random_{seed}.yaml").write_text(generate(seed).text, encoding="utf-8")
    for name, network in BY_HAND.items():
        (path / f"{name}.yaml").write_text(network.text, encoding="utf-8")
    return path


@cache
def healthy(path: Path, seed: int) -> Case:
    """Return a random case, prepared without any mutation."""
    return prepared(path, seed)


@cache
def by_hand(path: Path, name: str) -> Case:
    """Return a known network with weights drawn for its correct tree, and expected outputs that are computed without the tree."""
    known: Known = BY_HAND[name]
    network = rescompile.elaborate(rescompile.load(path))
    x = np.random.default_rng(7).standard_normal((INPUTS, *network.input)).astype(np.float32)
    weights = random_weights(network, x, 7)
    exact, plain = (known.outputs(Hand(weights, x.astype(dtype))) for dtype in (np.float64, np.float32))
    return Case(network, weights, x, exact, (plain,))


def failures(case: Case, opset: int = 17) -> Iterator[str]:
    """Yield how a case fails, if it does: as it is, then folded."""
    for options in ({}, {"fold_batchnorm": True}):
        try:
            compare(case, opset=opset, **options)
        except Wrong as wrong:
            yield wrong.how


def caught_by_the_sample(folder: Path) -> tuple[str, Case] | None:
    """Return how the first failing random case fails, and the case."""
    for seed in range(SAMPLE):
        case = healthy(folder / f"random_{seed}.yaml", seed)
        for how in failures(case, OPSETS[seed % len(OPSETS)]):
            return how, case
    return None


def caught_by_hand(folder: Path) -> tuple[str, Case] | None:
    """Return the same for the networks by hand, elaborated again."""
    for name in BY_HAND:
        path = folder / f"{name}.yaml"
        case = by_hand(path, name)
        try:
            network = rescompile.elaborate(rescompile.load(path))
        except (SpecError, MalformedNetwork):
            return "build", case
        for how in failures(replace(case, network=network)):
            return how, case
    return None


@pytest.mark.parametrize("name", BY_HAND)
def test_networks_by_hand(name: str, folder: Path) -> None:
    """The compiled file of each network by hand computes what the spec means, written without the compiler's tree."""
    case = by_hand(folder / f"{name}.yaml", name)
    compare(case)
    compare(case, fold_batchnorm=True)


@cache
def outcome(name: str, folder: Path) -> str:
    """Return how a mutant shows: `numbers`, or a word for an invalid file. Fail if it does not.

    All cases are prepared before the mutation, and the case that detects it must pass without it.
    """
    for seed in range(SAMPLE):
        healthy(folder / f"random_{seed}.yaml", seed)
    for network in BY_HAND:
        by_hand(folder / f"{network}.yaml", network)
    with pytest.MonkeyPatch.context() as patch:
        {**OF_BACKENDS, **OF_THE_TREE}[name](patch)
        found = caught_by_the_sample(folder) if name in OF_BACKENDS else caught_by_hand(folder)
    assert found is not None, f"{name} is not detected"
    how, case = found
    assert not list(failures(case)), f"the case that detects {name} fails without it too"
    return how


@pytest.mark.parametrize("name", OF_BACKENDS)
@pytest.mark.slow
def test_mutants_of_backends_and_passes(name: str, folder: Path) -> None:
    """Mutants of backends and passes are detected by the small sample, because the interpreter shares no code with these."""
    assert outcome(name, folder)


@pytest.mark.parametrize("name", OF_THE_TREE)
def test_mutants_of_the_elaborator(name: str, folder: Path) -> None:
    """Mutants of the elaborator are detected by the networks by hand; the interpreter would accept the wrong tree."""
    assert outcome(name, folder)


@pytest.mark.slow
def test_most_mistakes_show_in_numbers(folder: Path) -> None:
    """Most mutants give a file that runs with wrong numbers; one that does not load would not prove the comparison."""
    outcomes = [outcome(name, folder) for name in (*OF_BACKENDS, *OF_THE_TREE)]
    assert len(outcomes) >= 24
    assert outcomes.count("numbers") > len(outcomes) * 2 / 3
