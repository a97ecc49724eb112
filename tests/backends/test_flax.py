"""The target `flax` alone; test_frameworks.py and test_framework_files.py cover what all channels-last targets share."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from op_cases import a, series
from op_cases import network as network_of

for package in ("torch", "jax", "flax"):
    pytest.importorskip(package, reason="runs one of the targets: pip install 'rescompile[torch,flax]'")

from flax import nnx
from flax_models import apart, in_double, model_of, module, tensors
from frameworks import source_of
from sources import agree, drawn
from spec_texts import elaborated
from variants import shallow

import rescompile
from rescompile.diagnostics.errors import Unavailable
from rescompile.ir.ops import AvgPool


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with in_double():
        yield


def text_of(name: str) -> str:
    """Return the source of a zoo network; skip the test where Flax cannot express it."""
    return source_of("flax", name)


# --- the text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", facts.zoo())
@pytest.mark.sampled(one_in=4)
def test_padding_is_always_explicit(name: str) -> None:
    """Convolutions always pass their padding, because Flax's default depends on the size of the map."""
    for node in ast.walk(ast.parse(text_of(name))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "nnx.Conv":
            assert "padding" in [keyword.arg for keyword in node.keywords]
    assert "SAME" not in text_of(name)


# --- names and numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1)], ids=str)
def test_windows_beyond_an_axis_of_one_value(shape: tuple[int, int]) -> None:
    """Pools whose windows exceed an axis of length 1 are correct, although XLA on CPUs (jax 0.10) sums them wrongly in
    batches of 4,096 values or more."""
    for kernel, count_pad in product(((2, 2), (3, 3), (2, 3)), (True, False)):
        network = network_of(series((2048, *shape), a("it", AvgPool(kernel, ceil=True, count_pad=count_pad))))
        weights, x = drawn(network, 0, batch=2)
        agree(network, weights, x, module.outputs(model_of(network, weights), x))


def test_names_are_those_of_the_tree() -> None:
    names = [place.path for place in tensors.places(facts.network("resnet50"))]
    assert names[:6] == ["conv1.kernel", "bn1.scale", "bn1.bias", "bn1.mean", "bn1.var", "layer1.0.conv1.kernel"]
    assert names[-2:] == ["fc.kernel", "fc.bias"]


def test_the_order_of_named_modules_survives_split_and_merge() -> None:
    """Modules keep their order, although nnx.Dict sorts names (l1, l10, l2); the layers of a DenseNet would run in
    another order."""
    network = shallow("densenet_40_k12_cifar")
    weights, x = drawn(network, 0)
    model = model_of(network, weights)
    model.eval()
    wanted = module.outputs(model, x)
    assert apart(module.outputs(nnx.merge(*nnx.split(model)), x), wanted) == 0
    compiled = nnx.jit(lambda model, x: model(x))(model, np.moveaxis(x, 1, -1))
    assert np.array_equal(np.asarray(compiled), wanted["logits"])


# --- what is refused --------------------------------------------------------------------------------------------------

SKIPPED = """
rescompile: 1
name: skipped
input: [3, 8, 8]
network:
- conv0: {conv: {channels: 4, kernel: 3}}
- unit:
    residual:
      branch:
      - conv1: {conv: {channels: 4, kernel: 3}}
      - side: {body: [{aux: {conv: {channels: 2, kernel: 1}}}], output: early, mode: always}
- global_avgpool
- flatten
- fc: {linear: 10}
survival: {schedule: {each: [0.5]}, unit: batch, rescale: test}
"""


def test_an_output_inside_a_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot give the output 'early' from inside it") as raised:
        rescompile.build(elaborated(SKIPPED, tmp_path), "flax", structure_only=True)
    assert raised.value.diagnostics[0].code == "E0901"


def test_attributes_of_modules_are_reserved_names() -> None:
    """Every public attribute of nnx.Module, every one that its train and eval set, and those of the classes for
    sequences of named modules are reserved: no step can have its name."""
    file: Any = import_module("rescompile.backends.flax.text")
    set_by_modes: set[str] = set()

    class Recorder(nnx.Module):
        def set_attributes(self, *filters: Any, raise_if_not_found: bool = True, **attributes: Any) -> None:
            set_by_modes.update(attributes)

    Recorder().train()
    Recorder().eval()
    assert set_by_modes
    assert {name for name in dir(nnx.Module) if not name.startswith("_")} | set_by_modes <= file._MODULE
    written = "".join(import_module("rescompile.backends.flax.support").SUPPORT[name] for name in ("Chain", "Scanned"))
    nodes = [*ast.walk(ast.parse(written))]
    given = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    methods = {node.name for node in nodes if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}
    assert given | methods <= file.OWN
