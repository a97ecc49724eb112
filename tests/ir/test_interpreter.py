"""The oracle is itself held to torch: every op over a grid of its attributes, then the combinators on small trees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest

from rescompile.diagnostics.errors import ShapeError
from rescompile.ir.interpreter import calibrated, interpret
from rescompile.ir.network import (
    Merge,
    Mode,
    Network,
    Node,
    Op,
    Parallel,
    Series,
    Side,
    Survival,
    merge_shape,
    parameters,
)
from rescompile.ir.op_evaluation import MERGES, OPS, Array
from rescompile.ir.ops import (
    ACTIVATIONS,
    KINDS,
    Act,
    AdaptiveAvgPool,
    AvgPool,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    Kind,
    Linear,
    MaxPool,
    Norm,
    PadChannels,
    Scale,
    Shape,
    Subsample,
    Upsample,
)

torch = pytest.importorskip("torch")
F = torch.nn.functional

TOLERANCE = 1e-12
Weights = dict[str, Array]


# Small trees by hand: every constructor derives the shape after it, so that a test reads like a block.


def op(name: str, kind: Kind, shape: Shape) -> Op:
    return Op(name, kind, shape, kind.output(shape))


def series(shape: Shape, *steps: Callable[[Shape], Node], name: str | None = None) -> Series:
    children: list[Node] = []
    at = shape
    for step in steps:
        children.append(step(at))
        at = children[-1].output
    return Series(tuple(children), shape, at, name)


def parallel(
    shape: Shape, merge: Merge, *branches: Series, residual: bool = False, survival: Survival | None = None
) -> Parallel:
    output = merge_shape(merge, [branch.output for branch in branches])
    return Parallel("merge", branches, merge, shape, output, residual, survival)


def a(name: str, kind: Kind) -> Callable[[Shape], Op]:
    """A step of `series`: an op."""
    return lambda shape: op(name, kind, shape)


def network(root: Series) -> Network:
    return Network("test", root)


def random_weights(net: Network, seed: int = 0) -> Weights:
    """Values for every tensor; variances are positive, and nothing is at its initial value."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(0.5, 2, p.shape) if name.endswith("running_var") else rng.standard_normal(p.shape)
        for name, p in parameters(net)
    }


