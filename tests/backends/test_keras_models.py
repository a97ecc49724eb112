"""Keras models that generated source builds: the statements of their functions, and saving, loading and reuse of layers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.update(KERAS_BACKEND="torch", KERAS_TORCH_DEVICE="cpu")
for package in ("torch", "keras"):
    pytest.importorskip(package, reason="runs the target: pip install 'rescompile[torch,keras]'")

from keras_models import evaluated, keras, model_of, module, set_precision, source_file, tensors
from sources import agree, drawn
from spec_texts import elaborated
from variants import shallow

import rescompile
from rescompile.codegen.execution import executed
from rescompile.diagnostics.errors import Unavailable
from rescompile.weights import Weights


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    set_precision("float64")
    yield
    set_precision("float32")


IDENTITIES = """
rescompile: 1
name: identities
input: [3, 8, 8]
blocks:
  unit:
    body:
    - both: [identity, {scale: 1.5}, identity]
    - relu
  nothing:
    body: [identity]
network:
- stem: [identity, {conv: {channels: 4, kernel: 3}}, identity]
- layer1: {block: unit, depth: 2}
- layer2: {block: nothing, depth: 2}
- end: identity
- global_avgpool
- flatten
- last: identity
"""


def test_identities_leave_no_statement(tmp_path: Path) -> None:
    """Identities alone, in lists, as blocks and as the last step add no statement, and the model computes what the
    interpreter computes."""
    network = elaborated(IDENTITIES, tmp_path)
    assert "x = x\n" not in source_file.source(network)
    weights, x = drawn(network, 0)
    agree(network, weights, x, evaluated(network, weights, x))


ALTERNATIVES = """
rescompile: 1
name: alternatives
input: [4, 8, 8]
blocks:
  nothing: {body: [identity]}
  down:
    parameters: {stride: int}
    body: [{conv1: {conv: {channels: 4, kernel: 3, stride: stride}}}]
  unit:
    parameters: {stride: int}
    body:
    - {conv0: {conv: {channels: 4, kernel: 3}}}
    - if: stride == 1
      then: {shortcut: NOTHING}
      else: {shortcut: {block: down, stride: stride}}
network:
- first: {block: unit, stride: STRIDE}
- second: {block: unit, stride: 3 - STRIDE}
"""


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "nothing",
    ["identity", "[identity]", "[{one: identity}, {two: identity}]", "{block: nothing}", "[{one: {block: nothing}}]"],
)
def test_an_identity_as_an_alternative(nothing: str, stride: int, tmp_path: Path) -> None:
    """A step may be an identity where other instances of the block have a block, whichever comes first."""
    network = elaborated(ALTERNATIVES.replace("NOTHING", nothing).replace("STRIDE", str(stride)), tmp_path)
    weights, x = drawn(network, 0)
    agree(network, weights, x, evaluated(network, weights, x))


DEEP = """
rescompile: 1
name: deep
input: [4]
blocks:
  unit:
    body: [residual: {branch: [bn: norm, act: relu]}]
network:
- layer1: {block: unit, depth: 350}
"""


@pytest.mark.slow
def test_a_model_deeper_than_the_recursion_limit(tmp_path: Path) -> None:
    """A model of more layers than the recursion limit is built, although Keras connects it by one nested call per layer."""
    network = elaborated(DEEP, tmp_path)
    weights, x = drawn(network, 0)
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(1000)
        assert len(model_of(network, weights).operations) > 1000
        agree(network, weights, x, evaluated(network, weights, x))
    finally:
        sys.setrecursionlimit(limit)


OWN_LAYERS = """
rescompile: 1
name: own_layers
input: [3, 8, 8]
network:
- conv1: {conv: {channels: 4, kernel: 3, weights: standardised}}
- conv2: {conv: {channels: 4, kernel: 3, stride: 2, weights: scaled}}
- bn1: norm
- affine1: affine
- global_avgpool
- flatten
- fc: {linear: 10}
"""


def test_models_with_custom_layers_are_saved_and_loaded(tmp_path: Path) -> None:
    """Once the file was imported, Keras finds its layers by name and restores their arguments."""
    network = elaborated(OWN_LAYERS, tmp_path)
    weights, x = drawn(network, 0)
    model = model_of(network, weights, running_variance="unbiased")
    model.save(tmp_path / "own_layers.keras")
    loaded = keras.models.load_model(tmp_path / "own_layers.keras")
    assert {type(layer).__name__ for layer in loaded.layers} >= {"StandardisedConv2D", "ScaledConv2D", "Affine"}
    agree(network, weights, x, module.outputs(loaded, x))


AGAIN = """
rescompile: 1
name: again
input: [4, 8, 8]
blocks:
  unit:
    body: [residual: {branch: [conv1: {conv: {channels: 4, kernel: 3}}, {bn1: norm}, relu]}]
  copies:
    body: [parallel: {merge: add, copies: 3, branch: [conv1: {conv: {channels: 4, kernel: 3}}, {bn1: norm}]}]
