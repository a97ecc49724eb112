"""The ONNX backend: the file is valid, matches the tree, computes the same in every form, and is reproducible byte for byte."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import facts
import numpy as np
import onnx
import pytest
from command_line import invoke
from every_op import EVERY_OP
from numpy.typing import NDArray
from ort import ran
from output_comparison import FLOAT32_BOUND, random_input, random_weights, relative_rmse

from rescompile import build, elaborate, load
from rescompile.backend import checked
from rescompile.backend import load as load_backend
from rescompile.diagnostics.errors import CheckFailed, OutputError
from rescompile.files import checksum
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import Network, Op, Side, parameters, walk
from rescompile.ir.ops import Draw
from rescompile.passes import apply
from rescompile.weights import draw, from_arrays

Array = NDArray[Any]
every_spec = pytest.mark.parametrize("name", facts.zoo())


@pytest.fixture(scope="module")
def every_op(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Return the network EVERY_OP."""
    path = tmp_path_factory.mktemp("every_op") / "every_op.yaml"
    path.write_text(EVERY_OP)
    return elaborate(load(path))


def isolated(code: str, *arguments: str, cwd: Path | None = None, **environment: str) -> str:
    """Run Python in a separate process, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def structure(name: str) -> onnx.ModelProto:
    """Return the model of a zoo network without weights; its parameters are inputs, so that checks see their shapes."""
    return onnx.load_from_string(build(facts.network(name), "onnx", structure_only=True).to_bytes())


# --- the file is valid ------------------------------------------------------------------------------------------------


@every_spec
@pytest.mark.sampled
def test_checker(name: str) -> None:
    """Every graph passes the full check of onnx."""
    onnx.checker.check_model(structure(name), full_check=True)


#: One network of each of these families, whose files are checked with their weights.
FILES = (
    "resnet18", "resnext50_32x4d", "densenet121", "googlenet", "mobilenet_v1", "wrn_40_2", "highway_mnist_conv_16", "drn_c_26",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.slow_for(
    "resnext50_32x4d", "densenet121", "googlenet", "mobilenet_v1", "wrn_40_2", "drn_c_26", "highway_mnist_conv_16"
)
def test_checker_of_files(name: str) -> None:
    """Files with weights pass the same check."""
    zeros = {key: np.zeros(parameter.shape, parameter.dtype) for key, parameter in parameters(facts.network(name))}
    model = build(facts.network(name), "onnx", zeros).to_bytes()
    onnx.checker.check_model(model, full_check=True)
    gc.collect()


@every_spec
@pytest.mark.sampled
def test_shapes(name: str) -> None:
    """ONNX infers the shape that the tree declares for every node. Values computed from weights have their first axis
    in place of the batch, slopes have no batch, and a Resize loses its name."""
    network = facts.network(name)
    graph = load_backend("onnx").graph_of(network)  # type: ignore[attr-defined]
    inferred = onnx.shape_inference.infer_shapes(
        structure(name), check_type=True, strict_mode=True, data_prop=True
    ).graph
    found = {
        value.name: [
            "batch" if size.dim_param.startswith("unk__") else size.dim_param or size.dim_value
            for size in value.type.tensor_type.shape.dim
        ]
        for value in (*inferred.value_info, *inferred.output)
    }
    weights = (pair for call in graph.calls for pair in ((call.output, call.shape), *call.others.items()))
    channels = {f"{path}.weight": node.output[0] for path, node in walk(network.root) if isinstance(node, Op)}
    first = {value: channels.get(value.rpartition(".")[0], "batch") for value in found}
    assert {
        value: [*shape] if value.endswith(".slopes") else [first[value], *shape] for value, shape in weights
    } == found


@every_spec
@pytest.mark.sampled
def test_names(name: str) -> None:
    """Nodes have the names of ops and merges in the tree, initializers those of its parameters, each once."""
    network = facts.network(name)
    graph = structure(name).graph
    computed = [(path, node) for path, node in walk(network.root, modes=("always",)) if not isinstance(node, Side)]
    nodes = [node.name for node in graph.node]
    assert len(set(nodes)) == len(nodes)
    parts = {path for path, _ in computed}
    assert all(
        node in parts or node.rpartition(".")[0].removesuffix(".weight").removesuffix(".sum") in parts for node in nodes
    )
    assert [node for node in nodes if node in parts] == [path for path in _post_order(network) if path in set(nodes)]
    ops = [path for path, node in computed if isinstance(node, Op)]
    read = [
        key for key, parameter in parameters(network) if parameter.dtype != "int64" and key.rpartition(".")[0] in ops
    ]
    assert [value.name for value in graph.input] == ["input", *read]
    values = [output for node in graph.node for output in node.output]
    assert len(set(values)) == len(values)
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        parts = [f"{node.name}.{part}" for part in range(len(node.output))] if node.op_type == "Split" else [node.name]
        assert list(node.output) == (parts if node.output[0] not in outputs else [node.output[0]])


def _post_order(network: Network) -> Iterator[str]:
    """Yield the names of ops and merges in the order in which they are computed."""
    from rescompile.ir.network import Node, Parallel, Series, children, join, scope

    def visit(node: Node, path: str) -> Iterator[str]:
        if isinstance(node, Side) and node.mode != "always":
            return
        for child in children(node):
            yield from visit(child, scope(path, node))
        if isinstance(node, Op | Parallel) and not isinstance(node, Series):
            yield join(path, node.name)

    return visit(network.root, "")


def test_file(every_op: Network) -> None:
    """The file records versions, producer, the free batch, and the spec with its hash, but neither time nor place."""
    model = onnx.load_from_string(build(every_op, "onnx").to_bytes())
    assert model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.producer_name == "rescompile"
    assert model.graph.name == "every_op"
    assert [_sizes(value) for value in model.graph.input] == [("input", ["batch", 3, 19, 17])]
    assert [_sizes(value) for value in model.graph.output] == [
        ("logits", ["batch", 5]),
        *((name, ["batch", *shape]) for name, shape in every_op.outputs.items() if name != "logits"),
    ]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert set(metadata) == {"rescompile.spec", "rescompile.sha256", "rescompile.passes", "rescompile.seal"}
    assert metadata["rescompile.spec"] == every_op.text
    assert metadata["rescompile.sha256"] == hashlib.sha256(every_op.text.encode()).hexdigest()
    assert metadata["rescompile.passes"] == "[]"


def _sizes(value: onnx.ValueInfoProto) -> tuple[str, list[int | str]]:
    assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    return value.name, [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def test_preprocessing_is_recorded() -> None:
    """The file records the preprocessing of its images."""
    metadata = {entry.key: entry.value for entry in structure("resnet50").metadata_props}
    recorded = json.loads(metadata["rescompile.preprocess"])
    assert recorded == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "resize": 256, "crop": 224}


def test_explicit_pads_and_kernels() -> None:
    """No attribute is left to a default that viewers and converters interpret differently."""
    for node in structure("googlenet").graph.node:
        given = {attribute.name for attribute in node.attribute}
        if node.op_type in ("Conv", "MaxPool", "AveragePool"):
            assert {"kernel_shape", "strides", "pads"} <= given
            assert not {"auto_pad", "ceil_mode"} & given


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "googlenet"])
def test_namespace(name: str) -> None:
    """Nodes have their scope as `namespace`, by which viewers group them, with slashes between its parts."""
    for node in structure(name).graph.node:
        found = {entry.key: entry.value for entry in node.metadata_props}
        scope = node.name.rpartition(".")[0]
        assert found == ({"namespace": scope.replace(".", "/")} if scope else {})


@pytest.mark.parametrize("fold", [False, True])
def test_bytes_are_those_of_protobuf(every_op: Network, fold: bool) -> None:
    """The streamed file equals what protobuf serializes, although it is never in memory as a message."""
    for network, without in ((every_op, False), (facts.network("wrn_22_2_B313"), False), (every_op, True)):
        written = build(network, "onnx", structure_only=without, fold_batchnorm=fold).to_bytes()
        assert onnx.load_from_string(written).SerializeToString(deterministic=True) == written


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_outputs_are_those_of_the_interpreter(every_op: Network) -> None:
    """Every op, merge, side output, feature and survival factor agrees with the interpreter in float64."""
    weights, x = random_weights(every_op), random_input(every_op)
    expected = interpret(every_op, weights, x)
    assert list(expected) != ["logits"]
    for optimised in (False, True):
        found = ran(build(every_op, "onnx", weights).to_bytes(), {"input": x}, optimised)
        assert set(found) == set(expected) == {"logits", "unit1", "pool2", "side"}
        for output, reference in expected.items():
            assert relative_rmse(found[output], reference) < FLOAT32_BOUND, output


def test_float16(every_op: Network) -> None:
    """Weights and nodes are float16, inputs and outputs float32, and every op agrees with the interpreter within 2^13
    times the float32 bound, for 13 bits less."""
    weights, x = random_weights(every_op), random_input(every_op)
    model = build(every_op, "onnx", weights, precision="fp16").to_bytes()
    onnx.checker.check_model(model, full_check=True)
    parsed = onnx.load_from_string(model)
    kinds = {entry.type.tensor_type.elem_type for entry in (*parsed.graph.input, *parsed.graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert {tensor.data_type for tensor in parsed.graph.initializer} == {
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.INT64,
    }
    inferred = onnx.shape_inference.infer_shapes(parsed, strict_mode=True)
    inner = {entry.type.tensor_type.elem_type for entry in inferred.graph.value_info}
    assert inner == {onnx.TensorProto.FLOAT16}
    assert {entry.key: entry.value for entry in parsed.metadata_props}["rescompile.precision"] == "fp16"
    assert len(model) < 0.7 * len(build(every_op, "onnx", weights).to_bytes())
    expected = interpret(every_op, weights, x)
    found = ran(model, {"input": x})
    assert list(found) == [entry.name for entry in parsed.graph.output]
    for output, reference in expected.items():
        assert FLOAT32_BOUND < relative_rmse(found[output], reference) < FLOAT32_BOUND * 2**13, output


def test_float16_upsamples(tmp_path: Path) -> None:
    """A Resize in a float16 graph keeps its factors in float32."""
    path = tmp_path / "up.yaml"
    path.write_text(
        "rescompile: 1\nname: up\ninput: [3, 4, 4]\n"
        "network: [conv1: {conv: {channels: 4, kernel: 3}}, upsample: 2, conv2: {conv: {channels: 2, kernel: 3}}]\n"
    )
    network = elaborate(load(path))
    weights, x = random_weights(network), random_input(network)
    model = build(network, "onnx", weights, precision="fp16").to_bytes()
    onnx.checker.check_model(model, full_check=True)
    assert (
        FLOAT32_BOUND
        < relative_rmse(ran(model, {"input": x})["logits"], interpret(network, weights, x)["logits"])
        < FLOAT32_BOUND * 2**13
    )


def test_float16_without_weights(every_op: Network) -> None:
    """Without weights, the parameters are float16 inputs."""
    model = build(every_op, "onnx", structure_only=True, precision="fp16").to_bytes()
    onnx.checker.check_model(model, full_check=True)
    kinds = {entry.name: entry.type.tensor_type.elem_type for entry in onnx.load_from_string(model).graph.input}
    assert kinds.pop("input") == onnx.TensorProto.FLOAT
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT16}


def test_a_weight_beyond_float16_is_refused(every_op: Network, tmp_path: Path) -> None:
    """A weight that would overflow in float16 is refused, and nothing is written."""
    weights = random_weights(every_op)
    weights["fc.weight"][0, 0] = 7e4
    with pytest.raises(
        CheckFailed, match=r"E0707: fc.weight has values up to 7e\+04, but the largest float16 value is 65504"
    ):
        build(every_op, "onnx", weights, precision="fp16").write(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("target", "precision"), [("onnx", "bf16"), ("torch", "fp16")])
def test_other_precisions_are_refused(target: str, precision: str, tmp_path: Path) -> None:
    """Only ONNX files can have another precision, and only float16."""
    done = invoke("build", "resnet18", "--target", target, "--precision", precision, "-o", tmp_path / "a")
    assert done.exit_code == 2
    assert "precision" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", ["12", "29", "eighteen"])
def test_other_opsets_are_refused(opset: str, tmp_path: Path) -> None:
    """Opsets that are not supported are refused."""
    done = invoke("build", "resnet18", "--target", "onnx", "--opset", opset, "-o", tmp_path / "a.onnx")
    assert done.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_batch_is_free(every_op: Network) -> None:
    """A batch of three images gives what the three images give one by one."""
    model, x = build(every_op, "onnx", random_weights(every_op)).to_bytes(), random_input(every_op, 3)
    together = ran(model, {"input": x})
    for at in range(3):
        alone = ran(model, {"input": x[at : at + 1]})
        for output, value in alone.items():
            assert relative_rmse(together[output][at : at + 1], value) < FLOAT32_BOUND


def test_batch_can_be_fixed(every_op: Network) -> None:
    """`--batch 3` fixes the batch to 3, and changes no output."""
    weights, x = random_weights(every_op), random_input(every_op, 3)
    free = build(every_op, "onnx", weights).to_bytes()
    fixed = build(every_op, "onnx", weights, batch=3).to_bytes()
    graph = onnx.load_from_string(fixed).graph
    assert {_sizes(value)[1][0] for value in (*graph.input, *graph.output)} == {3}
    onnx.checker.check_model(fixed, full_check=True)
    found, expected = ran(fixed, {"input": x}), ran(free, {"input": x})
    assert all(np.array_equal(found[output], expected[output]) for output in expected)
    with pytest.raises(Exception, match=r"(?i)invalid dimensions"):
        ran(fixed, {"input": x[:2]})


def test_structure_only(every_op: Network) -> None:
    """With `--no-weights`, the parameters are inputs in the order of the tree; fed with weights, the model is the same."""
    weights, x = random_weights(every_op), random_input(every_op)
    bare = build(every_op, "onnx", structure_only=True).to_bytes()
    whole = build(every_op, "onnx", weights).to_bytes()
    graph = onnx.load_from_string(bare).graph
    wanted = [value.name for value in graph.input][1:]
    assert not {tensor.name for tensor in graph.initializer} & set(weights)
    assert {_sizes(value)[0]: tuple(_sizes(value)[1]) for value in graph.input[1:]} == {
        name: weights[name].shape for name in wanted
    }
    assert sorted(wanted) == sorted(t.name for t in onnx.load_from_string(whole).graph.initializer if t.name in weights)
    found = ran(bare, {"input": x} | {name: weights[name] for name in wanted}, optimised=False)
    expected = ran(whole, {"input": x}, optimised=False)
    assert all(np.array_equal(found[output], expected[output]) for output in expected)


def test_structure_only_is_small(tmp_path: Path) -> None:
    """A file without its 138 million weights is small."""
    path = tmp_path / "vgg.onnx"
    assert invoke("build", "vgg16_bn", "--target", "onnx", "--no-weights", "-o", path).exit_code == 0
    assert path.stat().st_size < 1 << 16


def test_folding_merges_survival_into_weights(every_op: Network) -> None:
    """With `rescale: test`, survival is a Mul by the probability, which folding merges into the weights where the
    branch is linear."""
    weights, x = random_weights(every_op), random_input(every_op)
    plain = onnx.load_from_string(build(every_op, "onnx", weights).to_bytes()).graph
    factors = {t.name: onnx.numpy_helper.to_array(t) for t in plain.initializer if "survival" in t.name}
    muls = {node.name: node for node in plain.node if node.name.endswith(".survival")}
    assert list(muls) == [
        "unit1.add.survival",
        "unit2.add.survival",
        "gated.0.gate_1.survival",
        "gated.1.gate_1.survival",
    ]
    assert {node.op_type for node in muls.values()} == {"Mul"}
    assert [float(factors[node.input[1]]) for node in muls.values()] == [0.875, 0.75, 0.625, 0.5]
    folded = build(every_op, "onnx", weights, fold_batchnorm=True).to_bytes()
    kinds = [node.op_type for node in onnx.load_from_string(folded).graph.node]
    assert "BatchNormalization" not in kinds  # each directly follows a convolution here
    left = [node.name for node in onnx.load_from_string(folded).graph.node if "survival" in node.name]
    assert left == ["gated.0.gate_1.survival", "gated.1.gate_1.survival"]  # these branches end in a relu
    found = ran(folded, {"input": x})
    for output, reference in interpret(every_op, weights, x).items():
        assert relative_rmse(found[output], reference) < FLOAT32_BOUND


def test_survival_in_training_leaves_evaluation_alone(tmp_path: Path) -> None:
    """With `rescale: train`, evaluation has no factor, because training divides by it."""
    path = tmp_path / "train.yaml"
    path.write_text(EVERY_OP.replace("rescale: test", "rescale: train"))
    network = elaborate(load(path))
    names = [node.name for node in onnx.load_from_string(build(network, "onnx").to_bytes()).graph.node]
    assert not [name for name in names if "survival" in name]


@pytest.mark.parametrize(
    "name", ["resnet50", "wrn_22_2_B313", "densenet_bc_100_k12_cifar", "vgg16_bn", "preact_resnet200"]
)
def test_folding(name: str) -> None:
    """Exactly the norms that are the only reader of a convolution are folded, and other parts keep their names.

    These norms are found in the graph before folding, by producers and readers of values.
    """
    nodes, outputs = structure(name).graph.node, structure(name).graph.output
    makers = {value: node for node in nodes for value in node.output}
    uses = Counter([value for node in nodes for value in node.input] + [value.name for value in outputs])
    norms = [node for node in nodes if node.op_type == "BatchNormalization"]
    folds = {
        norm.name: makers[norm.input[0]].name
        for norm in norms
        if norm.input[0] in makers and makers[norm.input[0]].op_type in ("Conv", "Gemm") and uses[norm.input[0]] == 1
    }
    network = facts.network(name)
    folded, _ = apply(network, None, {"fold_batchnorm": True})
    before, after = facts.shapes(network), facts.shapes(folded)
    assert folds
    expected = {key: shape for key, shape in before.items() if key.rpartition(".")[0] not in folds}
    gained = {f"{conv}.bias": before[f"{norm}.weight"] for norm, conv in folds.items()}
    assert after == gained | expected
    names = {path for path, _ in walk(network.root)}
    assert {path for path, _ in walk(folded.root)} == names - set(folds)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("border", ["{before: 1, after: 1}", "{before: [2, 0], after: [0, 2]}"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_a_border_of_zeros_stays_before_a_max_pool(kernel: int, border: str, precision: str, tmp_path: Path) -> None:
    """ONNX Runtime neither moves zeros into the padding of a max pool, which is minus infinity, nor fails where the
    border is as large as the kernel: a pool of negative values is 0 at the border."""
    path = tmp_path / "bordered.yaml"
    rows = (
        f"[{{affine: {{per: one, scale: false}}}}, {{border: {border}}}, {{maxpool: {{kernel: {kernel}, stride: 1}}}}]"
    )
    path.write_text(f"rescompile: 1\nname: bordered\ninput: [2, 6, 6]\nnetwork: {rows}\n", "utf-8")
    network = elaborate(load(path))
    weights = from_arrays({name: np.full_like(value, -9) for name, value in draw(network).items()}, network)
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)
    backend = load_backend("onnx")
    assert backend.evaluate is not None
    found = backend.evaluate(network, weights, x, **checked(backend, "onnx", {"precision": precision}))["logits"]
    exact = interpret(network, weights, x)["logits"]
    assert exact.max() == 0
    np.testing.assert_allclose(found, exact, atol=1e-2 if precision == "fp16" else 1e-5)


def test_features(tmp_path: Path) -> None:
    """`features` adds the maps after named stages as outputs, and `logits` does not change."""
    path = tmp_path / "backbone.yaml"
    path.write_text(
        "rescompile: 1\nname: backbone\nextends: resnet18\nfeatures: [layer1, layer2, layer3, layer4, fc]\n"
    )
    spec = load(path, ["input=[3, 64, 64]"])
    plain, network = facts.network("resnet18", "input=[3, 64, 64]"), elaborate(spec)
    x = random_input(network)
    found = ran(build(network, "onnx").to_bytes(), {"input": x})
    expected = ran(build(plain, "onnx").to_bytes(), {"input": x})
    shapes = {name: value.shape[1:] for name, value in found.items()}
    assert shapes == {
        "logits": (1000,), "layer1": (64, 16, 16), "layer2": (128, 8, 8), "layer3": (256, 4, 4), "layer4": (512, 2, 2),
        "fc": (1000,),
    }  # fmt: skip
    assert relative_rmse(found["logits"], expected["logits"]) < FLOAT32_BOUND
    assert np.array_equal(found["fc"], found["logits"])
    pooled = found["layer4"].mean(axis=(2, 3), dtype=np.float64)
    weights = draw(network)
    assert (
        relative_rmse(found["logits"], pooled @ weights["fc.weight"].T.astype(np.float64) + weights["fc.bias"])
        < 10 * FLOAT32_BOUND
    )


# --- weights ----------------------------------------------------------------------------------------------------------


def initializers(model: bytes) -> dict[str, Array]:
    """Return the initializers of a model by name."""
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(model).graph.initializer}


@pytest.mark.slow
def test_same_bytes_in_every_process(tmp_path: Path) -> None:
    """The same spec and seed give the same bytes, whatever the hash seed, number of threads, folder and time zone."""
    code = (
        "import os, sys; threads = int(sys.argv[1]); os.cpu_count = lambda: threads; sys.argv[1:] = sys.argv[2:]\n"
        "from rescompile.cli import main; main()"
    )
    digests = set()
    for threads, hash_seed in (("1", "0"), ("2", "1"), ("13", "2")):
        folder = tmp_path / threads
        folder.mkdir()
        arguments = (threads, "build", "resnet18", "--target", "onnx", "--seed", "3")
        isolated(code, *arguments, cwd=folder, PYTHONHASHSEED=hash_seed, TZ=f"UTC+{threads}")
        digests.add(hashlib.sha256((folder / "resnet18.onnx").read_bytes()).hexdigest())
    here = build(facts.network("resnet18"), "onnx", seed=3).to_bytes()
    assert digests == {hashlib.sha256(here).hexdigest()}


def test_another_seed_is_another_network() -> None:
    """Another seed changes every tensor that is drawn."""
    network = facts.network("resnet18")
    zero, one = (initializers(build(network, "onnx", seed=seed).to_bytes()) for seed in (0, 1))
    drawn = {name for name, parameter in parameters(network) if isinstance(parameter.fill, Draw)}
    assert len(drawn) == 21  # 20 convolutions and the weight of fc
    assert {name for name in zero if not np.array_equal(zero[name], one[name])} == drawn
    assert not any(np.isin(zero[name].ravel()[:64], one[name]).all() for name in drawn)


def test_another_block_leaves_the_others_alone() -> None:
    """Weights depend on seed and name, so a deeper network has those of the shallower one."""
    small = initializers(build(facts.network("resnet18"), "onnx").to_bytes())
    deep = initializers(build(facts.network("resnet18", "layer1.depth=3", "layer3.depth=4"), "onnx").to_bytes())
    assert set(small) < set(deep)
    assert all(np.array_equal(small[name], deep[name]) for name in small)


def test_init_rules() -> None:
    """Weights follow He's normal distribution by outputs (torchvision) or inputs (WRN), and those of linear layers
    torch's default."""
    for name, fan in (("resnet50", "out"), ("wrn_22_2_B313", "in")):
        network = facts.network(name)
        weights, shapes = draw(network), facts.shapes(network)
        for key in (key for key, shape in shapes.items() if len(shape) == 4 and math.prod(shape) > 20_000):
            outputs, inputs, height, width = shapes[key]
            expected = math.sqrt(2 / ((outputs if fan == "out" else inputs) * height * width))
            _is_normal(weights[key], expected)
        _is_uniform(weights["fc.weight"], 1 / math.sqrt(shapes["fc.weight"][1]))
        assert set(weights["fc.bias"]) == {0.0}


