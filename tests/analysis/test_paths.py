"""The counted paths of a network equal those of enumeration, closed forms and the paper's figures."""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import subprocess
import sys
import xml.dom.minidom
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from command_line import invoke
from generator import generate

import rescompile
from rescompile.analysis.paths import UNITS, paths, surviving
from rescompile.files import checksum
from rescompile.ir.network import Network, Node, Op, Parallel, Series, Side, children, walk
from rescompile.ir.ops import Conv, ConvTranspose, Linear
from rescompile.lang import library
from rescompile.passes import apply

ROOT = Path(__file__).parents[2]
SEEDS = range(150)
#: Networks with more paths than this are not enumerated.
FEW = 3000


def network_of(name: str, *settings: str) -> Network:
    return rescompile.elaborate(rescompile.load(name, settings))


def written(tmp_path: Path, rows: Sequence[Any], **more: Any) -> Network:
    """Write a spec with these rows and return its network."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"rescompile": 1, "name": "small", "input": [4, 8, 8], "network": rows, **more}))
    return network_of(str(path))


# --- enumeration ------------------------------------------------------------------------------------------------------


def walks(node: Node) -> Iterator[tuple[str, ...]]:
    """Yield every path through a node, as the sequence of layers and branches that it passes."""
    match node:
        case Op():
            yield ("layer",) if isinstance(node.kind, Conv | Linear) else ()
        case Side():
            yield ()
        case Series():
            for ways in itertools.product(*(list(walks(child)) for child in node.children)):
                yield tuple(itertools.chain.from_iterable(ways))
        case Parallel():
            for branch, counts in choices(node):
                for way in walks(branch):
                    yield ("branch", *way) if counts else way


def choices(node: Parallel) -> list[tuple[Series, bool]]:
    """Return the branches that a path can take through a merge, and whether each adds to the length in branches."""
    if node.residual:  # branch, perhaps a gate, shortcut
        return [(node.branches[0], True), (node.branches[-1], False)]
    if node.merge == "concat":
        idle = ("identity", "dropout")
        busy = [any(isinstance(n, Op) and n.kind.word not in idle for n in inside(b)) for b in node.branches]
        return list(zip(node.branches, busy, strict=True))
    if node.merge == "add":
        return [(branch, False) for branch in node.branches]
    large = [branch for branch in node.branches if branch.output == node.output]
    values = [branch for branch in large if not ends_in_sigmoid(branch)]
    return [(branch, False) for branch in values or large]


def inside(node: Node) -> Iterator[Node]:
    """Yield a node and its descendants, without side branches."""
    yield node
    for child in children(node):
        if not isinstance(child, Side):
            yield from inside(child)


def ends_in_sigmoid(branch: Series) -> bool:
    """Return whether the last op of a branch is a sigmoid outside of any merge in it."""
    ends = [node for node in inside(branch) if isinstance(node, Op) and node.kind.word not in ("identity", "dropout")]
    merged = {id(node) for merge in inside(branch) if isinstance(merge, Parallel) for node in inside(merge)}
    return bool(ends) and id(ends[-1]) not in merged and getattr(ends[-1].kind, "kind", None) == "sigmoid"


@pytest.mark.slow
def test_random_networks_by_enumeration(tmp_path: Path) -> None:
    """The polynomials of small random networks count exactly the enumerated paths."""
    merges: Counter[str] = Counter()
    enumerated = 0
    for seed in SEEDS:
        (tmp_path / "spec.yaml").write_text(generate(seed).text, "utf-8")
        network = network_of(str(tmp_path / "spec.yaml"))
        found = {unit: paths(network, unit) for unit in UNITS}
        assert found["blocks"].total == found["layers"].total
        if found["blocks"].total > FEW:
            continue
        enumerated += 1
        ways = list(walks(network.root))
        for unit, word in (("blocks", "branch"), ("layers", "layer")):
            counted = Counter(way.count(word) for way in ways)
            assert {at: n for at, n in enumerate(found[unit].counts) if n} == counted, f"seed {seed}, {unit}"
        merges.update(
            "residual" if node.residual and node.merge == "add" else node.merge
            for _, node in walk(network.root)
            if isinstance(node, Parallel)
        )
    assert enumerated > len(SEEDS) // 2
    assert set(merges) == {"residual", "add", "concat", "mul", "gate"}, "every merge was met"


# --- known results ----------------------------------------------------------------------------------------------------


def binomial(count: int, step: int = 1, start: int = 0) -> tuple[int, ...]:
    """Return the coefficients of x^start (1 + x^step)^count."""
    found = [0] * (start + step * count + 1)
    for chosen in range(count + 1):
        found[start + step * chosen] = math.comb(count, chosen)
    return tuple(found)


def times(*polynomials: Sequence[int]) -> tuple[int, ...]:
    """Return the coefficients of a product of polynomials."""
    product = [1]
    for factor in polynomials:
        longer = [0] * (len(product) + len(factor) - 1)
        for (i, a), (j, b) in itertools.product(enumerate(product), enumerate(factor)):
            longer[i + j] += a * b
        product = longer
    return tuple(product)


def test_the_paper() -> None:
    """Veit et al. 2016, section 5: ResNet-110 has 2^54 paths, more than 95% of them through 19 to 35 modules."""
    found = paths(network_of("resnet110_cifar"))
    assert found.total == 2**54
    assert found.counts == binomial(54)
    assert found.share(19, 35) == Fraction(sum(math.comb(54, k) for k in range(19, 36)), 2**54)
    assert f"{float(found.share(19, 35)):.2%}" == "98.02%"
    assert (found.mean, found.variance) == (27, Fraction(54, 4))


@pytest.mark.parametrize(
    ("name", "blocks", "layers"),
    [
        ("resnet1202_cifar", binomial(600), binomial(600, 2, start=2)),
        # 16 bottlenecks, 4 of them with a convolution in the shortcut; stem and classifier
        ("resnet50", binomial(16), times(binomial(12, 3, start=2), *[[0, 1, 0, 1]] * 4)),
        # 6 + 12 + 24 + 16 dense layers of two convolutions; stem, three transitions, classifier
        ("densenet121", binomial(58), binomial(58, 2, start=5)),
        # nine modules of one, two, two and one convolution; three in the stem, one classifier
        ("googlenet", (*[0] * 9, 4**9), times([0, 0, 0, 0, 1], *[[0, 2, 2]] * 9)),
        # the gates of a highway network are not paths
        ("highway_mnist_fc_10", binomial(9), binomial(9, 1, start=2)),
        ("he2016_shortcut_shortcut_gate_b6", binomial(54), binomial(54, 2, start=2)),
        ("he2016_shortcut_exclusive_gate_b6", binomial(54), binomial(54, 2, start=2)),
        ("vgg16", (1,), (*[0] * 16, 1)),
        ("plain34", (1,), (*[0] * 34, 1)),
        ("resnext50_32x4d", binomial(16), times(binomial(12, 3, start=2), *[[0, 1, 0, 1]] * 4)),
    ],
)
def test_closed_forms(name: str, blocks: tuple[int, ...], layers: tuple[int, ...]) -> None:
    """The polynomials equal closed forms where these are known."""
    network = network_of(name)
    assert paths(network).counts == blocks
    assert paths(network, "layers").counts == layers


def test_ranges_of_res2net() -> None:
    """The paths of Res2Net go through one of the four ranges of each unit, or its shortcut: in a first unit each range is one path;
    in the others y_1, y_2 and y_3 have 1, 2 and 3 paths."""
    assert paths(network_of("res2net50_26w_4s")).total == (1 + 4) ** 4 * (1 + 1 + 2 + 3 + 1) ** 12


def test_a_factor_that_only_scales_is_not_a_path(tmp_path: Path) -> None:
    """A 1x1 factor (squeeze-and-excitation) and a sigmoid map (a gated shortcut) add no path; a product of two values has two."""
    squeeze = [[], ["global_avgpool", {"conv": {"channels": 4, "kernel": 1}}, "sigmoid"]]
    gate = [[], [{"conv": {"channels": 4, "kernel": 1}}, {"scale": -1}, "sigmoid"]]
    factor = [[], ["global_avgpool", {"conv": {"channels": 4, "kernel": 1}}]]  # unbounded, and yet no path
    for branches in (squeeze, gate, factor):
        network = written(tmp_path, [{"parallel": {"merge": "mul", "branches": branches}}])
        assert paths(network).counts == paths(network, "layers").counts == (1,)
    both = [{"conv": {"channels": 4, "kernel": 1}}, "relu"]
    assert paths(written(tmp_path, [{"parallel": {"merge": "mul", "branches": [both, []]}}]), "layers").counts == (1, 1)


def test_a_sum_without_shortcut_has_no_length(tmp_path: Path) -> None:
    """The 32 parallel paths of a ResNeXt block have no length in branches; the residual branch around them counts once."""
    conv = {"conv": {"channels": 4, "kernel": 3}}
    rows = [{"residual": {"branch": {"parallel": {"merge": "add", "copies": 32, "branch": conv}}}}]
    network = written(tmp_path, rows)
    assert paths(network).counts == paths(network, "layers").counts == (1, 32)


@pytest.mark.parametrize("name", library.zoo())
@pytest.mark.slow
def test_every_network_of_the_zoo(name: str) -> None:
    """Both units count equally many paths; none is longer than the number of layers, and n shortcuts give a binomial."""
    network = network_of(name)
    blocks, layers = paths(network), paths(network, "layers")
    assert blocks.total == layers.total >= 1
    ops = sum(
        isinstance(node, Op) and isinstance(node.kind, Conv | ConvTranspose | Linear) for _, node in walk(network.root)
    )
    assert 1 <= layers.longest <= ops
    residuals = sum(isinstance(node, Parallel) and node.residual for _, node in walk(network.root))
    only = all(node.residual for _, node in walk(network.root) if isinstance(node, Parallel))
    if only:
        assert blocks.counts == binomial(residuals)


def test_lesions_halve_the_paths() -> None:
    """Dropping a block halves the number of paths, and swapping two keeps it (Veit et al. 2016, figure 2)."""
    network = network_of("resnet20_cifar")
    dropped, _ = apply(network, None, {"drop": "layer1.1,layer3.0"})
    swapped, _ = apply(network, None, {"swap": "layer1.1,layer1.2"})
    assert paths(network).total == 4 * paths(dropped).total
    assert paths(dropped).counts == binomial(7)
    assert paths(swapped, "layers") == paths(network, "layers")


# --- shares -----------------------------------------------------------------------------------------------------------


def test_intervals() -> None:
    """Intervals of lengths may lie partly or entirely outside the distribution."""
    found = paths(network_of("resnet20_cifar"))  # nine blocks
    assert found.within(0, 9) == found.within(0, 10**9) == found.total == 512
    assert found.within(3, 3) == 84
    assert found.within(9, 9) == 1
    assert found.within(10, 20) == 0
    assert found.share(0, 0) == Fraction(1, 512)
    assert (found.shortest, found.longest) == (0, 9)


# --- survival ---------------------------------------------------------------------------------------------------------


def test_survival_is_the_mean_over_all_draws() -> None:
    """The expected paths are the mean over all draws of a small network, each without the blocks that it drops."""
    network = network_of("stochastic_depth_110", "parameters.n=1")
    survivals = {path: node.survival for path, node in walk(network.root) if isinstance(node, Parallel)}
    assert len(survivals) == 3
    for unit in UNITS:
        sums = Counter[int]()
        for draw in itertools.product((True, False), repeat=3):
            chance = 1.0
            for alive, survival in zip(draw, survivals.values(), strict=True):
                assert survival is not None
                chance *= survival.probability if alive else 1 - survival.probability
            gone = [path for alive, path in zip(draw, survivals, strict=True) if not alive]
            left, _ = apply(network, None, {"drop": ",".join(gone)} if gone else {})
            for length, count in enumerate(paths(left, unit).counts):
                sums[length] += chance * count  # type: ignore[assignment]
        found = surviving(network, unit)
        assert found is not None
        assert 2**found.log2_total == pytest.approx(sum(sums.values()))
        assert found.shares == pytest.approx([sums[k] / sum(sums.values()) for k in range(len(found.shares))])


def test_survival_of_the_paper() -> None:
    """With linear decay to 0.5, (3 * 54 - 1) / 4 = 40.25 of 54 blocks survive on average (Huang et al. 2016, section 3)."""
    found = surviving(network_of("stochastic_depth_110"))
    assert found is not None
    assert found.branches == pytest.approx(40.25)
    chances = [1 - block / 54 * 0.5 for block in range(1, 55)]
    assert found.log2_total == pytest.approx(sum(math.log2(1 + p) for p in chances))
    assert found.mean == pytest.approx(sum(p / (1 + p) for p in chances))
    assert surviving(network_of("resnet110_cifar")) is None


def test_survival_does_not_overflow() -> None:
    """The expected number of paths of 2001 blocks exceeds the largest float, but its logarithm does not."""
    found = surviving(network_of("stochastic_depth_1202", "parameters.n=667"))
    assert found is not None
    assert found.log2_total > 1024
    assert math.fsum(found.shares) == pytest.approx(1)


# --- the command ------------------------------------------------------------------------------------------------------


def test_text() -> None:
    """The printed text contains the number of paths, the share of an interval, and the histogram."""
    lines = invoke("paths", "resnet110_cifar", "--interval", "19:35").stdout.splitlines()
    assert lines[0] == "resnet110_cifar: 18,014,398,509,481,984 paths = 2^54"
    assert lines[2] == "98.02% have length 19 to 35"
    assert f"    27  {math.comb(54, 27):,}  10.81%" in lines


def test_json() -> None:
    """JSON contains all counts as exact decimal strings."""
    data = json.loads(invoke("paths", "stochastic_depth_1202", "--interval", "280:320", "--json").stdout)
    assert [int(count) for count in data["distribution"]] == list(binomial(600))
    assert int(data["paths"]) == 2**600
    assert data["log2_paths"] == 600
    assert int(data["interval"]["paths"]) == sum(math.comb(600, k) for k in range(280, 321))
    assert data["survival"]["residual_branches"] == pytest.approx((3 * 600 - 1) / 4)


@pytest.mark.slow
def test_json_of_very_many_paths(tmp_path: Path) -> None:
    """Counts with more digits than Python converts by default are printed too."""
    fork = {"description": "", "body": [{"parallel": {"merge": "add", "copies": 4, "branch": "relu"}}]}
    written(tmp_path, [{"forks": {"block": "fork", "depth": 7200}}], blocks={"fork": fork})
    result = invoke("paths", tmp_path / "small.yaml", "--json")
    assert json.loads(result.stdout)["log2_paths"] == 14400
    assert "2^14400" in invoke("paths", tmp_path / "small.yaml").stdout


@pytest.mark.parametrize("interval", ["19", "19:35:40", "a:b", "35:19", ":", "-1:3", "1:99999999999"])
def test_wrong_intervals(interval: str) -> None:
    result = invoke("paths", "resnet20_cifar", f"--interval={interval}")
    assert result.exit_code == 2
    assert "error[E0802]" in result.stderr


def test_passes_and_settings() -> None:
    """Settings and passes apply before the paths are counted."""
    data = json.loads(
        invoke("paths", "resnet110_cifar", "--set", "parameters.n=2", "--drop", "layer1.1", "--json").stdout
    )
    assert data["passes"] == ["drop=layer1.1"]
    assert data["paths"] == "32"


def test_speed() -> None:
    """Counting the paths of ResNet-1202 takes less than a second of CPU time, start-up included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "rescompile", "paths", "resnet1202_cifar"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["figure.svg", "figure.png"])
