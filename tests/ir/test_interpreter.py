"""The oracle is itself held to torch: every op over a grid of its attributes, then the combinators on small trees."""

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


def assert_close(found: Array, wanted: Any) -> None:
    """The largest error, relative to the largest value: where a sum cancels, its own size says nothing of its error."""
    wanted = np.asarray(wanted)
    assert found.dtype == np.float64
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


# Every op against torch


def standardised(kind: Conv, weight: Any, gain: Any) -> Any:
    """Weights normalised by torch as a batch norm in training normalises a sample whose channels they are."""
    scale = None if gain is None else gain.flatten() * kind.gamma / weight[0].numel() ** 0.5
    flat = F.batch_norm(weight.flatten(1)[None], None, None, scale, training=True, eps=kind.eps)
    return flat.view_as(weight)


def at_rank(name: str, x: Any) -> Any:
    """torch's function for maps like x: `conv` -> `F.conv2d`."""
    return getattr(F, f"{name}{x.dim() - 2}d")


def by_torch(kind: Kind, x: Any, own: dict[str, Any]) -> Any:
    """torch's own function for an op. Every attribute is handed over, so that its documentation decides."""
    match kind:
        case Conv():
            if kind.weights != "plain":
                own |= {"weight": standardised(kind, own["weight"], own.get("gain"))}
            conv = at_rank("conv", x)
            return conv(x, own["weight"], own.get("bias"), kind.stride, kind.pads, kind.dilation, kind.groups)
        case Linear():
            return F.linear(x, own["weight"], own.get("bias"))
        case Norm(kind="group"):
            return F.group_norm(x, kind.groups, own["weight"], own["bias"], kind.eps)
        case Norm(kind="instance"):
            return F.instance_norm(x, weight=own["weight"], bias=own["bias"], eps=kind.eps)
        case Norm(kind="layer"):
            return F.layer_norm(x.movedim(1, -1), x.shape[1:2], own["weight"], own["bias"], kind.eps).movedim(-1, 1)
        case Norm():
            statistics = own["running_mean"], own["running_var"]
            return F.batch_norm(x, *statistics, own["weight"], own["bias"], training=False, eps=kind.eps)
        case Act(kind="leaky_relu"):
            return F.leaky_relu(x, kind.slope)
        case Act(kind="elu"):
            return F.elu(x, kind.alpha)
        case Act(kind="gelu_tanh"):
            return F.gelu(x, approximate="tanh")
        case Act(kind="prelu"):
            return F.prelu(x, own["weight"])
        case Act():
            return getattr(F, kind.kind)(x)
        case AvgPool():
            return at_rank("avg_pool", x)(x, kind.kernel, kind.stride, kind.padding, kind.ceil, kind.count_pad)
        case MaxPool():
            return at_rank("max_pool", x)(x, kind.kernel, kind.stride, kind.padding, ceil_mode=kind.ceil)
        case ConvTranspose():
            return at_rank("conv_transpose", x)(
                x,
                own["weight"],
                own.get("bias"),
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
            return x * own.get("weight", torch.ones(1)).view(shape) + own.get("bias", torch.zeros(1)).view(shape)
        case WeightedSum():
            weight = own["weight"].softmax(0) if kind.kind == "softmax" else own["weight"].clamp(min=0)
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


def test_every_op_and_merge_has_a_row_and_a_case() -> None:
    assert set(OPS) == set(KINDS) == {type(kind) for kind, _ in CASES}
    assert set(MERGES) == set(get_args(Merge))
    # The grid leaves out what is no valid op: enough must be left.
    counts = Counter(type(kind) for kind, _ in IMAGES)
    assert counts[Conv] > 1000
    assert counts[MaxPool] > 100
    assert counts[AvgPool] == 2 * counts[MaxPool]
    # On maps of one and three axes every op has cases but those of vectors, and those that take images alone.
    vectors, images = {Linear, Unflatten}, {DepthToSpace, SpaceToDepth}
    for entries in (2, 4):
        assert {type(kind) for kind, shape in CASES if len(shape) == entries} == set(KINDS) - vectors - images


def test_axes_agree_with_the_shape() -> None:
    """An op that changes the size of maps declares how, or that it takes maps of one size only."""
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
        own = {name.removeprefix("it."): torch.tensor(value) for name, value in weights.items()}
        try:
            assert_close(interpret(net, weights, x)["logits"], by_torch(kind, torch.tensor(x), own))
        except AssertionError as error:
            raise AssertionError(f"{kind} on {shape}") from error


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation_at_extreme_values(kind: str) -> None:
    x = np.array([[-np.inf, -1e4, -745.0, -40.0, -1e-300, -0.0, 0.0, 1e-300, 40.0, 745.0, 1e4, np.inf, np.nan]])
    own = {parameter.name: np.full(parameter.shape, 0.25) for parameter in Act(kind).parameters((13,))}
    wanted = by_torch(Act(kind), torch.tensor(x), {name: torch.tensor(value) for name, value in own.items()}).numpy()
    # x times a factor that goes to 0 is no number at minus infinity, in torch neither.
    with np.errstate(all="raise", under="ignore", invalid="ignore" if np.isnan(wanted[0, 0]) else "raise"):
        found = interpret(
            network(series((13,), a("it", Act(kind)))), {f"it.{name}": value for name, value in own.items()}, x
        )["logits"]
    np.testing.assert_allclose(found, wanted, rtol=TOLERANCE, atol=1e-300)


def test_rounding_up_by_hand() -> None:
    """Along one side of ones: a window added on what was left over, none that would start in padding, and divisors."""

    def side(kind: Kind, size: int) -> list[float]:
        found = interpret(network(series((1, size, size), a("it", kind))), {}, np.ones((1, 1, size, size)))
        return [float(value) for value in np.diagonal(found["logits"][0, 0])]

    assert side(AvgPool((2, 2)), 5) == [1, 1]
    assert side(AvgPool((2, 2), ceil=True), 5) == [1, 1, 1]  # the last has one position, and is divided by one
    assert side(AvgPool((2, 2), padding=(1, 1), ceil=True), 7) == [0.25, 1, 1, 1]  # a fifth would start in padding
    # Windows of 3 from -1, 1, 3, 5 on 6 positions: the last has one of the map, one of padding, and one of neither.
    padded: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil": True}
    assert side(AvgPool(**padded), 6) == pytest.approx([4 / 9, 1, 1, 1 / 4])
    assert side(AvgPool(**padded, count_pad=False), 6) == [1, 1, 1, 1]
    assert side(MaxPool(**padded), 6) == [1, 1, 1, 1]


# Combinators


def test_series_names_its_scope() -> None:
    """Named scopes add to parameter names, unnamed ones and merges do not."""
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
    wanted = F.conv2d(torch.relu(y + torch.tensor(x)), w["fc.weight"])

    del weights["layer1.0.bn1.num_batches_tracked"]  # evaluation does not read it
    found = interpret(net, weights, x)
    assert list(found) == ["logits"]
    assert_close(found["logits"], wanted)


def test_empty_series_is_the_identity() -> None:
    x = random_input((2, 3, 3))
    assert_close(interpret(network(series((2, 3, 3))), {}, x)["logits"], x)


def test_float32_weights_and_input_are_computed_in_float64() -> None:
    net = network(series((50,), a("fc", Linear(3))))
    weights = {name: value.astype(np.float32) for name, value in random_weights(net).items()}
    x = random_input((50,)).astype(np.float32)
    wanted = F.linear(*(torch.tensor(t.astype(np.float64)) for t in (x, weights["fc.weight"], weights["fc.bias"])))
    assert_close(interpret(net, weights, x)["logits"], wanted)


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
    """Squeeze and excite: one value for each channel, whichever branch it is."""
    shape = (3, 4, 5)
    gate = series(shape, a("squeeze", GlobalAvgPool()), a("excite", Conv(3, (1, 1))), a("gate", Act("sigmoid")))
    branches = [gate, series(shape)] if gate_first else [series(shape), gate]
    net = network(series(shape, lambda s: parallel(s, "mul", *branches)))
    weights, x = random_weights(net), random_input(shape)
    mean = torch.tensor(x).mean((2, 3), keepdim=True)
    wanted = torch.tensor(x) * torch.sigmoid(F.conv2d(mean, torch.tensor(weights["excite.weight"])))
    assert_close(interpret(net, weights, x)["logits"], wanted)


def test_mul_of_equal_shapes() -> None:
    branches = [series((4,), a("relu", Act())), series((4,), a("tanh", Act("tanh"))), series((4,))]
    x = random_input((4,))
    found = interpret(network(series((4,), lambda s: parallel(s, "mul", *branches))), {}, x)["logits"]
    assert_close(found, torch.relu(torch.tensor(x)) * torch.tanh(torch.tensor(x)) * torch.tensor(x))


def test_gate_weighs_branch_against_shortcut() -> None:
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
    wanted = gate * F.conv2d(t, w["h.weight"], padding=1) + (1 - gate) * 0.5 * t
    assert_close(interpret(net, weights, x)["logits"], wanted)


@pytest.mark.parametrize(("rescale", "factor"), [("test", 0.8), ("train", 1.0)])
@pytest.mark.parametrize("unit", ["batch", "sample"])
def test_survival_rescales_the_branch_only(rescale: Any, unit: Any, factor: float) -> None:
    shape = (2, 3, 3)
    branches = [series(shape, a("three", Scale(3.0))), series(shape)]
    survival = Survival(0.8, unit, rescale)
    net = network(series(shape, lambda s: parallel(s, "add", *branches, residual=True, survival=survival)))
    x = random_input(shape)
    assert_close(interpret(net, {}, x)["logits"], factor * 3 * x + x)


def test_survival_of_a_gated_branch() -> None:
    """Only the branch is scaled: not the gate, not the shortcut."""
    branches = [series((4,), a("three", Scale(3.0))), series((4,), a("gate", Act("sigmoid"))), series((4,))]
    survival = Survival(0.5, "batch", "test")
    net = network(series((4,), lambda s: parallel(s, "gate", *branches, residual=True, survival=survival)))
    x = random_input((4,))
    gate = torch.sigmoid(torch.tensor(x)).numpy()
    assert_close(interpret(net, {}, x)["logits"], gate * 1.5 * x + (1 - gate) * x)


def test_side_branches() -> None:
    """They do not change the value; in evaluation only those of mode always are computed, wherever they are."""
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
    # An output without a name is called after its scope; at the top level that is the empty name.
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


def test_a_split_by_sizes_is_that_of_torch() -> None:
    """Ranges in order, of as many channels as listed."""
    sizes, shape = (1, 4, 2), (7, 3, 3)
    kinds = (Scale(2.0), Act("tanh"), Act("relu"))
    branches = tuple(series((size, 3, 3), a(f"op{at}", kinds[at])) for at, size in enumerate(sizes))
    node = Parallel("mixed", branches, "concat", shape, shape, split=True, sizes=sizes)
    x = random_input(shape)
    first, second, third = torch.split(torch.tensor(x), sizes, 1)
    found = interpret(network(series(shape, lambda _: node)), {}, x)["logits"]
    assert_close(found, torch.cat([2 * first, torch.tanh(second), torch.relu(third)], 1))


# Mistakes of the tree or its weights that an oracle must not overlook


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
def test_a_precision_rounds_as_its_bits_say(precision: str, bits: int) -> None:
    """The error of one product is that of its operands: half a unit of the last place at most, and not a hundredth of that.
    A sum of several would add what BLAS rounds, which depends on the CPU."""
    net = network(series((1,), a("fc", Linear(300, bias=False))))
    weights, x = random_weights(net), random_input((1,), batch=50)
    wanted = interpret(net, weights, x)["logits"]
    found = interpret(net, weights, x, precision)["logits"]
    error = np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))
    assert found.dtype == np.float32
    assert 2.0**-bits / 10 < error < 2.0**-bits * 2


