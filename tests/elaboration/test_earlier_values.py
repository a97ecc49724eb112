"""`keep` and `use`: their meaning, their errors, and their support in every analysis, pass and target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import rescompile
from rescompile import backend, passes
from rescompile.analysis.cost import cost
from rescompile.analysis.dynamic_shapes import sizes
from rescompile.analysis.paths import paths
from rescompile.analysis.strides import strides
from rescompile.diagnostics.errors import SpecError, UsageError
from rescompile.drawing.outline import cards, outline
from rescompile.explain.facts import stride_place
from rescompile.explain.stages import stride, structure
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Node, Recall, Series, children, parameters, walk
from rescompile.ir.verifier import MalformedNetwork, verify
from rescompile.weights import Weights, from_arrays

HEAD = "rescompile: 1\nname: kept\ninput: [4, 16, 16]\n"
#: Networks in two spellings: with kept values, and with branches of merges instead.
TWICE = {
    "U-Net": (
        """
network:
  - conv1: {conv: {channels: 6, kernel: 3}}
  - keep: fine
  - {maxpool: {kernel: 2}}
  - conv2: {conv: {channels: 8, kernel: 3}}
  - {upsample: 2}
  - parallel: {merge: concat, branches: [{use: fine}, identity]}
  - conv3: {conv: {channels: 5, kernel: 3}}
""",
        """
network:
  - conv1: {conv: {channels: 6, kernel: 3}}
  - parallel:
      merge: concat
      branches: [identity, [{maxpool: {kernel: 2}}, conv2: {conv: {channels: 8, kernel: 3}}, {upsample: 2}]]
  - conv3: {conv: {channels: 5, kernel: 3}}
""",
    ),
    "two additions of one value": (
        """
network:
  - conv1: {conv: {channels: 6, kernel: 3}}
  - keep: y
  - conv2: {conv: {channels: 6, kernel: 3}}
  - parallel: {merge: add, branches: [identity, {use: y}]}
  - conv3: {conv: {channels: 6, kernel: 3, stride: 2}}
  - parallel: {merge: mul, branches: [identity, [{use: y}, {maxpool: {kernel: 2}}]]}
""",
        """
network:
  - conv1: {conv: {channels: 6, kernel: 3}}
  - parallel:
      merge: mul
      branches:
        - - parallel: {merge: add, branches: [conv2: {conv: {channels: 6, kernel: 3}}, identity]}
          - conv3: {conv: {channels: 6, kernel: 3, stride: 2}}
        - {maxpool: {kernel: 2}}
""",
    ),
}
#: A row whose copies pass a value on, blocks with local values, and a macro.
SHARED = """
blocks:
  unit:
    values: [s]
    parameters: {width: int}
    body:
      - keep: own
      - {name: conv, block: conv_norm_act, width: width}
      - if: index > 0
        then: {parallel: {merge: add, branches: [identity, {use: "s[index - 1]"}]}}
      - keep: "s[index]"
      - parallel: {merge: concat, branches: [identity, {use: own}]}
  twice:
    inline: true
    body: [keep: s, act, parallel: {merge: add, branches: [identity, {use: s}]}]
network:
  - row: {block: unit, depth: 3, width: 4}
  - block: twice
  - parallel: {merge: concat, branches: [{use: "s[0]"}, {use: "s[2]"}, identity]}
