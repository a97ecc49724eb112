"""The numbers that `--target source` computes; the modules `test_source_*` cover everything else.

The reference is the interpreter of the tree, both in float64, so that they agree up to rounding. The random specs
are those of `test_differential`. More of them, and larger networks of the zoo:

    RESCOMPILE_RANDOM=1000 RESCOMPILE_PARAMETERS=30e6 RESCOMPILE_MACS=20e9 pytest tests/backends/test_source.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import facts
import pytest
from differential import SAMPLE, Wrong, seeds
from generator import generate
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the text is executed with torch: pip install 'rescompile[torch]'")

from source_mutants import MUTANTS
from sources import (
    compare,
    drawn,
    filled,
    named,
    out_of_place,
    source,
)
from spec_texts import elaborated
from variants import STALE, shallow, without_hints

from rescompile.codegen.lowering import STYLES
from rescompile.ir.network import Network, Series
from rescompile.ir.verifier import verify
from rescompile.passes import apply
from rescompile.weights import from_arrays

Array = NDArray[Any]
#: Networks of the zoo above these limits are compared in a longer run only.
PARAMETERS = float(os.environ.get("RESCOMPILE_PARAMETERS", "3e6"))
MACS = float(os.environ.get("RESCOMPILE_MACS", "0.3e9"))


def variants(network: Network, weights: dict[str, Array], seed: int) -> Iterator[tuple[Network, Any]]:
    """Yield the network unchanged, after a pass, without hints, and with outdated hints."""
    yield network, weights
    yield apply(network, from_arrays(weights, network), {"fold_batchnorm": True})
    yield without_hints(network), weights
    stale = STALE[seed % len(STALE)](network, Random(seed))
    if stale is not None:
        verify(stale)
        yield stale, drawn(stale, seed)[0]


_compared: list[Series] = []


def light() -> list[str]:
    """Return the networks of the zoo whose numbers are compared."""
    sizes = {name: facts.size(name) for name in facts.zoo()}
    return [name for name, (parameters, macs, _) in sizes.items() if parameters <= PARAMETERS and macs <= MACS]


@pytest.mark.parametrize("name", light())
@pytest.mark.sampled(one_in=2)
def test_network_of_the_zoo(name: str) -> None:
    """The module computes what the interpreter computes, with hints that are true, false or missing."""
    network = shallow(name)
    if any(network.root == other for other in _compared):
        return  # networks that differ only in depth are one network here
    _compared.append(network.root)
    seed = facts.zoo().index(name)
    weights, x = drawn(network, seed, batch=2)
    for variant, variant_weights in variants(network, weights, seed):
        compare(variant, variant_weights, x)


RANDOM = [(2, seed, 10) for seed in seeds()] + [(axes, seed, 3) for axes in (1, 3) for seed in range(20)]


@pytest.mark.parametrize(
    ("axes", "seed"),
    [pytest.param(n, seed, marks=[pytest.mark.slow] if seed >= quick else []) for n, seed, quick in RANDOM],
)
def test_random_network(axes: int, seed: int, tmp_path: Path) -> None:
    """Random networks compute what the interpreter computes, in every style."""
    network = elaborated(generate(seed, axes=axes).text, tmp_path)
    weights, x = drawn(network, seed)
    for style in STYLES[1:]:
        compare(network, weights, x, style)
    for variant, variant_weights in variants(network, weights, seed):
        compare(variant, variant_weights, x)


UNEVEN = """
rescompile: 1
name: uneven
input: [4, 8, 8]
blocks:
  unit:
    body:
    - paths:
        parallel:
          merge: add
          copies: 2
          branch: [{path: {residual: {branch: [{conv1: {conv: {channels: in_channels, kernel: 3}}}]}}}]
    - relu
