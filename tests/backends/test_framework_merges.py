"""`merge: shake` and `drop_path` in Flax, Keras and MLX: a step equals that of PyTorch with the same random numbers,
and random choices have the right distribution."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from frameworks import FRAMEWORKS

pytest.importorskip("torch", reason="training is compared with torch: pip install 'rescompile[torch]'")

from drop_path import COLUMN_PRODUCTS, FACTORS, SAMPLES, is_near
from random_numbers import in_torch
from sources import drawn, skeleton
from spec_texts import elaborated
from training_steps import agree

import rescompile
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network
from rescompile.weights import draw


@pytest.fixture(params=FRAMEWORKS)
def models(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return the support module of each framework, in float64 and with the same random numbers in each test."""
    found = FRAMEWORKS[request.param].models
    found.seed()
    with found.in_double():
        yield found


def same_step(models: Any, network: Network, seed: int = 0, **options: Any) -> None:
    """Assert that outputs, gradients and statistics equal those of PyTorch with the same random numbers."""
    step = next(getattr(models, name) for name in ("by_flax", "by_keras", "by_mlx") if hasattr(models, name))
    weights, x = drawn(network, seed, batch=6)
    with in_torch(seed) as numbers:
        wanted = models.by_torch(network, weights, x)
    assert numbers.merges
    with models.drawing(numbers):
        agree(step(network, weights, x, running_variance="unbiased", **options), wanted)


#: Merges of two branches in residuals, a merge inside another, and a merge of vectors.
MIXED = """
rescompile: 1
name: mixed
input: [3, 6, 6]
block: unit
blocks:
  unit:
    parameters: {width: int}
    body:
    - residual:
        branch:
          parallel: {merge: shake, UNIT copies: 2, branch: [{conv1: {conv: {channels: width, kernel: 3}}}, {bn1: norm}, tanh]}
network:
- conv0: {conv: {channels: 4, kernel: 3}}
- layer1: {depth: 3, width: 4}
- parallel: {merge: shake, branches: [identity, [{parallel: {merge: shake, UNIT branches: [tanh, {scale: 0.5}, identity]}}, {scale: 2}]]}
- global_avgpool
- flatten
- parallel: {merge: shake, UNIT branches: [{fc1: {linear: 5}}, {fc2: {linear: 5}}]}
"""
#: Merges of three branches in a row of blocks, and a merge of two vectors.
AVERAGED = """
rescompile: 1
name: averaged
input: [3, 6, 6]
block: unit
blocks:
  unit:
    body:
    - parallel:
        merge: mean
        branches: [[{conv1: {conv: {channels: 4, kernel: 3}}}, {bn1: norm}, tanh], [{conv2: {conv: {channels: 4, kernel: 1}}}, {bn2: norm}], identity]
network:
- conv0: {conv: {channels: 4, kernel: 3}}
- layer1: {depth: 3}
- global_avgpool
- flatten
- parallel: {merge: mean, branches: [{fc1: {linear: 5}}, {fc2: {linear: 5}}]}
"""


@pytest.mark.parametrize(("unit", "given"), [("", "[3, 6, 6]"), ("unit: batch,", "[3, 6, 6]"), ("", "[3, 20]")])
def test_shares_are_those_of_torch(models: Any, unit: str, given: str, tmp_path: Path) -> None:
    """Shares of values, and the different shares of gradients, equal those of PyTorch, on images and on series."""
    text = MIXED.replace("UNIT", unit).replace("input: [3, 6, 6]", f"input: {given}")
    same_step(models, elaborated(text, tmp_path))


@pytest.mark.parametrize("unit", ["sample", "batch"])
@pytest.mark.parametrize(
    "columns", [pytest.param(0, marks=pytest.mark.slow), 0.5, pytest.param(1, marks=pytest.mark.slow)]
)
@pytest.mark.slow_for("flax")
def test_dropped_branches_are_those_of_torch(models: Any, columns: float, unit: str, tmp_path: Path) -> None:
    """Dropped branches equal those of PyTorch, with columns of the whole network and without, per batch and per sample."""
    how = f"drop_path: {{rate: 0.6, columns: {columns}, unit: {unit}}}\n"
    network = elaborated(AVERAGED + how, tmp_path)
    for seed in range(3 if unit == "batch" else 1):
        same_step(models, network, seed)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("shake_shake_26_2x32d_cifar", ("parameters.k=4", "parameters.n=2", "input=[3,8,8]")),
        ("fractalnet20_cifar", ("parameters.widths=[4, 4, 4, 4, 4]", "parameters.rates=[0.0, 0.0, 0.0, 0.0, 0.0]", "drop_path.unit=sample")),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_step_of_a_network_of_the_zoo(models: Any, name: str, settings: tuple[str, ...]) -> None:
    same_step(models, facts.network(name, *settings))