def _is_normal(values: Array, deviation: float) -> None:
    """Assert that moments and quantiles are within five standard errors."""
    values = np.float64(values).ravel() / deviation
    slack = 5 / math.sqrt(values.size)
    assert abs(values.mean()) < slack
    assert abs(values.std() - 1) < slack
    assert abs((np.abs(values) < 1).mean() - 0.6827) < slack
    assert abs((np.abs(values) < 2).mean() - 0.9545) < slack
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < slack


def _is_uniform(values: Array, bound: float) -> None:
    """Assert that values reach the bound but do not exceed it, with moments of a uniform distribution within five
    standard errors."""
    values = np.float64(values).ravel() / bound
    slack = 5 / math.sqrt(values.size)
    assert np.abs(values).max() <= 1
    assert np.abs(values).max() > 1 - slack
    assert abs(values.mean()) < slack
    assert abs(values.std() - 1 / math.sqrt(3)) < slack
    assert abs((np.abs(values) < 0.5).mean() - 0.5) < slack


def test_constants_of_init() -> None:
    """Norms start as the identity, the gates of a highway at its `bias_T`, and drawn tensors are uncorrelated."""
    weights = draw(facts.network("highway_b_cifar10_19"))
    assert set(weights["stage2.3.gate.bias"]) == {-2.0}
    assert set(weights["stage2.3.conv.bias"]) == {0.0}
    first, second = (weights[f"stage2.{index}.conv.weight"].ravel() for index in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(first.size)
    norms = draw(facts.network("resnet18"))
    found = {part: set(norms[f"bn1.{part}"]) for part in ("weight", "bias", "running_mean", "running_var")}
    assert found == {"weight": {1.0}, "bias": {0.0}, "running_mean": {0.0}, "running_var": {1.0}}
    assert norms["bn1.num_batches_tracked"] == 0


def test_init_in_a_spec(tmp_path: Path) -> None:
    """`init`, `scale_init` and `bias_init` in `defaults` determine what is drawn."""
    path = tmp_path / "changed.yaml"
    path.write_text(
        "rescompile: 1\nname: changed\nextends: resnet18\n"
        "defaults: {conv: {init: torch_default}, norm: {scale_init: 0.25}, linear: {init: he_normal_fan_in, bias_init: torch_default}}\n"
    )
    weights = draw(elaborate(load(path)))
    _is_uniform(weights["layer4.1.conv2.weight"], 1 / math.sqrt(512 * 9))
    assert set(weights["layer1.0.bn2.weight"]) == {0.25}
    _is_normal(weights["fc.weight"], math.sqrt(2 / 512))
    _is_uniform(weights["fc.bias"], 1 / math.sqrt(512))


# --- external data ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the threshold, so that weights of a tiny network count as too large for one file."""
    load_backend("onnx")
    monkeypatch.setattr("rescompile.backends.onnx.file.EXTERNAL_ABOVE", 1000)


def test_threshold() -> None:
    """The threshold is 1.5 GiB: protobuf is limited to 2 GiB, and readers need some margin."""
    load_backend("onnx")
    assert sys.modules["rescompile.backends.onnx.file"].EXTERNAL_ABOVE == 1.5 * 2**30


@pytest.mark.usefixtures("small_threshold")
def test_external_data(every_op: Network, tmp_path: Path) -> None:
    """A model with external data has the same weights and outputs, and each tensor starts on a page boundary."""
    weights, x = random_weights(every_op), random_input(every_op)
    path = tmp_path / "model.onnx"
    artifact = build(every_op, "onnx", weights)
    data, main = artifact.write(path)
    assert main == path
    assert data.parent == tmp_path
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path), load_external_data=False)
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert {tensor.name for tensor in outside} == {t.name for t in model.graph.initializer if t.name in weights}
    for tensor in outside:
        entry = {fact.key: fact.value for fact in tensor.external_data}
        assert entry["location"] == data.name
        assert int(entry["offset"]) % 4096 == 0
        raw = data.read_bytes()[int(entry["offset"]) :][: int(entry["length"])]
        assert np.array_equal(np.frombuffer(raw, "<f4").reshape(tensor.dims), weights[tensor.name])
    found = ran(path, {"input": x})
    expected = interpret(every_op, weights, x)
    assert all(relative_rmse(found[output], expected[output]) < FLOAT32_BOUND for output in expected)
    assert path.read_bytes() == model.SerializeToString(deterministic=True)
    with pytest.raises(OutputError, match="several files"):
        artifact.to_bytes()