network:
- layer1: {block: unit, depth: 2}
- global_avgpool
- flatten
- fc: {linear: 10}
survival: {schedule: {each: [0.5, 0.5, 0.5, 0.9]}, unit: sample, rescale: test}
"""


def test_copies_that_differ_in_one_instance(tmp_path: Path) -> None:
    """Copies that survive with unequal probabilities are not bundled, while those of another instance are."""
    network = elaborated(UNEVEN, tmp_path)
    weights, x = drawn(network, 0)
    compare(network, weights, x, style="flat")


BODIES = {
    "residual": "residual: {branch: [{a: {conv: {channels: 4, kernel: 3}}}], shortcut: [{b: {conv: {channels: 4, kernel: 1}}}]}",
    "concat": "parallel: {merge: concat, branches: [[tanh, {a: {conv: {channels: 4, kernel: 3}}}], [sigmoid]]}",
    "mul": "parallel: {merge: mul, branches: [[{a: {conv: {channels: 4, kernel: 3}}}, relu], [tanh], [sigmoid]]}",
    "split": "parallel: {merge: concat, split: true, branches: [[tanh], [sigmoid]]}",
    "chain": "conv: {channels: 4, kernel: 1}",
}
FOLLOWERS = {
    "concat": """
    merge: concat
    branches:
    - [relu, {c: {conv: {channels: 4, kernel: 3}}}, relu]
    - [tanh, {d: {conv: {channels: 4, kernel: 3}}}, tanh]
    - [sigmoid, {e: {conv: {channels: 4, kernel: 3}}}, sigmoid]""",
    "add": """
    merge: add
    branches:
    - [relu, {c: {conv: {channels: 4, kernel: 3}}}, relu]
    - [tanh, {parallel: {merge: mul, branches: [[relu], [sigmoid], [tanh]]}}]
    - [sigmoid, {e: {conv: {channels: 4, kernel: 3}}}, sigmoid]""",
    "mul": """
    merge: mul
    branches:
    - [{residual: {branch: [tanh, {c: {conv: {channels: 4, kernel: 3}}}, relu], shortcut: [sigmoid]}}, tanh]
    - [tanh, {d: {conv: {channels: 4, kernel: 3}}}, tanh]
    - [sigmoid, {e: {conv: {channels: 4, kernel: 3}}}, sigmoid]""",
}


@pytest.mark.parametrize("follower", FOLLOWERS)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("mode", ["always", "training", "never"])
def test_variables_of_a_side_branch_are_released_once(mode: str, body: str, follower: str, tmp_path: Path) -> None:
    """Variables that a side branch releases are not released again by the branches of a merge after it."""
    text = f"""
rescompile: 1
name: tapped
input: [3, 8, 8]
network:
- conv0: {{conv: {{channels: 4, kernel: 3}}}}
- side: {{mode: {mode}, {"output: extra, " if mode != "never" else ""}body: [{{{BODIES[body]}}}]}}
- parallel:{FOLLOWERS[follower]}
- global_avgpool
- flatten
- fc: {{linear: 10}}
"""
    network = elaborated(text, tmp_path)
    weights, x = drawn(network, 0)
    for style in STYLES:
        compare(network, weights, x, style)


NUMBERED = """
rescompile: 1
name: numbered
input: [4, 8, 8]
network:
- parallel:
    merge: add
    copies: 2
    branch: [{residual: {branch: [{conv: {channels: in_channels, kernel: 3}}]}}]
"""


def test_a_class_of_a_part_named_by_a_number(tmp_path: Path) -> None:
    """Copies of an unnamed `parallel` become classes where they contain a merge, although 0 is not a valid class name."""
    network = elaborated(NUMBERED, tmp_path)
    weights, x = drawn(network, 0)
    for style in STYLES:
        compare(network, weights, x, style)


INEXPRESSIBLE = """
rescompile: 1
name: inexpressible
input: [4, 8, 8]
blocks:
  widening:
    stage: true
    parameters: {start: int}
    let: {width: start + 4 * index}
    body:
    - residual:
        branch: [{conv: {channels: width, kernel: 3}}]
        shortcut: {block: avgpool_pad, channels: width}
    - {block: last, width: width}
  last:
    inline: true
    parameters: {width: int}
    body: [{conv2: {conv: {channels: width + 4, kernel: 3, when: width > 8}}}]
network:
- layer1: {block: widening, depth: 3, start: 8}
"""


def test_a_macro_gets_values_that_its_class_cannot_express(tmp_path: Path) -> None:
    """Neither `index` nor a `let` that uses it is a name in the class, so values that a macro derives from these become
    new arguments."""
    network = elaborated(INEXPRESSIBLE, tmp_path)
    weights, x = drawn(network, 0)
    compare(network, weights, x)


MAPS_AND_VECTORS = """
rescompile: 1
name: maps_and_vectors
input: [3, 8, 8]
blocks:
  normed:
    parameters: {}
    body: [{bn: norm}, {residual: {branch: [relu]}}]
network:
- stem: {conv: {channels: 4, kernel: 3}}
- before: normed
- global_avgpool
- flatten
- after: normed
"""


def test_a_block_is_used_on_maps_and_on_vectors(tmp_path: Path) -> None:
    """The class has a batch normalisation for maps and one for vectors, as torch requires."""
    network = elaborated(MAPS_AND_VECTORS, tmp_path)
    compare(network, *drawn(network, 0))


ZERO_BASED = """
rescompile: 1
name: zero_based
input: [4, 8, 8]
survival: {schedule: linear_zero_based, last: 0.5, unit: batch, rescale: test}
blocks:
  basic:
    stage: true
    parameters: {width: int}
    body: [{residual: {branch: [{conv: {channels: width, kernel: 3}}]}}]