#: A block, an argument and a kept value named after functions that files then contain.
NAMED = """
rescompile: 1
name: named
input: [3, 6, 6]
blocks:
  {block}:
    parameters: {{{word}: int}}
    body:
    - conv1: {{conv: {{channels: {word}, kernel: 3}}}}
    - keep: kept_{word}
    - parallel: {{merge: mean, branches: [tanh, {{use: kept_{word}}}]}}
    - parallel: {{merge: shake, branches: [tanh, identity]}}
network:
- layer1: {{block: {block}, {word}: 4}}
- keep: {word}
- bn1: norm
- parallel: {{merge: mean, branches: [identity, {{use: {word}}}]}}
drop_path: {{rate: 0.5, columns: 0.5, unit: batch}}
"""


@pytest.mark.parametrize(
    "word", ["column", "choose_column", "drop_path", "shake", "mixed", "average_kept", "exponential"]
)
def test_names_of_a_spec_do_not_collide_with_the_file(models: Any, word: str, tmp_path: Path) -> None:
    """The file is the same as with harmless names, except for these names."""
    words = (("plain", "harmless"), (word, "harmless"), ("plain", word))
    texts = [
        models.source_file.source(elaborated(NAMED.format(block=block, word=other), tmp_path)) for block, other in words
    ]
    assert len({skeleton(text) for text in texts}) == 1
    assert len(set(texts)) == 3


# --- distributions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branches", [2, 3])
def test_shares_are_convex_and_independent(models: Any, branches: int, tmp_path: Path) -> None:
    """For each sample, the shares of values and those of gradients are uniform on the simplex, and independent of each other."""
    factors = 2.0 ** -np.arange(branches)
    listed = ", ".join(f"{{scale: {factor}}}" for factor in factors)
    text = f"rescompile: 1\nname: mixed\ninput: [1]\nnetwork: [{{parallel: {{merge: shake, branches: [{listed}]}}}}]\n"
    values, gradients = models.slopes(models.model_of(elaborated(text, tmp_path), {}), np.ones((SAMPLES, 1)))
    # A flat Dirichlet distribution: each share has the variance v = (n - 1) / (n^2 (n + 1)), two have the covariance -v
    # / (n - 1).
    variance = (branches - 1) / branches**2 / (branches + 1)
    spread = variance * ((factors**2).sum() - (factors.sum() ** 2 - (factors**2).sum()) / (branches - 1))
    for found in (values, gradients):
        assert factors.min() <= found.min() < found.max() <= factors.max()
        assert abs(found.mean() - factors.mean()) < 5 * np.sqrt(spread / SAMPLES)
        assert abs(found.var() / spread - 1) < 0.05
    assert abs(np.corrcoef(values[:, 0], gradients[:, 0])[0, 1]) < 5 / np.sqrt(SAMPLES)


def outcomes(rate: float, columns: float) -> dict[float, float]:
    """Return the outputs of FACTORS with their probabilities."""

    def kept(count: int, column: int) -> Iterator[tuple[tuple[int, ...], float]]:
        """Yield the sets of branches that a merge may keep, with their probabilities."""
        if 0 <= column < count:
            yield (column,), 1.0
            return
        for size in range(1, count + 1):
            for chosen in itertools.combinations(range(count), size):
                probability = (1 - rate) ** size * rate ** (count - size) + (rate**count / count if size == 1 else 0)
                yield chosen, probability

    found: Counter[float] = Counter()
    for column, share in ((-1, 1 - columns), *((at, columns / 3) for at in range(3))):
        for (first, p), (second, q) in itertools.product(kept(2, column), kept(3, column)):
            middle = np.mean([(2 * 3, 5)[at] for at in first])
            found[round(float(np.mean([(middle * 7 * 11, middle * 13, 17)[at] for at in second])), 6)] += share * p * q
    return {value: probability for value, probability in found.items() if probability}


