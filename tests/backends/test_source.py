"""The text that `--target source` writes: what tools say of it, what it computes, and what no spec can put into it.

The oracle of its numbers is the interpreter of the tree, both in float64, so that they agree to rounding. The random specs
are those of `test_differential`. More of them, and larger networks of the zoo:

    RESCOMPILE_RANDOM=1000 RESCOMPILE_PARAMETERS=30e6 RESCOMPILE_MACS=20e9 pytest tests/backends/test_source.py
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import facts
import pytest
from generator import generate, written
from hostile import harmless, hostile
from numpy.typing import NDArray
from test_differential import SAMPLE, Wrong, seeds

torch = pytest.importorskip("torch", reason="the text is executed with torch: pip install 'rescompile[torch]'")

from source_mutants import MUTANTS
from sources import (
    compare,
    drawn,
    empty,
    executed,
    factory,
    filled,
    named,
    out_of_place,
    shapes,
    skeleton,
    source,
    tensors_of,
)
from torch import nn
from variants import STALE, shallow, without_hints

import rescompile
from rescompile import backend
from rescompile.diagnostics.errors import SpecError, UsageError
from rescompile.ir.network import Network, Op, Parallel, Series
from rescompile.ir.verifier import verify
from rescompile.passes import apply
from rescompile.weights import draw, from_arrays

Array = NDArray[Any]
checking: Any = import_module("rescompile.codegen.allow_list")
OF_TORCH: Any = import_module("rescompile.backends.torch.allowed").ALLOWED

#: Networks with more tensors are left out where every block has a text of its own.
FLAT = 130
HOSTILE = 1_000
#: Networks of the zoo with more parameters or multiply-adds are left to a longer run where numbers are compared.
PARAMETERS = float(os.environ.get("RESCOMPILE_PARAMETERS", "3e6"))
MACS = float(os.environ.get("RESCOMPILE_MACS", "0.3e9"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: so numbers can be compared bit for bit, and small networks are no faster with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def elaborated(text: str, folder: Path, name: str = "spec") -> Network:
    """The network of a spec's text."""
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return rescompile.elaborate(rescompile.load(path))


@cache
def text_of(name: str) -> str:
    """The source of a network of the zoo."""
    return source(facts.network(name))


def has_flat(name: str) -> bool:
    """Whether a network of the zoo is small enough for a text with a class for each block."""
    return facts.size(name)[2] <= FLAT


# --- what tools say ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the whole zoo in both styles, and of the random specs, as they are and folded."""
    folder: Path = tmp_path_factory.mktemp("files")
    specs: Path = tmp_path_factory.mktemp("specs")
    for name in facts.zoo():
        (folder / f"{name}.py").write_text(text_of(name), encoding="utf-8")
        if has_flat(name):
            (folder / f"{name}_flat.py").write_text(source(facts.network(name), flat=True), encoding="utf-8")
    for seed in seeds():
        network = elaborated(generate(seed).text, specs)
        folded, _ = apply(network, None, {"fold_batchnorm": True})
        for style, text in (("", source(network)), ("_flat", source(network, flat=True)), ("_folded", source(folded))):
            (folder / f"random_{seed}{style}.py").write_text(text, encoding="utf-8")
    return folder


_SECOND = """
import hashlib, json, sys
from rescompile import backend, elaborate, load
write = backend.load("source").source
print(json.dumps({name: hashlib.sha256(write(elaborate(load(name))).encode()).hexdigest() for name in sys.argv[1:]}))
"""