def test_plot(name: str, tmp_path: Path) -> None:
    """The figure is valid and deterministic, and it is overwritten without `--force` only while it names its generator."""
    image = pytest.importorskip("matplotlib.image", reason="figures need the extra 'plot'")
    path = tmp_path / name
    arguments = ("paths", "stochastic_depth_110", "--interval", "19:35", "--plot", path)
    assert invoke(*arguments).exit_code == 0
    first = path.read_bytes()
    if path.suffix == ".svg":
        text = xml.dom.minidom.parseString(first).documentElement.toxml()
        assert "length in branches" in text
        assert "expected in training" in text
    else:
        assert image.imread(path).shape[2] in (3, 4)
    assert checksum.state(path) == "ours"
    assert invoke(*arguments).exit_code == 0
    assert path.read_bytes() == first
    path.write_bytes(first.replace(b"rescompile", b"someprogram"))
    result = invoke(*arguments)
    assert result.exit_code == 5
    assert "error[E1001]" in result.stderr
    assert invoke(*arguments, "--force").exit_code == 0


@pytest.mark.parametrize("drawn", [True, False])
def test_a_notebook_shows_the_histogram_and_the_table(drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are displayed as the figure of `--plot` above the printed table, or as the table if matplotlib is missing."""
    if drawn:
        pytest.importorskip("matplotlib", reason="figures need the extra 'plot'")
    else:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    network = network_of("stochastic_depth_110")
    for value, unit, middle in ((paths(network), "branches", 27), (paths(network, "layers"), "layers", 56)):
        html = value._repr_html_()
        assert html is not None
        assert html.startswith("<svg") is drawn
        root = ElementTree.fromstring(f"<div>{html}</div>")
        texts = {"".join(each.itertext()) for each in root.iter()}
        assert "18,014,398,509,481,984 paths = 2^54" in texts
        assert f"length in {unit}" in "".join(root.itertext())
        cells = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
        assert cells[0] == ["length", "paths", "share"]
        assert [f"{middle}", "1,946,939,425,648,112", "10.81%"] in cells
    expected = surviving(network)
    assert expected is not None
    html = expected._repr_html_()
    assert html is not None
    assert "in training 40.25 residual branches" in html
    assert html.count("<tr>") > 20


def test_a_notebook_shows_no_histogram_without_paths(tmp_path: Path) -> None:
    """A network without paths is displayed as a line of text."""
    network = written(tmp_path, [{"scale": 0}])
    assert paths(network)._repr_html_() == "<p>0 paths</p>"


def test_a_plot_does_not_overwrite_a_foreign_file(tmp_path: Path) -> None:
    """An existing file of another origin is kept, and nothing is printed."""
    path = tmp_path / "mine.svg"
    path.write_text("<svg/>")
    result = invoke("paths", "resnet20_cifar", "--plot", path)
    assert result.exit_code == 5
    assert "error[E1001]" in result.stderr
    assert path.read_text() == "<svg/>"
    assert not result.stdout


def test_an_unknown_plot_format_is_refused(tmp_path: Path) -> None:
    result = invoke("paths", "resnet20_cifar", "--plot", tmp_path / "figure.pdf")
    assert result.exit_code == 2
    assert "error[E0802]" in result.stderr
    assert not list(tmp_path.iterdir())


def test_plot_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib, the error names the package to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = invoke("paths", "resnet20_cifar", "--plot", tmp_path / "figure.svg")
    assert result.exit_code == 4
    assert "error[E0902]" in result.stderr
    assert "pip install 'rescompile[plot]'" in result.stderr
    assert "Traceback" not in result.output
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        ("[parallel: {merge: add, split: true, branches: [identity, {scale: 0}]}]", (1,)),
        ("[residual: {branch: [{scale: -0.0}, c: {conv: {channels: 8, kernel: 3}}]}]", (1,)),
        ("[residual: {branch: [c: {conv: {channels: 8, kernel: 3}}], shortcut: {scale: 0}}]", (0, 1)),
        (
            "[residual: {branch: [c: {conv: {channels: 8, kernel: 3}}]}, scale: 0, d: {conv: {channels: 8, kernel: 1}}]",
            (),
        ),
    ],
)
def test_nothing_flows_through_zero(steps: str, counts: tuple[int, ...], tmp_path: Path) -> None:
    """A path that is multiplied by 0 is not counted, also where branches are dropped in training."""
    path = tmp_path / "net.yaml"
    survival = "survival: {schedule: uniform, last: 0.5, unit: batch, rescale: test}\n" if "residual" in steps else ""
    path.write_text(f"rescompile: 1\nname: net\ninput: [8, 8, 8]\n{survival}network: {steps}\n", encoding="utf-8")
    network = rescompile.elaborate(rescompile.load(path))
    assert paths(network).counts == counts
    dropped = surviving(network)
    assert (dropped is None) == (not counts or not survival)
    if dropped is not None:
        assert sum(dropped.shares) == pytest.approx(1)
