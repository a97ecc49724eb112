"""The interpreter, which is the reference of all targets, agrees with torch: every op over a grid of attributes, and merges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from op_cases import CASES, IMAGES, a, network, parallel, random_input, random_weights, series

from rescompile.ir.interpreter import ALIVE, alive, calibrated, interpret
from rescompile.ir.network import (
    Merge,
    Mode,
    Op,
    Parallel,
    Series,
    Side,
    Survival,
)
from rescompile.ir.op_evaluation import MERGES, OPS
from rescompile.ir.ops import (
    ACTIVATIONS,
    KINDS,
    Act,
    AdaptiveAvgPool,
    Affine,
    AvgPool,
    Border,
    Conv,
    ConvTranspose,
    DepthToSpace,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    Identity,
    Kind,
    Linear,
    Lrn,
    MaxPool,
    Norm,
    PadChannels,
    Part,
    Reduce,
    Scale,
    Shape,
    Shuffle,
    Softmax,
    SpaceToDepth,
    Subsample,
    Unflatten,
    Upsample,
    WeightedSum,
)
from rescompile.ir.window_evaluation import Array

torch = pytest.importorskip("torch")
F = torch.nn.functional

TOLERANCE = 1e-12


def assert_close(found: Array, expected: Any) -> None:
    """Assert that the largest error is small relative to the largest value, since the terms of a sum may cancel."""
    expected = np.asarray(expected)
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


# Every op against torch


def standardised(kind: Conv, weight: Any, gain: Any) -> Any:
    """Return weights standardised by torch's batch norm in training mode, with filters as channels."""
    scale = None if gain is None else gain.flatten() * kind.gamma / weight[0].numel() ** 0.5
    flat = F.batch_norm(weight.flatten(1)[None], None, None, scale, training=True, eps=kind.eps)
    return flat.view_as(weight)


def at_rank(name: str, x: Any) -> Any:
    """Return torch's function for feature maps of the rank of x: `conv` -> `F.conv2d`."""
    return getattr(F, f"{name}{x.dim() - 2}d")