@pytest.fixture(scope="module")
def started(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.Popen[str]]:
    """What runs beside the tests, started together, since some of it takes its time: the tools, and a second process that
    writes the zoo with another order of sets."""
    cache = str(tmp_path_factory.mktemp("mypy"))
    commands = {
        "mypy": ["-m", "mypy", "--strict", "--config-file=", "--cache-dir", cache, "."],
        "again": ["-c", _SECOND, *facts.zoo()],
        "format": ["-m", "ruff", "format", "--isolated", "--no-cache", "--diff", "."],
        "check": ["-m", "ruff", "check", "--isolated", "--no-cache", "--output-format", "concise", "."],
    }
    return {
        name: subprocess.Popen(
            [sys.executable, *command],
            cwd=files,
            env={**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name, command in commands.items()
    }


ALLOWED = {"collections", "collections.abc", "contextlib", "torch", "torch.nn.functional", "torch.utils.checkpoint"}


@pytest.mark.parametrize("name", facts.zoo())
@pytest.mark.sampled
def test_imports(name: str) -> None:
    """torch and a few modules that Python has itself; nothing runs but imports and definitions."""
    tree = ast.parse(text_of(name))
    assert ast.get_docstring(tree), "the file says what it is"
    for statement in tree.body[1:]:
        if isinstance(statement, ast.Import):
            assert {alias.name for alias in statement.names} <= ALLOWED
        elif isinstance(statement, ast.ImportFrom):
            assert statement.module in ALLOWED
        else:
            assert isinstance(statement, ast.ClassDef | ast.FunctionDef)
    assert facts.network(name).sha256 in text_of(name)


@pytest.mark.usefixtures("started")
@pytest.mark.slow
def test_lines() -> None:
    """As short as what people write."""
    assert text_of("resnet50").count("\n") <= 130
    assert text_of("densenet121").count("\n") <= 120


@pytest.mark.parametrize(
    ("shallow", "deep"),
    [
        ("resnet50", "resnet152"),
        ("preact_resnet164_cifar", "preact_resnet1001_cifar"),
        ("resnet20_cifar", "resnet1202_cifar"),
        ("stochastic_depth_110", "stochastic_depth_1202"),
        ("densenet121", "densenet264"),
        ("densenet_40_k12_cifar", "densenet_100_k12_cifar"),
        ("highway_mnist_fc_10", "highway_mnist_fc_100"),
        ("plain18", "plain34"),
        ("wrn_22_10", "wrn_40_4"),
        ("preact_resnet50", "preact_resnet200"),
        ("plain_mnist_fc_10", "plain_mnist_fc_100"),
    ],
)
def test_depth_costs_no_lines(shallow: str, deep: str) -> None:
    """The deeper network differs in numbers and names only, not in what is written."""
    assert _code(text_of(shallow)) == _code(text_of(deep))


@pytest.mark.parametrize("form", ["a", "b"])
@pytest.mark.slow
def test_paths_cost_no_lines(form: str) -> None:
    """Copies side by side are written once: a loop makes them, and one calls them."""
    networks = (facts.network(name) for name in ("resnext50_32x4d", "resnext101_64x4d"))
    narrow, wide = (apply(network, None, {"form": form})[0] for network in networks)
    assert source(narrow).count("\n") <= 165
    assert _code(source(narrow)) == _code(source(wide))
    assert source(narrow, flat=True).count("\n") > 16 * 32


def _code(text: str) -> str:
    """The kinds of statements, in their order: without docstrings, whose lines depend on the reference that is quoted, and
    without the line breaks that a long name brings."""
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    return " ".join(type(node).__name__ for node in statements)


@pytest.mark.parametrize("name", facts.zoo())
@pytest.mark.sampled
def test_state_dict(name: str) -> None:
    """The keys of the tree in its order, with its shapes."""
    network = facts.network(name)
    assert shapes(empty(text_of(name))) == tensors_of(network)


@pytest.mark.parametrize("name", [name for name in facts.zoo() if has_flat(name)])
@pytest.mark.sampled
def test_state_dict_of_flat_text(name: str) -> None:
    """The same where each block has a class of its own, with nothing but numbers."""
    text = source(facts.network(name), flat=True)
    assert shapes(empty(text)) == tensors_of(facts.network(name))
    assert not re.search(r"^def \w+_stage\(", text, re.MULTILINE)


# --- what it computes -------------------------------------------------------------------------------------------------


def variants(network: Network, weights: dict[str, Array], seed: int) -> Iterator[tuple[Network, Any]]:
    """The network as a pass leaves it, with no hint left, and with hints that are no longer true."""
    yield network, weights
    yield apply(network, from_arrays(weights, network), {"fold_batchnorm": True})
    yield without_hints(network), weights
    stale = STALE[seed % len(STALE)](network, Random(seed))
    if stale is not None:
        verify(stale)
        yield stale, drawn(stale, seed)[0]


_compared: list[Series] = []


def light() -> list[str]:
    """The networks of the zoo whose numbers are compared."""
    sizes = {name: facts.size(name) for name in facts.zoo()}
    return [name for name, (parameters, macs, _) in sizes.items() if parameters <= PARAMETERS and macs <= MACS]


@pytest.mark.parametrize("name", light())
@pytest.mark.sampled
def test_network_of_the_zoo(name: str) -> None:
    """The module equals the interpreter, with hints that are true, false or missing."""
    network = shallow(name)
    if any(network.root == other for other in _compared):
        return  # networks that differ in their depth alone are one network here
    _compared.append(network.root)
    seed = facts.zoo().index(name)
    weights, x = drawn(network, seed, batch=2)
    for variant, own in variants(network, weights, seed):
        compare(variant, own, x)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] if n >= 20 else []) for n in seeds()])
