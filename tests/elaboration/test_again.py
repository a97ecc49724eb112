"""`again`: its meaning, its errors, and its support in every analysis, pass and target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import rescompile
from rescompile import backend, passes
from rescompile.analysis.cost import cost
from rescompile.analysis.dynamic_shapes import sizes
from rescompile.analysis.paths import paths
from rescompile.analysis.residuals import residuals
from rescompile.analysis.tree_table import describe
from rescompile.diagnostics.errors import SpecError, UsageError
from rescompile.drawing.outline import cards, outline
from rescompile.explain.stages import kinds, structure
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Again, Network, Series, parameters, walk
from rescompile.ir.ops import Conv
from rescompile.ir.verifier import MalformedNetwork, verify
from rescompile.runtimes.verify import tap_all
from rescompile.weights import Weights, from_arrays

HEAD = "rescompile: 1\nname: shared\ninput: [4, 16, 16]\n"
#: Networks with separate steps whose names end in `b` and `c`; `shared` replaces these by `again` of the first.
TWICE = {
    "two descriptions": """
network:
  - parallel:
      merge: mul
      branches:
        - identity
        - - parallel:
              merge: add
              branches:
                - [global_avgpool, mlp: [{conv: {channels: 2, kernel: 1, bias: true}}, act, conv: {channels: 4, kernel: 1}]]
                - [global_maxpool, mlpb: [{conv: {channels: 2, kernel: 1, bias: true}}, act, conv: {channels: 4, kernel: 1}]]
          - sigmoid
""",
    "levels of a pyramid": """
network:
  - head: [{conv: {channels: 4, kernel: 3}}, norm, act]
  - conv1: {conv: {channels: 4, kernel: 3, stride: 2}}
  - headb: [{conv: {channels: 4, kernel: 3}}, norm, act]
  - upsample: 2
  - pre: {act: prelu}
  - headc: [{conv: {channels: 4, kernel: 3}}, norm, act]
  - preb: {act: prelu}
""",
    "residual blocks and copies": """
network:
  - row: {block: basic, depth: 2, width: 4}
  - rowb: {block: basic, depth: 2, width: 4}
  - two: {parallel: {merge: add, copies: 2, branch: [conv1: {conv: {channels: 4, kernel: 3}}]}}
  - twob: {parallel: {merge: add, copies: 2, branch: [conv1: {conv: {channels: 4, kernel: 3}}]}}
  - res: {residual: {branch: [conv2: {conv: {channels: 4, kernel: 3}}, norm2: norm]}}
  - resb: {residual: {branch: [conv2: {conv: {channels: 4, kernel: 3}}, norm2: norm]}}
""",
}
#: A block in which one step runs three times, through a macro that uses a kept value.
RECURRENT = """
blocks:
  unit:
    stage: true
    parameters: {width: int}
    body:
      - enter: {conv: {channels: width, kernel: 1}}
      - keep: x
      - recur: [{conv: {channels: width, kernel: 3}}, norm, act]
      - {block: step, depth: 2}
  step:
    inline: true
    values: [x]
    body: [parallel: {merge: add, branches: [identity, {use: x}]}, again: recur]
network:
  - row: {block: unit, depth: 2, width: 6}
  - other: {block: unit, depth: 1, width: 4}
