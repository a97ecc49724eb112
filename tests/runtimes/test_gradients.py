"""Gradients along single paths: their sum is torch's gradient of the module, and each equals the gradient of a
hand-written network in which all other branches are detached."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke
from differential import random_weights
from generator import generate
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="gradients need torch: pip install 'rescompile[torch]'")

import peers  # noqa: F401  # before torchvision: it declares the operators whose library may not load
from torch import nn

import rescompile
from rescompile.analysis.paths import UNITS, Paths, entered, paths
from rescompile.diagnostics.errors import UsageError
from rescompile.ir.network import LOGITS, Network, Parallel, walk
from rescompile.runtimes import path_gradients as module
from rescompile.runtimes.path_gradients import Magnitude, PathGradients, path_gradients
from rescompile.weights import Weights, draw, from_arrays
from rescompile.weights.batch_statistics import calibrated

Array = NDArray[Any]
#: Networks with more paths than this are skipped where all paths are summed, so that a test takes seconds.
FEW = 100


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch on one thread, since these networks are so small that more threads spend their time waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network_of(name: str, *settings: str) -> Network:
    return rescompile.elaborate(rescompile.load(name, settings))


def prepared(network: Network) -> tuple[Weights, Array, Array]:
    """Return random weights and a batch of two random inputs with labels."""
    generator = np.random.default_rng(1)
    x = generator.standard_normal((2, *network.input)).astype(np.float32)
    classes, *positions = network.root.output
    return from_arrays(random_weights(network, x, 1), network), x, generator.integers(0, classes, (2, *positions))


def merges(network: Network) -> dict[str, Parallel]:
    return {path: node for path, node in walk(network.root) if isinstance(node, Parallel)}


def unravelled(network: Network, weights: Weights) -> Any:
    return module.torch_module().Unravelled(network, weights, double=True)


def all_paths(network: Network, unit: Any = "blocks") -> Iterator[tuple[int, Mapping[tuple[str, int], int]]]:
    """Yield every path with its length."""
    tree = module.ranked_paths(network, unit)
    for length, count in enumerate(tree.counts):
        for rank in range(count):
            yield length, tree.unrank(length, rank)


def of_module(network: Network, weights: Weights, x: Array, labels: Array) -> tuple[Array, Array]:
    """Return the logits of the built module and torch's gradient of the loss with respect to the input."""
    module: nn.Module = rescompile.build(network, "torch", dict(weights)).module.double()  # type: ignore[attr-defined]
    given = torch.from_numpy(x).double().requires_grad_()
    outputs = module(given)
    logits = outputs[LOGITS] if isinstance(outputs, dict) else outputs
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="sum")
    if not loss.requires_grad:
        return logits.detach().numpy(), np.zeros_like(x, np.float64)
    (gradient,) = torch.autograd.grad(loss, given, allow_unused=True)
    return logits.detach().numpy(), (torch.zeros_like(given) if gradient is None else gradient).numpy()


def close(found: Array, wanted: Array, scale: float) -> None:
    """Check equality in float64, relative to the largest summand."""
    assert np.abs(found - wanted).max() <= 1e-11 * max(scale, 1e-300)


# --- linearity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet20_cifar", ("parameters.n=2",)),
        ("preact_resnet110_cifar", ("parameters.n=2",)),
        ("stochastic_depth_110", ("parameters.n=1",)),
        ("densenet_40_k12_cifar", ("parameters.n=2",)),
        ("he2016_shortcut_dropout_0_5", ("parameters.n=1",)),
        ("plain20_cifar", ("parameters.n=1",)),
    ],
)
def test_the_paths_add_up_to_the_gradient(name: str, settings: tuple[str, ...]) -> None:
    """The gradients along all paths, each measured alone, sum to the gradient of the module."""
    network = network_of(name, "input=[3, 16, 16]", *settings)
    weights, x, labels = prepared(network)
    logits, wanted = of_module(network, weights, x, labels)
    one = unravelled(network, weights)
    close(one.forward(x, labels), logits, np.abs(logits).max())
    alone = [one.backward(way) for _, way in all_paths(network)]
    assert len(alone) == paths(network).total
    scale = max(np.abs(gradient).max() for gradient in alone)
    close(np.sum(alone, 0), wanted, scale)
    close(one.backward(), wanted, scale)
    for gradient in alone:  # every summand matters, so a missing one would be noticed
        assert np.abs(gradient).max() > 1e-9 * scale