@pytest.mark.parametrize(("rate", "columns"), [(0.15, 0), (0.6, 0.25), (0.3, 1)])
def test_frequencies_of_dropped_branches(models: Any, rate: float, columns: float, tmp_path: Path) -> None:
    """Each set of branches has its probability, and a column is the same in all merges; the gradient is that of the
    kept branches."""
    network = elaborated(f"{FACTORS}drop_path: {{rate: {rate}, columns: {columns}, unit: sample}}\n", tmp_path)
    values, gradients = models.slopes(models.model_of(network, {}), np.ones((SAMPLES, 1)))
    assert np.allclose(values, gradients)
    wanted = outcomes(rate, columns)
    frequencies = Counter(np.round(values[:, 0], 6).tolist())
    assert columns < 1 or wanted.keys() == set(COLUMN_PRODUCTS)
    assert frequencies.keys() <= wanted.keys()
    assert all(is_near(frequencies[value] / SAMPLES, probability) for value, probability in wanted.items())


@pytest.mark.parametrize(
    ("text", "least"),
    [
        (f"{FACTORS}drop_path: {{rate: 0.5, columns: 0.5, unit: batch}}\n", 3),
        ("rescompile: 1\nname: m\ninput: [1]\nnetwork: [{parallel: {merge: shake, unit: batch, branches: [identity, {scale: 2}]}}]\n", 20),
    ],
    ids=["drop_path", "shake"],
)  # fmt: skip
def test_a_batch_has_one_draw_and_a_step_another(models: Any, text: str, least: int, tmp_path: Path) -> None:
    """With `unit: batch`, all samples of a batch share one draw, and steps draw anew."""
    model = models.model_of(elaborated(text, tmp_path), {})
    steps = [models.slopes(model, np.ones((5, 1)))[0][:, 0] for _ in range(20)]
    assert all(np.ptp(step) == 0 for step in steps)
    assert len({step[0] for step in steps}) >= least


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("shake_shake_26_2x32d_cifar", ("parameters.k=4", "parameters.n=1", "input=[3,8,8]")),
        (
            "fractalnet20_cifar",
            ("parameters.columns=2", "parameters.widths=[8, 8, 8, 8, 8]", "parameters.rates=[0.0, 0.0, 0.0, 0.0, 0.0]"),
        ),
    ],
)
@pytest.mark.slow
def test_training_lowers_the_loss(models: Any, name: str, settings: tuple[str, ...]) -> None:
    """A small Shake-Shake and a small FractalNet learn the labels of one batch."""
    network = facts.network(name, *settings)
    weights = {name: value.astype(np.float64) for name, value in draw(network).items()}
    x = np.random.default_rng(0).standard_normal((10, *network.input))
    losses = models.trained(models.model_of(network, weights), x, np.arange(10), steps=60, rate=0.2)
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) / 2


#: Both kinds of merge on one number, where different choices give different outputs.
BOTH = FACTORS.replace(
    "- scale: 2\n", "- scale: 2\n  - parallel: {merge: shake, branches: [identity, {scale: 1.5}]}\n", 1
)
_SAVED = """
import sys, keras, numpy
import both_keras
model = both_keras.both()
assert "rescompile" not in sys.modules
model.save("both.keras")
"""
_LOADED = """
import keras, numpy
model = keras.models.load_model("both.keras")
x = numpy.ones((1000, 1), numpy.float32)
found = [keras.ops.convert_to_numpy(model(x, training=mode)) for mode in (False, True, True)]
numpy.save(keras.backend.backend() + ".npy", numpy.stack(found))
model.compile("sgd", "mse")
model.fit(x, x, verbose=0)
"""


@pytest.mark.slow
def test_keras_loads_merges_without_rescompile(tmp_path: Path) -> None:
    """A saved Keras model with both merges loads on JAX and PyTorch without rescompile, for evaluation and training."""
    for package in ("keras", "jax"):
        pytest.importorskip(package, reason="loads models: pip install 'rescompile[keras]' jax")
    how = "drop_path: {rate: 0.3, columns: 0.5, unit: sample}\n"
    network = elaborated(BOTH.replace("name: factors", "name: both") + how, tmp_path)
    (tmp_path / "both_keras.py").write_bytes(rescompile.build(network, "keras").to_bytes())
    for script, backend in ((_SAVED, "torch"), (_LOADED, "jax"), (_LOADED, "torch")):
        environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "KERAS_TORCH_DEVICE": "cpu"}
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=environment)
    exact = interpret(network, {}, np.ones((1, 1)))["logits"].item()
    for backend in ("jax", "torch"):
        evaluated, *steps = np.load(tmp_path / f"{backend}.npy")
        assert np.allclose(evaluated, exact)
        for step in steps:
            assert is_near(float((step == 17).mean()), outcomes(0.3, 0.5)[17.0], len(step))
            assert len(np.unique(step)) > len(outcomes(0.3, 0.5))  # shares are continuous
        assert not np.array_equal(*steps)