def by_torch(kind: Kind, x: Any, tensors: dict[str, Any]) -> Any:
    """Return the output of torch's function for an op, to which all attributes are passed."""
    match kind:
        case Conv():
            if kind.weights != "plain":
                tensors |= {"weight": standardised(kind, tensors["weight"], tensors.get("gain"))}
            conv = at_rank("conv", x)
            return conv(x, tensors["weight"], tensors.get("bias"), kind.stride, kind.pads, kind.dilation, kind.groups)
        case Linear():
            return F.linear(x, tensors["weight"], tensors.get("bias"))
        case Norm(kind="group"):
            return F.group_norm(x, kind.groups, tensors["weight"], tensors["bias"], kind.eps)
        case Norm(kind="instance"):
            return F.instance_norm(x, weight=tensors["weight"], bias=tensors["bias"], eps=kind.eps)
        case Norm(kind="layer"):
            return F.layer_norm(x.movedim(1, -1), x.shape[1:2], tensors["weight"], tensors["bias"], kind.eps).movedim(
                -1, 1
            )
        case Norm():
            statistics = tensors["running_mean"], tensors["running_var"]
            return F.batch_norm(x, *statistics, tensors["weight"], tensors["bias"], training=False, eps=kind.eps)
        case Act(kind="leaky_relu"):
            return F.leaky_relu(x, kind.slope)
        case Act(kind="elu"):
            return F.elu(x, kind.alpha)
        case Act(kind="gelu_tanh"):
            return F.gelu(x, approximate="tanh")
        case Act(kind="prelu"):
            return F.prelu(x, tensors["weight"])
        case Act():
            return getattr(F, kind.kind)(x)
        case AvgPool():
            return at_rank("avg_pool", x)(x, kind.kernel, kind.stride, kind.padding, kind.ceil, kind.count_pad)
        case MaxPool():
            return at_rank("max_pool", x)(x, kind.kernel, kind.stride, kind.padding, ceil_mode=kind.ceil)
        case ConvTranspose():
            return at_rank("conv_transpose", x)(
                x,
                tensors["weight"],
                tensors.get("bias"),
                kind.stride,
                kind.padding,
                kind.output_padding,
                kind.groups,
                kind.dilation,
            )
        case Lrn():
            return F.local_response_norm(x, kind.size, kind.alpha, kind.beta, kind.k)
        case Softmax():
            return (
                F.softmax(x, 1)
                if kind.ranges is None
                else torch.cat(list(torch.stack(x.chunk(kind.ranges, 1)).softmax(0)), 1)
            )
        case GlobalMaxPool():
            return at_rank("adaptive_max_pool", x)(x, 1)
        case Reduce():
            return torch.amax(x, 1, keepdim=True) if kind.by == "max" else torch.mean(x, 1, keepdim=True)
        case Affine():
            shape = (-1, *(1,) * (x.dim() - 2))
            return x * tensors.get("weight", torch.ones(1)).view(shape) + tensors.get("bias", torch.zeros(1)).view(
                shape
            )
        case WeightedSum():
            weight = tensors["weight"].softmax(0) if kind.kind == "softmax" else tensors["weight"].clamp(min=0)
            shares = weight if kind.kind == "softmax" else weight / (weight.sum() + kind.eps)
            return torch.einsum("nrc...,r->nc...", x.unflatten(1, (kind.ranges, -1)), shares)
        case Border():
            last_first = [*zip(kind.before, kind.after, strict=True)][::-1]
            mode = "constant" if kind.kind == "zeros" else kind.kind
            return F.pad(x, [n for pair in last_first for n in pair], mode=mode)
        case Shuffle():
            return F.channel_shuffle(x, kind.groups)
        case Part():
            return x.chunk(kind.of, 1)[kind.number]
        case Unflatten():
            ends = (1,) * (kind.rank - 1)
            return torch.unflatten(x, 1, (1, -1, *ends) if kind.to == "rows" else (-1, 1, *ends))
        case DepthToSpace():
            return F.pixel_shuffle(x, kind.size)
        case SpaceToDepth():
            return F.pixel_unshuffle(x, kind.size)
        case GlobalAvgPool():
            return at_rank("adaptive_avg_pool", x)(x, 1)
        case AdaptiveAvgPool():
            return at_rank("adaptive_avg_pool", x)(x, kind.size)
        case Flatten():
            return torch.flatten(x, 1)
        case Dropout():
            return F.dropout(x, kind.rate, training=False)
        case Scale():
            return torch.mul(x, kind.factor)
        case Subsample():
            return x[:, :, *(slice(None, None, step) for step in kind.stride)]
        case Upsample():
            if kind.kind == "nearest":
                return F.interpolate(x, scale_factor=kind.factor, mode="nearest")
            mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.dim()]
            return F.interpolate(x, scale_factor=kind.factor, mode=mode, align_corners=False)
        case PadChannels():
            return F.pad(x, (*(0, 0) * (x.dim() - 2), 0, kind.channels - x.shape[1]))
        case Identity():
            return torch.nn.Identity()(x)
    raise NotImplementedError(type(kind).__name__)


def test_every_op_and_merge_has_a_rule_and_cases() -> None:
    assert set(OPS) == set(KINDS) == {type(kind) for kind, _ in CASES}
    assert set(MERGES) == set(get_args(Merge))
    # The grid skips invalid combinations of attributes: enough must be left.
    counts = Counter(type(kind) for kind, _ in IMAGES)
    assert counts[Conv] > 1000
    assert counts[MaxPool] > 100
    assert counts[AvgPool] == 2 * counts[MaxPool]
    # On maps of one and three axes, all ops have cases except those that take only vectors or only images.
    vectors, images = {Linear, Unflatten}, {DepthToSpace, SpaceToDepth}
    for entries in (2, 4):
        assert {type(kind) for kind, shape in CASES if len(shape) == entries} == set(KINDS) - vectors - images


def test_axes_agree_with_the_shape() -> None:
    """The size of an output is that given by the declared function of each axis, if an op declares any."""
    for kind, shape in CASES:
        if len(shape) > 1 and (axes := kind.axes(shape)) is not None:
            assert tuple(axis(n) for axis, n in zip(axes, shape[1:], strict=True)) == kind.output(shape)[1:], (
                kind,
                shape,
            )


