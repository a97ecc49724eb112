"""The three forms of grouped convolutions compute the same in every target, with names and weights by one rule.

Forms a and b are compared with form c, which is the spec unchanged: in float64 by the interpreter, in ONNX Runtime and
in torch within the bound of PEERS.md, in training too. Weights are random, with scales of both signs.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from differential import compare, prepared, random_weights, rms
from facts import network as zoo
from generator import generate, written
from numpy.typing import NDArray
from refusals import hold

import rescompile
from rescompile import backend, pipeline
from rescompile.analysis.cost import cost
from rescompile.analysis.tree_table import describe
from rescompile.diagnostics.errors import UsageError
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Op, Parallel, parameters, walk
from rescompile.ir.ops import Conv
from rescompile.passes import apply, options
from rescompile.passes import form as forming
from rescompile.weights import Weights, draw, from_arrays

Array = NDArray[Any]

HEAD = "rescompile: 1\nname: my_net\ninput: [3, 12, 12]\n"
#: Specs with grouped convolutions, by their special features.
SPECS = {
    "bottlenecks": """
defaults: {bottleneck: {cardinality: 4, base_width: 16}}
block: bottleneck
network:
  - {block: cifar_stem, width: 8}
  - layer1: {depth: 2, width: 16}
  - layer2: {depth: 2, width: 32, stride: 2}
  - {block: classifier, classes: 5}
survival: {schedule: linear, last: 0.5, unit: batch, rescale: test}
""",
    "squeeze and excite, biases, the last norm after the sum": """
blocks:
  excited:
    body:
      - residual:
          branch:
            - conv1: {conv: {channels: 12, kernel: 3, bias: true, padding: [0, 1]}}
            - bn1: norm
            - {leaky_relu: {slope: 0.2}}
            - conv2: {conv: {channels: 24, kernel: 3, groups: 3, bias: true, padding: [2, 1], dilation: [1, 2], stride: 1}}
            - dropout: 0.5
            - tanh
            - conv3: {conv: {channels: 8, kernel: 3, bias: true, padding: [1, 2]}}
            - bn3: norm
            - parallel:
                merge: mul
                branches:
                  - [global_avgpool, fc: {conv: {channels: 8, kernel: 1, bias: true}}, sigmoid]
                  - identity
      - norm
      - relu
network:
  - stem: {conv: {channels: 8, kernel: 3}}
  - one: excited
  - two: excited
  - global_avgpool
  - flatten
  - fc: {linear: 4}
""",
    "two towers: a numbered list, pools, grouped ones in a row": """
defaults: {conv: {bias: true}}
network:
  - features:
      - conv: {channels: 8, kernel: 3}
      - act
      - maxpool: {kernel: 3, stride: 2}
      - conv: {channels: 12, kernel: 3, groups: 2}
      - act
      - avgpool: {kernel: 2, stride: 1, padding: 1}
      - conv: {channels: 6, kernel: 3}
      - act
      - conv: {channels: 8, kernel: 1}
      - act
      - conv: {channels: 8, kernel: 3, groups: 2}
      - norm
      - conv: {channels: 6, kernel: 3, groups: 2}
      - act
      - scale: -0.5
      - conv: {channels: 5, kernel: 3}
  - flatten
  - fc: {linear: 3}
""",
    "every convolution in a block of its own": """
network:
  - conv1: {block: darknet_conv, width: 6}
  - {block: darknet_bottleneck, depth: 2, at: 4, width: 8, cardinality: 2, base_width: 64}
  - subsample: 2
  - global_avgpool
  - flatten
  - fc: {linear: 3}
""",
    "paths that reach from one block into the next, and beside the main branch": """
blocks:
  unit:
    stage: true
    parameters: {groups: 1}
    body:
      - conv1: {conv: {channels: 8, kernel: 3, groups: groups}}
      - norm
      - relu
network:
  - layer1: {block: unit, depth: 5, groups: {each: [1, 4, 1, 1, 2]}}
  - last: {conv: {channels: 4, kernel: 1}}
  - side: {output: early, mode: always, body: [c1: {conv: {channels: 4, kernel: 1}}, c2: {conv: {channels: 4, kernel: 3, groups: 4}}, act, c3: {conv: {channels: 2, kernel: 1}}]}
  - residual:
      branch: [b1: {conv: {channels: 4, kernel: 3}}, b2: {conv: {channels: 4, kernel: 3, groups: 2}}, b3: {conv: {channels: 4, kernel: 1}}]
      shortcut: [s1: {conv: {channels: 6, kernel: 1}}, s2: {conv: {channels: 4, kernel: 3, groups: 2}}, act, s3: {conv: {channels: 4, kernel: 1}}]