"""


def elaborated(text: str, folder: Path) -> Network:
    path = folder / "kept.yaml"
    path.write_text(HEAD + text.lstrip("\n"), encoding="utf-8")
    return rescompile.elaborate(rescompile.load(path))


def weighted(network: Network, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    drawn = {
        name: np.asarray(rng.uniform(0.2, 1.5, p.shape) * rng.choice([-1, 1], p.shape), np.float32)
        for name, p in parameters(network)
    }
    return from_arrays({n: abs(v) if n.endswith("running_var") else v for n, v in drawn.items()}, network)


def image(network: Network) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, *network.input), np.float32)


@pytest.mark.parametrize("name", TWICE)
def test_equal_to_the_same_network_in_branches(name: str, tmp_path: Path) -> None:
    """Outputs, costs, paths, strides and valid sizes equal those of the network with branches."""
    kept, nested = (elaborated(text, tmp_path) for text in TWICE[name])
    arrays = {key: np.asarray(value) for key, value in weighted(kept).items()}
    x, y = (interpret(each, from_arrays(arrays, each), image(each))["logits"] for each in (kept, nested))
    assert np.array_equal(x, y)
    ours, theirs = cost(kept), cost(nested)
    assert (ours.parameters, ours.macs) == (theirs.parameters, theirs.macs)
    assert paths(kept, "layers") == paths(nested, "layers")
    assert strides(kept) == strides(nested)
    assert sizes(kept, "height,width").free == sizes(nested, "height,width").free


def test_paths_through_a_kept_value(tmp_path: Path) -> None:
    """Paths through a kept value are counted: three layers with shortcuts give a binomial, and `use` at the end discards them."""
    body = "".join(
        f"  - conv{n}: {{conv: {{channels: 4, kernel: 3}}}}\n  - parallel: {{merge: add, branches: [identity, {{use: y}}]}}\n  - keep: y\n"
        for n in range(1, 4)
    )
    found = paths(elaborated(f"network:\n  - keep: y\n{body}", tmp_path), "layers")
    assert found.counts == (1, 3, 3, 1)
    late = paths(elaborated(f"network:\n  - keep: y\n  - keep: first\n{body}  - use: first\n", tmp_path), "layers")
    assert late.counts == (1,)  # no layer is on the path


def test_a_value_can_be_kept_again(tmp_path: Path) -> None:
    """A name that is kept again means the value that was kept last before its use."""
    network = elaborated("network: [keep: y, {scale: 2}, keep: y, {scale: 3}, use: y, {scale: 5}]\n", tmp_path)
    x = image(network)
    assert np.array_equal(interpret(network, {}, x)["logits"], 10 * x.astype(np.float64))


def test_values_of_a_block_are_local(tmp_path: Path) -> None:
    """A macro that keeps `s` does not change the network's `s[2]`, and a row passes `s` on from copy to copy."""
    network = elaborated(SHARED, tmp_path)
    assert network.root.output == (4 + 4 + 16, 16, 16)
    recalled = [node.key for _, node in walk(network.root) if isinstance(node, Recall)]
    assert recalled.count(("own", None)) == 3
    weights, x = weighted(network), image(network)
    exact = interpret(network, weights, x)["logits"]
    for target in ("torch", "onnx"):
        emitted = backend.load(target)
        found = emitted.evaluate(network, weights, x, **backend.checked(emitted, target, {}))["logits"]  # type: ignore[attr-defined]
        assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()


def test_onnx_has_no_node_for_a_kept_value(tmp_path: Path) -> None:
    """`keep` and `use` only name a value of the graph."""
    network = elaborated(TWICE["U-Net"][0], tmp_path)
    graph = onnx.load_from_string(rescompile.build(network, "onnx").to_bytes()).graph
    assert sorted(node.op_type for node in graph.node) == ["Concat", "Conv", "Conv", "Conv", "MaxPool", "Resize"]
    (joined,) = [node for node in graph.node if node.op_type == "Concat"]
    (first,) = [node for node in graph.node if node.name == "conv1"]
    assert joined.input[0] == first.output[0]


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("network: [use: y, act]", "E0412", 4),
        ("network:\n  - parallel: {merge: add, branches: [[keep: y, act], identity]}\n  - use: y", "E0412", 6),
        ("network:\n  - parallel: {merge: add, branches: [[keep: y, act], {use: y}]}", "E0412", 5),
        ("network:\n  - side: {mode: always, output: o, body: [act, keep: y]}\n  - use: y", "E0412", 6),
        ("network:\n  - keep: y\n  - residual: {branch: [act, keep: y]}", "E0413", 6),
        ("network:\n  - keep: 'y[0]'\n  - use: 'y[1]'", "E0412", 6),
        ("blocks: {b: {body: [use: y]}}\nnetwork:\n  - keep: y\n  - b1: {block: b}", "E0412", 7),
        ("blocks: {b: {body: [act, keep: y]}}\nnetwork:\n  - b1: {block: b}\n  - use: y", "E0412", 7),
        ("network:\n  - keep: 'y[0 - 1]'", "E0309", 5),
        ("network:\n  - keep: 'y[n]'", "E0302", 5),
        ("network:\n  - keep: 'y[0'", "E0109", 5),
        ("network:\n  - keep: 2y", "E0109", 5),
        ("network:\n  - name1: {keep: y}", "E0110", 5),
        ("network:\n  - keep: index", "E0409", 5),
    ],
)
def test_invalid_uses_are_refused(text: str, code: str, line: int, tmp_path: Path) -> None:
    """Invalid uses of `keep` and `use` are refused with a code at their location."""
    with pytest.raises(SpecError) as caught:
        elaborated(text + "\n", tmp_path)
    assert [(each.code, each.place and each.place.line) for each in caught.value.diagnostics] == [(code, line)]


