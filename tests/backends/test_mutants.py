"""The differential test catches what it should: every planted mistake, most of them by a number that is off."""

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
    """Where the specs of this module are."""
    path: Path = tmp_path_factory.mktemp("mutants")
    for seed in range(SAMPLE):
        (path / f"random_{seed}.yaml").write_text(generate(seed).text, encoding="utf-8")
    for name, network in BY_HAND.items():
        (path / f"{name}.yaml").write_text(network.text, encoding="utf-8")
    return path


@cache
def healthy(path: Path, seed: int) -> Case:
    """A random case, made while nothing is wrong."""
    return prepared(path, seed)


@cache
def by_hand(path: Path, name: str) -> Case:
    """A known network with weights of its healthy tree; what it gives was computed without the tree."""
    known: Known = BY_HAND[name]
    network = rescompile.elaborate(rescompile.load(path))
    x = np.random.default_rng(7).standard_normal((INPUTS, *network.input)).astype(np.float32)
    weights = random_weights(network, x, 7)
    exact, plain = (known.outputs(Hand(weights, x.astype(dtype))) for dtype in (np.float64, np.float32))
    return Case(network, weights, x, exact, (plain,))


def complaints(case: Case, opset: int = 17) -> Iterator[str]:
    """How a case comes out wrong, if it does: as it is, then folded."""
    for options in ({}, {"fold_batchnorm": True}):
        try:
            compare(case, opset=opset, **options)
        except Wrong as wrong:
            yield wrong.how


def caught_by_the_sample(folder: Path) -> tuple[str, Case] | None:
    """How the first random case that comes out wrong does so, and the case."""
    for seed in range(SAMPLE):
        case = healthy(folder / f"random_{seed}.yaml", seed)
        for how in complaints(case, OPSETS[seed % len(OPSETS)]):
            return how, case
    return None


def caught_by_hand(folder: Path) -> tuple[str, Case] | None:
    """The same for the known networks, whose trees are made again."""
    for name in BY_HAND:
        path = folder / f"{name}.yaml"
        case = by_hand(path, name)
        try:
            network = rescompile.elaborate(rescompile.load(path))
        except (SpecError, MalformedNetwork):
            return "build", case
        for how in complaints(replace(case, network=network)):
            return how, case
    return None


@pytest.mark.parametrize("name", BY_HAND)
def test_networks_by_hand(name: str, folder: Path) -> None:
    """What a spec's text means, written down without the compiler's tree, is what the compiled file computes."""
    case = by_hand(folder / f"{name}.yaml", name)
    compare(case)
    compare(case, fold_batchnorm=True)


@cache
def outcome(name: str, folder: Path) -> str:
    """How a mistake shows: `numbers`, or a word for a file that cannot be right. Fails if it does not.

    Everything right is made before, and what catches the mistake must be silent again after it.
    """
    for seed in range(SAMPLE):
        healthy(folder / f"random_{seed}.yaml", seed)
    for network in BY_HAND:
        by_hand(folder / f"{network}.yaml", network)
    with pytest.MonkeyPatch.context() as patch:
        {**OF_BACKENDS, **OF_THE_TREE}[name](patch)
        found = caught_by_the_sample(folder) if name in OF_BACKENDS else caught_by_hand(folder)
    assert found is not None, f"{name} goes unnoticed"
    how, case = found
    assert not list(complaints(case)), f"what catches {name} complains without it too"
    return how


@pytest.mark.parametrize("name", OF_BACKENDS)
@pytest.mark.slow
def test_a_mistake_in_what_is_made_of_the_tree(name: str, folder: Path) -> None:
    """The interpreter shares nothing with backends and passes; the small sample is enough to see it."""
    assert outcome(name, folder)


@pytest.mark.parametrize("name", OF_THE_TREE)
def test_a_mistake_in_what_makes_the_tree(name: str, folder: Path) -> None:
    """The interpreter would believe the wrong tree; the networks by hand do not."""
    assert outcome(name, folder)


@pytest.mark.slow
def test_most_mistakes_show_in_numbers(folder: Path) -> None:
    """A file that does not load is no proof of the comparison: most mistakes give one that runs and is wrong."""
    outcomes = [outcome(name, folder) for name in (*OF_BACKENDS, *OF_THE_TREE)]
    assert len(outcomes) >= 24
    assert outcomes.count("numbers") > len(outcomes) * 2 / 3