""",
    "depthwise separable: each 1x1 convolution ends paths and would begin the next": """
network:
  - features:
      - {block: conv_norm_act, width: 6}
      - {block: separable_conv, width: 8}
      - {block: separable_conv, depth: 2, width: 10, stride: 2}
  - {block: classifier, classes: 4}
""",
    "blocks that begin with a depthwise convolution": """
blocks:
  unit:
    parameters: {width: int}
    body:
      - residual:
          branch:
            - dwconv: {conv: {channels: in_channels, kernel: 5, groups: in_channels, bias: true}}
            - norm
            - pwconv1: {conv: {channels: 2 * width, kernel: 1, bias: true}}
            - gelu
            - pwconv2: {conv: {channels: width, kernel: 1}}
network:
  - stem: {conv: {channels: 6, kernel: 2, stride: 2, padding: 0}}
  - layer1: {block: unit, depth: 2, width: 6}
  - down: {conv: {channels: 4, kernel: 1}}
  - layer2: {block: unit, depth: 2, width: 4}
  - {block: classifier, classes: 4}
""",
    "no dense convolution before: the image, a merge, a pool after it, other groups, zeros, a group norm": """
network:
  - image: {conv: {channels: 6, kernel: 3, groups: 3, bias: true}}
  - relu
  - residual: {branch: [inner: {conv: {channels: 6, kernel: 3, groups: 2}}, norm, tanh]}
  - maxpool: {kernel: 3, stride: 2}
  - pooled: {conv: {channels: 8, kernel: 3, groups: 2, bias: true}}
  - act
  - others: {conv: {channels: 8, kernel: 1, groups: 4}}
  - dense: {conv: {channels: 6, kernel: 1, bias: true}}
  - pad_channels: 8
  - padded: {conv: {channels: 4, kernel: 3, groups: 4}}
  - gn: {norm: {kind: group, groups: 2}}
  - normed: {conv: {channels: 4, kernel: 3, groups: 2, bias: true}}
  - last: {conv: {channels: 3, kernel: 1, bias: true}}
""",
    "squeeze and excite between": """
network:
  - conv1: {conv: {channels: 8, kernel: 1, bias: true}}
  - relu
  - conv2: {conv: {channels: 8, kernel: 3, groups: 4}}
  - bn2: norm
  - parallel: {merge: mul, branches: [[global_avgpool, fc: {conv: {channels: 8, kernel: 1}}, sigmoid], identity]}
  - conv3: {conv: {channels: 4, kernel: 1}}