def random_input(shape: Shape, batch: int = 2, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((batch, *shape))


def assert_close(found: Array, wanted: Any) -> None:
    """The largest error, relative to the largest value: where a sum cancels, its own size says nothing of its error."""
    wanted = np.asarray(wanted)
    assert found.dtype == np.float64
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


# Every op against torch


def by_torch(kind: Kind, x: Any, own: dict[str, Any]) -> Any:
    """torch's own function for an op. Every attribute is handed over, so that its documentation decides."""
    match kind:
        case Conv():
            return F.conv2d(x, own["weight"], own.get("bias"), kind.stride, kind.pads, kind.dilation, kind.groups)
        case Linear():
            return F.linear(x, own["weight"], own.get("bias"))
        case Norm(kind="group"):
            return F.group_norm(x, kind.groups, own["weight"], own["bias"], kind.eps)
        case Norm():
            statistics = own["running_mean"], own["running_var"]
            return F.batch_norm(x, *statistics, own["weight"], own["bias"], training=False, eps=kind.eps)
        case Act(kind="leaky_relu"):
            return F.leaky_relu(x, kind.slope)
        case Act(kind="elu"):
            return F.elu(x, kind.alpha)
        case Act(kind="gelu_tanh"):
            return F.gelu(x, approximate="tanh")
        case Act():
            return getattr(F, kind.kind)(x)
        case AvgPool():
            return F.avg_pool2d(x, kind.kernel, kind.stride, kind.padding, kind.ceil, kind.count_pad)
        case MaxPool():
            return F.max_pool2d(x, kind.kernel, kind.stride, kind.padding, ceil_mode=kind.ceil)
        case GlobalAvgPool():
            return F.adaptive_avg_pool2d(x, 1)
        case AdaptiveAvgPool():
            return F.adaptive_avg_pool2d(x, kind.size)
        case Flatten():
            return torch.flatten(x, 1)
        case Dropout():
            return F.dropout(x, kind.rate, training=False)
        case Scale():
            return torch.mul(x, kind.factor)
        case Subsample():
            return x[:, :, :: kind.stride[0], :: kind.stride[1]]
        case Upsample():
            aligned = {"align_corners": False} if kind.kind == "bilinear" else {}
            return F.interpolate(x, scale_factor=kind.factor, mode=kind.kind, **aligned)
        case PadChannels():
            return F.pad(x, (0, 0, 0, 0, 0, kind.channels - x.shape[1]))
        case Identity():
            return torch.nn.Identity()(x)
    raise NotImplementedError(type(kind).__name__)


def grid(make: Callable[..., Kind], shapes: list[Shape], **choices: list[Any]) -> Iterator[tuple[Kind, Shape]]:
    """Every combination of attributes that is a valid op on the shape."""
    for values in product(*choices.values()):
        for shape in shapes:
            try:
                kind = make(**dict(zip(choices, values, strict=True)))
                kind.output(shape)
            except ShapeError:
                continue
            yield kind, shape


WINDOWS: dict[str, list[Any]] = {
    "kernel": [(1, 1), (2, 2), (3, 3), (2, 3), (5, 1)],
    "stride": [None, (1, 1), (2, 2), (3, 2)],
    "padding": [(0, 0), (1, 1), (1, 0), (0, 1), (2, 0)],
    "ceil": [False, True],
}
MAPS: list[Shape] = [(2, 7, 8), (1, 6, 5)]

CASES: list[tuple[Kind, Shape]] = [
    *grid(
        Conv,
        [(4, 9, 8), (6, 5, 7)],
        channels=[12],
        kernel=[(1, 1), (3, 3), (2, 3), (5, 1)],
        stride=[(1, 1), (2, 2), (1, 3)],
        padding=["same", (0, 0), (2, 1)],
        dilation=[(1, 1), (2, 2), (1, 3)],
        groups=[1, 2, 4, 6],
        bias=[False, True],
    ),
    *grid(Linear, [(7,), (1,)], features=[1, 5], bias=[False, True]),
    *grid(Norm, [(3, 4, 5), (6,)], eps=[1e-5, 1e-3, 0.0, 1.0]),
    *grid(Norm, [(6, 4, 5), (6, 1, 1), (6,)], kind=["group"], groups=[1, 2, 3, 6], eps=[1e-5, 0.0, 1.0]),
    *grid(Act, [(3, 4, 5), (6,)], kind=list(ACTIVATIONS), slope=[0.01, 0.2, -0.5], alpha=[1.0, 0.3, 0.0]),
    *grid(MaxPool, MAPS, **WINDOWS),
    *grid(AvgPool, MAPS, **WINDOWS, count_pad=[True, False]),
    *grid(GlobalAvgPool, [(3, 4, 5), (2, 1, 1)]),
    *grid(AdaptiveAvgPool, [(2, 7, 7), (2, 5, 8), (1, 1, 3)], size=[(1, 1), (2, 3), (4, 4), (7, 7), (9, 5)]),
    *grid(Flatten, [(3, 4, 5), (3, 1, 1), (6,)]),
    *grid(Dropout, [(3, 4, 5), (6,)], rate=[0.0, 0.5, 1.0]),
    *grid(Scale, [(3, 4, 5), (6,)], factor=[0.0, 1.0, 0.17, -2.5]),
    *grid(Subsample, [(3, 4, 5), (2, 7, 7)], stride=[(1, 1), (2, 2), (3, 1), (4, 5)]),
    *grid(
        Upsample,
        [(3, 4, 5), (2, 1, 1), (1, 7, 2)],
        factor=[(1, 1), (2, 2), (3, 2), (1, 5), (7, 32)],
        kind=["nearest", "bilinear"],
    ),
    *grid(PadChannels, [(3, 4, 5)], channels=[3, 4, 8]),
    *grid(Identity, [(3, 4, 5), (6,)]),
]


def test_every_op_and_merge_has_a_row_and_a_case() -> None:
    assert set(OPS) == set(KINDS) == {type(kind) for kind, _ in CASES}
    assert set(MERGES) == set(get_args(Merge))
    # The grid leaves out what is no valid op: enough must be left.
    counts = Counter(type(kind) for kind, _ in CASES)
    assert counts[Conv] > 1000
    assert counts[MaxPool] > 100
    assert counts[AvgPool] == 2 * counts[MaxPool]


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
    wanted = by_torch(Act(kind), torch.tensor(x), {}).numpy()
    # x times a factor that goes to 0 is no number at minus infinity, in torch neither.
    with np.errstate(all="raise", under="ignore", invalid="ignore" if np.isnan(wanted[0, 0]) else "raise"):
        found = interpret(network(series((13,), a("it", Act(kind)))), {}, x)["logits"]
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
    """The error of one layer is that of its operands: half a unit of the last place at most, and not a hundredth of that."""
    net = network(series((50,), a("fc", Linear(300, bias=False))))
    weights, x = random_weights(net), random_input((50,))
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
    for name in ("bn0", "bn1", "bn2"):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(3), np.zeros(3)
    found = calibrated(net, weights, x)
    assert sorted(found) == [f"bn{at}.running_{what}" for at in range(3) for what in ("mean", "var")]
    out = interpret(net, {**weights, **found}, x)["logits"]
    np.testing.assert_allclose(out.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.var((0, 2, 3)), 1, rtol=1e-4)
    np.testing.assert_allclose(found["bn0.running_mean"], x.mean((0, 2, 3)), rtol=1e-5)
