"""What the targets `flax`, `keras` and `mlx` share: the text of the whole zoo, and the outputs of their models in
float64.

By default, outputs are compared for networks that together contain every block and op of the library (`sample.COVER`);
with RESCOMPILE_FRAMEWORKS=1, as `make frameworks` sets it, for the whole zoo.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from frameworks import FRAMEWORKS, Framework, source_of, texts
from generator import generate, written
from hostile import harmless, hostile
from sample import COVER
from variants import shallow, without_hints

pytest.importorskip("torch", reason="the support of the suite is written with torch: pip install 'rescompile[torch]'")

from differential import seeds
from sources import agree, drawn, skeleton
from spec_texts import elaborated

from rescompile.codegen.line_breaking import laid_out
from rescompile.diagnostics.errors import SpecError, Unavailable, UsageError
from rescompile.ir.network import Op, walk
from rescompile.ir.ops import KINDS, DepthToSpace, Norm, WeightedSum
from rescompile.lang import library
from rescompile.passes import apply
from rescompile.weights import from_arrays

#: Networks whose outputs are compared in a quick run; each of COVER takes seconds, and two take much longer.
QUICK = (
    "densenet_bc_100_k12_cifar", "highway_mnist_fc_10", "preact_resnet164_cifar", "resnet_time_series", "stochastic_depth_110",
)  # fmt: skip
COMPARED = facts.zoo() if "RESCOMPILE_FRAMEWORKS" in os.environ else COVER


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> Framework:
    """Return each framework in turn."""
    return FRAMEWORKS[request.param]


def file_of(framework: Framework) -> Any:
    """Return the module that writes the files of a target, which does not import the framework."""
    return import_module(f"rescompile.backends.{framework.target}.source_file")


# --- the text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", facts.zoo())
@pytest.mark.sampled(one_in=6)
def test_imports_of_the_zoo(framework: Framework, name: str) -> None:
    """Files import the framework and Python modules only, run nothing but imports, constants and definitions, and pad
    explicitly."""
    text = source_of(framework.target, name)
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    modules = {"json", "math", "sys", "collections.abc", "functools"} | framework.imports
    for statement in tree.body[1:]:
        match statement:
            case ast.Import():
                assert {alias.name for alias in statement.names} <= modules
            case ast.ImportFrom():
                assert statement.module in modules
            case ast.Assign(targets=[ast.Name(id=constant)], value=ast.Call()):
                assert constant.isupper()
            case _:
                assert isinstance(statement, ast.ClassDef | ast.FunctionDef)
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not {"SAME", "VALID"} & words
    if {"same", "valid"} & words:  # Keras uses these only where they pad the sides that PyTorch pads
        assert 'padding="same" if same else "valid"' in text
        assert text.count('"same"') == text.count('"valid"') == 1


@pytest.mark.slow
def test_ruff_accepts_files_of_frameworks(framework: Framework, tmp_path: Path) -> None:
    """ruff neither reformats nor rejects a file of the zoo."""
    for name, text in texts(framework.target):
        (tmp_path / f"{name.replace('/', '_')}.py").write_text(text, encoding="utf-8")
    for command in (["format", "--diff"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", "."],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:]


def test_support_functions_are_formatted(framework: Framework, tmp_path: Path) -> None:
    """ruff does not reformat the support functions of files, most of which no network of the zoo uses."""
    support = import_module(f"rescompile.backends.{framework.target}.support").SUPPORT
    text = "\n\n\n".join(text.strip() for text in support.values() if "\n" in text)
    (tmp_path / "support.py").write_text("\n".join(laid_out(text.split("\n"))) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "format", "--diff", "--isolated", "--no-cache", "support.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    ("name", "deeper"), [("resnet50", "layer3.depth=36"), ("preact_resnet164_cifar", "layer2.depth=99")]
)
def test_lines_do_not_grow_with_depth(framework: Framework, name: str, deeper: str) -> None:
    """Rows of copies are loops, so depth adds no lines, except that files of deep Keras models raise the recursion limit."""
    texts = source_of(framework.target, name), file_of(framework).source(facts.network(name, deeper))
    first, second = (
        [line for line in text.splitlines() if line != "import sys" and "recursion" not in line] for text in texts
    )
    assert len(first) == len(second)


# --- names and numbers ------------------------------------------------------------------------------------------------


def test_the_sample_has_every_block_and_op() -> None:
    """COVER has all blocks of the library, and all ops but two that no network uses and that `test_ops` compares."""
    networks = [facts.network(name) for name in COVER]
    assert set(library.blocks()) <= set().union(*map(facts.blocks, networks))
    kinds = {type(node.kind) for network in networks for _, node in walk(network.root) if isinstance(node, Op)}
    assert kinds == set(KINDS) - {DepthToSpace, WeightedSum}
    assert set(QUICK) <= set(COVER)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in COMPARED])
def test_network_of_the_zoo(framework: Framework, name: str) -> None:
    """Tensors have the names and shapes of the weights file, and outputs equal those of the interpreter."""
    network = shallow(name)
    models = framework.models
    # Statistics over two values would amplify rounding errors a millionfold. Networks without norms, such as the U-Net
    # of 2015, need no larger batch.
    norms = any(isinstance(node, Op) and isinstance(node.kind, Norm) for _, node in walk(network.root))
    batch = (6 if max(network.input[1:]) < 64 else 4) if norms else 1
    weights, x = drawn(network, facts.zoo().index(name), batch=batch)
    with models.in_double():
        model = models.model_of(network, weights)
        shapes = {path: array.shape for path, array in models.values(model).items()}
        assert shapes == {place.path: place.shape for place in models.tensors.places(network)}
        agree(network, weights, x, models.in_evaluation(model, network, x))


@pytest.mark.parametrize(
    ("seed", "axes"),
    [
        pytest.param(n, axes, marks=[pytest.mark.slow] if n >= quick else [])
        for axes, quick in ((2, 3), (1, 1), (3, 1))
        for n in seeds()
    ],
)
def test_random_network(framework: Framework, seed: int, axes: int, tmp_path: Path) -> None:
    """Random networks compute what the interpreter computes, in turn as written, without hints and with folded
    BatchNorm, whose weights are rounded to float32."""
    network = elaborated(generate(seed, axes=axes).text, tmp_path)
    weights, x = drawn(network, seed)
    models = framework.models
    try:
        models.source_file.check(network)
    except Unavailable:
        return
    if seed % 3 == 1:
        network = without_hints(network)
    elif seed % 3 == 2:
        network, folded = apply(network, from_arrays(weights, network), {"fold_batchnorm": True})
        assert folded is not None
        weights = {name: np.asarray(folded[name]) for name in folded}
    with models.in_double():
        agree(network, weights, x, models.evaluated(network, weights, x))


#: Steps without parameters that have equal arguments, and other steps between equal ones.
UNEQUAL = (
    "[tanh, sigmoid, relu, silu]",
    "[{conv: {channels: 4, kernel: 3}}, tanh, {conv: {channels: 4, kernel: 3}}, sigmoid, {conv: {channels: 4, kernel: 3}}, relu]",
    "[{maxpool: {kernel: 3, stride: 1, padding: 1}}, {avgpool: {kernel: 3, stride: 1, padding: 1}}, {maxpool: {kernel: 3, stride: 1, padding: 1}}]",
    "[{depth_to_space: 2}, {space_to_depth: 2}, {shuffle: 2}]",
)


@pytest.mark.parametrize("steps", UNEQUAL)
def test_a_list_of_unequal_steps_is_not_a_loop(framework: Framework, steps: str, tmp_path: Path) -> None:
    network = elaborated(f"rescompile: 1\nname: unequal\ninput: [4, 8, 8]\nnetwork:\n- steps: {steps}\n", tmp_path)
    weights, x = drawn(network, 0)
    models = framework.models
    with models.in_double():
        agree(network, weights, x, models.evaluated(network, weights, x))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(0, 400, 50))
@pytest.mark.slow
def test_hostile_words(framework: Framework, at: int, tmp_path: Path) -> None:
    """Hostile words are refused with a diagnostic, or the file has the program of harmless words."""
    source = file_of(framework).source
    peaceful = skeleton(source(elaborated(written(harmless()), tmp_path)))
    for seed in range(at, at + 50):
        case = hostile(seed)
        try:
            network = elaborated(json.dumps(case.document, ensure_ascii=False), tmp_path)
        except (SpecError, UsageError):
            continue
        assert skeleton(source(network)) == peaceful, f"case {seed}: {case.words} changes what the file does"