def test_values_of_invalid_rows_are_not_reported_as_missing(tmp_path: Path) -> None:
    """A value that an invalid row would have kept is not reported as missing."""
    text = "network:\n  - a: [{conv: {channels: 6, kernel: 2}}, keep: y]\n  - use: y\n"
    with pytest.raises(SpecError) as caught:
        elaborated(text, tmp_path)
    assert len(caught.value.diagnostics) == 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("network: [keep: relu, use: {conv: {channels: 4, kernel: 3}}]", ["keep", "use"]),
        (
            "blocks: {keep: {body: [act]}, y: {body: [tanh]}}\nnetwork: [use: y, k: keep, keep: {block: y}]",
            ["use", "k", "keep"],
        ),
    ],
)
def test_the_names_are_not_reserved(text: str, names: list[str], tmp_path: Path) -> None:
    """A spec of the first release may call a step or a block `keep` or `use`."""
    root = elaborated(text + "\n", tmp_path).root
    assert [node.name for node in root.children if not isinstance(node, Recall)] == names  # type: ignore[union-attr]


# --- passes -----------------------------------------------------------------------------------------------------------

FOLDED = """
network:
  - conv1: {conv: {channels: 4, kernel: 3}}
  - keep: y
  - norm1: norm
  - conv2: {conv: {channels: 4, kernel: 3}}
  - norm2: norm
  - parallel: {merge: add, branches: [identity, {use: y}]}
  - use: y
  - norm3: norm
"""


def test_a_norm_is_not_folded_through_a_kept_value(tmp_path: Path) -> None:
    """conv1 is read before its norm, so only norm2 can be folded."""
    network = elaborated(FOLDED, tmp_path)
    weights, x = weighted(network), image(network)
    folded, changed = passes.apply(network, weights, {"fold_batchnorm": True})
    assert changed is not None
    assert {name.partition(".")[0] for name, _ in parameters(folded)} == {"conv1", "conv2", "norm1", "norm3"}
    exact = interpret(network, weights, x)["logits"]
    assert np.abs(interpret(folded, changed, x)["logits"] - exact).max() < 1e-5 * np.abs(exact).max()


LESIONS = """
network:
  - conv1: {conv: {channels: 4, kernel: 3}}
  - keep: y
  - res1: {residual: {branch: [conv: {name: conv, block: basic_conv, width: 4, kernel: 3}, keep: z, {use: z}], shortcut: [{use: y}]}}
  - part: [{conv: {channels: 4, kernel: 3}}, keep: w]
  - res2: {residual: {branch: [keep: own, act, {use: own}]}}
  - res3: [residual: {branch: [act]}, keep: v]
  - parallel: {merge: add, branches: [identity, {use: w}]}
"""


def test_a_branch_is_dropped_with_its_kept_values(tmp_path: Path) -> None:
    """A branch whose values are used only inside is dropped, and one whose value is used later is refused."""
    network = elaborated(
        LESIONS.replace("conv: {name: conv, ", "{").replace("kernel: 3}, keep: z", "kernel: 3, name: c}, keep: z"),
        tmp_path,
    )
    dropped, _ = passes.apply(network, None, {"drop": "res1"})
    assert not any(name.startswith("res1") for name, _ in parameters(dropped))
    with pytest.raises(UsageError) as caught:
        passes.apply(network, None, {"drop": "part"})
    assert caught.value.diagnostics[0].code == "E0807"