@pytest.mark.usefixtures("small_threshold")
def test_pair_moves_together(every_op: Network, tmp_path: Path) -> None:
    """A pair works in another folder, because the location is a plain file name."""
    before = build(every_op, "onnx").write(tmp_path / "model.onnx")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for path in before:
        shutil.move(path, folder / path.name)
    assert ran(folder / "model.onnx", {"input": random_input(every_op)})


@pytest.mark.usefixtures("small_threshold")
@pytest.mark.parametrize("failing", [0, 1])
def test_pair_is_replaced_as_a_whole(
    every_op: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whichever file cannot be replaced, the model at the path keeps its own weights, the old or the new ones."""
    path, x = tmp_path / "model.onnx", random_input(every_op)
    build(every_op, "onnx", seed=0).write(path)
    old = ran(path, {"input": x})["logits"]
    new = ran(_in_one_file(every_op, 1), {"input": x})["logits"]
    assert not np.array_equal(old, new)
    real, calls = os.replace, 0

    def replace(source: str, target: str | Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing + 1:
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with pytest.raises(OutputError):
            build(every_op, "onnx", seed=1).write(path)
    assert calls == failing + 1
    assert np.array_equal(ran(path, {"input": x})["logits"], old)
    assert not [left.name for left in tmp_path.iterdir() if left.name.startswith(".")]
    written = build(every_op, "onnx", seed=1).write(path)
    assert relative_rmse(ran(path, {"input": x})["logits"], new) < FLOAT32_BOUND
    assert set(tmp_path.iterdir()) == set(written)  # the old weights are removed with their model


def _in_one_file(network: Network, seed: int) -> bytes:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rescompile.backends.onnx.file.EXTERNAL_ABOVE", 1 << 30)
        return build(network, "onnx", seed=seed).to_bytes()


# --- checksum trailer and extract -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_threshold")
def test_checksum_trailer(every_op: Network, tmp_path: Path) -> None:
    """A file counts as ours until it changes; a changed or foreign one is overwritten only with --force."""
    data, path = build(every_op, "onnx").write(tmp_path / "model.onnx")
    assert checksum.state(tmp_path / "nothing.onnx") == "absent"
    for file in (path, data):
        whole = file.read_bytes()
        assert checksum.state(file) == "ours"
        for changed in (whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], whole[1:], b" " + whole):
            file.write_bytes(changed)
            assert checksum.state(file) == "edited"
            with pytest.raises(OutputError):
                build(every_op, "onnx").write(path)
            assert file.read_bytes() == changed
        for foreign in (b"", b"no model", whole[:-40], whole + bytes(100)):
            file.write_bytes(foreign)
            assert checksum.state(file) == "foreign"
            with pytest.raises(OutputError):
                build(every_op, "onnx").write(path)
            assert file.read_bytes() == foreign
        build(every_op, "onnx").write(path, force=True)
        assert checksum.state(file) == "ours"


def test_a_model_saved_by_onnx_is_edited(every_op: Network, tmp_path: Path) -> None:
    """A model that another tool changes and saves no longer counts as ours."""
    (path,) = build(every_op, "onnx").write(tmp_path / "model.onnx")
    model = onnx.load(str(path))
    model.graph.node[0].name = "renamed"
    onnx.save(model, str(path))
    assert checksum.state(path) in ("edited", "foreign")


@pytest.mark.parametrize("passes", [[], ["--fold-batchnorm"]])
@pytest.mark.parametrize("name", ["resnet101", "wrn_22_2_B313", "googlenet"])
@pytest.mark.slow
def test_extract_and_build_again(name: str, passes: list[str], tmp_path: Path) -> None:
    """The spec in the file, built with the passes that `extract` reports, gives the same bytes."""
    first, again, spec = tmp_path / "first.onnx", tmp_path / "again.onnx", tmp_path / "spec.yaml"
    settings = ["--set", "parameters.classes=10", "--set", "input=[3, 64, 64]"]
    assert invoke("build", name, "--target", "onnx", "-o", first, *settings, *passes).exit_code == 0
    extracted = invoke("extract", first, "-o", spec)
    assert extracted.exit_code == 0
    recorded = [word for word in extracted.stderr.split() if word.startswith("--")]
    assert recorded == passes
    assert invoke("build", spec, "--target", "onnx", "-o", again, *recorded).exit_code == 0
    assert again.read_bytes() == first.read_bytes()


# --- weights from a file ----------------------------------------------------------------------------------------------


def safetensors(path: Path, tensors: dict[str, Array], kind: str = "F32") -> Path:
    """Write a safetensors file by hand from the format's description, so that no library rounds or renames anything."""
    header, blobs, at = {}, [], 0
    for name, values in tensors.items():
        if values.dtype == np.int64:
            blob, dtype = values.astype("<i8").tobytes(), "I64"
        elif kind == "BF16":  # the upper half of a float32
            blob, dtype = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(), kind
        else:
            blob, dtype = values.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[kind]).tobytes(), kind
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    return path