"""


def elaborated(text: str, folder: Path) -> Network:
    path = folder / "shared.yaml"
    path.write_text(HEAD + text.lstrip("\n"), encoding="utf-8")
    return rescompile.elaborate(rescompile.load(path))


def shared(text: str) -> str:
    """Return the text with each step whose name ends in `b` or `c` replaced by `again`."""
    lines = []
    for line in text.splitlines():
        for name in ("mlp", "head", "pre", "row", "two", "res"):
            at = line.find(f"{name}b:") if f"{name}b:" in line else line.find(f"{name}c:")
            if at >= 0:
                line = f"{line[:at]}again: {name}{']' if name == 'mlp' else ''}"
        lines.append(line)
    return "\n".join(lines)


def weighted(network: Network, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    drawn = {
        name: np.asarray(rng.uniform(0.2, 1.5, p.shape) * rng.choice([-1, 1], p.shape), np.float32)
        for name, p in parameters(network)
    }
    return from_arrays({n: abs(v) if n.endswith("running_var") else v for n, v in drawn.items()}, network)


def image(network: Network) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, *network.input), np.float32)


def copied(one: Network, other: Network, weights: Weights) -> Weights:
    """Return the weights of a network with shared steps, repeated for the one with separate steps."""
    arrays = {}
    for name, _ in parameters(other):
        scope, dot, rest = name.partition(".")
        source = scope if name in weights else scope[:-1]
        arrays[name] = np.asarray(weights[f"{source}{dot}{rest}"])
    return from_arrays(arrays, other)


@pytest.mark.parametrize("name", TWICE)
def test_a_shared_step_equals_separate_steps_with_equal_weights(name: str, tmp_path: Path) -> None:
    """Outputs, multiply-adds, paths and valid sizes are those of separate steps, but parameters count once."""
    network, apart = elaborated(shared(TWICE[name]), tmp_path), elaborated(TWICE[name], tmp_path)
    assert any(isinstance(node, Again) for _, node in walk(network.root))
    weights, x = weighted(network), image(network)
    ours, theirs = interpret(network, weights, x), interpret(apart, copied(network, apart, weights), x)
    assert np.array_equal(ours["logits"], theirs["logits"])
    assert cost(network).macs == cost(apart).macs
    assert (
        cost(network).parameters == sum(p.size for _, p in parameters(network) if p.trainable) < cost(apart).parameters
    )
    assert paths(network, "layers") == paths(apart, "layers")
    assert sizes(network, "height,width").free == sizes(apart, "height,width").free
    assert len(list(kinds(structure(network).whole))) == len(list(kinds(structure(apart).whole)))


@pytest.mark.parametrize("text", [*map(shared, TWICE.values()), RECURRENT], ids=[*TWICE, "recurrent"])
@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_targets_agree_with_the_interpreter(target: str, text: str, tmp_path: Path) -> None:
    """Targets agree with the interpreter, with and without folded norms."""
    network = elaborated(text, tmp_path)
    weights, x = weighted(network), image(network)
    exact = interpret(network, weights, x)["logits"]
    emitted = backend.load(target)
    options = backend.checked(emitted, target, {})
    for changed in ({}, {"fold_batchnorm": True}):
        net, made = passes.apply(network, weights, changed)
        assert made is not None
        found = emitted.evaluate(net, made, x, **options)["logits"]  # type: ignore[attr-defined]
        assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()


def test_the_source_constructs_a_shared_module_once(tmp_path: Path) -> None:
    """In every style, a shared module is constructed once and called three times."""
    network = elaborated(RECURRENT, tmp_path)
    for style in ("classes", "modules", "flat"):
        source = rescompile.build(network, "source", style=style).to_bytes().decode()
        assert source.count("self.recur = ") == (3 if style == "flat" else 1)
        assert source.count("self.recur(") == 3 * source.count("self.recur = ")


def test_onnx_stores_shared_tensors_once(tmp_path: Path) -> None:
    """Three nodes with different names read one initialiser."""
    network = elaborated(shared(TWICE["levels of a pyramid"]), tmp_path)
    graph = onnx.load_from_string(rescompile.build(network, "onnx").to_bytes()).graph
    names = [each.name for each in graph.initializer]
    assert len(names) == len(set(names))
    readers = [node.name for node in graph.node if "head.0.weight" in node.input]
    assert len(set(readers)) == 3
    assert len({node.name for node in graph.node}) == len(graph.node)


def test_a_norm_is_folded_if_all_runs_agree(tmp_path: Path) -> None:
    """A norm is folded only if it follows its convolution in every run: not those of conv2, which has two, nor that of conv4, which
    also runs alone."""
    text = """
network:
  - conv1: {conv: {channels: 4, kernel: 3}}
  - norm1: norm
  - conv2: {conv: {channels: 4, kernel: 3}}
  - norm2a: norm
  - again: conv2
  - norm2b: norm
  - conv3: {conv: {channels: 4, kernel: 3}}
  - norm3: norm
  - act
  - again: conv3
  - again: norm3
  - conv4: {conv: {channels: 4, kernel: 3}}
  - norm4: norm
  - act
  - again: norm4
  - both: [{conv: {channels: 4, kernel: 3}}, norm, act]
  - again: both