@pytest.mark.slow
def test_random_networks(tmp_path: Path) -> None:
    """The gradients along all paths of random networks sum to that of all paths at once, and to that of the module
    where no merge has a gate or another factor that only scales (these are treated as constants)."""
    met: Counter[str] = Counter()
    for seed in range(60):
        generated = generate(seed) if seed < 45 else generate(seed - 45, values=True)
        (tmp_path / "spec.yaml").write_text(generated.text, "utf-8")
        network = network_of(str(tmp_path / "spec.yaml"))
        if paths(network).total > FEW:
            continue
        weights, x, labels = prepared(network)
        logits, wanted = of_module(network, weights, x, labels)
        one = unravelled(network, weights)
        close(one.forward(x, labels), logits, np.abs(logits).max())
        alone = [one.backward(way) for _, way in all_paths(network)]
        scale = max(np.abs(gradient).max() for gradient in alone)
        close(np.sum(alone, 0), one.backward(), scale)
        if all(None not in entered(node) for node in merges(network).values()):
            close(np.sum(alone, 0), wanted, scale)
            met["all are paths"] += 1
        met.update({node.merge for node in merges(network).values()})
    assert met["all are paths"] > 15
    assert set(met) > {"add", "concat", "mul", "gate"}


SHARED = """\
rescompile: 1
name: shared
input: [2, 6, 6]
network:
  - unit: {residual: {branch: [conv: {channels: 2, kernel: 3, bias: true}, act: relu]}}
  - again: unit
  - again: unit
  - global_avgpool
  - flatten
"""


@pytest.mark.parametrize("chosen", list(itertools.product((0, 1), repeat=3)), ids=str)
def test_one_path_through_a_merge_that_runs_again(chosen: tuple[int, int, int], tmp_path: Path) -> None:
    """Each run of a merge has a branch of its own on a path, though all of its runs share their parameters."""
    (tmp_path / "spec.yaml").write_text(SHARED, "utf-8")
    network = network_of(str(tmp_path / "spec.yaml"))
    weights, x, labels = prepared(network)
    weight, bias = (torch.from_numpy(np.array(weights[f"unit.conv.{name}"])).double() for name in ("weight", "bias"))
    given = value = torch.from_numpy(x).double().requires_grad_()
    for at in chosen:
        branch = torch.relu(nn.functional.conv2d(value, weight, bias, padding=1))
        value = branch + value.detach() if at == 0 else branch.detach() + value
    nn.functional.cross_entropy(value.mean((2, 3)), torch.from_numpy(labels), reduction="sum").backward()
    one = unravelled(network, weights)
    one.forward(x, labels)
    close(one.backward({("unit.add", run + 1): at for run, at in enumerate(chosen)}), given.grad.numpy(), 1)


# --- hand-written references ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", list(itertools.product((0, 1), repeat=3)), ids=str)
def test_one_path_of_a_resnet(chosen: tuple[int, int, int]) -> None:
    """The gradient along one path of a ResNet equals that of a reference whose other branches are detached."""
    cifar = pytest.importorskip("references.cifar", reason="the reference is built from torchvision's modules")
    network = network_of("resnet20_cifar", "parameters.n=1")
    weights, x, labels = prepared(network)
    model = cifar.Net(1).double().eval()
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    for at, stage in enumerate((model.layer1, model.layer2, model.layer3)):
        (unit,) = stage
        if chosen[at] == 0:
            unit.shortcut = lambda x, whole=unit.shortcut: whole(x).detach()
        else:
            unit.branch = lambda x, whole=unit.branch: whole(x).detach()
    given = torch.from_numpy(x).double().requires_grad_()
    nn.functional.cross_entropy(model(given), torch.from_numpy(labels), reduction="sum").backward()
    one = unravelled(network, weights)
    one.forward(x, labels)
    found = one.backward({(f"layer{at + 1}.0.add", 1): branch for at, branch in enumerate(chosen)})
    wanted = given.grad.numpy()
    close(found, wanted, np.abs(wanted).max())