def test_random_network(seed: int, tmp_path: Path) -> None:
    """The same for whatever a spec may say, with a class for each block too."""
    network = elaborated(generate(seed).text, tmp_path)
    weights, x = drawn(network, seed)
    compare(network, weights, x, flat=True)
    for variant, own in variants(network, weights, seed):
        compare(variant, own, x)


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
    """The copies of the second unit are no bundle, since they survive with other probabilities; those of the first are one."""
    network = elaborated(UNEVEN, tmp_path)
    weights, x = drawn(network, 0)
    compare(network, weights, x, flat=True)


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
def test_side_branch_takes_no_variable_of_what_follows(mode: str, body: str, follower: str, tmp_path: Path) -> None:
    """Variables that a side branch let go are not let go again by the branches of a merge behind it."""
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
    for flat in (False, True):
        compare(network, weights, x, flat=flat)


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


def test_a_part_whose_only_name_is_a_number(tmp_path: Path) -> None:
    """Copies of a `parallel` without a name become classes where they hold a merge, and 0 is no name of a class."""
    network = elaborated(NUMBERED, tmp_path)
    weights, x = drawn(network, 0)
    for flat in (False, True):
        compare(network, weights, x, flat=flat)


UNSAYABLE = """
rescompile: 1
name: unsayable
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


def test_a_macro_is_given_what_the_class_around_cannot_say(tmp_path: Path) -> None:
    """`index` is no name of the class, and neither is a let made of it: what a macro makes of that is a new argument."""
    network = elaborated(UNSAYABLE, tmp_path)
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
    """torch has a batch normalisation for each."""
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
    """0 / 4 is an integer and 1 / 4 is not: whether `/` may be `//` is decided for all copies of a row."""
    network = elaborated(ZERO_BASED, tmp_path)
    compare(network, *drawn(network, 0))
    assert "(position + index) / 4" in source(network)


@pytest.mark.slow
def test_the_sample_has_stale_hints(tmp_path: Path) -> None:
    """Each change of a tree is made to many networks, and each changes the numbers of the text."""
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
    """A step of training: what is overwritten in place changes neither outputs nor gradients nor running statistics, and
    what is computed again does not either."""
    network = elaborated(generate(seed).text, tmp_path)
    weights, x = drawn(network, seed, batch=4)
    plain = replace(network, checkpoint=False)
    text = source(plain)
    expected = step(out_of_place(text), weights, x, seed)
    same(step(text, weights, x, seed), expected, 0.0)
    same(step(source(replace(network, checkpoint=True)), weights, x, seed), expected, 1e-12)


Step = list[Any]


def step(text: str, weights: dict[str, Array], x: Array, seed: int) -> Step:
    """Outputs, gradients and buffers after one forward and one backward pass; None where there is no gradient."""
    module = filled(text, weights)
    torch.manual_seed(seed)
    given = torch.from_numpy(x).requires_grad_()
    outputs = list(named(module(given)).values())
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    grads = [parameter.grad for parameter in (given, *module.parameters())]
    return [*(output.detach() for output in outputs), *grads, *(buffer.clone() for buffer in module.buffers())]


def same(found: Step, expected: Step, bound: float) -> None:
    """Whether two steps agree, relative to the largest number of the step: a gradient that is zero by its meaning (of a bias
    before a norm) is rounding alone, and relative to itself anything."""
    largest = max(float(theirs.abs().max()) for theirs in expected if theirs is not None and theirs.numel())
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, rtol=0.0, atol=bound * largest)


# --- where it runs ----------------------------------------------------------------------------------------------------

SE = """
rescompile: 1
name: se_net
input: [3, 16, 16]
blocks:
  se_basic:
    parameters: {width: int, stride: {default: 1, only: first}, reduction: 4}
    body:
    - residual:
        branch:
        - conv1: {conv: {channels: width, kernel: 3, stride: stride}}
        - bn1: norm
        - relu
        - se:
            parallel:
              merge: mul
              branches:
              - identity
              - - global_avgpool
                - fc1: {conv: {channels: width // reduction, kernel: 1, bias: true}}
                - relu
                - fc2: {conv: {channels: width, kernel: 1, bias: true}}
                - sigmoid
        shortcut: {block: projection, channels: width, stride: stride}
    - relu
network:
- layer1: {block: se_basic, depth: 2, width: 8}
- layer2: {block: se_basic, depth: 2, width: 16, stride: 2}
- global_avgpool
- flatten
- fc: {linear: 10}
"""

PATHS = """
rescompile: 1
name: paths_net
input: [3, 16, 16]
parameters: {count: 4}
blocks:
  unit:
    parameters: {width: int, count: int}
    body:
    - residual:
        branch:
        - summed: {parallel: {merge: add, copies: count, branch: [{conv: {channels: width, kernel: 3, bias: true}}, norm, relu]}}
        - joined: {parallel: {merge: concat, copies: count, branch: [{conv: {channels: width / count, kernel: 1}}, norm]}}
        - again: {parallel: {merge: concat, copies: 2, branch: [{conv: {channels: width / 2, kernel: 1}}, norm]}}
        - final: {parallel: {merge: add, copies: 2, branch: [{conv: {channels: width, kernel: 1}}, norm]}}
        shortcut: {block: projection, channels: width}
    - relu
network:
- layer1: {block: unit, depth: 2, width: 8, count: count}
- layer2: {block: unit, width: 12, count: 3}
- global_avgpool
- flatten
- fc: {linear: 10}
"""

SPLIT = """
rescompile: 1
name: split_net
input: [3, 16, 16]
parameters: {count: 4}
blocks:
  unit:
    parameters: {count: int}
    body:
    - halves:
        parallel:
          merge: concat
          split: true
          branches: [identity, [conv1: {conv: {channels: in_channels, kernel: 3}}, norm, relu]]
    - joined: {parallel: {merge: concat, split: true, copies: count, branch: [{conv: {channels: in_channels, kernel: 3}}, norm, relu]}}
    - parallel:
        merge: concat
        branches:
        - one: {parallel: {merge: concat, split: true, copies: 2, branch: [{conv: {channels: in_channels, kernel: 1}}]}}
        - two: {parallel: {merge: concat, split: true, copies: count, branch: [{conv: {channels: 3, kernel: 1}}]}}
    - summed: {parallel: {merge: add, split: true, copies: count, branch: [{conv: {channels: 12, kernel: 1}}, norm]}}
network:
- stem: {conv: {channels: 12, kernel: 3}}
- layer1: {block: unit, depth: 2, count: count}
- layer2: {block: unit, count: 3}
- gated: {parallel: {merge: mul, split: true, branches: [identity, sigmoid]}}
- six: {parallel: {merge: add, split: true, branches: [identity, relu, identity, [conv1: {conv: {channels: 1, kernel: 1}}, relu], tanh, identity]}}
- global_avgpool
- flatten
- parallel: {merge: concat, split: true, branches: [{fc: {linear: 10}}]}
"""

#: One network for each shape of construct, of the zoo or by its text, made shallow: the constructs are the same.
CONSTRUCTS: dict[str, Sequence[str]] = {
    "resnet50": ("input=[3,32,32]", *(f"layer{at}.depth=2" for at in (1, 2, 3, 4))),
    "densenet121": ("input=[3,32,32]", *(f"features.denseblock{at}.depth=2" for at in (1, 2, 3, 4))),
    "googlenet": ("input=[3,32,32]", *(f"inception{at}=null" for at in ("3b", "4b", "4c", "4d", "5b"))),
    "inception_v3": (
        "input=[3,75,75]",
        "AuxLogits=null",
        *(f"Mixed_{at}=null" for at in ("5c", "5d", "6b", "6c", "6d", "7c")),
    ),
    "highway_b_cifar10_19": (),
    "stochastic_depth_110": tuple(f"layer{at}.depth=2" for at in (1, 2, 3)),
    "wrn_16_8_dropout": ("parameters.k=1",),
    "darknet53": ("input=[3,32,32]",),
    "drn_c_26": ("input=[3,32,32]",),
    "resnet18": ("input=[3,32,32]", "features=[layer2, layer3]"),
    "se_net": (SE,),
    "paths_net": (PATHS,),
    "split_net": (SPLIT,),
}


@pytest.fixture(scope="module", params=CONSTRUCTS)
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A network as a module with weights, and inputs of two batches."""
    return made(request.param, tmp_path_factory.mktemp("live"))


class Live:
    """A module in evaluation mode, the network that it is, and what it gives for an input."""

    def __init__(self, network: Network, module: nn.Module) -> None:
        self.network, self.module = network, module.eval()
        torch.manual_seed(1)
        self.first, self.x = (torch.randn(batch, *network.input) for batch in (2, 3))
        with torch.no_grad():
            self.wanted = list(named(module(self.x)).values())

    def hold(self, run: Callable[[Any], Any]) -> None:
        """`run` gives what the module gives."""
        with torch.no_grad():
            self.is_right(run(self.x))

    def is_right(self, result: Any) -> None:
        """These are the outputs of the module, bit for bit."""
        found = list(named(result).values())
        assert len(found) == len(self.wanted)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, self.wanted, strict=True))


