"""Recursive blocks: blocks that use themselves under a condition."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import rescompile
from rescompile import backend
from rescompile.analysis.cost import cost
from rescompile.analysis.paths import paths
from rescompile.diagnostics.errors import SpecError
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Op, parameters, walk
from rescompile.ir.ops import Conv
from rescompile.weights import from_arrays

HEAD = "rescompile: 1\nname: deep\ninput: [3, 16, 16]\n"
LEVELS = """
blocks:
  level:
    parameters: {width: int, below: int}
    body:
      - conv1: {conv: {channels: width, kernel: 3}}
      - if: below > 0
        then:
          parallel:
            merge: concat
            branches:
              - identity
              - [{maxpool: {kernel: 2}}, inner: {block: level, width: 2 * width, below: below - 1}, {upsample: 2}]
      - conv2: {conv: {channels: width, kernel: 3}}
network:
  - outer: {block: level, width: 4, below: 2}
"""
#: The same network, each level written out.
UNROLLED = """
blocks:
  last:
    parameters: {width: int}
    body: [conv1: {conv: {channels: width, kernel: 3}}, conv2: {conv: {channels: width, kernel: 3}}]
  middle:
    parameters: {width: int}
    body:
      - conv1: {conv: {channels: width, kernel: 3}}
      - parallel:
          merge: concat
          branches: [identity, [{maxpool: {kernel: 2}}, inner: {block: last, width: 2 * width}, {upsample: 2}]]
      - conv2: {conv: {channels: width, kernel: 3}}
  top:
    parameters: {width: int}
    body:
      - conv1: {conv: {channels: width, kernel: 3}}
      - parallel:
          merge: concat
          branches: [identity, [{maxpool: {kernel: 2}}, inner: {block: middle, width: 2 * width}, {upsample: 2}]]
      - conv2: {conv: {channels: width, kernel: 3}}
network:
  - outer: {block: top, width: 4}
"""
FRACTAL = """
blocks:
  fractal:                       # f(1) is a convolution, f(C) one beside f(C - 1) twice (Larsson et al. 2017)
    parameters: {columns: int}
    body:
      - parallel:
          merge: add
          branches:
            - {conv: {channels: in_channels, kernel: 3}}
            - if: columns > 1
              then: [{name: a, block: fractal, columns: columns - 1}, {name: b, block: fractal, columns: columns - 1}]
              else: [last: {conv: {channels: in_channels, kernel: 1}}]
network:
  - f: {block: fractal, columns: COLUMNS}
"""


def elaborated(text: str, folder: Path) -> Network:
    path = folder / "deep.yaml"
    path.write_text(HEAD + text.lstrip("\n"), encoding="utf-8")
    return rescompile.elaborate(rescompile.load(path))


def test_recursion_equals_the_unrolled_network(tmp_path: Path) -> None:
    """A recursive block has the names, costs, paths and outputs of the unrolled network."""
    deep, flat = elaborated(LEVELS, tmp_path), elaborated(UNROLLED, tmp_path)
    assert list(parameters(deep)) == list(parameters(flat))
    assert cost(deep) == cost(flat)
    assert paths(deep) == paths(flat)
    rng = np.random.default_rng(0)
    arrays = {name: np.asarray(rng.standard_normal(p.shape), np.float32) for name, p in parameters(deep)}
    x = rng.standard_normal((2, 3, 16, 16), np.float32)
    exact, other = (interpret(each, from_arrays(arrays, each), x)["logits"] for each in (deep, flat))
    assert np.array_equal(exact, other)
    found = backend.load("torch").evaluate(deep, from_arrays(arrays, deep), x)["logits"]  # type: ignore[attr-defined]
    assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()


def test_source_has_a_class_for_each_level(tmp_path: Path) -> None:
    """Generated source has one class per level, each of which contains the one below it."""
    text = backend.load("source").source(elaborated(LEVELS, tmp_path), "classes")  # type: ignore[attr-defined]
    assert text.count("(nn.Module):") == 4
    assert text.count("self.inner = ") == 2


@pytest.mark.parametrize("columns", [1, 2, 4, 6])
def test_a_fractal_has_the_expected_layers_and_paths(columns: int, tmp_path: Path) -> None:
    """A fractal of C columns has 2^C - 1 3x3 and 2^(C - 1) 1x1 convolutions, and p(C) = 1 + p(C - 1)^2 paths."""
    network = elaborated(FRACTAL.replace("COLUMNS", str(columns)), tmp_path)
    kernels = [
        node.kind.kernel for _, node in walk(network.root) if isinstance(node, Op) and isinstance(node.kind, Conv)
    ]
    assert kernels.count((3, 3)) == 2**columns - 1
    assert kernels.count((1, 1)) == 2 ** (columns - 1)
    expected = 2
    for _ in range(columns - 1):
        expected = 1 + expected * expected
    assert paths(network, "layers").total == expected


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("[relu, {name: again, block: b, n: n}]", "E0408"),
        ("[{if: n > 0, then: {name: again, block: b, n: n}}]", "E0408"),
        ("[relu, {name: again, block: b, n: n + 1, when: n >= 0}]", "E0408"),
        ("[relu, {if: n < 40, then: {name: again, block: b, n: n + 1}}]", "E0408"),
        ("[relu, {if: n < 30, then: [{name: x, block: b, n: n + 1}, {name: y, block: b, n: n + 1}]}]", "E0208"),
    ],
)
def test_unbounded_recursion_is_refused(body: str, code: str, tmp_path: Path) -> None:
    """Endless, too deep or too wide recursion is refused with a code within seconds."""
    started = time.process_time()
    with pytest.raises(SpecError) as caught:
        elaborated(
            f"blocks: {{b: {{parameters: {{n: int}}, body: {body}}}}}\nnetwork: [{{name: c, block: b, n: 1}}]\n",
            tmp_path,
        )
    assert {each.code for each in caught.value.diagnostics} == {code}
    assert time.process_time() - started < 5


def test_recursion_may_end_by_when(tmp_path: Path) -> None:
    """A block whose `when` is false is empty, which ends the recursion; 31 nested blocks are allowed."""
    text = "blocks: {b: {parameters: {n: int}, when: n > 0, body: [relu, {name: next, block: b, n: n - 1}]}}\n"
    network = elaborated(text + "network: [{name: c, block: b, n: 31}]\n", tmp_path)
    assert sum(isinstance(node, Op) for _, node in walk(network.root)) == 31