""",
}
FORMS = ("a", "b", "c")
CASES = [(what, form) for what in SPECS for form in ("a", "b")]


def spec(text: str, folder: Path) -> Path:
    """Write a spec, and return its path."""
    path = folder / "my_net.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    return path


def elaborated(what: str, folder: Path) -> Network:
    """Return the network of one of SPECS."""
    return rescompile.elaborate(rescompile.load(spec(SPECS[what], folder)))


def off(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """Return the largest difference of any output, relative to its root mean square."""
    assert found.keys() == wanted.keys()
    return max(float(np.abs(found[name] - wanted[name]).max()) / (rms(wanted[name]) or 1.0) for name in wanted)


def has_groups(network: Network) -> bool:
    """Return whether a convolution of a network has groups; the groups of a group norm do not count."""
    convs = [node.kind for _, node in walk(network.root) if isinstance(node, Op) and isinstance(node.kind, Conv)]
    return any(conv.groups > 1 for conv in convs)


def exact(network: Network, form: str, count: int = 2) -> float:
    """Return the error of a form in float64, and assert that cost, outputs and tensors are those of the spec."""
    x = np.random.default_rng(3).standard_normal((count, *network.input)).astype(np.float32)
    given = random_weights(network, x, 3)
    changed, weights = apply(network, from_arrays(given, network), {"form": form})
    assert weights is not None
    before, after = cost(network), cost(changed)
    assert (after.parameters, after.macs) == (before.parameters, before.macs)
    assert changed.outputs == network.outputs
    assert changed.passes == (f"form={form}",)
    shapes = {name: parameter.shape for name, parameter in parameters(changed)}
    assert {name: array.shape for name, array in weights.items()} == shapes
    values = {name: array.size for name, array in weights.items() if not name.endswith("num_batches_tracked")}
    assert sum(values.values()) == sum(a.size for n, a in given.items() if not n.endswith("num_batches_tracked"))
    if form != "c":
        assert not has_groups(changed)
    return off(interpret(changed, weights, x), interpret(network, given, x))


# --- equal ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "form"), CASES)
def test_exact(what: str, form: str, tmp_path: Path) -> None:
    """In float64 the forms differ only by rounding."""
    assert exact(elaborated(what, tmp_path), form) < 1e-9


@pytest.mark.parametrize("form", ["a", "b"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnext50_32x4d", ["input=[3, 64, 64]"]),
        ("resnext29_8x64d_cifar", ["input=[3, 16, 16]", "parameters.n=1"]),
        ("darknet_resnext50", ["input=[3, 64, 64]"]),
        ("mobilenet_v1", ["input=[3, 64, 64]"]),
    ],
)
@pytest.mark.slow
def test_exact_in_the_zoo(name: str, settings: list[str], form: str) -> None:
    """The zoo networks with grouped convolutions, depthwise ones included, are exact on small maps."""
    assert exact(zoo(name, *settings), form, 1) < 1e-9


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.slow
def test_random_bottlenecks(seed: int, tmp_path: Path) -> None:
    """Forms are exact in float64 for any kernels, strides, biases and channelwise operations between the convolutions;
    one in three is also run in ONNX Runtime, folded too."""
    path = spec(written({"network": random_rows(random.Random(seed))}), tmp_path)
    network = rescompile.elaborate(rescompile.load(path))
    assert exact(network, "a") < 1e-9
    assert exact(network, "b") < 1e-9
    if seed % 3 == 0:
        case = prepared(path, seed)
        for form in ("a", "b"):
            compare(case, form=form)
            compare(case, form=form, fold_batchnorm=True)


def random_rows(rng: random.Random) -> list[Any]:
    """Return random rows to which all forms apply."""
    between: list[Any] = [
        "norm", "act", "tanh", {"dropout": 0.25}, {"scale": -1.5}, "identity", {"norm": {"eps": 0.1}},
        {"leaky_relu": {"slope": 0.3}}, {"subsample": 1}, "gelu", {"upsample": {"factor": [1, 2], "kind": "bilinear"}},
        {"maxpool": {"kernel": 3, "stride": 1, "padding": 1}}, {"avgpool": {"kernel": 2, "stride": 1}},
    ]  # fmt: skip

    def some() -> list[Any]:
        return [rng.choice(between) for _ in range(rng.randint(0, 3))]

    def conv(channels: int, groups: int) -> dict[str, Any]:
        kernel = [rng.choice([1, 3]), rng.choice([1, 3])]
        return {"conv": {"channels": channels, "kernel": kernel, "groups": groups, "bias": rng.random() < 0.5}}

    rows: list[Any] = []
    for _ in range(rng.randint(1, 3)):
        groups = rng.randint(2, 5)
        rows += [*some(), conv(groups * rng.randint(1, 3), 1), *some()]
        for _ in range(rng.randint(1, 2)):
            rows += [conv(groups * rng.randint(1, 3), groups), *some()]
        rows.append(conv(rng.randint(2, 6), 1))
    named: list[Any] = []
    for at, row in enumerate(rows):
        named.append({f"n{at}": row})
    return named


@pytest.mark.slow
def test_random_specs(tmp_path: Path) -> None:
    """Random specs with every construct of the language have exact forms if they contain a grouped convolution, and are
    refused otherwise."""
    met: Counter[str] = Counter()
    for seed in range(120):
        path = tmp_path / f"random_{seed}.yaml"
        path.write_text(generate(seed).text, encoding="utf-8")
        network = rescompile.elaborate(rescompile.load(path))
        for form in ("a", "b"):
            if not has_groups(network):
                with pytest.raises(UsageError, match="E0804"):
                    apply(network, None, {"form": form})
                continue
            assert exact(network, form) < 1e-9, f"seed {seed}, form {form}"
            changed, _ = apply(network, None, {"form": form})
            met[form] += 1
            met.update(f"{form}: {words}" for _, words in paths_of(changed))
            if met[form] <= 3:
                compare(prepared(path, seed), form=form)
    assert met["a"] == met["b"] >= 20
    assert {"a: add", "a: add split", "a: concat", "a: concat split", "b: concat", "b: concat split"} <= set(met)


@pytest.mark.parametrize(("what", "form"), CASES)
def test_targets(what: str, form: str, tmp_path: Path) -> None:
    """ONNX Runtime and the torch module stay within the bound."""
    torch = pytest.importorskip("torch", reason="modules need torch: pip install 'rescompile[torch]'")
    case = prepared(spec(SPECS[what], tmp_path), 5)
    compare(case, form=form)
    module = rescompile.build(case.network, "torch", case.weights, form=form).module  # type: ignore[attr-defined]
    assert any("paths" in name for name in module.state_dict())
    with torch.no_grad():
        found = module(torch.from_numpy(case.x))
    found = found if isinstance(found, dict) else {"logits": found}
    assert found.keys() == case.wanted.keys()
    for name, value in found.items():
        error = rms(value.numpy() - case.wanted[name]) / case.scale(name)
        assert error <= case.allowed(name, error), name


@pytest.mark.parametrize("form", ["a", "b"])
@pytest.mark.slow
def test_resnext29_in_every_target(form: str) -> None:
    """A zoo network with one block per stage is within the bound of PEERS.md in every target; the peer is the module of form c."""
    torch = pytest.importorskip("torch", reason="modules need torch: pip install 'rescompile[torch]'")
    import peers
    from ort import ran

    network = zoo("resnext29_8x64d_cifar", "parameters.n=1")
    plain = peers.randomised(rescompile.build(network, "torch").module, (4, *network.input))  # type: ignore[attr-defined]
    x = np.random.default_rng(0).standard_normal((2, *network.input)).astype(np.float32)
    single, double = peers.outputs(plain, x)
    assert peers.telling(double) > 0.001
    allowed = peers.bound(single, double)
    weights = peers.arrays(plain)
    onnx = rescompile.build(network, "onnx", weights, form=form).to_bytes()
    assert peers.error(ran(onnx, {"input": x})["logits"], double) <= allowed
    module = rescompile.build(network, "torch", weights, form=form).module  # type: ignore[attr-defined]
    with torch.no_grad():
        assert peers.error(module(torch.from_numpy(x)).numpy(), double) <= allowed


@pytest.mark.parametrize("form", ["a", "b"])
def test_equal_in_training(form: str, tmp_path: Path) -> None:
    """In training, outputs and running statistics are equal."""
    torch = pytest.importorskip("torch", reason="modules need torch: pip install 'rescompile[torch]'")
    text = SPECS["bottlenecks"].partition("survival:")[0]  # survival would be random
    network = rescompile.elaborate(rescompile.load(spec(text, tmp_path)))
    x = np.random.default_rng(1).standard_normal((6, *network.input)).astype(np.float32)
    given = random_weights(network, x, 1)
    outputs, states = [], []
    for chosen in ("c", form):
        module = rescompile.build(network, "torch", given, form=chosen).module.double().train()  # type: ignore[attr-defined]
        with torch.no_grad():
            outputs.append(module(torch.from_numpy(x).double()).numpy())
        states.append({name: value.numpy() for name, value in module.state_dict().items()})
    assert np.abs(outputs[1] - outputs[0]).max() < 1e-9 * rms(outputs[0])
    parts = [states[1][f"layer1.0.paths.{at}.bn2.running_var"] for at in range(4)]
    moved = states[0]["layer1.0.bn2.running_var"]
    assert np.allclose(np.concatenate(parts), moved, rtol=1e-9)
    assert not np.allclose(moved, given["layer1.0.bn2.running_var"], rtol=1e-3)


# --- mutants ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["a", "b"])
def test_wrong_parts_are_detected(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving each path the part of another one changes the outputs, for every mapping of weights."""
    right = forming._Whole.part
    network = elaborated("bottlenecks", tmp_path)
    for axis in (0, 1) if form == "a" else (0,):

        def wrong(self: Any, at: int, along: int, axis: int = axis) -> Array:
            return right(self, (at + 1) % self.count if along == axis else at, along)

        monkeypatch.setattr(forming._Whole, "part", wrong)
        if form == "b" or axis == 1:  # in form a, permuting all parts of a path alike only changes the order of the sum
            assert exact(network, form) > 1e-3