@cache
def made(name: str, folder: Path) -> Live:
    """The live module of a construct."""
    settings = CONSTRUCTS[name]
    network = (
        elaborated(settings[0], folder) if settings in ((SE,), (PATHS,), (SPLIT,)) else facts.network(name, *settings)
    )
    target: Any = backend.load("torch")
    return Live(network, target.make(network, draw(network, 0)))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.slow
def test_script(live: Live) -> None:
    """torch.jit.script takes the text."""
    live.hold(torch.jit.script(live.module))


@pytest.mark.slow
def test_compile(live: Live) -> None:
    """torch.compile sees one graph."""
    torch._dynamo.reset()
    live.hold(torch.compile(live.module, fullgraph=True, backend="eager"))


@pytest.mark.slow
def test_export(live: Live) -> None:
    """torch.export leaves the batch open: what is exported for one runs for another."""
    batch = {"x": {0: torch.export.Dim("batch", min=1)}}
    live.hold(torch.export.export(live.module, (live.first,), dynamic_shapes=batch).module())


@pytest.mark.slow
def test_copies(live: Live) -> None:
    """A deep copy, and one that is filled with the pickled state, compute the same; neither shares anything."""
    twin = copy.deepcopy(live.module)
    live.hold(twin)
    state = pickle.loads(pickle.dumps(live.module.state_dict()))
    empty_one = factory(executed(source(live.network)))().eval()
    assert empty_one.load_state_dict(state, strict=True)
    live.hold(empty_one)
    own = {tensor.data_ptr() for tensor in live.module.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in twin.state_dict().values()}


