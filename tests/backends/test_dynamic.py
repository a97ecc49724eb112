"""`--dynamic height,width`: one file for images of many sizes computes the same as the network compiled for each size.

Four references: the elaborator at one size (which sizes are valid, and the shape of every part); torch's functions in
float64, through the module; the ONNX file of fixed size; onnx's shape inference.
"""

from __future__ import annotations

import ast
import copy
import io
import itertools
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import facts
import numpy as np
import onnx
import pytest
from command_line import invoke
from generator import generate
from numpy.typing import NDArray
from ort import ran
from output_comparison import random_weights
from refusals import hold, text_of

from rescompile import backend, build, elaborate, load
from rescompile.analysis.dynamic_shapes import Extent, Free, Sizes, _agreement, _both, sizes
from rescompile.diagnostics.errors import ShapeError, SpecError, Unavailable, UsageError
from rescompile.ir.network import Network, Op, walk
from rescompile.ir.ops import Axis, Conv, Kind, MaxPool, rank
from rescompile.runtimes.accuracy import FLOOR, TIMES, relative_error
from rescompile.runtimes.verify import tap_all
from rescompile.weights import from_arrays
from rescompile.weights.batch_statistics import trial

Array = NDArray[Any]
BOTH = "height,width"

#: Two blocks per stage suffice: further blocks keep the size.
SHORT = ("layer1.depth=2", "layer2.depth=2", "layer3.depth=2")
#: One network of every family that accepts other sizes, with settings that leave out what would only cost time.
FAMILIES: dict[str, tuple[str, ...]] = {
    "alexnet": ("classifier=[{linear: 10}]",),
    "convmixer_768_32": ("blocks.depth=2",),
    "convnext_tiny": (),
    "cspresnet50": (),
    "darknet_resnet18": (),
    "densenet_40_k12_cifar": ("parameters.n=3",),
    "dpn68b": (),
    "dla34": ("level4.levels=1",),
    "drn_a_18": (),
    "ecaresnet26t": (),
    "efficientnet_b0": ("blocks.5.depth=2",),
    "fasternet_t0": (),
    "fixup_resnet110_cifar": ("parameters.n=2",),
    "gernet_s": ("stages.2.depth=2",),
    "googlenet": (),
    "he2016_activation_full_preact": SHORT,
    "he2016_1layer_skip_110": SHORT,
    "he2016_shortcut_shortcut_gate_b6": SHORT,
    "hardnet68": (),
    "hrnet_w18_small": ("parameters.units=1",),
    "mobilenet_v1": (),
    "plain20_cifar": (),
    "preact_resnet18": (),
    "repvgg_a0": ("stage3.depth=2",),
    "res2net50_26w_4s": (*SHORT, "layer4.depth=1"),
    "resnest50d": (*SHORT, "layer4.depth=1"),
    "resnet18": (),
    "resnet50_fpn": ("body.layer2.depth=1", "body.layer3.depth=1"),
    "resnet18d": (),
    "resnet20_cifar": (),
    "nf_resnet50": ("stages.2.depth=2",),
    "pyramidnet110_a48_cifar": ("parameters.n=3",),
    "regnety_004": ("s3.depth=2", "s4.depth=2"),
    "resnext50_32x4d": (*SHORT, "layer4.depth=1"),
    "selecsls42b": (),
    "seresnet50": (*SHORT, "layer4.depth=1"),
    "shake_shake_26_2x32d_cifar": ("parameters.n=2", "parameters.k=8"),
    "skresnet50": (*SHORT, "layer4.depth=1"),
    "squeezenet1_1": (),
    "stochastic_depth_110": SHORT,
    "torchblog_no_relu": SHORT,
    "ese_vovnet19b_dw": (),
    "unet": (),
    "vgg11": ("vgg_head=[{adaptive_avgpool: 7}, flatten, {fc: {linear: 10}}]",),
    "wrn_22_2_B313": ("parameters.n=1",),
    "wrn_40_1": ("parameters.n=1",),
    "wrn_40_2_l1": ("parameters.n=1",),
    "xception": (),
}
#: Families in which every network needs a map of one size, or takes a vector.
FIXED = ("faces", "fractalnet", "highway", "nasnet", "tresnet")
#: Networks that compute values from the height: one spreads a mean over the map, the others pad even maps differently
#: from odd ones.
COMPUTED = ("deeplabv3_resnet50", "dm_nfnet_f0", "nasnetalarge", "pnasnet5large")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Run torch on one thread: more threads would mostly wait for each other in networks this small."""
    try:
        import torch
    except ImportError:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def network(name: str) -> Network:
    """Return one of FAMILIES at the size of its spec."""
    return facts.network(name, *FAMILIES[name])


def at_size(name: str, height: int, width: int) -> Network:
    """Return the same network compiled for another size."""
    return elaborate(load(name, [*FAMILIES[name], f"input=[3,{height},{width}]"]))


def value(expression: str | int, height: int, width: int) -> int:
    """Return the value of a shape expression at a size."""
    code = compile(ast.parse(str(expression), mode="eval"), "<shape>", "eval")
    return int(eval(code, {"__builtins__": {}}, {"height": height, "width": width}))


def shapes_at(found: Sizes, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all outputs at a size."""
    return {name: tuple(value(n, height, width) for n in shape) for name, shape in found.outputs.items()}