def test_only_one_path_has_the_bias_of_the_sum(tmp_path: Path) -> None:
    """The bias of the last convolution is added once, in the first path."""
    network = elaborated("squeeze and excite, biases, the last norm after the sum", tmp_path)
    changed, _ = apply(network, None, {"form": "a"})
    biases = {name for name, _ in parameters(changed) if name.endswith("conv3.bias")}
    assert biases == {"one.paths.0.conv3.bias", "two.paths.0.conv3.bias"}


# --- names and weights ------------------------------------------------------------------------------------------------


def test_names(tmp_path: Path) -> None:
    """Names follow the rule of docs/forms.md, for one block and each form."""
    network = elaborated("bottlenecks", tmp_path)
    inside = {"a": ("conv1", "bn1", "conv2", "bn2", "conv3"), "b": ("conv1", "bn1", "conv2", "bn2")}
    for form, moved in inside.items():
        changed, _ = apply(network, None, {"form": form})
        before, after = ({name for name, _ in parameters(each)} for each in (network, changed))
        expected = {
            f"{block}.paths.{at}.{rest}" if rest.split(".")[0] in moved else f"{block}.{rest}"
            for name in before
            if name.startswith("layer")
            for block, rest in [(name[:8], name[9:])]
            for at in range(4)
        }
        assert {name for name in after if name.startswith("layer")} == expected
        assert {name for name in after if not name.startswith("layer")} == {n for n in before if n[:5] != "layer"}