def test_a_second_module(tmp_path: Path) -> None:
    """Another module of the same text is what the first one was, whatever was done to that."""
    live = made("se_net", tmp_path)
    torch._dynamo.reset()
    torch.compile(live.module, backend="eager")(live.x)
    target: Any = backend.load("torch")
    live.hold(target.make(live.network, draw(live.network, 0)).eval())


def test_data_parallel(live: Live) -> None:
    """The wrapper calls it as it is where there is no device to spread it over."""
    live.hold(nn.DataParallel(live.module, device_ids=[]))


_DISTRIBUTED = """
import importlib.util, sys
import torch
from torch import distributed, nn
path, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{path}.meeting", rank=rank, world_size=2)
spec = importlib.util.spec_from_file_location("generated", path)
home = importlib.util.module_from_spec(spec)
spec.loader.exec_module(home)
given = torch.load(path + ".in", weights_only=True)
grads = []
for spread in (False, True):
    module = getattr(home, given["factory"])().double()
    module.load_state_dict(given["state"], strict=True)
    called = nn.parallel.DistributedDataParallel(module, find_unused_parameters=given["unused"]) if spread else module
    torch.manual_seed(rank)  # each process drops blocks of its own
    called(given["x"][rank]).square().mean().backward()
    grads.append([torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()])
torch.save(grads, f"{path}.{rank}")
distributed.destroy_process_group()
"""