"""
    network = elaborated(text, tmp_path)
    weights, x = weighted(network), image(network)
    folded, changed = passes.apply(network, weights, {"fold_batchnorm": True})
    assert changed is not None
    norms = {name.rpartition(".")[0] for name, _ in parameters(folded) if name.endswith("running_var")}
    assert norms == {"norm2a", "norm2b", "norm4"}
    exact = interpret(network, weights, x)["logits"]
    assert np.abs(interpret(folded, changed, x)["logits"] - exact).max() < 1e-5 * np.abs(exact).max()


def test_factors_and_branches_of_shared_steps_are_not_folded(tmp_path: Path) -> None:
    """Folding and fusing keep the outputs: a survival factor would scale both runs, and fusing would remove the weights of the
    other run."""
    text = """
network:
  - res: {residual: {branch: [act, norm1: norm]}}
  - parallel: {merge: add, branches: [[conv3: {conv: {channels: 4, kernel: 3}}], [conv4: {conv: {channels: 4, kernel: 1}}]]}
  - sum: {parallel: {merge: add, branches: [[conv5: {conv: {channels: 4, kernel: 3}}], [conv6: {conv: {channels: 4, kernel: 1}}]]}}
  - again: conv3
  - again: sum
  - res2: {residual: {branch: [conv1: {conv: {channels: 4, kernel: 3}}, again: conv1]}}
survival: {schedule: uniform, last: 0.5, unit: batch, rescale: test}
"""
    network = elaborated(text, tmp_path)
    weights, x = weighted(network), image(network)
    exact = interpret(network, weights, x)["logits"]
    for option in ("fold_batchnorm", "fuse_branches"):
        made, changed = passes.apply(network, weights, {option: True})
        assert changed is not None
        assert np.abs(interpret(made, changed, x)["logits"] - exact).max() < 1e-5 * np.abs(exact).max()
    names = {name.rpartition(".")[0] for name, _ in parameters(made)}
    assert {"conv3", "conv4", "sum.fused"} <= names


@pytest.mark.parametrize("dropped", ["first", "unit", "conv1"])
def test_lesions_apply_to_every_run(dropped: str, tmp_path: Path) -> None:
    """A shared residual is dropped everywhere, and the parameters of a step in a dropped branch remain for its next run."""
    text = """
network:
  - first: {residual: {branch: [conv1: {conv: {channels: 4, kernel: 3}}, act]}}
  - unit: {residual: {branch: [conv2: {conv: {channels: 4, kernel: 3}}]}}
  - again: unit
  - res: [{residual: {branch: [{conv: {channels: 4, kernel: 3}}]}}, act]
  - parallel: {merge: add, branches: [identity, {again: first}]}
"""
    if dropped == "conv1":  # the branch of an unnamed residual, whose step runs again after it
        text = "network:\n  - residual: {branch: [conv1: {conv: {channels: 4, kernel: 3}}, act]}\n  - act\n  - again: conv1\n"
    network = elaborated(text, tmp_path)
    made, _ = passes.apply(network, None, {"drop": {"conv1": "add"}.get(dropped, dropped)})
    left = {name.partition(".")[0] for name, _ in parameters(made)}
    assert left == {"first": {"unit", "res"}, "unit": {"first", "res"}, "conv1": {"conv1"}}[dropped]
    macs = 4 * 4 * 9 * 16 * 16
    assert cost(made).macs == {"first": 3, "unit": 3, "conv1": 1}[dropped] * macs
    with pytest.raises(UsageError) as caught:
        passes.apply(network, None, {"swap": "first,unit" if dropped != "conv1" else "add,conv1"})
    assert caught.value.diagnostics[0].code in ("E0807", "E0808")


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("network: [again: act, again: y]", "E0414", 4),
        ("network:\n  - a: [act, again: a]", "E0414", 5),
        ("network:\n  - a: [{side: {mode: always, output: o, body: act}}, act]\n  - again: a", "E0414", 6),
        ("network:\n  - keep: y\n  - a: [act, use: y]\n  - again: a", "E0414", 7),
        ("network:\n  - a: {linear: 3}\n  - again: a", "E0204", 5),
        ("network:\n  - a: [flatten, {linear: 64}]\n  - b: {linear: 8}\n  - again: a", "E0414", 7),
        ("network:\n  - a: {conv: {channels: 4, kernel: 9, padding: 0}}\n  - again: a", "E0202", 6),
        ("network:\n  - b: {again: a}", "E0110", 5),
        ("network:\n  - again: 3", "E0104", 5),
        ("network:\n  - a: act\n  - again: 'a{n}'", "E0302", 6),
        ("network:\n  - a: act\n  - again: a\nfeatures: [a]", "E0602", 7),
    ],
)
def test_invalid_uses_are_refused(text: str, code: str, line: int, tmp_path: Path) -> None:
    """Steps that cannot run again are refused with a code at their location."""
    with pytest.raises(SpecError) as caught:
        elaborated(text + "\n", tmp_path)
    assert (code, line) in [(each.code, each.place and each.place.line) for each in caught.value.diagnostics]


def test_the_name_is_not_reserved(tmp_path: Path) -> None:
    """A spec of the first release may call a step or a block `again`."""
    text = (
        "blocks: {again: {body: [act]}, y: {body: [tanh]}}\nnetwork: [again: {block: y}, k: again, x: {again: relu}]\n"
    )
    root = elaborated(text, tmp_path).root
    assert [node.name for node in root.children] == ["again", "k", "x"]  # type: ignore[union-attr]


SPLIT = """
network:
  - halves: {parallel: {merge: mul, split: SPLIT, branches: [identity, sigmoid]}}
  - pad_channels: 6
  - again: halves