def test_names_of_several_groups_of_paths(tmp_path: Path) -> None:
    """Further groups of paths in a scope are `paths2` and so on, in execution order: side branch, branch and shortcut
    share a scope."""
    named = {
        "paths that reach from one block into the next, and beside the main branch": (
            "layer1.paths.3.0.conv1", "layer1.paths.3.1.conv1", "layer1.paths.3.2.conv1",
            "paths.1.layer1.3.conv1", "paths.1.layer1.4.conv1", "paths.1.last",
            "paths2.3.c1", "paths3.1.b1", "paths4.1.s1",
        ),
        "two towers: a numbered list, pools, grouped ones in a row": (
            "features.paths.1.0", "features.paths.1.6", "features.paths2.1.8", "features.paths2.1.15",
        ),
    }  # fmt: skip
    for what, expected in named.items():
        changed, _ = apply(elaborated(what, tmp_path), None, {"form": "a"})
        assert {f"{name}.weight" for name in expected} <= {name for name, _ in parameters(changed)}


def test_a_taken_name(tmp_path: Path) -> None:
    """A part of the spec named `paths` keeps its name."""
    text = """
network:
  - paths: {conv: {channels: 4, kernel: 1}}
  - conv: {channels: 6, kernel: 3, groups: 2}
  - last: {conv: {channels: 4, kernel: 1}}
"""
    network = rescompile.elaborate(rescompile.load(spec(text, tmp_path)))
    changed, _ = apply(network, None, {"form": "b"})
    assert [name for name, _ in parameters(changed)] == [
        *(f"paths2.{at}.{name}.weight" for at in (0, 1) for name in ("paths", "conv")),
        "last.weight",
    ]
    assert exact(network, "b") < 1e-9


def test_parts_make_up_the_tensor(tmp_path: Path) -> None:
    """The parts of a tensor, concatenated, are the tensor."""
    network = elaborated("bottlenecks", tmp_path)
    before = draw(network, 4)
    _, after = apply(network, before, {"form": "a"})
    assert after is not None
    for name, axis in (("conv1.weight", 0), ("bn1.running_mean", 0), ("conv2.weight", 0), ("conv3.weight", 1)):
        parts = [after[f"layer2.1.paths.{at}.{name}"] for at in range(4)]
        assert np.array_equal(np.concatenate(parts, axis), before[f"layer2.1.{name}"])


def test_weights_are_computed_on_demand(tmp_path: Path) -> None:
    """The pass computes no weights; a tensor is then computed once for all its parts, in any order."""
    network = elaborated("bottlenecks", tmp_path)
    drawn, calls = draw(network), Counter[str]()

    def counted(name: str) -> Array:
        calls[name] += 1
        return drawn[name]

    counting = Weights({name: lambda name=name: counted(name) for name in drawn})  # type: ignore[misc]
    _, weights = apply(network, counting, {"form": "a"})
    assert weights is not None
    assert not calls
    names = list(weights)
    random.Random(0).shuffle(names)
    first = {name: weights[name] for name in names}
    assert all(count == 1 for name, count in calls.items() if not name.endswith("num_batches_tracked"))
    again = {name: weights[name] for name in names}
    assert all(np.array_equal(first[name], again[name]) for name in names)
    first[names[0]] += 1
    assert np.array_equal(weights[names[0]], again[names[0]])  # other arrays are not affected