def test_the_gate_of_a_highway_is_a_constant() -> None:
    """In a highway layer y = g f(x) + (1 - g) x the gate is constant: the paths carry g f' and 1 - g, never g'."""
    network = network_of("highway_mnist_fc_10", "parameters.layers=4")
    weights, x, labels = prepared(network)
    t = {name: torch.from_numpy(np.array(value)).double() for name, value in weights.items()}
    given = torch.from_numpy(x).double().requires_grad_()
    one = unravelled(network, weights)
    logits = one.forward(x, labels)
    value = torch.relu(given.flatten(1) @ t["inp.weight"].T + t["inp.bias"])
    for at in range(3):
        branch = torch.relu(value @ t[f"body.{at}.linear.weight"].T + t[f"body.{at}.linear.bias"])
        gate = torch.sigmoid(value @ t[f"body.{at}.gate.weight"].T + t[f"body.{at}.gate.bias"]).detach()
        value = gate * branch + (1 - gate) * value
    wanted_logits = value @ t["out.weight"].T + t["out.bias"]
    close(logits, wanted_logits.detach().numpy(), 1)
    nn.functional.cross_entropy(wanted_logits, torch.from_numpy(labels), reduction="sum").backward()
    alone = [one.backward(way) for _, way in all_paths(network)]
    assert len(alone) == 8
    close(np.sum(alone, 0), given.grad.numpy(), max(np.abs(gradient).max() for gradient in alone))


# --- paths by number --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ranked_paths_are_distinct(tmp_path: Path) -> None:
    """Each length has as many ranked paths as `paths` counts, each of that length, and no two are equal."""
    several = 0
    for seed in range(80):
        generated = generate(seed) if seed < 60 else generate(seed - 60, values=True)
        (tmp_path / "spec.yaml").write_text(generated.text, "utf-8")
        network = network_of(str(tmp_path / "spec.yaml"))
        if paths(network).total > FEW:
            continue
        nodes = merges(network)
        for unit in UNITS:
            found = list(all_paths(network, unit))
            assert tuple(
                Counter(length for length, _ in found)[k] for k in range(len(paths(network, unit).counts))
            ) == (paths(network, unit).counts)
            assert len({frozenset(way.items()) for _, way in found}) == len(found)
            if unit == "blocks":
                for length, way in found:
                    assert sum(entered(nodes[merge])[at] or 0 for (merge, _), at in way.items()) == length
        several += paths(network).total > 1
    assert several > 20


def test_sampled_paths_are_uniform() -> None:
    """Of 2^54 paths, a random sample of one length enters every block equally often, within 5 standard deviations."""
    tree = module.ranked_paths(network_of("resnet110_cifar"), "blocks")
    ranks = module._ranks(Paths(tree.counts), 2000, 3)[18]
    through = Counter(run for rank in ranks for run, at in tree.unrank(18, rank).items() if at == 0)
    assert len(through) == 54
    assert sum(through.values()) == 18 * 2000
    deviation = math.sqrt(2000 * (18 / 54) * (36 / 54))
    assert all(abs(count - 2000 / 3) < 5 * deviation for count in through.values())


def test_few_paths_are_all_measured() -> None:
    """If a length has at most as many paths as samples, all of them are measured in turn."""
    found = Paths((1, 3, 3, 1))
    assert module._ranks(found, 4, 0) == {0: [0] * 4, 1: [0, 1, 2, 0], 2: [0, 1, 2, 0], 3: [0] * 4}


# --- shares -----------------------------------------------------------------------------------------------------------


def measured(counts: tuple[int, ...], means: tuple[float | None, ...]) -> PathGradients:
    return PathGradients(Paths(counts), 2, tuple(None if mean is None else Magnitude(mean, 0.0) for mean in means))


def test_a_notebook_shows_the_gradient_by_length() -> None:
    """A measurement is displayed as a histogram of the gradient above its table."""
    pytest.importorskip("matplotlib", reason="figures need the extra 'plot'")
    html = measured((1, 2, 1), (1.0, 0.5, None))._repr_html_()
    assert html.startswith("<svg")
    assert "share of the gradient" in html
    assert [html.count(f">{cell}<") for cell in ("5.000e-01", "50.00%", "4 paths = 2^2")] == [1, 3, 1]


def test_shares_and_the_effective_lengths() -> None:
    """A share is the number of paths times their magnitude; the effective lengths are the shortest 95% interval."""
    decay = measured(tuple(math.comb(54, k) for k in range(55)), tuple(0.2**k for k in range(55)))
    total = Fraction(6, 5) ** 54
    for length, share in enumerate(decay.shares):
        assert share == pytest.approx(float(math.comb(54, length) * Fraction(1, 5) ** length / total))
    assert decay.effective is not None
    first, last = decay.effective
    assert decay.share(first, last) >= 0.95
    for low in range(55):
        for high in range(low, 55):
            if decay.share(low, high) >= 0.95:
                assert (high - low, -decay.share(low, high)) >= (last - first, -decay.share(first, last))
    assert measured((1, 0, 2), (0.0, None, 4.0)).effective == (2, 2)
    assert measured((1, 2), (0.0, 0.0)).effective is None
    assert measured((1, 2), (0.0, 0.0)).shares == (0.0, 0.0)