def test_blocks_that_share_values_are_not_swapped(tmp_path: Path) -> None:
    """Blocks are not swapped if one of them keeps a value that the network could use."""
    text = LESIONS.replace("conv: {name: conv, ", "{").replace("kernel: 3}, keep: z", "kernel: 3, name: c}, keep: z")
    network = elaborated(text, tmp_path)
    with pytest.raises(UsageError) as caught:
        passes.apply(network, None, {"swap": "res2,res3"})
    assert caught.value.diagnostics[0].code == "E0808"
    assert "'v'" in caught.value.diagnostics[0].message


def test_the_verifier_detects_a_missing_value(tmp_path: Path) -> None:
    """The verifier detects a removed Keep, and a Keep of another shape."""
    network = elaborated(TWICE["U-Net"][0], tmp_path)
    children = network.root.children
    without = Network("broken", Series((children[0], *children[2:]), network.input, network.root.output))
    with pytest.raises(MalformedNetwork, match="fine is used"):
        verify(without)
    early = Network(
        "broken",
        Series(
            (children[1].__class__(("fine", None), network.input), *children[:1], *children[2:]),
            network.input,
            network.root.output,
        ),
    )
    with pytest.raises(MalformedNetwork, match="kept"):
        verify(early)


def test_pictures_show_kept_values(tmp_path: Path) -> None:
    """`keep` and `use` have a card with the name of the value."""
    titles = [card.title for card in cards(outline(elaborated(TWICE["U-Net"][0], tmp_path)).rows)]
    assert titles == ["conv1", "keep fine", "maxpool", "conv2", "upsample", "use fine", "conv3"]


def distinct(network: Network) -> int:
    """Return the number of nodes of a tree, counting shared ones once."""
    found: dict[int, Node] = {}
    todo: list[Node] = [network.root]
    while todo:
        node = todo.pop()
        if id(node) not in found:
            found[id(node)] = node
            todo.extend(children(node))
    return len(found)


@pytest.mark.parametrize(("name", "row"), [("res2net50_26w_4s", "layer3"), ("hrnet_w18_small", "stage4")])
@pytest.mark.slow_for("hrnet_w18_small")
def test_copies_share_their_nodes(name: str, row: str) -> None:
    """Each further copy adds one node, both with local values and with those of the network."""
    ten, thousand = (
        distinct(rescompile.elaborate(rescompile.load(name, set=[f"{row}.depth={depth}"]))) for depth in (10, 1000)
    )
    assert thousand - ten == 990


def test_the_stride_of_a_unit_is_that_of_one_path() -> None:
    """The stride of a Res2Net unit is not the product of the strides of its parallel convolutions."""
    found = structure(rescompile.elaborate(rescompile.load("res2net50_26w_4s")))
    assert stride_place(found) == "the 3x3 convolution"
    assert [[stride(unit) for unit in stage.units[:2]] for stage in found.stages] == [
        [(n, n) if n > 1 else (), ()] for n in (1, 2, 2, 2)
    ]


def test_branches_that_keep_or_use_values_are_not_fused(tmp_path: Path) -> None:
    """Branches that keep or use values are not fused, since their inputs differ or their values are used elsewhere."""
    text = """
network:
  - keep: y
  - conv1: {conv: {channels: 4, kernel: 3}}
  - parallel: {merge: add, branches: [[conv2: {conv: {channels: 4, kernel: 3}}], [conv3: {conv: {channels: 4, kernel: 1}}]]}
  - parallel: {merge: add, branches: [[conv4: {conv: {channels: 4, kernel: 3}}], [{use: y}, conv5: {conv: {channels: 4, kernel: 1}}]]}
  - parallel: {merge: add, branches: [[conv6: {conv: {channels: 4, kernel: 3}}, keep: z, {scale: 2}], [conv7: {conv: {channels: 4, kernel: 1}}]]}
"""
    network = elaborated(text, tmp_path)
    weights, x = weighted(network), image(network)
    fused, changed = passes.apply(network, weights, {"fuse_branches": True})
    assert changed is not None
    names = {name.partition(".")[0] for name, _ in parameters(fused)}
    assert names == {"conv1", "fused", "conv4", "conv5", "conv6", "conv7"}
    exact = interpret(network, weights, x)["logits"]
    assert np.abs(interpret(fused, changed, x)["logits"] - exact).max() < 1e-5 * np.abs(exact).max()