def test_counters_may_be_missing(tmp_path: Path) -> None:
    """A checkpoint without `num_batches_tracked` is accepted, and no such tensor is added."""
    network = elaborated("bottlenecks", tmp_path)
    arrays = {name: array for name, array in draw(network).items() if not name.endswith("num_batches_tracked")}
    _, weights = apply(network, from_arrays(arrays, network), {"form": "b"})
    assert weights is not None
    assert not any(name.endswith("num_batches_tracked") for name in weights)
    assert "layer1.0.paths.3.bn2.weight" in weights


# --- extract, and the tree --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("folded", [False, True])
def test_extract_and_build_again(form: str, folded: bool, tmp_path: Path) -> None:
    """The recorded passes and the recorded spec give the same bytes."""
    path = spec(SPECS["bottlenecks"], tmp_path)
    data = rescompile.build(path, "onnx", form=form, fold_batchnorm=folded, seed=2).to_bytes()
    (tmp_path / "net.onnx").write_bytes(data)
    recorded = backend.extract(tmp_path / "net.onnx")
    assert recorded is not None
    assert recorded.passes == (*(["fold-batchnorm"] if folded else []), f"form={form}")
    (tmp_path / "again.yaml").write_text(recorded.text, encoding="utf-8")
    again = rescompile.build(tmp_path / "again.yaml", "onnx", seed=2, **options(recorded.passes)).to_bytes()
    assert again == data


def test_the_tree(tmp_path: Path) -> None:
    """Form a adds and form b concatenates as many paths as there were groups; form c is the tree of the spec."""
    network = elaborated("bottlenecks", tmp_path)
    for form, merge in (("a", "add"), ("b", "concat")):
        changed, _ = apply(network, None, {"form": form})
        found = [n for p, n in walk(changed.root) if isinstance(n, Parallel) and ".paths." in p]
        assert [(node.merge, len(node.branches), node.residual) for node in found] == [(merge, 4, False)] * 4
        assert sum(isinstance(node, Parallel) and node.residual for _, node in walk(changed.root)) == 4
    same, _ = apply(network, None, {"form": "c"})
    assert same.root == network.root


def test_a_form_cannot_be_rewritten_again(tmp_path: Path) -> None:
    """A network in form b has no groups left, so form a is refused."""
    split, _ = apply(elaborated("bottlenecks", tmp_path), None, {"form": "b"})
    with pytest.raises(UsageError, match="E0804"):
        apply(split, None, {"form": "a"})


# --- where paths begin and end ----------------------------------------------------------------------------------------

GROUPED = "conv2: {conv: {channels: 8, kernel: 3, groups: 4}}"
BEFORE = "conv1: {conv: {channels: 8, kernel: 1}}"
AFTER = "conv3: {conv: {channels: 8, kernel: 1}}"
#: Rows of a network, and the scopes and merges of the paths in forms a and b.
BORDERS: dict[str, tuple[list[str], str, str]] = {
    "between two": ([BEFORE, GROUPED, AFTER], "paths add", "paths concat"),
    "at the start": (["conv2: {conv: {channels: 6, kernel: 3, groups: 3}}"], "paths concat split", "paths concat split"),
    "at the start, one after it": (
        ["conv2: {conv: {channels: 6, kernel: 3, groups: 3}}", "act", AFTER], "paths add split", "paths concat split",
    ),
    "after an addition": (
        [BEFORE, "residual: {branch: act}", GROUPED], "paths concat split", "paths concat split",
    ),
    "after a pool after an addition": (
        [BEFORE, "residual: {branch: act}", "maxpool: {kernel: 2}", GROUPED, AFTER], "paths add split", "paths concat split",
    ),
    "after other groups": (
        [BEFORE, "g: {conv: {channels: 8, kernel: 1, groups: 2}}", "act", GROUPED, AFTER],
        "paths concat, paths2 add split",
        "paths concat, paths2 concat split",
    ),
    "after zeros": ([BEFORE, "pad_channels: 12", GROUPED], "paths concat split", "paths concat split"),
    "after a tap": (
        [BEFORE, "aux: {side: {body: act, output: aux, mode: always}}", GROUPED], "paths concat split", "paths concat split",
    ),
    "at the end": ([BEFORE, GROUPED, "act"], "paths concat", "paths concat"),
    "before a linear layer": ([BEFORE, GROUPED, "flatten", "fc: {linear: 2}"], "paths concat", "paths concat"),
    "a convolution between two": (
        [BEFORE, "act", "conv0: {conv: {channels: 8, kernel: 3, groups: 2}}", "act", AFTER, "act", GROUPED, "last: {conv: {channels: 8, kernel: 1}}"],
        "paths add, paths2 add split",
        "paths concat, paths2 concat",
    ),
}  # fmt: skip