@pytest.mark.parametrize("word", [kind.word for kind in KINDS])
def test_op_agrees_with_torch(word: str) -> None:
    for kind, shape in CASES:
        if kind.word != word:
            continue
        net = network(series(shape, a("it", kind)))
        weights, x = random_weights(net), random_input(shape)
        tensors = {name.removeprefix("it."): torch.tensor(value) for name, value in weights.items()}
        try:
            assert_close(interpret(net, weights, x)["logits"], by_torch(kind, torch.tensor(x), tensors))
        except AssertionError as error:
            raise AssertionError(f"{kind} on {shape}") from error


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation_at_extreme_values(kind: str) -> None:
    x = np.array([[-np.inf, -1e4, -745.0, -40.0, -1e-300, -0.0, 0.0, 1e-300, 40.0, 745.0, 1e4, np.inf, np.nan]])
    tensors = {parameter.name: np.full(parameter.shape, 0.25) for parameter in Act(kind).parameters((13,))}
    expected = by_torch(
        Act(kind), torch.tensor(x), {name: torch.tensor(value) for name, value in tensors.items()}
    ).numpy()
    # x times a factor that goes to 0 is NaN at minus infinity, also in torch.
    with np.errstate(all="raise", under="ignore", invalid="ignore" if np.isnan(expected[0, 0]) else "raise"):
        found = interpret(
            network(series((13,), a("it", Act(kind)))), {f"it.{name}": value for name, value in tensors.items()}, x
        )["logits"]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=1e-300)


def test_rounding_up_by_hand() -> None:
    """With `ceil`, a window is added for the remainder unless it would start in the padding; divisors are those of torch."""

    def side(kind: Kind, size: int) -> list[float]:
        found = interpret(network(series((1, size, size), a("it", kind))), {}, np.ones((1, 1, size, size)))
        return [float(value) for value in np.diagonal(found["logits"][0, 0])]

    assert side(AvgPool((2, 2)), 5) == [1, 1]
    assert side(AvgPool((2, 2), ceil=True), 5) == [1, 1, 1]  # the last window has one position and is divided by one
    # A fifth window would start in the padding.
    assert side(AvgPool((2, 2), padding=(1, 1), ceil=True), 7) == [0.25, 1, 1, 1]
    # Windows of 3 from -1, 1, 3, 5 on 6 positions: the last has one in the map, one in the padding, and one outside.
    padded: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil": True}
    assert side(AvgPool(**padded), 6) == pytest.approx([4 / 9, 1, 1, 1 / 4])
    assert side(AvgPool(**padded, count_pad=False), 6) == [1, 1, 1, 1]
    assert side(MaxPool(**padded), 6) == [1, 1, 1, 1]


# Combinators