"""


def test_sizes_of_a_split_are_fixed_if_listed(tmp_path: Path) -> None:
    """A split with listed sizes runs only on that number of channels; `split: true` divides any number."""
    network = elaborated(SPLIT.replace("SPLIT", "true"), tmp_path)
    x = image(network)
    expected = x[:, :2] / (1 + np.exp(-x[:, 2:]))
    expected = np.pad(expected, ((0, 0), (0, 4), (0, 0), (0, 0)))
    expected = expected[:, :3] / (1 + np.exp(-expected[:, 3:]))
    assert np.allclose(interpret(network, weighted(network), x)["logits"], expected)
    with pytest.raises(SpecError, match=r"splits 2 \+ 2 = 4 channels, but its input has 6"):
        elaborated(SPLIT.replace("SPLIT", "[2, 2]"), tmp_path)


def test_survival_counts_a_residual_once(tmp_path: Path) -> None:
    """All runs of a residual have the same survival probability, and count once in the schedule."""
    text = "network:\n  - a: {residual: {branch: [act]}}\n  - b: {residual: {branch: [tanh]}}\n  - again: a\n"
    network = elaborated(f"{text}survival: {{schedule: linear, last: 0.5, unit: sample, rescale: test}}\n", tmp_path)
    assert residuals(network.root) == ["a.add", "b.add"]
    x = image(network).astype(np.float64)
    once = x + 0.75 * np.maximum(x, 0)
    twice = once + 0.5 * np.tanh(once)
    assert np.allclose(interpret(network, {}, x)["logits"], twice + 0.75 * np.maximum(twice, 0))


def test_the_verifier_detects_a_changed_run(tmp_path: Path) -> None:
    """The verifier detects a removed step, one that runs again before it stands, and a run that differs from its step."""
    network = elaborated("network: [a: [norm, act], b: [act, norm], again: a]\n", tmp_path)
    a, b, again = network.root.children
    assert isinstance(b, Series)
    for broken in ((b, again), (again, a, b), (a, b, Again("a", replace(b, name="a")))):
        with pytest.raises(MalformedNetwork, match="run again"):
            verify(Network("broken", Series(broken, network.input, network.root.output)))


def test_pictures_tables_and_taps(tmp_path: Path) -> None:
    """Pictures and tables show `again` as a separate card and row, and `verify` compares only the parts that run once."""
    network = elaborated(shared(TWICE["levels of a pyramid"]), tmp_path)
    titles = [card.title for card in cards(outline(network).rows)]
    assert titles == ["head.0", "conv1", "again head", "upsample", "again head", "again pre"]
    assert describe(network.root.children[2]) == "again head"
    assert list(tap_all(network).outputs) == ["logits", "conv1", "upsample"]
    assert sum(isinstance(kind, Conv) for kind in kinds(structure(network).whole)) == 4