def of_rows(rows: list[str], folder: Path) -> Network:
    """Return a network of these rows."""
    text = "network:\n" + "".join(f"  - {row}\n" for row in rows)
    return rescompile.elaborate(rescompile.load(spec(text, folder)))


def paths_of(network: Network) -> list[tuple[str, str]]:
    """Return the scopes of paths, and their merges as `show` describes them."""
    merges = {path.rpartition(".")[0]: node for path, node in walk(network.root) if isinstance(node, Parallel)}
    found = ((path, node) for path, node in merges.items() if path.rpartition(".")[2].startswith("paths"))
    return [(path, describe(node)) for path, node in found]


@pytest.mark.parametrize("case", BORDERS)
def test_borders(case: str, tmp_path: Path) -> None:
    """A path begins with a part of the dense convolution before it, or else with a split of the channels; form a adds
    paths up where a dense convolution follows."""
    rows, *expected = BORDERS[case]
    network = of_rows(rows, tmp_path)
    for form, merges in zip(("a", "b"), expected, strict=True):
        changed, _ = apply(network, None, {"form": form})
        assert ", ".join(" ".join(found) for found in paths_of(changed)) == merges
        assert exact(network, form) < 1e-9


def test_a_split_parallel_is_a_grouped_convolution(tmp_path: Path) -> None:
    """A concatenation of dense convolutions on equal ranges of channels equals torch's grouped convolution."""
    torch = pytest.importorskip("torch", reason="modules need torch: pip install 'rescompile[torch]'")
    branch = "[c: {conv: {channels: 3, kernel: 3, bias: true}}]"
    network = of_rows([f"n: {{parallel: {{merge: concat, split: true, copies: 3, branch: {branch}}}}}"], tmp_path)
    weights = draw(network, 1)
    x = np.random.default_rng(0).standard_normal((2, *network.input))
    kernel, bias = (np.concatenate([weights[f"n.{at}.c.{part}"] for at in range(3)]) for part in ("weight", "bias"))
    given = (torch.from_numpy(np.asarray(array, np.float64)) for array in (x, kernel, bias))
    wanted = torch.nn.functional.conv2d(*given, padding=1, groups=3).numpy()
    assert np.abs(interpret(network, weights, x)["logits"] - wanted).max() < 1e-12
    module = rescompile.build(network, "torch", weights).module.double()  # type: ignore[attr-defined]
    with torch.no_grad():
        assert np.abs(module(torch.from_numpy(x)).numpy() - wanted).max() < 1e-12


# --- refusals ---------------------------------------------------------------------------------------------------------


def refused(rows: list[str], form: str, folder: Path) -> UsageError:
    """Return the error of a form, which must be refused."""
    with pytest.raises(UsageError) as caught:
        pipeline.build(of_rows(rows, folder), "onnx", form=form)
    hold(caught.value)
    return caught.value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [[BEFORE, "norm: {kind: group, groups: 2}"], [BEFORE, GROUPED, "again: conv2", AFTER]])
def test_no_groups(form: str, rows: list[str], tmp_path: Path) -> None:
    """Only a grouped convolution that runs once has forms; the groups of a norm do not count."""
    assert str(refused(rows, form, tmp_path)) == "E0804: my_net has no grouped convolution that --form could rewrite"


@pytest.mark.parametrize("value", ["d", "A", "ab"])
def test_unknown_forms_are_refused(value: str, tmp_path: Path) -> None:
    """Other values of `--form` are refused."""
    message = str(refused([BEFORE, GROUPED, AFTER], value, tmp_path))
    assert message == f"E0802: form must be a, b or c, not '{value}'"