def test_named_scopes_prefix_parameter_names() -> None:
    """Named scopes are part of parameter names; unnamed ones and merges are not."""
    shape = (3, 6, 6)
    inner = series(
        shape, a("conv1", Conv(3, (3, 3))), a("bn1", Norm()), a("relu", Act()), a("conv2", Conv(3, (1, 1), bias=True))
    )
    block = series(shape, lambda s: parallel(s, "add", inner, series(s), residual=True), a("relu", Act()), name="0")
    net = network(series(shape, lambda _: series(shape, lambda _: block, name="layer1"), a("fc", Conv(2, (1, 1)))))
    weights, x = random_weights(net), random_input(shape)
    assert sorted(weights) == sorted(
        ["layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer1.0.conv2.bias", "fc.weight"]
        + [f"layer1.0.bn1.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    )

    w = {name: torch.tensor(value) for name, value in weights.items()}
    y = F.conv2d(torch.tensor(x), w["layer1.0.conv1.weight"], padding=1)
    statistics = w["layer1.0.bn1.running_mean"], w["layer1.0.bn1.running_var"]
    y = torch.relu(F.batch_norm(y, *statistics, w["layer1.0.bn1.weight"], w["layer1.0.bn1.bias"], eps=1e-5))
    y = F.conv2d(y, w["layer1.0.conv2.weight"], w["layer1.0.conv2.bias"])
    expected = F.conv2d(torch.relu(y + torch.tensor(x)), w["fc.weight"])

    del weights["layer1.0.bn1.num_batches_tracked"]  # evaluation does not read it
    found = interpret(net, weights, x)
    assert list(found) == ["logits"]
    assert_close(found["logits"], expected)


def test_empty_series_is_the_identity() -> None:
    x = random_input((2, 3, 3))
    assert_close(interpret(network(series((2, 3, 3))), {}, x)["logits"], x)


def test_float32_weights_and_input_are_computed_in_float64() -> None:
    net = network(series((50,), a("fc", Linear(3))))
    weights = {name: value.astype(np.float32) for name, value in random_weights(net).items()}
    x = random_input((50,)).astype(np.float32)
    expected = F.linear(*(torch.tensor(t.astype(np.float64)) for t in (x, weights["fc.weight"], weights["fc.bias"])))
    assert_close(interpret(net, weights, x)["logits"], expected)


def test_add_of_several_branches() -> None:
    shape = (2, 3, 4)
    branches = [series(shape, a(f"scale{factor}", Scale(factor))) for factor in (2.0, -0.5, 3.0)]
    x = random_input(shape)
    assert_close(interpret(network(series(shape, lambda s: parallel(s, "add", *branches))), {}, x)["logits"], 4.5 * x)


@pytest.mark.parametrize("shape", [(2, 3, 4), (5,)])
def test_concat_keeps_the_order_of_branches(shape: Shape) -> None:
    branches = [series(shape, a("twice", Scale(2.0))), series(shape), series(shape, a("less", Scale(-1.0)))]
    x = random_input(shape)
    found = interpret(network(series(shape, lambda s: parallel(s, "concat", *branches))), {}, x)["logits"]
    assert_close(found, torch.cat([torch.tensor(x) * f for f in (2, 1, -1)], dim=1))


@pytest.mark.parametrize("gate_first", [False, True])
def test_mul_broadcasts_one_position(gate_first: bool) -> None:
    """A factor with one position per channel is broadcast, on either branch."""
    shape = (3, 4, 5)
    gate = series(shape, a("squeeze", GlobalAvgPool()), a("excite", Conv(3, (1, 1))), a("gate", Act("sigmoid")))
    branches = [gate, series(shape)] if gate_first else [series(shape), gate]
    net = network(series(shape, lambda s: parallel(s, "mul", *branches)))
    weights, x = random_weights(net), random_input(shape)
    mean = torch.tensor(x).mean((2, 3), keepdim=True)
    expected = torch.tensor(x) * torch.sigmoid(F.conv2d(mean, torch.tensor(weights["excite.weight"])))
    assert_close(interpret(net, weights, x)["logits"], expected)


def test_mul_of_equal_shapes() -> None:
    branches = [series((4,), a("relu", Act())), series((4,), a("tanh", Act("tanh"))), series((4,))]
    x = random_input((4,))
    found = interpret(network(series((4,), lambda s: parallel(s, "mul", *branches))), {}, x)["logits"]
    assert_close(found, torch.relu(torch.tensor(x)) * torch.tanh(torch.tensor(x)) * torch.tensor(x))


def test_a_gate_interpolates_between_branch_and_shortcut() -> None:
    shape = (2, 3, 3)
    branches = [
        series(shape, a("h", Conv(2, (3, 3)))),
        series(shape, a("t", Conv(2, (3, 3), bias=True)), a("sigmoid", Act("sigmoid"))),
        series(shape, a("half", Scale(0.5))),
    ]
    net = network(series(shape, lambda s: parallel(s, "gate", *branches, residual=True)))
    weights, x = random_weights(net), random_input(shape)
    w, t = {name: torch.tensor(value) for name, value in weights.items()}, torch.tensor(x)
    gate = torch.sigmoid(F.conv2d(t, w["t.weight"], w["t.bias"], padding=1))
    expected = gate * F.conv2d(t, w["h.weight"], padding=1) + (1 - gate) * 0.5 * t
    assert_close(interpret(net, weights, x)["logits"], expected)


@pytest.mark.parametrize(("rescale", "factor"), [("test", 0.8), ("train", 1.0)])
@pytest.mark.parametrize("unit", ["batch", "sample"])
def test_survival_rescales_only_the_branch(rescale: Any, unit: Any, factor: float) -> None:
    shape = (2, 3, 3)
    branches = [series(shape, a("three", Scale(3.0))), series(shape)]
    survival = Survival(0.8, unit, rescale)
    net = network(series(shape, lambda s: parallel(s, "add", *branches, residual=True, survival=survival)))
    x = random_input(shape)
    assert_close(interpret(net, {}, x)["logits"], factor * 3 * x + x)


def test_survival_of_a_gated_branch() -> None:
    """Survival scales only the branch, neither the gate nor the shortcut."""
    branches = [series((4,), a("three", Scale(3.0))), series((4,), a("gate", Act("sigmoid"))), series((4,))]
    survival = Survival(0.5, "batch", "test")
    net = network(series((4,), lambda s: parallel(s, "gate", *branches, residual=True, survival=survival)))
    x = random_input((4,))
    gate = torch.sigmoid(torch.tensor(x)).numpy()
    assert_close(interpret(net, {}, x)["logits"], gate * 1.5 * x + (1 - gate) * x)


def test_side_branches() -> None:
    """Side branches do not change the main value, and in evaluation only those of mode `always` are computed."""
    shape = (4,)

    def side(layer: str, output: str | None, mode: Mode) -> Callable[[Shape], Side]:
        return lambda s: Side(series(s, a(layer, Linear(2))), output, mode, s)

    branch = series(shape, a("three", Scale(3.0)), side("deep", "tap", "always"))
    stage = series(
        shape,
        side("named", "aux1", "always"),
        a("relu", Act()),
        side("aux", "aux2", "training"),
        lambda s: parallel(s, "add", branch, series(s)),
        side("unused", None, "never"),
        name="stage1",
    )
    net = network(series(shape, lambda _: stage, lambda s: Side(series(s, a("five", Scale(5.0))), None, "always", s)))
    # An unnamed output has the name of its scope; at the top level that is empty.
    assert set(net.outputs) == {"logits", "aux1", "tap", ""}

    weights, x = random_weights(net), random_input(shape)
    w = {name: torch.tensor(value) for name, value in weights.items()}
    for layer in ("aux", "unused"):
        del weights[f"stage1.{layer}.weight"], weights[f"stage1.{layer}.bias"]
    relu = torch.relu(torch.tensor(x))
    found = interpret(net, weights, x)
    assert list(found) == ["logits", "aux1", "tap", ""]
    assert_close(found["logits"], 4 * relu)
    assert_close(found["aux1"], F.linear(torch.tensor(x), w["stage1.named.weight"], w["stage1.named.bias"]))
    assert_close(found["tap"], F.linear(3 * relu, w["stage1.deep.weight"], w["stage1.deep.bias"]))
    assert_close(found[""], 20 * relu)


def test_a_split_by_sizes_equals_that_of_torch() -> None:
    """A split by sizes gives each branch its range of channels in order."""
    sizes, shape = (1, 4, 2), (7, 3, 3)
    kinds = (Scale(2.0), Act("tanh"), Act("relu"))
    branches = tuple(series((size, 3, 3), a(f"op{at}", kinds[at])) for at, size in enumerate(sizes))
    node = Parallel("mixed", branches, "concat", shape, shape, split=True, sizes=sizes)
    x = random_input(shape)
    first, second, third = torch.split(torch.tensor(x), sizes, 1)
    found = interpret(network(series(shape, lambda _: node)), {}, x)["logits"]
    assert_close(found, torch.cat([2 * first, torch.tanh(second), torch.relu(third)], 1))


# Errors in the tree or its weights that the interpreter must detect


def test_a_wrongly_declared_shape_is_caught() -> None:
    kind = MaxPool((2, 2))
    wrong = Op("pool", kind, (1, 5, 5), (1, 3, 3))
    with pytest.raises(AssertionError, match="declared output"):
        interpret(network(Series((wrong,), (1, 5, 5), (1, 3, 3))), {}, random_input((1, 5, 5)))


def test_a_missing_or_broadcastable_weight_is_caught() -> None:
    net = network(series((3, 2, 2), a("bn", Norm())))
    weights, x = random_weights(net), random_input((3, 2, 2))
    with pytest.raises(AssertionError, match=r"bn\.bias"):
        interpret(net, weights | {"bn.bias": np.zeros(1)}, x)
    del weights["bn.bias"]
    with pytest.raises(KeyError, match=r"bn\.bias"):
        interpret(net, weights, x)


# Precisions and statistics


@pytest.mark.parametrize(("precision", "bits"), [("fp32", 24), ("tf32", 11), ("fp16", 11), ("bf16", 8)])
def test_the_error_of_a_precision_matches_its_bits(precision: str, bits: int) -> None:
    """The error of a single product is about that of rounding its operands. A sum would add the rounding of BLAS, which depends on
    the CPU."""
    net = network(series((1,), a("fc", Linear(300, bias=False))))
    weights, x = random_weights(net), random_input((1,), batch=50)
    expected = interpret(net, weights, x)["logits"]
    found = interpret(net, weights, x, precision)["logits"]
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert found.dtype == np.float32
    assert 2.0**-bits / 10 < error < 2.0**-bits * 2


@pytest.mark.parametrize(("precision", "numbers"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_stored_values_equal_those_of_torch(precision: str, numbers: str) -> None:
    """Values are rounded to the nearest, ties to even, as in torch; in fp16, values beyond the largest number become infinite."""
    x = np.random.default_rng(0).standard_normal((4, 1000)).astype(np.float32) * np.float32(100)
    x[0, :3] = [1e5, -1e5, 0]
    if precision == "bf16":
        x[0, :2] = 1 + 2**-8, 1 + 3 * 2**-8
    expected = torch.tensor(x).to(getattr(torch, numbers)).float().numpy()
    np.testing.assert_array_equal(interpret(network(series((1000,))), {}, x, precision)["logits"], expected)


def test_other_input_sizes_are_computed() -> None:
    """A network can be evaluated on inputs of another size than the declared one."""
    net = network(series((2, 6, 6), a("conv", Conv(3, (3, 3), (2, 2))), a("pool", GlobalAvgPool())))
    weights, x = random_weights(net), np.random.default_rng(0).standard_normal((2, 2, 9, 7))
    expected = F.conv2d(torch.tensor(x), torch.tensor(weights["conv.weight"]), stride=2, padding=1).mean((2, 3), True)
    assert_close(interpret(net, weights, x)["logits"], expected)


def test_calibrated_statistics_give_zero_mean_and_unit_variance() -> None:
    """With calibrated statistics, outputs of norms have mean 0 and variance 1; group norms and norms that are not computed in
    evaluation get none."""
    shape = (3, 6, 6)
    branch = series(shape, a("conv", Conv(3, (3, 3))), a("bn1", Norm()))
    net = network(
        series(
            shape,
            a("bn0", Norm()),
            lambda s: parallel(s, "add", branch, series(s)),
            a("gn", Norm(kind="group", groups=3)),
            lambda s: Side(series(s, a("unused", Norm())), None, "never", s),
            a("bn2", Norm()),
        )
    )
    weights, x = random_weights(net), 3 * random_input(shape) + 2
    weights["conv.weight"] = (
        weights["conv.weight"] / np.sqrt(np.square(weights["conv.weight"]).sum((1, 2, 3)))[:, None, None, None]
    )
    for name in ("gn", "bn0", "bn1", "bn2"):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(3), np.zeros(3)
    found = calibrated(net, weights, x)
    assert sorted(found) == [f"bn{at}.running_{what}" for at in range(3) for what in ("mean", "var")]
    out = interpret(net, {**weights, **found}, x)["logits"]
    np.testing.assert_allclose(out.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.var((0, 2, 3)), 1, rtol=1e-4)
    np.testing.assert_allclose(found["bn0.running_mean"], x.mean((0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("variances", "means", "expected"),
    [
        ([1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [1.0, 2.0, 0.5]),
        ([0.0, 1.0, 1.0], [0.0, 3.0, 0.0], [ALIVE * 2 / 3, 1.0, 1.0]),
        ([0.0, 0.0], [3.0, 1.0], [5.0, 5.0]),
        ([1e-14, 0.0], [3.0, 1.0], [5.0, 5.0]),
        ([0.0], [0.0], [1.0]),
        ([1e-20], [0.0], [1e-20]),
    ],
    ids=["alive", "a dead channel", "constants", "constants and rounding", "a dead map", "one small channel"],
)
def test_the_variance_of_a_dead_channel_is_not_zero(
    variances: list[float], means: list[float], expected: list[float]
) -> None:
    """A dead channel gets a fraction of the variance of the others, so that its output stays finite on other batches."""
    found = alive(np.array(variances, np.float32), np.array(means, np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