# --- the analysis -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_network_is_classified() -> None:
    """Every zoo network on images accepts other sizes, or is refused with the op that fixes its size."""
    refused = set()
    free_families = set()
    images = [name for name in facts.zoo() if rank(facts.network(name).input) == 2]
    for name in images:
        net = facts.network(name)
        try:
            found = sizes(net, BOTH)
        except UsageError as problem:
            hold(problem)
            (diagnostic,) = problem.diagnostics
            assert diagnostic.code == "E0809"
            assert diagnostic.place is not None
            if name == "tresnet_m":
                assert "space_to_depth" in diagnostic.message
            elif name in COMPUTED:
                assert "computes values from 'height'" in diagnostic.message
            else:
                assert "turns a map" in diagnostic.message
                assert "pool" in str(diagnostic.help)
            refused.add(name)
            continue
        free_families.add(load(name).family)
        assert shapes_at(found, *net.input[1:]) == dict(net.outputs)
        assert all(axis.takes(axis.size) for axis in found.free)
    assert refused == {
        name
        for name in images
        if "mnist" in name
        or name.startswith(("highway_b_cifar", "fractalnet"))
        or name in ("alexnet_2012", "tresnet_m", "ir50", *COMPUTED)
    }
    assert free_families == {load(name).family for name in FAMILIES}
    assert {load(name).family for name in images} - free_families == set(FIXED)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
def test_every_part_has_the_size_of_the_elaborator(name: str) -> None:
    """Every part has the shape that elaboration at that size infers, and a size is valid exactly where elaboration succeeds."""
    found = sizes(tap_all(network(name)), BOTH)
    height, width = found.free
    # Sizes around the minimum, smaller ones included, with all remainders of the stride, and some random ones.
    tried = {*range(max(height.minimum - 3, 1), height.minimum + 6), *random.Random(name).sample(range(30, 120), 4)}
    for n in sorted(tried):
        m = width.after(n + 5)
        try:
            there = tap_all(at_size(name, n, m))
        except SpecError:
            assert not height.takes(n), n
        else:
            assert height.takes(n), n
            assert shapes_at(found, n, m) == dict(there.outputs), (n, m)


UNET = """
rescompile: 1
name: unet
input: [3, 16, 20]
network:
  - stem: {conv: {channels: 8, kernel: 3}}
  - parallel:
      merge: concat
      branches:
        - identity
        - - {maxpool: {kernel: 2}}
          - down: {conv: {channels: 8, kernel: 3}}
          - parallel:
              merge: add
              branches:
                - identity
                - - {avgpool: {kernel: 2}}
                  - deep: {conv: {channels: 8, kernel: 3}}
                  - norm1: {norm: {kind: group, groups: 2}}
                  - upsample: 2
          - {upsample: {factor: 2, kind: bilinear}}
  - out: {conv: {channels: 1, kernel: 1}}
"""