network:
- each:
  - {conv: {channels: 4, kernel: 3, weights: standardised}}
  - {conv_transpose: {channels: 4, kernel: 3, padding: 1}}
  - {norm: {kind: group, groups: 2}}
  - prelu
  - affine
  - {conv: {channels: 8, kernel: 1, bias: true}}
  - {weighted_sum: {ranges: 2}}
  - {maxpool: {kernel: 3, stride: 2, padding: 1, ceil: true}}
- row: {block: unit, depth: 3}
- two: {parallel: {merge: add, copies: 2, branch: [conv2: {conv: {channels: 4, kernel: 3}}]}}
- parallel:
    merge: add
    branches:
    - [tanh, {again: each}, {again: row}]
    - [{again: two}, {again: each}]
- {again: row}
- wide: {block: copies}
- {again: wide}
- {row2: {block: unit, depth: 1}}
- global_avgpool
- flatten
- fc: {linear: 4}
- relu
- again: fc
"""


@pytest.mark.parametrize("style", ["classes", "flat"])
def test_layers_run_again(style: str, tmp_path: Path) -> None:
    """Layers run again on maps of other sizes, in rows, copies and branches; each is built and saved once."""
    network = elaborated(AGAIN, tmp_path)
    weights, x = drawn(network, 0)
    keras.utils.clear_session(free_memory=False)
    _, factory = executed(network, source_file.source(network, style=style))
    model = factory()
    assert [variable.path for variable in model.weights].count("fc/kernel") == 1
    assert {variable.path for variable in model.weights} == {place.path for place in tensors.places(network)}
    module.fill(model, network, Weights({name: (lambda value=value: value) for name, value in weights.items()}))
    agree(network, weights, x, module.outputs(model, x))
    model.save(tmp_path / "again.keras")
    loaded = keras.models.load_model(tmp_path / "again.keras")
    assert len(loaded.weights) == len(model.weights)
    agree(network, weights, x, module.outputs(loaded, x))


UNUSED = """
rescompile: 1
name: unused
input: [4, 8, 8]
network:
- conv1: {conv: {channels: 4, kernel: 3}}
- conv2: {conv: {channels: 4, kernel: 3}}
- side: {body: [again: conv2], output: early, mode: always}
- side: {body: [{conv3: {conv: {channels: 4, kernel: 3}}}, again: conv2], mode: never}
- global_avgpool
- flatten
- fc: {linear: 2}
"""


def test_a_run_without_output_leaves_no_layers(tmp_path: Path) -> None:
    """A layer exists if another run of it leads to an output, and does not if only an unused run needs it."""
    network = elaborated(UNUSED, tmp_path)
    weights, x = drawn(network, 0)
    model = model_of(network, weights)
    assert [layer.name for layer in model.layers if layer.weights] == ["conv1", "conv2", "fc"]
    agree(network, weights, x, module.outputs(model, x))


def test_outputs_of_training_can_be_left_out() -> None:
    """Auxiliary heads are outputs in evaluation too; a model of the logits alone has none of their layers."""
    network = shallow("googlenet")
    weights, x = drawn(network, 0, batch=2)
    model = model_of(network, weights)
    alone = keras.Model(model.inputs, model.output["logits"])
    assert len(module.outputs(model, x)) == 3
    assert len(alone.weights) < len(model.weights)
    agree(network, weights, x, module.outputs(alone, x))


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ("adaptive_avgpool: 2", "pools to a given size"),
        ("maxpool: {kernel: 2, stride: 3, ceil: true}", "rounds up its size"),
    ],
)
def test_pools_that_need_a_known_image_size(pool: str, message: str, tmp_path: Path) -> None:
    text = f"rescompile: 1\nname: p\ninput: [3, 9, 9]\nnetwork: [{{{pool}}}, global_avgpool, flatten, {{fc: {{linear: 2}}}}]\n"
    network = elaborated(text, tmp_path)
    rescompile.build(network, "keras", structure_only=True)
    with pytest.raises(Unavailable, match=message) as raised:
        rescompile.build(network, "keras", structure_only=True, dynamic="height,width")
    assert raised.value.diagnostics[0].code == "E0901"


RANDOM = """
rescompile: 1
name: random
input: [3, 6, 6]
network:
- conv1: {conv: {channels: 4, kernel: 3}}
- parallel: {merge: shake, branches: [{conv2: {conv: {channels: 4, kernel: 3}}}, tanh]}
- parallel: {merge: mean, branches: [{bn1: norm}, identity, tanh]}
drop_path: {rate: 0.5, columns: 0.5, unit: batch}
"""


def test_automatic_names_of_keras_are_reserved(tmp_path: Path) -> None:
    """Automatic names of the layers and functions that merges add are reserved, so no step can have one."""
    network = elaborated(RANDOM, tmp_path)
    names = {operation.name for operation in model_of(network, drawn(network, 0)[0]).operations}
    assert {name for name in names if not tensors.AUTOMATIC.fullmatch(name)} == {"conv1", "conv2", "bn1"}
    assert {"gaussian_noise", "stop_gradient", "where", "floor"} <= names