def stored(values: Array, kind: str) -> Array:
    """Return a value after storage in a format."""
    if kind == "BF16":
        return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return values.astype(np.float16).astype(np.float32) if kind == "F16" else values


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_weights_of_every_width(kind: str, tmp_path: Path) -> None:
    """Narrower floating-point formats are widened to float32 exactly."""
    network = facts.network("wrn_22_2_B313")
    weights = random_weights(network)
    path, model = safetensors(tmp_path / "w.safetensors", weights, kind), tmp_path / "m.onnx"
    done = invoke("build", "wrn_22_2_B313", "--target", "onnx", "--weights", path, "-o", model)
    assert done.exit_code == 0, done.output
    found = initializers(model.read_bytes())
    wanted = {name for name in weights if not name.endswith("num_batches_tracked")}
    assert wanted <= set(found)
    for name in wanted:
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], stored(weights[name], kind)), name


def test_weights_of_safetensors_itself(tmp_path: Path) -> None:
    """A file of the safetensors library is accepted, also without the counters that many converters drop."""
    from safetensors.numpy import save_file

    network = facts.network("wrn_22_2_B313")
    weights = {name: a for name, a in random_weights(network).items() if not name.endswith("num_batches_tracked")}
    save_file(weights, tmp_path / "w.safetensors", {"format": "pt"})
    found = initializers(build(network, "onnx", tmp_path / "w.safetensors").to_bytes())
    assert all(np.array_equal(found[name], weights[name]) for name in weights)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    """Weights that do not fit are one table with all differences and exit code 1, and nothing is written."""
    weights = random_weights(facts.network("wrn_22_2_B313"))
    weights["group1.block0.conv0.weights"] = weights.pop("group1.block0.conv0.weight")
    weights["fc.weight"] = weights["fc.weight"][:7]
    del weights["bn.running_var"]
    weights["extra.scale"] = np.ones(3, np.float32)
    path, model = safetensors(tmp_path / "w.safetensors", weights), tmp_path / "m.onnx"
    done = invoke("build", "wrn_22_2_B313", "--target", "onnx", "--weights", path, "-o", model)
    assert done.exit_code == 1
    lines = [line.split() for line in done.stderr.splitlines()]
    for expected in (
        "differs fc.weight [7, 128] instead of [10, 128]",
        "missing group1.block0.conv0.weight [64, 32, 3, 3]",
        "missing bn.running_var [128]",
        "unexpected group1.block0.conv0.weights [64, 32, 3, 3]",
        "unexpected extra.scale [3]",
    ):
        assert expected.split() in lines, done.stderr
    assert "1 differ, 2 missing, 2 unexpected" in done.stderr
    assert not model.exists()