def test_down_and_up_again(tmp_path: Path) -> None:
    """A network that halves and doubles the size twice accepts multiples of four and returns a map as large as the image."""
    path = tmp_path / "unet.yaml"
    path.write_text(UNET, encoding="utf-8")
    free = elaborate(load(path))
    found = sizes(free, BOTH)
    assert [(axis.minimum, axis.every, axis.rests) for axis in found.free] == [(4, 4, (0,))] * 2
    assert found.outputs == {"logits": (1, "height", "width")}
    weights = random_weights(free)
    model = build(free, "onnx", weights, dynamic=BOTH).to_bytes()
    for size in ("4,4", "12,40", "60,8"):
        fixed = elaborate(load(path, [f"input=[3,{size}]"]))
        x = np.random.default_rng(0).standard_normal((2, *fixed.input), np.float32)
        static = ran(build(fixed, "onnx", weights).to_bytes(), {"input": x})
        assert relative_error(ran(model, {"input": x}), static) < 1e-5
    with pytest.raises(SpecError):
        elaborate(load(path, ["input=[3,10,8]"]))


def test_training_may_need_larger_images() -> None:
    """The auxiliary head of Inception, computed only in training, needs a larger image than evaluation does."""
    net = facts.network("inception_v3")
    (least,) = {axis.minimum for axis in sizes(net, BOTH).free}
    (least_in_training,) = {axis.minimum for axis in sizes(net, BOTH, training=True).free}
    assert (least, least_in_training) == (75, 299)  # torchvision: minimum 75, trained at 299
    text = build("inception_v3", "source", dynamic=BOTH).to_bytes().decode()
    assert "Takes any height and width of at least 299." in text


def test_where_a_window_begins_to_fit() -> None:
    """An op accepts every map from its minimum size on and none below it, except 1x1, which a long stride leaves as it is."""
    for kernel, stride, dilation, padding in itertools.product(range(1, 6), range(1, 5), (1, 2), range(3)):
        kinds: list[Kind] = [Conv(4, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))]
        if 2 * padding <= kernel:
            kinds += [MaxPool((kernel, 1), (stride, 1), (padding, 0), ceil) for ceil in (False, True)]
        for kind in kinds:
            axes = kind.axes((4, 8, 1))
            assert axes is not None
            for n in range(1, 16):
                try:
                    assert kind.output((4, n, 1)) == (4, axes[0](n), 1)
                except ShapeError:
                    assert n < axes[0].least
                else:
                    assert n >= axes[0].least or n == 1


def random_extent(rng: random.Random) -> tuple[Extent, list[Axis]]:
    """Return a random function of the size, and the steps that it composes."""
    steps = [
        Axis(rng.choice((1, 1, 2, 3)), rng.randrange(-4, 5), rng.choice((1, 1, 2, 3, 4)))
        for _ in range(rng.randrange(6))
    ]
    extent = Extent()
    for step in steps:
        extent = extent.after(step)
    return extent, steps


@pytest.mark.parametrize("seed", range(200))
def test_sizes_as_functions(seed: int) -> None:
    """A composed function equals its steps applied in turn and its text evaluated; `least` returns the smallest
    sufficient input."""
    extent, steps = random_extent(random.Random(seed))
    for n in range(1, 150):
        wanted = n
        for step in steps:
            wanted = step(wanted)
        assert extent(n) == value(extent.text("height"), n, 0) == wanted
    for size in range(-3, 20):
        least = extent.least(size)
        assert extent(least) >= size
        assert least == 1 or extent(least - 1) < size


@pytest.mark.slow
def test_where_two_functions_of_the_size_agree() -> None:
    """Two functions of the size are equal at exactly the remainders found, also far beyond the period that was searched."""
    rng = random.Random(0)
    kinds = set()
    for _ in range(3000):
        (one, _), (other, _) = random_extent(rng), random_extent(rng)
        found = _agreement(one, other)
        equal = {n for n in range(2000, 2600) if one(n) == other(n)}
        if found is None:
            # Functions that grow alike and never meet, or that meet at some sizes and then diverge.
            assert len(equal) < 40, (one, other)
            continue
        every, rests = _both(found, (1, frozenset({0})))
        assert equal == {n for n in range(2000, 2600) if n % every in rests}
        kinds.add((every == 1, len(rests) > 1))
    assert kinds >= {(True, False), (False, False), (False, True)}


# --- what is refused --------------------------------------------------------------------------------------------------