network:
- layer1: {block: basic, depth: 5, width: 4}
"""


def test_a_schedule_that_begins_at_zero(tmp_path: Path) -> None:
    """0 / 4 is an integer and 1 / 4 is not, so `/` may become `//` only if it may for all copies of a row."""
    network = elaborated(ZERO_BASED, tmp_path)
    compare(network, *drawn(network, 0))
    assert "(position + index) / 4" in source(network)


@pytest.mark.slow
def test_the_sample_has_stale_hints(tmp_path: Path) -> None:
    """The sample has several networks for each kind of stale hint, and each of these hints changes the text."""
    for at, change in enumerate(STALE):
        texts = []
        for seed in range(at, SAMPLE, len(STALE)):
            network = elaborated(generate(seed).text, tmp_path)
            stale = change(network, Random(seed))
            if stale is not None:
                texts.append(source(stale) != source(network))
        assert len(texts) >= 3
        assert all(texts)


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.slow
def test_training(seed: int, tmp_path: Path) -> None:
    """In a training step, neither in-place operations nor recomputation change outputs, gradients or running statistics."""
    network = elaborated(generate(seed).text, tmp_path)
    weights, x = drawn(network, seed, batch=4)
    plain = replace(network, checkpoint=False)
    text = source(plain)
    expected = step(out_of_place(text), weights, x, seed)
    same(step(text, weights, x, seed), expected, 0.0)
    same(step(source(replace(network, checkpoint=True)), weights, x, seed), expected, 1e-12)


Step = list[Any]


def step(text: str, weights: dict[str, Array], x: Array, seed: int) -> Step:
    """Return outputs, gradients (None for a tensor without one) and buffers after one forward and one backward pass."""
    module = filled(text, weights)
    torch.manual_seed(seed)
    given = torch.from_numpy(x).requires_grad_()
    outputs = list(named(module(given)).values())
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    grads = [parameter.grad for parameter in (given, *module.parameters())]
    return [*(output.detach() for output in outputs), *grads, *(buffer.clone() for buffer in module.buffers())]


def same(found: Step, expected: Step, bound: float) -> None:
    """Assert that two steps agree relative to the largest number of the step: a gradient that is zero in theory, as of
    a bias before a norm, consists of rounding errors only."""
    largest = max(float(theirs.abs().max()) for theirs in expected if theirs is not None and theirs.numel())
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, rtol=0.0, atol=bound * largest)


# --- mutants ----------------------------------------------------------------------------------------------------------


@cache
def sampled(folder: Path, seed: int) -> tuple[Array, tuple[tuple[Network, Any], ...]]:
    """Return the input, a random network and its variants, without any mutation. The first few are ResNet rows instead,
    each with another stale hint, because few blocks of random networks are in two rows."""
    network = shallow("resnet20_cifar") if seed < len(STALE) else elaborated(generate(seed).text, folder)
    weights, x = drawn(network, seed)
    return x, tuple(variants(network, weights, seed))


def failure(folder: Path, seed: int) -> str | None:
    """Return how a random network or a variant of it fails, or None."""
    x, all_variants = sampled(folder, seed)
    for network, weights in all_variants:
        try:
            compare(network, weights, x)
        except Wrong as wrong:
            return wrong.how
    return None


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the specs of the mutants' sample, and return their folder."""
    folder: Path = tmp_path_factory.mktemp("mutants")
    for seed in range(SAMPLE):
        sampled(folder, seed)
    return folder


_outcomes: dict[str, str] = {}


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.slow
def test_mutants_are_detected(name: str, shared: Path) -> None:
    """The comparison of random networks detects each mutant, and passes without it."""
    with pytest.MonkeyPatch.context() as patch:
        MUTANTS[name](patch)
        found = next(((seed, how) for seed in range(SAMPLE) if (how := failure(shared, seed))), None)
    assert found is not None, f"{name} is not detected"
    seed, _outcomes[name] = found
    assert failure(shared, seed) is None, f"the case that detects {name} fails without it too"


@pytest.mark.slow
def test_many_mutants_show_in_numbers(shared: Path) -> None:
    """Many mutants give a text that runs with wrong numbers; one that does not run, or lacks a tensor, would not prove
    the comparison."""
    for name in MUTANTS:
        if name not in _outcomes:
            test_mutants_are_detected(name, shared)
    assert sum(how == "numbers" for how in _outcomes.values()) >= 12