def test_more_paths_than_the_range_of_floats() -> None:
    """Shares are computed in logarithms, so path counts may exceed the range of floats."""
    counts = tuple(math.comb(3000, k) for k in range(3001))
    assert math.fsum(measured(counts, tuple(2.0 ** (-k / 4) for k in range(3001))).shares) == pytest.approx(1)


def test_measured_magnitudes_are_means_over_paths(tmp_path: Path) -> None:
    """The measured magnitudes are means over all paths of a length, within the rounding of float32."""
    network = network_of("resnet20_cifar", "parameters.n=1", "input=[3, 8, 8]")
    weights, _, _ = prepared(network)
    generator = np.random.default_rng(5)
    data, labels = generator.standard_normal((5, 3, 8, 8)), generator.integers(0, 10, 5)
    gradients = path_gradients(network, weights, data, labels, samples=3)
    one = unravelled(network, weights)
    one.forward(data, labels)
    norms: dict[int, list[float]] = {}
    for length, way in all_paths(network):
        norms.setdefault(length, []).append(np.sqrt((one.backward(way) ** 2).sum((1, 2, 3))).mean())
    for length, values in norms.items():
        along = gradients.magnitudes[length]
        assert along is not None
        assert along.mean == pytest.approx(np.mean(values), rel=1e-4)
        spread = np.std(values, ddof=1) / math.sqrt(3) if len(values) > 1 else 0
        assert along.error == pytest.approx(spread, rel=1e-3, abs=1e-5 * along.mean)