FLATTENED = """\
--dynamic:1:1: error[E0809]: height and width cannot be dynamic: flatten turns a map of 3x3 into 288 features, and the next layer requires this number
    1 | height,width
      | ^^^^^^
   defined by network.12 in specs/highway_mnist_conv_32.yaml:25
   help: put global_avgpool before it, or adaptive_avgpool: [3, 3]
"""
WRONG = {
    "a window as large as the map": (
        "[{conv: {channels: 4, kernel: 3}}, {avgpool: {kernel: 16}}, flatten, {linear: 5}]",
        BOTH,
        "flatten turns a map of 1x1 into 4 features",
        "use global_avgpool instead of the pool",
    ),
    "only the width": ("[flatten, {linear: 5}]", "width", "width cannot be dynamic: flatten turns a map of 16x16 into 768 features", "global_avgpool"),
    "branches of unlike strides": (
        "[{parallel: {merge: concat, branches: [{conv: {channels: 4, kernel: 9, padding: 0}}, {avgpool: {kernel: 2}}]}}]",
        BOTH,
        "joins branches of height - 8 and height//2, which match at 16 but not at other sizes",
        "strides",
    ),
    "a stride that a map of 1x1 does not mind": (
        "[{maxpool: {kernel: 16}}, {maxpool: {kernel: 1, stride: 3}}]",
        "height",
        "has an input of size 1, but a dynamic input must be at least 3 here",
        "defined by",
    ),
}  # fmt: skip


def test_the_message_of_a_refusal() -> None:
    """A refusal names the op and its place in the spec, and suggests a fix."""
    with pytest.raises(UsageError) as problem:
        sizes(facts.network("highway_mnist_conv_32"), BOTH)
    assert text_of(problem.value).replace(str(Path(__file__).parents[2]) + "/", "") == FLATTENED


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("target", ["onnx", "source"])
def test_networks_of_fixed_size_are_refused(case: str, target: str, tmp_path: Path) -> None:
    """A network of fixed size is refused at the option with exit code 2, and nothing is written."""
    body, axes, why, help = WRONG[case]
    path = tmp_path / "fixed.yaml"
    path.write_text(f"rescompile: 1\nname: fixed\ninput: [3, 16, 16]\nnetwork: {body}\n", encoding="utf-8")
    done = invoke("build", path, "--target", target, "--dynamic", axes, "-o", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert f"error[E0809]: {axes.replace(',', ' and ') if axes == BOTH and 'flatten' in why else ''}" in done.stderr
    assert why in done.stderr
    assert help in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("heigth", "did you mean 'height'?"),
        ("batch", "the batch is dynamic already"),
        ("height,height", "twice"),
        ("", "''"),
    ],
)
def test_unknown_axes_are_refused(value: str, why: str) -> None:
    """`--dynamic` accepts distinct axes of the image only."""
    done = invoke("build", "resnet18", "--target", "onnx", "--no-weights", "--dynamic", value, "-o", "-")
    assert done.exit_code == 2
    assert "error[E0802]" in done.stderr
    assert why in done.stderr


def test_a_vector_has_no_height(tmp_path: Path) -> None:
    """An input of features has no axes that could be dynamic."""
    path = tmp_path / "vector.yaml"
    path.write_text("rescompile: 1\nname: vector\ninput: [16]\nnetwork: [{linear: 5}]\n", encoding="utf-8")
    done = invoke("build", path, "--target", "onnx", "--dynamic", BOTH, "-o", "-")
    assert done.exit_code == 2
    assert "error[E0809]: the input of vector is [16]" in done.stderr


# --- ONNX -------------------------------------------------------------------------------------------------------------


def odd_sizes(found: Sizes) -> list[tuple[int, int]]:
    """Return five valid sizes: the minimum, and larger ones that are rectangular and as odd as the network allows."""
    height, width = found.free
    beyond = [(0, 0), (0, 28), (33, 18), (26, 41), (38, 9)]
    return [(height.after(height.minimum + h), width.after(width.minimum + w)) for h, w in beyond]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
