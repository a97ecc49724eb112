"""Joining groups of a convolution into wider ones keeps its sums: compared with the spec unchanged by the interpreter
in float64, in ONNX Runtime by the bound of PEERS.md, and kernel by kernel with torch's convolution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from differential import compare, prepared
from facts import network as zoo
from numpy.typing import NDArray
from typer.testing import CliRunner

import rescompile
from rescompile.analysis.cost import cost
from rescompile.analysis.tree_table import data
from rescompile.cli import app
from rescompile.diagnostics.errors import UsageError
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Op, walk
from rescompile.ir.ops import Conv
from rescompile.passes import apply, options
from rescompile.passes import join_groups as joining
from rescompile.runtimes import recipes
from rescompile.runtimes.verify import Request, verify
from rescompile.weights import Weights, from_arrays

Array = NDArray[Any]

#: Grouped convolutions of every kind: with a bias, with unequal channels in and out, strided, on a side branch, beside
#: a merge, depthwise, with a channel multiplier, and one of two groups that is too narrow even when joined.
SPEC = """
rescompile: 1
name: grouped
input: [3, 12, 10]
network:
  - stem: {conv: {channels: 24, kernel: 3}}
  - bn1: norm
  - act1: relu
  - wide: {conv: {channels: 48, kernel: 3, groups: 12, bias: true, padding: [2, 1], dilation: [2, 1], stride: [1, 2]}}
  - bn2: norm
  - act2: relu
  - side: {output: early, mode: always, body: [c: {conv: {channels: 16, kernel: 1, groups: 8}}]}
  - alone: {conv: {channels: 48, kernel: 3, groups: 48}}
  - more: {conv: {channels: 96, kernel: 1, groups: 48}}
  - residual:
      branch: [b: {conv: {channels: 96, kernel: 3, groups: 24}}, bn3: norm]
      shortcut: identity
  - down: {conv: {channels: 6, kernel: 1}}
  - narrow: {conv: {channels: 6, kernel: 3, groups: 2}}
  - global_avgpool
  - flatten
  - fc: {linear: 4}
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the spec, and return its path."""
    found = tmp_path_factory.mktemp("grouped") / "grouped.yaml"
    found.write_text(SPEC)
    return found


def groups(network: Network) -> dict[str, int]:
    """Return the groups of every grouped convolution."""
    kinds = {path: node.kind for path, node in walk(network.root) if isinstance(node, Op)}
    return {path: kind.groups for path, kind in kinds.items() if isinstance(kind, Conv) and kind.groups > 1}


@pytest.mark.parametrize("least", [1, 4, 8, 9, 16, 48])
def test_the_same_function(path: Path, least: int) -> None:
    """Outputs are equal in float64, with norms folded or not, and ONNX Runtime stays within the bound."""
    case = prepared(path, 0)
    given = from_arrays(case.weights, case.network)
    for folded in (False, True):
        base, before = apply(case.network, given, {"fold_batchnorm": folded})
        network, after = apply(case.network, given, {"fold_batchnorm": folded, "join_groups": least})
        assert before is not None
        assert after is not None
        assert before.keys() == after.keys()
        wanted, found = interpret(base, before, case.x), interpret(network, after, case.x)
        assert found.keys() == wanted.keys() == {"logits", "early"}
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12 * np.abs(value).max())
    compare(case, fold_batchnorm=True, join_groups=least)


@pytest.mark.parametrize(("count", "entering", "leaving", "together"), [(8, 2, 3, 2), (6, 3, 1, 3), (6, 2, 2, 6)])
def test_kernels(count: int, entering: int, leaving: int, together: int) -> None:
    """torch's convolutions with the original and the joined kernel agree, and the joined kernel adds only zeros."""
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((count * leaving, entering, 3, 2))
    joined = joining._joined(lambda: kernel, count, together)
    x = torch.from_numpy(generator.standard_normal((2, count * entering, 5, 6)))
    before = torch.nn.functional.conv2d(x, torch.from_numpy(kernel), groups=count)
    after = torch.nn.functional.conv2d(x, torch.from_numpy(joined), groups=count // together)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    assert (joined.dtype, joined.shape) == (kernel.dtype, (count * leaving, together * entering, 3, 2))
    assert np.array_equal(np.sort(joined[joined != 0]), np.sort(kernel, axis=None))


def test_the_number_of_joined_groups(path: Path) -> None:
    """Groups are joined to the fewest that have this many channels on both sides; depthwise ones and those too narrow stay."""
    network = rescompile.elaborate(rescompile.load(str(path)))
    before = {"wide": 12, "c": 8, "alone": 48, "more": 48, "b": 24, "narrow": 2}
    for least, changed in {
        1: {},
        8: {"wide": 3, "c": 2, "b": 12},
        9: {"wide": 2, "c": 1, "b": 8},
        64: {"b": 1},
    }.items():
        found = groups(apply(network, None, {"join_groups": least})[0])
        assert found == {name: number for name, number in {**before, **changed}.items() if number > 1}


def test_resnext() -> None:
    """ResNeXt-50 has groups of 4, 8, 16 and 32 channels; joining keeps its parameter count and adds multiply-adds."""
    network = zoo("resnext50_32x4d")
    joined, _ = apply(network, None, {"join_groups": 32})
    assert [sorted(groups(joined).values()).count(n) for n in (4, 8, 16, 32)] == [3, 4, 6, 3]
    assert cost(joined).parameters == cost(network).parameters == 25_028_904
    # 9 positions for each added input channel and each of 128, 256 and 512 output channels; groups grow from 4, 8 and
    # 16 to 32 channels.
    stages = [((32 - 4), 128, [56] * 3), ((32 - 8), 256, [28] * 4), ((32 - 16), 512, [14] * 6)]
    more = sum(9 * width * out * side * side for width, out, sides in stages for side in sides)
    assert cost(joined).macs - cost(network).macs == more
    shown = data(joined, 1)
    assert sum(row["parameters"] for row in shown["stages"]) == shown["parameters"]  # zeros do not count, in any row
    assert joined.passes == ("join-groups=32",)
    assert options(joined.passes) == {"join_groups": 32}


@pytest.mark.slow
def test_joined_groups_are_verified(path: Path) -> None:
    """Joined networks agree with the network without the pass, in every target."""
    network = rescompile.elaborate(rescompile.load(str(path)))
    assert all(
        verdict.passed for verdict in verify(Request(network, ["onnx", "torch", "source"], passes={"join_groups": 8}))
    )


def test_a_mutant_is_detected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel whose blocks are off the diagonal is detected."""
    right = joining._joined
    monkeypatch.setattr(joining, "_joined", lambda *given: np.roll(right(*given), 1, axis=1))
    network = rescompile.elaborate(rescompile.load(str(path)))
    assert not any(verdict.passed for verdict in verify(Request(network, ["onnx"], passes={"join_groups": 8})))


def test_with_forms() -> None:
    """Groups of form c are joined; the paths of form b have no groups."""
    network = zoo("resnext50_32x4d")
    assert groups(apply(network, None, {"form": "c", "join_groups": 32})[0]) == groups(
        apply(network, None, {"join_groups": 32})[0]
    )
    split, joined = (apply(network, None, {"form": "b", "join_groups": least})[0] for least in (0, 32))
    assert joined.root == split.root


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["onnx", "--join-groups", "-1"], "join-groups must be an integer from 0 to 16777216, not -1"),
        (
            ["onnx", "--join-groups", "32", "--no-weights"],
            "pads the weights with zeros, so it cannot be used with --no-weights",
        ),
        (
            ["onnx", "--for", "ort-cpu", "--precision", "int8", "--no-weights"],
            "--precision int8 cannot be used with --no-weights",
        ),
        (["source", "--join-groups", "32"], "the source initialises its own weights"),
        (["torch", "--join-groups", "32"], "which training would overwrite"),
    ],
)
def test_refusals(words: list[str], message: str, path: Path, tmp_path: Path) -> None:
    """Joining is refused where zeros could not be distinguished from weights."""
    done = CliRunner().invoke(app, ["build", str(path), "-o", str(tmp_path / "x"), "--target", *words])
    assert (done.exit_code, message in done.stderr) == (2, True)
    assert not (tmp_path / "x").exists()


def test_explain_refuses_join_groups(path: Path) -> None:
    """`explain` refuses the pass, which only adds zeros to weights."""
    done = CliRunner().invoke(app, ["explain", str(path), "--join-groups", "32"])
    assert done.exit_code == 2
    assert "which only adds zeros to weights" in done.stderr


@pytest.mark.parametrize("value", [True, "3.2", 32.0])
def test_values_of_another_type(value: Any, path: Path) -> None:
    """Values other than integers are refused, booleans included."""
    with pytest.raises(UsageError, match="join-groups must be an integer"):
        apply(rescompile.elaborate(rescompile.load(str(path))), None, {"join_groups": value})


def test_the_recipe_for_int8_on_cpus(path: Path, tmp_path: Path) -> None:
    """The pass is in the recipe for int8 in ONNX Runtime only, can be turned off, and is recorded."""
    assert recipes.options("ort-cpu", "int8") == {"fold_batchnorm": True, "join_groups": 32}
    assert recipes.options("ort-cpu", "fp32") == recipes.options("openvino", "int8") == {"fold_batchnorm": True}
    runner, common = CliRunner(), ["--target", "onnx", "--for", "ort-cpu", "--precision", "int8", "--calibrate", "2"]

    def found(name: str, *words: str) -> tuple[list[int], str]:
        done = runner.invoke(app, ["build", str(path), *common, *words, "-o", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        model = onnx.load(tmp_path / name)
        listed = [a.i for n in model.graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "group"]
        return sorted(n for n in listed if n > 1), done.stderr

    joined, stderr = found("joined.onnx")
    plain, _ = found("plain.onnx", "--join-groups", "0")
    assert (joined, plain) == ([2, 3, 8, 12, 48, 48], [2, 8, 12, 24, 48, 48])
    assert "for ort-cpu: --fold-batchnorm --join-groups=32 --precision int8" in stderr
    record = json.loads(runner.invoke(app, ["extract", str(tmp_path / "joined.onnx"), "--json"]).stdout)
    assert record["passes"] == ["fold-batchnorm", "join-groups=32"]


def test_weights_are_computed_on_demand(path: Path) -> None:
    """Weights are read only when they are needed, and keep their type."""
    network = rescompile.elaborate(rescompile.load(str(path)))
    read: list[str] = []

    def make(name: str) -> Array:
        read.append(name)
        return np.ones((48, 2, 3, 3), np.float32)

    _, after = apply(network, Weights({"wide.weight": lambda: make("wide.weight")}), {"join_groups": 8})
    assert not read
    assert after is not None
    assert after["wide.weight"].dtype == np.float32
    assert after["wide.weight"].shape == (48, 8, 3, 3)
    assert float(after["wide.weight"].sum()) == 48 * 2 * 9