def test_seeds() -> None:
    """The same seed gives the same gradients, and another seed gives others."""
    network = network_of("resnet20_cifar", "input=[3, 8, 8]")
    weights = calibrated(network, draw(network))
    first, again, other = (path_gradients(network, weights, samples=2, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_network_that_overflows() -> None:
    """Weights or data for which the network overflows are refused with a message."""
    network = network_of("resnet20_cifar", "parameters.n=1")
    weights, x, labels = prepared(network)
    with pytest.raises(UsageError, match="overflows"):
        path_gradients(network, weights, np.full_like(x, 1e37), labels, samples=1)


# --- the command ------------------------------------------------------------------------------------------------------

SMALL = ("paths", "resnet20_cifar", "--set", "parameters.n=1", "--set", "input=[3, 8, 8]")


def test_text_and_json(tmp_path: Path) -> None:
    """Text and JSON contain the same figures; a lesion keeps the weights of the remaining blocks."""
    data = json.loads(invoke(*SMALL, "--gradients", "--samples", "3", "--interval", "1:2", "--json").stdout)
    found = data["gradients"]
    assert (found["samples"], found["seed"], found["weights"], found["data"]) == (3, 0, None, None)
    assert math.fsum(found["distribution"]) == pytest.approx(1)
    assert found["share_of_interval"] == pytest.approx(math.fsum(found["distribution"][1:3]))
    products = [int(n) * m for n, m in zip(data["distribution"], found["magnitude"], strict=True)]
    assert found["distribution"] == pytest.approx([product / math.fsum(products) for product in products])
    lines = invoke(*SMALL, "--gradients", "--samples", "3").stdout.splitlines()
    assert "not a trained network; noise and random labels" in lines[2]
    assert f"{found['magnitude'][2]:.3e}" in next(line for line in lines if line.startswith("     2"))
    assert " along 1 path of each length: " in invoke(*SMALL, "--gradients", "--samples", "1").stdout
    lesion = json.loads(invoke(*SMALL, "--gradients", "--samples", "3", "--drop", "layer2.0", "--json").stdout)
    assert len(lesion["gradients"]["magnitude"]) == 3
    assert json.loads(invoke(*SMALL, "--json").stdout)["gradients"] is None


def test_given_weights_and_data(tmp_path: Path) -> None:
    """`--weights`, `--data` and `--labels` give the distribution that `path_gradients` computes for them."""
    network = network_of("resnet20_cifar", "parameters.n=1", "input=[3, 8, 8]")
    from safetensors.numpy import save_file

    weights, _, _ = prepared(network)
    save_file({name: np.asarray(value) for name, value in weights.items()}, tmp_path / "w.safetensors")
    data, labels = np.random.default_rng(0).standard_normal((6, 3, 8, 8)), np.arange(6)
    np.save(tmp_path / "x.npy", data)
    np.save(tmp_path / "y.npy", labels)
    files = ("--weights", tmp_path / "w.safetensors", "--data", tmp_path / "x.npy", "--labels", tmp_path / "y.npy")
    found = json.loads(invoke(*SMALL, "--gradients", *files, "--samples", "2", "--seed", "4", "--json").stdout)
    wanted = path_gradients(network, weights, data, labels, samples=2, seed=4)
    assert found["gradients"]["distribution"] == list(wanted.shares)


def test_plot(tmp_path: Path) -> None:
    """`--plot` writes a figure of the shares of the gradient and of all paths."""
    pytest.importorskip("matplotlib", reason="figures need the extra 'plot'")
    assert invoke(*SMALL, "--gradients", "--samples", "1", "--plot", tmp_path / "g.svg").exit_code == 0
    text = (tmp_path / "g.svg").read_text()
    assert "share of the gradient" in text
    assert "all paths" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--samples", "3"), "E0802", "--samples needs --gradients"),
        (("--seed", "0"), "E0802", "--seed needs --gradients"),
        (("--weights", "w.pth"), "E0802", "--weights needs --gradients"),
        (("--gradients", "--data", "missing.npy"), "E0801", "missing.npy does not exist"),
        (("--gradients", "--data", "text.npy"), "E0801", "text.npy: it is not in .npy format"),
        (("--gradients", "--data", "none.npy"), "E0801", "none.npy: it is an empty file"),
        (("--gradients", "--data", "short.npy"), "E0801", "short.npy: the .npy file is broken"),
        (("--gradients", "--data", "head.npy"), "E0801", "head.npy: the .npy file is broken"),
        (("--gradients", "--data", "."), "E0801", ". is a folder"),
        (("--gradients", "--data", "objects.npy"), "E0801", "contains objects, not numbers"),
        (("--gradients", "--data", "nan.npy"), "E0802", "--data contains a value that is not finite"),
        (("--gradients", "--data", "several.npz"), "E0801", "an archive of arrays"),
        (("--gradients", "--data", "small.npy"), "E0802", "shape [examples, 3, 8, 8]"),
        (("--gradients", "--data", "empty.npy"), "E0802", "shape [examples, 3, 8, 8]"),
        (("--gradients", "--data", "x.npy", "--labels", "small.npy"), "E0802", "from 0 to 9 of shape [2]"),
        (("--gradients", "--data", "x.npy", "--labels", "high.npy"), "E0802", "not from 0 to 10"),
        (("--gradients", "--labels", "high.npy"), "E0802", "--labels needs --data"),
    ],
    ids=str,
)
def test_refusals(
    arguments: tuple[str, ...], code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unusable data, labels and combinations of options are refused with the reason before anything is measured."""
    monkeypatch.chdir(tmp_path)
    Path("text.npy").write_text("no array")
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    np.savez("several.npz", np.zeros(1))
    np.save("small.npy", np.zeros((2, 3, 4, 4)))
    np.save("empty.npy", np.zeros((0, 3, 8, 8)))
    np.save("x.npy", np.zeros((2, 3, 8, 8)))
    Path("none.npy").write_bytes(b"")
    Path("short.npy").write_bytes(Path("x.npy").read_bytes()[:-1])
    Path("head.npy").write_bytes(Path("x.npy").read_bytes().replace(b"}", b"(", 1))
    np.save("nan.npy", np.where(np.arange(64).reshape(8, 8) == 9, np.nan, np.zeros((2, 3, 8, 8))))
    np.save("high.npy", np.array([0, 10]))
    result = invoke(*SMALL, *arguments)
    assert result.exit_code == 2
    assert f"error[{code}]" in result.stderr
    assert message in result.stderr
    assert "pickle" not in result.stderr  # numpy's advice to allow pickle could run arbitrary code


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch, `--gradients` exits with 4 and names the package to install; counting paths works without it."""
    monkeypatch.delitem(sys.modules, "rescompile.runtimes.torch_paths", raising=False)
    monkeypatch.setitem(sys.modules, "torch.func", None)
    result = invoke(*SMALL, "--gradients")
    assert result.exit_code == 4
    assert "error[E0902]" in result.stderr
    assert "pip install 'rescompile[torch]'" in result.stderr
    assert invoke(*SMALL).exit_code == 0