def test_one_dynamic_file_agrees_with_fixed_files(name: str) -> None:
    """At five sizes the dynamic file agrees with the file of that size, and with float64 as closely as torch in float32 does."""
    torch = pytest.importorskip("torch")
    free = network(name)
    maker: Any = backend.load("torch")
    calm = trial(at_size(name, *(axis.after(65) for axis in sizes(free, BOTH).free)), 0)
    weights = {key: calm[key] for key in calm}
    model = build(free, "onnx", weights, dynamic=BOTH).to_bytes()
    single: Any = maker.make(free, from_arrays(weights, free)).eval()
    double = copy.deepcopy(single).double()
    tried = odd_sizes(sizes(free, BOTH))
    assert len({size for size in tried if size != free.input[1:]}) == 5
    for at, (height, width) in enumerate(tried):
        fixed = at_size(name, height, width)
        x = np.random.default_rng(at).standard_normal((2, *fixed.input), np.float32)
        given, static = ran(model, {"input": x}), ran(build(fixed, "onnx", weights).to_bytes(), {"input": x})
        with torch.no_grad():
            found = double(torch.from_numpy(x).double()), single(torch.from_numpy(x))
        exact, plain = ((value["logits"] if isinstance(value, dict) else value).numpy() for value in found)
        assert given["logits"].shape == exact.shape == static["logits"].shape
        bound = max(TIMES * relative_error({"logits": plain}, {"logits": exact}), FLOOR)
        assert relative_error(given, {"logits": exact}) <= bound, (height, width)
        assert relative_error(given, static) <= bound, (height, width)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("opset", [17, 21])
def test_onnx_infers_the_declared_shapes(name: str, opset: int) -> None:
    """The file is valid, and onnx infers its declared shapes: names where they are dynamic, numbers at a given size."""
    free = tap_all(network(name))
    found = sizes(free, BOTH)
    model = onnx.load(io.BytesIO(build(free, "onnx", structure_only=True, dynamic=BOTH, opset=opset).to_bytes()))
    onnx.checker.check_model(model, full_check=True)
    declared = {output.name: dims(output) for output in model.graph.output}
    assert declared == {output: ["batch", *shape] for output, shape in found.outputs.items()}
    for given, inferred in zip(model.graph.output, without_shapes(model).graph.output, strict=True):
        for said, seen in zip(dims(given), dims(inferred), strict=True):
            assert not isinstance(seen, int) or seen == said
    height, width = odd_sizes(found)[3]
    for dimension, n in zip(model.graph.input[0].type.tensor_type.shape.dim, (2, 3, height, width), strict=True):
        dimension.dim_value = n
    wanted = shapes_at(found, height, width)
    assert {o.name: tuple(dims(o)) for o in without_shapes(model).graph.output} == {
        output: (2, *shape) for output, shape in wanted.items()
    }


def dims(given: Any) -> list[str | int | None]:
    """Return the dimensions of a value: numbers, names, or None where unknown."""
    return [
        dimension.dim_param or (dimension.dim_value if dimension.HasField("dim_value") else None)
        for dimension in given.type.tensor_type.shape.dim
    ]