@pytest.mark.parametrize("name", ["resnet18", "stochastic_depth_110"])
@pytest.mark.slow
def test_distributed(name: str, tmp_path: Path) -> None:
    """DistributedDataParallel on two processes gives both the mean of what each gives alone; where blocks are dropped, with
    find_unused_parameters, as the docstring says."""
    settings = ("input=[3,16,16]", *(f"layer{at}.depth=2" for at in (1, 2, 3)))
    network = facts.network(name, *settings)
    text = source(network)
    path = tmp_path / "network.py"
    path.write_text(text, encoding="utf-8")
    module = factory(executed(text))().double()
    drops = "find_unused_parameters=True" in text
    assert drops == (name != "resnet18")
    torch.manual_seed(0)
    x = torch.randn(2, 4, *network.input, dtype=torch.float64)
    given = {"factory": factory(executed(text)).__name__, "state": module.state_dict(), "x": x, "unused": drops}
    torch.save(given, f"{path}.in")
    command = [sys.executable, "-c", _DISTRIBUTED, str(path)]
    processes = [subprocess.Popen([*command, str(rank)], cwd=tmp_path) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    (alone0, spread0), (alone1, spread1) = (torch.load(f"{path}.{rank}", weights_only=True) for rank in (0, 1))
    assert (
        any(bool((one == 0).all()) != bool((other == 0).all()) for one, other in zip(alone0, alone1, strict=True))
        == drops
    )
    for one, other, found0, found1 in zip(alone0, alone1, spread0, spread1, strict=True):
        assert torch.equal(found0, found1)
        assert torch.allclose(found0, (one + other) / 2, rtol=1e-9, atol=1e-12)


_ALONE = """
import importlib.util, sys
import torch
sys.modules["rescompile"] = None  # an import of it fails, wherever it is installed
torch.set_num_threads(1)
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("generated", path)
    home = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(home)
    given = torch.load(path + ".in", weights_only=True)
    module = getattr(home, given["factory"])()
    module.load_state_dict(given["state"], strict=True)
    with torch.no_grad():
        found = module.eval()(given["x"])
    torch.save(found if isinstance(found, dict) else {"logits": found}, path + ".out")
"""


@pytest.mark.slow
def test_alone(tmp_path: Path) -> None:
    """In a process that cannot import rescompile, the file gives bit for bit what the target `torch` gives here."""
    lives = {str(tmp_path / f"{name}.py"): made(name, tmp_path) for name in CONSTRUCTS}
    for path, live in lives.items():
        text = source(live.network)
        Path(path).write_text(text, encoding="utf-8")
        given = {"factory": factory(executed(text)).__name__, "state": live.module.state_dict(), "x": live.x}
        torch.save(given, f"{path}.in")
    subprocess.run([sys.executable, "-c", _ALONE, *lives], cwd=tmp_path, check=True, timeout=300)
    for path, live in lives.items():
        live.is_right(torch.load(f"{path}.out", weights_only=True))


# --- what cannot get into it ------------------------------------------------------------------------------------------


@cache
def peaceful(folder: Path) -> str:
    """The skeleton of the document with harmless words."""
    return skeleton(source(elaborated(written(harmless()), folder)))


@pytest.mark.parametrize("seeds", [range(at, at + 50) for at in range(0, HOSTILE, 50)], ids=str)
@pytest.mark.slow
def test_hostile_words(seeds: range, tmp_path: Path) -> None:
    """Refused with a diagnostic; or the file does what it does with harmless words, passes its check, and can be made."""
    for seed in seeds:
        case = hostile(seed)
        try:
            name = re.sub(r"[/\0]", "_", case.words.get("file", "spec"))[:60] or "spec"
            network = elaborated(json.dumps(case.document, ensure_ascii=False), tmp_path, name)
        except (SpecError, UsageError):
            continue
        text = source(network)
        assert skeleton(text) == peaceful(tmp_path), f"case {seed}: {case.words} changes what the file does"
        assert shapes(empty(text)) == tensors_of(network), f"case {seed}: {case.words}"


def test_hostile_cases_are_both_refused_and_taken(tmp_path: Path) -> None:
    """A test in which all is refused, or none, would say nothing."""
    taken = 0
    for seed in range(200):
        try:
            elaborated(json.dumps(hostile(seed).document, ensure_ascii=False), tmp_path)
            taken += 1
        except (SpecError, UsageError):
            pass
    assert 40 <= taken <= 160
    assert len({json.dumps(hostile(seed).document) for seed in range(200)}) > 180


BREAKERS = (
    'a"""\nimport os\n"""', "\\", '"', "'", "x\ny", "os; import os", "__import__('os')", "x)\n        eval('1'", "eval", "_x", "a b", "é",
    "{x}", "", "F", "nn", "self",
)  # fmt: skip


@pytest.mark.parametrize("place", ["network", "step", "block", "doc", "reference", "sha256", "output", "argument"])
@pytest.mark.parametrize("word", BREAKERS)
@pytest.mark.slow
def test_hostile_tree(place: str, word: str, tmp_path: Path) -> None:
    """A tree that no spec could give: refused by the last check, or harmless all the same."""
    network = elaborated(written(harmless()), tmp_path)

    def spoiled(node: Any) -> Any:
        changes: dict[str, Any] = {}
        if isinstance(node, Op) and place == "step" and node.name == "conv1":
            changes["name"] = word
        if isinstance(node, Series):
            changes["children"] = tuple(spoiled(child) for child in node.children)
            if node.call and node.call.block == "unit":
                call = node.call
                if place == "block":
                    call = replace(call, block=word)
                if place == "argument":
                    call = replace(call, arguments={word if k == "slope" else k: v for k, v in call.arguments.items()})
                changes["call"] = call
        if isinstance(node, Parallel):
            changes["branches"] = tuple(spoiled(branch) for branch in node.branches)
        if hasattr(node, "child"):
            changes["child"] = spoiled(node.child)
            if place == "output" and node.output_name == "out":
                changes["output_name"] = word
        return replace(node, **changes)

    changes: dict[str, Any] = {"root": spoiled(network.root)}
    if place in ("network", "reference", "sha256"):
        changes["name" if place == "network" else place] = word
    unit = network.definitions["unit"]
    if place == "doc":
        changes["definitions"] = {**network.definitions, "unit": replace(unit, doc=word, reference=word)}
    if place == "block":
        changes["definitions"] = {word: unit}
    if place == "argument":
        given = {word if name == "slope" else name: value for name, value in unit.parameters.items()}
        changes["definitions"] = {**network.definitions, "unit": replace(unit, parameters=given)}
    try:
        text = source(replace(network, **changes))
    except (checking.Refused, SyntaxError, ValueError, AssertionError):
        return
    tree = ast.parse(text)
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & {"eval", "exec", "open", "compile", "__import__"}
    assert not re.search(r"^\s*(import|from) os", text, re.MULTILINE) or "import os" in str(ast.get_docstring(tree))
    assert {type(node) for node in tree.body} <= {ast.Expr, ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef}
    assert sum(isinstance(node, ast.Expr) for node in tree.body) == 1


HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import Tensor, nn\n\n\n"


@pytest.mark.parametrize(
    "attack",
    [
        "import os",
        "import torch.hub",
        "import torch as nn",
        "import torch.nn.functional as getattr",
        "from os import system",
        "from torch import hub",
        "from torch import nn as F",
        "from . import nn",
        "from torch import *",
        "eval('1')",
        "exec('1')",
        "open('/etc/passwd')",
        "print('x')",
        "__import__('os')",
        "breakpoint()",
        "globals()",
        "x = __builtins__",
        "x = ().__class__",
        "x = nn.Module.__subclasses__()",
        "nn._x",
        "F.__dict__",
        "getattr(nn, 'Module')",
        "getattr(nn, '__class__')",
        "getattr(nn, '1', 2)",
        "getattr(nn, name='1')",
        "setattr(nn, 'x', 1)",
        "delattr(nn, 'x')",
        "vars(nn)",
        "type('x', (), {})",
        "@eval\ndef f() -> None:\n    return None",
        "@torch.hub.load\nclass A(nn.Module):\n    x = 1",
        "@(lambda f: f)\ndef f() -> None:\n    return None",
        "def eval(x: int) -> int:\n    return x",
        "def super() -> int:\n    return 1",
        "class nn:\n    x = 1",
        "class _A(nn.Module):\n    x = 1",
        "def _f() -> None:\n    return None",
        "def f(getattr: int) -> int:\n    return getattr",
        "def f(__x: int) -> int:\n    return __x",
        "lambda: eval",
        "(lambda open: open)('/etc/passwd')",
        "[open for open in ()][0]('x')",
        "for eval in ():\n    eval('x')",
        "global x",
        "async def f() -> None:\n    return None",
        "def f() -> None:\n    nonlocal x",
        "del nn",
        "assert nn",
        "raise nn",
        "with nn:\n    x = 1",
        "while 1:\n    x = 1",
        "x = {1}",
        "x = {a: 1 for a in ()}",
        "x = (a for a in ())",
        "(x := 1)",
        "x = b'x'",
        "x = 1j",
        "match nn:\n    case 1:\n        x = 1",
        "torch.hub.load('a', 'b')",
        "torch.load('a')",
        "torch.ops.load_library('a')",
        "torch.utils.cpp_extension.load('a', [])",
        "torch.os.system('id')",
        "torch.sys.modules",
        "torch.package.PackageImporter('a')",
        "torch.jit.load('a')",
        "torch.save(nn, 'a')",
        "nn.modules.module.torch.os.system('id')",
        "F.torch.os.system('id')",
        "nn.Module.forward = eval",
        "F.relu = 1",
        "super = 1",
        "nn = 1",
        "torch = 1",
        "range = 1",
        "x = f'{eval}'",
        "x = f'{().__class__}'",
        "x: eval = 1",
        "def f(x: eval) -> int:\n    return 1",
        "def f(x: int = eval('1')) -> int:\n    return x",
        "class A(eval('1')):\n    x = 1",
        "class A(nn.Module, metaclass=eval):\n    x = 1",
        "print",
        "(1).real",
        "'x'.join('y')",
        "'{0.__class__}'.format(nn)",
        "x = 'y'.encode",
    ],
)
def test_check_refuses(attack: str) -> None:
    """Whatever generated source has no need of."""
    with pytest.raises(checking.Refused):
        checking.check(HEAD + attack, OF_TORCH)


def test_everything_written_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check sees the very text that is handed out, whatever the style; that of the whole zoo passes elsewhere here."""
    seen: list[str] = []
    monkeypatch.setattr(import_module("rescompile.codegen.rendering"), "check", lambda text, _: seen.append(text))
    network = facts.network("resnet20_cifar")
    texts = [source(network), source(network, flat=True)]
    assert seen == texts


# --- mistakes ---------------------------------------------------------------------------------------------------------


@cache
def sampled(folder: Path, seed: int) -> tuple[Array, tuple[tuple[Network, Any], ...]]:
    """A random network and its variants, made while nothing is wrong. The first few are rows of one block instead, each
    with another of its hints stale: in the random ones, few blocks stand in two rows."""
    network = shallow("resnet20_cifar") if seed < len(STALE) else elaborated(generate(seed).text, folder)
    weights, x = drawn(network, seed)
    return x, tuple(variants(network, weights, seed))


def complaint(folder: Path, seed: int) -> str | None:
    """How a random network or a variant of it comes out wrong, if one does."""
    x, all_variants = sampled(folder, seed)
    for network, weights in all_variants:
        try:
            compare(network, weights, x)
        except Wrong as wrong:
            return wrong.how
    return None


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the specs of the mutants' sample."""
    folder: Path = tmp_path_factory.mktemp("mutants")
    for seed in range(SAMPLE):
        sampled(folder, seed)
    return folder


_outcomes: dict[str, str] = {}


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.slow
def test_a_mistake_is_caught(name: str, shared: Path) -> None:
    """The comparison of random networks sees it, and is silent again after it."""
    with pytest.MonkeyPatch.context() as patch:
        MUTANTS[name](patch)
        found = next(((seed, how) for seed in range(SAMPLE) if (how := complaint(shared, seed))), None)
    assert found is not None, f"{name} goes unnoticed"
    seed, _outcomes[name] = found
    assert complaint(shared, seed) is None, f"what catches {name} complains without it too"


@pytest.mark.slow
def test_many_mistakes_show_in_numbers(shared: Path) -> None:
    """A text that does not run, or lacks a tensor, is no proof of the comparison of numbers."""
    for name in MUTANTS:
        if name not in _outcomes:
            test_a_mistake_is_caught(name, shared)
    assert sum(how == "numbers" for how in _outcomes.values()) >= 12


# --- what was started at the beginning, and is awaited at the end --------------------------------------------------------


@pytest.mark.parametrize("tool", ["format", "check", "mypy"])
@pytest.mark.slow
def test_tools_have_nothing_to_say(tool: str, started: dict[str, subprocess.Popen[str]]) -> None:
    """Unchanged by `ruff format`, clean under `ruff check` and `mypy --strict`: all files of the folder in one run."""
    said, _ = started[tool].communicate()
    assert started[tool].returncode == 0, said[-3000:]


@pytest.mark.slow
def test_text_is_always_the_same(started: dict[str, subprocess.Popen[str]]) -> None:
    """In a second process, with another order of sets, and for networks that were elaborated again."""
    said, _ = started["again"].communicate()
    assert json.loads(said) == {name: hashlib.sha256(text_of(name).encode()).hexdigest() for name in facts.zoo()}