@pytest.mark.parametrize(("precision", "numbers"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_stored_values_are_those_of_torch(precision: str, numbers: str) -> None:
    """Rounded to the nearest, ties to even where torch does; beyond the largest number to infinity in fp16."""
    x = np.random.default_rng(0).standard_normal((4, 1000)).astype(np.float32) * np.float32(100)
    x[0, :3] = [1e5, -1e5, 0]
    if precision == "bf16":
        x[0, :2] = 1 + 2**-8, 1 + 3 * 2**-8
    wanted = torch.tensor(x).to(getattr(torch, numbers)).float().numpy()
    np.testing.assert_array_equal(interpret(network(series((1000,))), {}, x, precision)["logits"], wanted)


def test_other_sizes_are_computed_and_own_sizes_checked() -> None:
    """Declared shapes are those of one size; a network takes others by the same rules."""
    net = network(series((2, 6, 6), a("conv", Conv(3, (3, 3), (2, 2))), a("pool", GlobalAvgPool())))
    weights, x = random_weights(net), np.random.default_rng(0).standard_normal((2, 2, 9, 7))
    wanted = F.conv2d(torch.tensor(x), torch.tensor(weights["conv.weight"]), stride=2, padding=1).mean((2, 3), True)
    assert_close(interpret(net, weights, x)["logits"], wanted)


def test_calibrated_statistics_make_every_norm_one_of_unit_size() -> None:
    """In both branches, whatever comes before; group norms and norms that evaluation does not compute have none."""
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
    ("variances", "means", "wanted"),
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
def test_no_channel_is_divided_by_nothing(variances: list[float], means: list[float], wanted: list[float]) -> None:
    """A dead channel gets a share of what the others have, so that no other batch makes it explode."""
    found = alive(np.array(variances, np.float32), np.array(means, np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