def without_shapes(model: Any) -> Any:
    """Return the model with the output shapes that onnx infers instead of the declared ones."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)


@pytest.mark.parametrize("seed", range(0, 60, 2))
def test_random_networks(seed: int, tmp_path: Path) -> None:
    """A random network is refused, or its dynamic file agrees with the files of three other sizes."""
    path = tmp_path / "random.yaml"
    path.write_text(generate(seed).text, encoding="utf-8")
    free = elaborate(load(path))
    axes = ("height", "width", BOTH)[seed // 2 % 3]
    try:
        found = sizes(free, axes)
    except UsageError as problem:
        hold(problem)
        return
    weights = random_weights(free, seed)
    model = build(free, "onnx", weights, dynamic=axes).to_bytes()
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    rng = random.Random(seed)
    for _ in range(3):
        size = dict(zip(("height", "width"), free.input[1:], strict=True))
        for axis in found.free:
            size[axis.name] = axis.after(rng.randrange(1, 40))
        fixed = elaborate(load(path, [f"input=[{free.input[0]},{size['height']},{size['width']}]"]))
        assert shapes_at(found, *fixed.input[1:]) == dict(fixed.outputs)
        x = np.random.default_rng(seed).standard_normal((2, *fixed.input), np.float32)
        given = ran(model, {"input": x})
        for output, wanted in ran(build(fixed, "onnx", weights).to_bytes(), {"input": x}).items():
            assert given[output].shape == wanted.shape
            assert np.abs(given[output] - wanted).max() <= 1e-5 * max(float(np.abs(wanted).max()), 1e-3)


def test_the_random_networks_have_dynamic_ops(tmp_path: Path) -> None:
    """Enough of the sample accepts other sizes, and it includes pools that round up and adaptive pools, whose bins
    depend on the size."""
    words: set[str] = set()
    freed = 0
    for seed in range(0, 60, 2):
        path = tmp_path / f"{seed}.yaml"
        path.write_text(generate(seed).text, encoding="utf-8")
        net = elaborate(load(path))
        try:
            found = sizes(net, ("height", "width", BOTH)[seed // 2 % 3])
        except UsageError:
            continue
        freed += 1
        ops = {path: node for path, node in walk(net.root, modes=("always",)) if isinstance(node, Op)}
        words |= {node.kind.word for path, node in ops.items() if any(found.ops[path])}
        words |= {"ceil" for path, node in ops.items() if getattr(node.kind, "ceil", False) and any(found.ops[path])}
    assert freed >= 8
    assert words >= {"conv", "maxpool", "avgpool", "ceil", "adaptive_avgpool", "global_avgpool", "norm", "upsample"}


# --- the commands -----------------------------------------------------------------------------------------------------


def test_build_run_extract(tmp_path: Path) -> None:
    """`build` reports the valid sizes, `run` uses the size of the spec or `--size`, and `extract` and `build` restore the file."""
    path = tmp_path / "one.onnx"
    built = invoke("build", "stochastic_depth_110", "--target", "onnx", "--dynamic", BOTH, "-o", path)
    assert built.exit_code == 0, built.output
    assert "input [batch, 3, height, width]" in built.stderr
    assert "any height and width of at least 4, in steps of 4" in built.stderr
    assert "input [1, 3, 32, 32]" in invoke("run", path, "--repeats", "1").stdout
    assert "input [2, 3, 20, 48]" in invoke("run", path, "--repeats", "1", "--size", "20x48", "--batch", "2").stdout
    for size, why in (("20x30", "the next valid width is 32"), ("20", "such as 320x256"), ("0x8", "such as 320x256")):
        done = invoke("run", path, "--size", size)
        assert (done.exit_code, why in done.stderr) == (2, True), done.output
    spec = tmp_path / "again.yaml"
    done = invoke("extract", path, "-o", spec)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("built with ")]
    again = tmp_path / "again.onnx"
    done = invoke("build", spec, "--target", "onnx", *line.removeprefix("built with ").split(), "-o", again)
    assert done.exit_code == 0, done.output
    assert again.read_bytes() == path.read_bytes()
    assert invoke("build", spec, "--target", "onnx", "--dynamic", BOTH, "-o", again, "--check").exit_code == 0
    assert invoke("build", spec, "--target", "onnx", "-o", again, "--check").exit_code == 1


def test_a_file_of_one_size_takes_no_other(tmp_path: Path) -> None:
    """For a file of fixed size, `run` refuses another `--size`, and `--dynamic`."""
    path = tmp_path / "fixed.onnx"
    assert invoke("build", "resnet20_cifar", "--target", "onnx", "-o", path).exit_code == 0
    assert invoke("run", path, "--size", "32x32", "--repeats", "1").exit_code == 0
    done = invoke("run", path, "--size", "32x40")
    assert done.exit_code == 2
    assert "the width of this model is fixed to 32" in done.stderr
    assert "--dynamic" in done.stderr
    done = invoke("run", path, "--dynamic", BOTH)
    assert (done.exit_code, "--dynamic applies only to specs" in done.stderr) == (2, True)


def test_a_spec_is_run_at_another_size() -> None:
    """`run --dynamic` compiles the spec with these axes free, as `build` does; the size of the spec stays the default."""
    shown = [
        "run",
        "stochastic_depth_110",
        *(word for setting in SHORT for word in ("--set", setting)),
        "--repeats",
        "1",
    ]
    assert "input [1, 3, 20, 48]" in invoke(*shown, "--dynamic", BOTH, "--size", "20x48").stdout
    assert "input [1, 3, 32, 32]" in invoke(*shown, "--dynamic", "width").stdout
    for options, why in ((["--size", "20x48"], "with --dynamic"), (["--dynamic", "depth"], "--dynamic")):
        done = invoke(*shown, *options)
        assert (done.exit_code, why in done.stderr) == (2, True), done.output


def test_the_help_of_verify_names_exclusive_options() -> None:
    """The help of each of two exclusive options names the other."""
    help = " ".join(invoke("verify", "--help").stdout.split())
    assert "Not with --dynamic." in help
    assert "Not with --runtime." in help


def test_images_of_other_sizes(tmp_path: Path) -> None:
    """Images are cropped as `--preprocess` requires, and a size that the network does not accept is refused."""
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("RGB", (60, 50), (200, 100, 50)).save(tmp_path / "some.png")
    path = tmp_path / "one.onnx"
    assert invoke("build", "stochastic_depth_110", "--set", SHORT[0], "--set", SHORT[1], "--set", SHORT[2],
                   "--target", "onnx", "--dynamic", BOTH, "-o", path).exit_code == 0  # fmt: skip
    how = ["--preprocess", "mean=0.5,0.5,0.5", "--preprocess", "std=0.2,0.2,0.2"]
    shown = ["run", path, "--image", tmp_path / "some.png", *how]
    done = invoke(*shown, "--preprocess", "crop=20,48")
    assert done.exit_code == 0, done.output
    done = invoke(*shown, "--preprocess", "crop=20,46")
    assert (done.exit_code, "invalid width 46: it must be at least 4 and equal 0 modulo 4" in done.stderr) == (
        2,
        True,
    ), done.output
    done = invoke(*shown, "--size", "20x48")
    assert (done.exit_code, "cannot be used together" in done.stderr) == (2, True)


def test_one_axis(tmp_path: Path) -> None:
    """An axis that `--dynamic` does not name stays fixed."""
    path = tmp_path / "wide.onnx"
    assert invoke("build", "resnet20_cifar", "--target", "onnx", "--dynamic", "width", "-o", path).exit_code == 0
    assert "input [1, 3, 32, 75]" in invoke("run", path, "--size", "32x75", "--repeats", "1").stdout
    assert invoke("run", path, "--size", "33x75").exit_code == 2


@pytest.mark.parametrize("name", ["resnet20_cifar", "alexnet"])
def test_verify(name: str) -> None:
    """`verify --dynamic` compares the targets at a size other than that of the spec."""
    pytest.importorskip("torch")
    settings = [word for setting in FAMILIES[name] for word in ("--set", setting)]
    done = invoke("verify", name, "--dynamic", BOTH, "--targets", "onnx,torch", *settings)
    height, width = network(name).input[1:]
    assert done.stdout.startswith(f"input [2, 3, {height * 3 // 2 + 1}, {width * 3 // 4 - 1}]\n")
    assert done.exit_code == 0, done.output


# --- torch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least", "every"), [("alexnet", 95, 1), ("resnet20_cifar", 8, 4), ("stochastic_depth_110", 8, 4)]
)  # fmt: skip
@pytest.mark.slow
def test_exported_programs(name: str, least: int, every: int, tmp_path: Path) -> None:
    """The exported program accepts the reported sizes, agrees with the module, and refuses smaller sizes."""
    torch = pytest.importorskip("torch")
    artifact: Any = build(network(name), "torch", seed=1, dynamic=BOTH)
    axes = [Free.of(axis, data) for axis, data in artifact.facts["free"].items()]
    assert [(axis.minimum, axis.every, axis.rests) for axis in axes] == [(least, every, (0,))] * 2
    path = artifact.write(tmp_path / "program.pt2")[-1]
    recorded = backend.extract(path)
    assert recorded is not None
    assert recorded.options == ("dynamic=height,width", "seed=1")
    program = torch.export.load(path).module()
    for height, width in [(least, least), (least, least + 13 * every), (least + 7 * every, least + 2 * every)]:
        x = torch.randn(3, 3, height, width)
        with torch.no_grad():
            torch.testing.assert_close(program(x), artifact.module(x))
    with pytest.raises(AssertionError, match="Guard failed"):
        program(torch.randn(2, 3, least - every, least))


def test_a_failure_of_torch_export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where torch.export fails, the target is unavailable."""
    torch = pytest.importorskip("torch")

    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("cannot compare")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(Unavailable, match="cannot make height and width dynamic in this network: cannot compare"):
        build("resnet20_cifar", "torch", dynamic=BOTH)