def test_weights_too_wide(tmp_path: Path) -> None:
    """float64 weights are refused, because nothing is rounded silently."""
    path = safetensors(tmp_path / "w.safetensors", random_weights(facts.network("wrn_22_2_B313")), "F64")
    done = invoke("build", "wrn_22_2_B313", "--target", "onnx", "--weights", path, "-o", tmp_path / "m.onnx")
    assert done.exit_code == 1
    assert "F64" in done.stderr


@pytest.mark.parametrize("content", [b"", b"no safetensors", struct.pack("<Q", 1 << 60) + b"{}"])
def test_weights_that_are_not_safetensors(content: bytes, tmp_path: Path) -> None:
    """An invalid file is a usage error that names it."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    done = invoke("build", "resnet18", "--target", "onnx", "--weights", path, "-o", tmp_path / "m.onnx")
    assert done.exit_code == 2
    assert str(path) in done.stderr.replace("\n", "")


def test_weights_from_memory_must_fit() -> None:
    """The Python API refuses weights that do not fit, as the command line does."""
    network = facts.network("wrn_22_2_B313")
    weights = random_weights(network)
    del weights["fc.bias"]
    with pytest.raises(CheckFailed, match=r"fc\.bias"):
        build(network, "onnx", weights)


# --- the process ------------------------------------------------------------------------------------------------------


def test_no_framework_is_imported(tmp_path: Path) -> None:
    """A build of ONNX imports no framework and no runtime, even where they are installed."""
    code = (
        "import sys\n"
        "from rescompile.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print(*sorted({module.partition('.')[0] for module in sys.modules}))"
    )
    arguments = ("build", "resnet18", "--target", "onnx", "--fold-batchnorm", "-o", str(tmp_path / "m.onnx"))
    loaded = set(isolated(code, *arguments).split())
    assert {"rescompile", "numpy"} <= loaded
    frameworks = {
        "torch",
        "torchvision",
        "timm",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "jax",
        "flax",
        "mlx",
        "tensorflow",
        "keras",
    }
    assert not loaded & frameworks
