"""Training as the papers define it: what is dropped and with which probability, what is not computed, and what is
recomputed.

References are written out from the formulas, with the submodules of the tested module.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import facts
import numpy as np
import pytest
from ort import ran

from rescompile.ir.interpreter import interpret

torch = pytest.importorskip("torch", reason="the modules are torch's: pip install 'rescompile[torch]'")

from output_comparison import FLOAT32_BOUND, random_input, random_weights, relative_rmse
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rescompile import backend, build, elaborate, load
from rescompile.ir.network import Network, Op, walk
from rescompile.ir.ops import Norm


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch on one thread: more threads would mostly wait for each other in networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network_of(folder: Path, **document: Any) -> Network:
    """Return the network of a spec, written as JSON, which is YAML."""
    path = folder / "spec.yaml"
    path.write_text(json.dumps({"rescompile": 1, "name": "trained", **document}))
    return elaborate(load(path))


def module_of(network: Network, seed: int = 0) -> nn.Module:
    """Return the module in float64 and training mode, with weights unlike any defaults."""
    module: nn.Module = build(network, "torch", random_weights(network, seed)).module  # type: ignore[attr-defined]
    return module.double().train()


def batch(network: Network, count: int = 4) -> Tensor:
    """Return images in float64."""
    return torch.from_numpy(random_input(network, count)).double()


def close(found: Tensor, wanted: Tensor) -> bool:
    """Return whether tensors are equal up to the order of additions in float64."""
    return found.shape == wanted.shape and bool((found - wanted).norm() <= 1e-12 * wanted.norm())


def same(first: nn.Module, second: nn.Module) -> None:
    """Assert that two modules have the same gradients and buffers after backward, to the last bit."""
    state, other = first.state_dict(keep_vars=True), second.state_dict(keep_vars=True)
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, other[name]), name
        gradient, wanted = tensor.grad, other[name].grad
        assert (gradient is None) == (wanted is None), name
        assert gradient is None or torch.equal(gradient, wanted), name


# --- stochastic depth -------------------------------------------------------------------------------------------------


@contextmanager
def drawn(values: Sequence[float] | Sequence[Sequence[float]]) -> Iterator[None]:
    """Let torch.rand return these values, one per call, and assert that all are used.

    A value is for a whole batch, a list of values for the samples of one.
    """
    left = list(values)

    def rand(*size: Any, **options: Any) -> Tensor:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
        value = torch.tensor(left.pop(0))
        assert math.prod(shape) == value.numel(), f"torch.rand({shape}) for {value.numel()} draws"
        return value.reshape(shape)

    with mock.patch.object(torch, "rand", rand):
        yield
    assert not left, f"{len(left)} draws were not made"


LAST = 0.4


def linear(count: int) -> list[float]:
    """Return the survival probabilities of Huang et al. 2016, section 3: p_l = 1 - l / L (1 - p_L)."""
    return [1 - at / count * (1 - LAST) for at in range(1, count + 1)]


def linear_zero_based(count: int) -> list[float]:
    """Return those of timm, where the drop rate grows from 0 in equal steps, as torch.linspace does."""
    return [1 - rate for rate in torch.linspace(0, 1 - LAST, count, dtype=torch.double).tolist()]


SCHEDULES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "linear": ({"schedule": "linear", "last": LAST}, linear(4)),
    "linear_zero_based": ({"schedule": "linear_zero_based", "last": LAST}, linear_zero_based(4)),
    "uniform": ({"schedule": "uniform", "last": LAST}, [LAST] * 4),
    "list": ({"schedule": {"each": [0.9, 1, 0.25, 0.5]}}, [0.9, 1.0, 0.25, 0.5]),
}
SHORTCUTS = ("projection", "pad", "avgpool_pad")
UNITS, RESCALES = ("batch", "sample"), ("test", "train")
every_mode = pytest.mark.parametrize(("unit", "rescale"), list(itertools.product(UNITS, RESCALES)))


def residual_net(folder: Path, shortcut: str = "projection", depth: int = 2, **more: Any) -> Network:
    """Return a network of two stages of basic units, of which the second changes the shape, so that every kind of
    shortcut occurs."""
    return network_of(
        folder,
        input=[3, 8, 8],
        block="basic",
        defaults={"basic": {"shortcut": shortcut}},
        network=[
            {"conv1": {"conv": {"channels": 4, "kernel": 3}}},
            {"layer1": {"depth": depth, "width": 4}},
            {"layer2": {"depth": depth, "width": 6, "stride": 2}},
            {"block": "classifier", "classes": 5},
        ],
        **more,
    )


def units(module: nn.Module) -> list[Any]:
    """Return the residual units of such a network in order."""
    return [*module.layer1, *module.layer2]


def branch_of(unit: Any, x: Tensor) -> Tensor:
    """Return F(x), the output of the residual branch."""
    y: Tensor = unit.bn2(unit.conv2(F.relu(unit.bn1(unit.conv1(x)))))
    return y


def shortcut_of(unit: Any, x: Tensor, kind: str) -> Tensor:
    """Return x, or the output of the shortcut where the shape changes."""
    width, stride = unit.conv1.out_channels, unit.conv1.stride[0]
    if width == x.shape[1] and stride == 1:
        return x
    if kind == "projection":
        y: Tensor = unit.downsample(x)
        return y
    smaller = F.avg_pool2d(x, stride) if kind == "avgpool_pad" else x[:, :, ::stride, ::stride]
    return torch.cat([smaller, smaller.new_zeros(len(x), width - x.shape[1], *smaller.shape[2:])], 1)


def reference(module: Any, x: Tensor, kind: str, factors: Sequence[Any]) -> Tensor:
    """Return the logits with each branch multiplied by its factor: a number, 0 for a branch that is not computed, or a
    tensor with one per sample."""
    x = module.conv1(x)
    for unit, factor in zip(units(module), factors, strict=True):
        y = shortcut_of(unit, x, kind)
        if isinstance(factor, Tensor):
            y = y + branch_of(unit, x) * factor.reshape(-1, 1, 1, 1)
        elif factor:
            y = y + factor * branch_of(unit, x)
        x = F.relu(y)
    logits: Tensor = module.fc(x.mean((2, 3)))
    return logits


def backward(logits: Tensor) -> None:
    """Run backward from a loss that depends on every logit."""
    (logits * torch.arange(1.0, 1.0 + logits.numel(), dtype=logits.dtype).reshape(logits.shape)).sum().backward()


@every_mode
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.slow
def test_every_draw(name: str, unit: str, rescale: str, tmp_path: Path) -> None:
    """With draws just below and just above p_l, outputs, gradients and buffers equal the formula, branch by branch."""
    schedule, survival = SCHEDULES[name]
    kind = SHORTCUTS[list(SCHEDULES).index(name) % len(SHORTCUTS)]
    network = residual_net(tmp_path, kind, survival={**schedule, "unit": unit, "rescale": rescale})
    x = batch(network)
    for pattern in ((1, 1, 1, 1), (0, 1, 0, 1), (1, 0, 1, 0), (0, 0, 0, 0)):
        module = module_of(network)
        twin = copy.deepcopy(module)
        # Patterns are for one sample over the blocks; the next sample has the pattern shifted by one block.
        kept = [[pattern[(at + sample) % 4] for sample in range(len(x) if unit == "sample" else 1)] for at in range(4)]
        draws = [
            [p - 1e-5 if survives or p == 1 else p + 1e-5 for survives in row]
            for p, row in zip(survival, kept, strict=True)
        ]
        with drawn(draws if unit == "sample" else [row[0] for row in draws]):
            found = module(x)
        factors: list[Any] = []
        for p, row in zip(survival, kept, strict=True):
            counts = [(survives or p == 1) / (p if rescale == "train" else 1) for survives in row]
            factors.append(torch.tensor(counts, dtype=torch.double) if unit == "sample" else counts[0])
        wanted = reference(twin, x, kind, factors)
        assert close(found, wanted)
        backward(found)
        backward(wanted)
        theirs = twin.state_dict(keep_vars=True)
        for key, tensor in module.state_dict(keep_vars=True).items():
            if not tensor.requires_grad:
                assert close(tensor.double(), theirs[key].double()), key
            elif theirs[key].grad is None:
                assert tensor.grad is None, key
            else:
                # The bias before a norm has no gradient, except for rounding errors; all others are far larger.
                assert (tensor.grad - theirs[key].grad).norm() <= 1e-10 * max(theirs[key].grad.norm(), 1e-3), key


@every_mode
@pytest.mark.parametrize("name", SCHEDULES)
def test_evaluation(name: str, unit: str, rescale: str, tmp_path: Path) -> None:
    """In evaluation, each branch is multiplied by p_l (rescale: test) or by 1 (rescale: train), and nothing is drawn."""
    schedule, survival = SCHEDULES[name]
    network = residual_net(tmp_path, survival={**schedule, "unit": unit, "rescale": rescale})
    module = module_of(network).eval()
    with torch.no_grad(), drawn([]):
        wanted = reference(module, batch(network), "projection", survival if rescale == "test" else [1.0] * 4)
        assert close(module(batch(network)), wanted)


@every_mode
def test_folded_evaluation(unit: str, rescale: str, tmp_path: Path) -> None:
    """Folding norms into convolutions, and p_l too where that is exact, changes no output and removes modules."""
    survival = {"schedule": "linear", "last": LAST, "unit": unit, "rescale": rescale}
    network = residual_net(tmp_path, survival=survival)
    weights, x = random_weights(network), random_input(network)
    folded = build(network, "torch", weights, fold_batchnorm=True).module  # type: ignore[attr-defined]
    assert not [part for part in folded.modules() if isinstance(part, nn.BatchNorm2d)]
    with torch.no_grad():
        found = folded(torch.from_numpy(x)).numpy()
        wanted = reference(
            module_of(network).eval(), batch(network, 2), "projection", linear(4) if rescale == "test" else [1.0] * 4
        )
    assert relative_rmse(found, wanted.numpy()) < FLOAT32_BOUND


@every_mode
def test_certain_survival_is_the_plain_network(unit: str, rescale: str, tmp_path: Path) -> None:
    """With p = 1, outputs, gradients and buffers equal the plain network to the last bit, in training and in evaluation."""
    survival = {"schedule": "uniform", "last": 1, "unit": unit, "rescale": rescale}
    plain, network = residual_net(tmp_path), residual_net(tmp_path, survival=survival)
    first, second = module_of(plain), module_of(network)
    x = batch(network)
    found, wanted = second(x), first(x)
    assert torch.equal(found, wanted)
    backward(found)
    backward(wanted)
    same(second, first)
    with torch.no_grad():
        assert torch.equal(second.eval()(x), first.eval()(x))


@pytest.mark.parametrize("schedule", ["linear", "linear_zero_based", "uniform"])
def test_networks_of_one_block(schedule: str, tmp_path: Path) -> None:
    """In a network of one block, the paper drops it as its last, and timm never drops it as its first."""
    network = network_of(
        tmp_path,
        input=[2, 4, 4],
        network=[{"unit": {"block": "basic", "depth": 1, "width": 2}}],
        survival={"schedule": schedule, "last": LAST, "unit": "batch", "rescale": "test"},
    )
    p = 1.0 if schedule == "linear_zero_based" else LAST
    module, x = module_of(network), batch(network)
    with torch.no_grad(), drawn([min(p + 1e-5, 1 - 1e-5)]):
        found = copy.deepcopy(module)(x)
        wanted = F.relu(x + branch_of(copy.deepcopy(module).unit[0], x)) if p == 1 else F.relu(x)
    assert close(found, wanted)
    module.eval()
    with torch.no_grad():
        assert close(module(x), F.relu(x + p * branch_of(module.unit[0], x)))


LINEAR: dict[str, Any] = {
    "input": [2, 4, 4],
    "blocks": {"unit": {"body": [{"residual": {"branch": [{"conv": {"channels": 2, "kernel": 3}}]}}]}},
    "network": [{"units": {"block": "unit", "depth": 3}}],
}


@pytest.mark.parametrize("rescale", RESCALES)
def test_expectation_over_all_outcomes(rescale: str, tmp_path: Path) -> None:
    """For branches without norms or activations, evaluation equals the mean of training over all outcomes."""
    survival = {"schedule": "linear", "last": LAST, "unit": "batch", "rescale": rescale}
    network = network_of(tmp_path, **LINEAR, survival=survival)
    module, x = module_of(network), batch(network)
    probabilities, mean = linear(3), torch.zeros(len(x), *network.root.output, dtype=torch.double)
    with torch.no_grad():
        for kept in itertools.product((0, 1), repeat=3):
            weight = math.prod(p if survives else 1 - p for p, survives in zip(probabilities, kept, strict=True))
            with drawn([0.0 if survives else 0.99999 for survives in kept]):
                mean += weight * module(x)
        assert close(mean, module.eval()(x))


@pytest.mark.parametrize("rescale", RESCALES)
def test_expectation_over_samples(rescale: str, tmp_path: Path) -> None:
    """With `unit: sample`, many equal images in one batch have the mean of evaluation, and are dropped at the given rate."""
    survival = {"schedule": {"each": [0.7]}, "unit": "sample", "rescale": rescale}
    network = network_of(
        tmp_path, **{**LINEAR, "network": [{"units": {"block": "unit", "depth": 1}}]}, survival=survival
    )
    module, count = module_of(network), 20_000
    x = batch(network, 1).expand(count, -1, -1, -1)
    torch.manual_seed(0)
    with torch.no_grad():
        made = module(x)
        dropped = (made == x).flatten(1).all(1)
        change = module.eval()(x[:1]) - x[:1]
    assert abs(float(dropped.double().mean()) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / count)
    assert (made.mean(0) - x[0] - change[0]).norm() < 5 * math.sqrt(0.3 / 0.7 / count) * change.norm()


def test_how_often_blocks_survive(tmp_path: Path) -> None:
    """Real draws follow the schedule, blocks are independent, and torch's seed determines them."""
    survival = {"schedule": "linear", "last": LAST, "unit": "batch", "rescale": "test"}
    network = network_of(tmp_path, **LINEAR, survival=survival)
    module, x, count = module_of(network), batch(network, 1), 1500
    called: list[int] = []
    for at, unit in enumerate(module.units):
        unit.conv.register_forward_hook(lambda *_, at=at: called.append(at))

    def steps(count: int) -> Any:
        torch.manual_seed(0)
        kept = np.zeros((3, count))
        for step in range(count):
            called.clear()
            module(x)
            kept[called, step] = 1
        return kept

    with torch.no_grad():
        kept = steps(count)
        assert np.array_equal(steps(10), kept[:, :10])
    for row, p in zip(kept, linear(3), strict=True):
        assert abs(row.mean() - p) < 5 * math.sqrt(p * (1 - p) / count)
    for one, other in itertools.combinations(kept, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(count)


# --- a dropped block is not computed ----------------------------------------------------------------------------------


@dataclass
class Saved:
    """The tensors that autograd saves for backward, and their storages."""

    tensors: list[Tensor] = field(default_factory=list)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Record the tensors saved inside."""
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept):
            yield

    def _keep(self, tensor: Tensor) -> Tensor:
        self.tensors.append(tensor)
        return tensor

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes in the order in which tensors were saved."""
        return [tuple(tensor.shape) for tensor in self.tensors]

    def bytes(self, without: nn.Module) -> int:
        """Return the total size of the storages, without those of the weights."""
        weights = {tensor.untyped_storage().data_ptr() for tensor in without.state_dict().values()}
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in self.tensors}
        return sum(storage.nbytes() for at, storage in storages.items() if at not in weights)


@pytest.mark.parametrize("block", ["basic", "preact_basic", "bottleneck"])
def test_a_dropped_block_is_not_computed(block: str, tmp_path: Path) -> None:
    """A dropped block has no forward, no backward, no updated buffers and no saved tensors; the step is that of the
    network without the branch."""
    row = {"depth": 3, "width": 4}
    network = network_of(
        tmp_path,
        input=[3, 8, 8],
        block=block,
        network=[{"conv1": {"conv": {"channels": 16 if block == "bottleneck" else 4, "kernel": 3}}}, {"layer1": row}],
        survival={"schedule": "uniform", "last": 0.5, "unit": "batch", "rescale": "test"},
    )
    module, x = module_of(network), batch(network)
    called: list[str] = []
    for name, part in module.named_modules():
        part.register_forward_hook(lambda *_, name=name: called.append(name))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    dropped = "layer1.1."
    saved = Saved()
    with drawn([0.0, 0.9, 0.0]), saved.watch():
        y = module(x)
    backward(y)
    assert not [name for name in called if name.startswith(dropped)]
    assert {f"layer1.{at}.conv1" for at in (0, 2)} <= set(called)
    for name, parameter in module.named_parameters():
        assert (parameter.grad is None) == name.startswith(dropped), name
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, before[name]) == name.startswith(dropped), name
    # The same network with the remainder of the block in its place.
    without = module_of(network)
    without.layer1[1] = nn.Identity() if block == "preact_basic" else nn.ReLU()
    wanted = Saved()
    with drawn([0.0, 0.0]), wanted.watch():
        z = without(x)
    assert torch.equal(y, z)
    assert saved.shapes() == wanted.shapes()


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_shortcuts_are_computed_when_the_branch_is_dropped(kind: str, tmp_path: Path) -> None:
    """Shortcuts that change the shape are computed even if the branch is dropped: a projection is trained and updates
    its norm, option A pads and pools."""
    survival = {"schedule": "uniform", "last": 0.5, "unit": "batch", "rescale": "test"}
    network = residual_net(tmp_path, kind, depth=1, survival=survival)
    module, x = module_of(network), batch(network)
    twin, counted = copy.deepcopy(module), int(module.layer2[0].bn1.num_batches_tracked)
    with drawn([0.9, 0.9]):
        y = module(x)
    backward(y)
    assert close(y, reference(twin, x, kind, (0, 0)))
    unit = module.layer2[0]
    assert unit.conv1.weight.grad is None
    assert module.conv1.weight.grad.abs().sum() > 0
    assert int(unit.bn1.num_batches_tracked) == counted
    if kind == "projection":
        assert unit.downsample[0].weight.grad.abs().sum() > 0
        assert int(unit.downsample[1].num_batches_tracked) == counted + 1


def test_stochastic_depth_110() -> None:
    """The paper's network has p from 1 - 0.5 / 54 to 0.5, so a step computes 40.25 of its 54 blocks on average, as in section 3."""
    network = facts.network("stochastic_depth_110")
    module = module_of(network)
    survival = [1 - at / 54 * 0.5 for at in range(1, 55)]
    assert sum(survival) == pytest.approx(40.25)
    blocks = [*module.layer1, *module.layer2, *module.layer3]
    called: list[int] = []
    for at, block in enumerate(blocks):
        block.conv1.register_forward_hook(lambda *_, at=at: called.append(at))
    x = batch(network, 1)
    with torch.no_grad():
        for pattern in (0, 1):  # every other block just survives, the others just do not
            called.clear()
            with drawn([p - 1e-5 if at % 2 == pattern else p + 1e-5 for at, p in enumerate(survival)]):
                module(x)
            assert called == list(range(pattern, 54, 2))


# --- dropout, norms, outputs of training ------------------------------------------------------------------------------


def test_dropout_in_wide_units() -> None:
    """Dropout is between the convolutions of a unit, at the rate of the spec, and equals F.dropout under the same seed."""
    settings = ("parameters.k=1", "input=[3, 8, 8]")
    network, plain = facts.network("wrn_16_8_dropout", *settings), facts.network("wrn_16_8", *settings)
    module, without = module_of(network), module_of(plain)
    x = batch(network)

    def wanted(net: Any, training: bool) -> Tensor:
        y = net.conv0(x)
        for unit in (unit for group in (net.group0, net.group1, net.group2) for unit in group):
            z = F.relu(unit.bn0(y))
            changes = hasattr(unit, "convdim")
            inner = F.dropout(F.relu(unit.bn1(unit.conv0(z))), 0.4, training)
            y = unit.conv1(inner) + (unit.convdim(z) if changes else y)
        logits: Tensor = net.fc(F.relu(net.bn(y)).mean((2, 3)))
        return logits

    with torch.no_grad():
        twin = copy.deepcopy(module)
        torch.manual_seed(7)
        found = module(x)
        torch.manual_seed(7)
        assert close(found, wanted(twin, True))
        module.load_state_dict(without.state_dict(), strict=True)
        assert torch.equal(module.eval()(x), without.eval()(x))
        assert close(module(x), wanted(module, False))


def norms(network: Network) -> dict[str, Norm]:
    """Return the norms of a network by name."""
    return {
        name: node.kind for name, node in walk(network.root) if isinstance(node, Op) and isinstance(node.kind, Norm)
    }


def kinds_of_norms() -> dict[tuple[float, float], str]:
    """Return every eps and momentum of the zoo, each with one network that has it."""
    found: dict[tuple[float, float], str] = {}
    for name in facts.zoo():
        for kind in norms(facts.network(name)).values():
            found.setdefault((kind.eps, kind.momentum), name)
    return found


def check_norms(module: nn.Module, network: Network) -> None:
    """Assert that every norm of a module has the eps and momentum of the tree."""
    wanted = norms(network)
    found = {name: part for name, part in module.named_modules() if hasattr(part, "eps")}
    assert found.keys() == wanted.keys()
    for name, part in found.items():
        momentum = part.momentum if wanted[name].kind == "batch" else wanted[name].momentum
        assert (part.eps, momentum) == (wanted[name].eps, wanted[name].momentum), name


def test_norms_of_the_zoo() -> None:
    """The zoo's values of eps and momentum, which differ from torch's defaults in some networks, reach the module."""
    kinds = kinds_of_norms()
    assert len(kinds) >= 2
    for name in set(kinds.values()):
        check_norms(backend.load("torch").make(facts.network(name)), facts.network(name))  # type: ignore[attr-defined]


def test_norms_follow_their_spec(tmp_path: Path) -> None:
    """`eps` and `momentum`, as defaults and of a single norm, take effect on a batch in training."""
    network = network_of(
        tmp_path,
        input=[3, 6, 6],
        defaults={"norm": {"momentum": 0.03, "eps": 0.5}},
        blocks={"unit": {"parameters": {"slow": 0.1}, "body": [{"bn": {"norm": {"momentum": "slow"}}}, "act"]}},
        network=[
            {"begin": "norm"},
            {"units": {"block": "unit", "depth": 3, "slow": {"each": [0.1, 0.2, 0.1]}}},
            "flatten",
            {"end": {"norm": {"eps": 0.25}}},
        ],
    )
    module, x = module_of(network), batch(network)
    check_norms(module, network)
    start = {name: buffer.clone() for name, buffer in module.named_buffers()}
    y: list[Tensor] = []
    module.begin.register_forward_hook(lambda _, __, made: y.append(made.clone()))
    with torch.no_grad():
        module(x)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    count = x.numel() / 3
    after = dict(module.named_buffers())
    assert close(after["begin.running_mean"], 0.97 * start["begin.running_mean"] + 0.03 * mean)
    wanted = 0.97 * start["begin.running_var"] + 0.03 * variance * count / (count - 1)
    assert close(after["begin.running_var"], wanted)
    assert int(after["begin.num_batches_tracked"]) == int(start["begin.num_batches_tracked"]) + 1
    shape = (1, 3, 1, 1)
    normal = (x - mean.reshape(shape)) / (variance.reshape(shape) + 0.5).sqrt()
    assert close(y[0], normal * module.begin.weight.reshape(shape) + module.begin.bias.reshape(shape))


@pytest.mark.parametrize(("name", "heads"), [("googlenet", ["aux1", "aux2"]), ("inception_v3", ["aux"])])
def test_auxiliary_heads(name: str, heads: list[str]) -> None:
    """In training, the output is a dictionary of the logits and each head; in evaluation, the logits alone."""
    network = facts.network(name)
    module = backend.load("torch").make(network)  # type: ignore[attr-defined]
    x = torch.zeros(2, *network.input, device="meta")  # shapes without numbers
    found = module(x)
    assert {key: tuple(value.shape) for key, value in found.items()} == dict.fromkeys(["logits", *heads], (2, 1000))
    found["logits"].sum().backward()
    of_heads = [part for name, part in module.named_parameters() if name.startswith(("aux", "AuxLogits"))]
    assert len(of_heads) > 5
    assert all(parameter.grad is None for parameter in of_heads)
    assert list(module.eval()(x)) == ["logits"]


# --- feature maps -----------------------------------------------------------------------------------------------------

BACKBONES: dict[str, dict[str, Any]] = {
    "copies of a row": {
        "block": "basic",
        "network": [
            {"conv1": {"conv": {"channels": 4, "kernel": 3}}},
            {"layer1": {"depth": 3, "width": 4}},
            {"layer2": {"depth": 2, "width": 6, "stride": 2}},
            {"block": "classifier", "classes": 5},
        ],
        "features": ["conv1", "layer1.0", "layer1", "layer2.1", "layer2", "fc"],
    },
    "what is activated next": {
        "network": [
            {"features": [{"conv": {"channels": 4, "kernel": 3}}, "relu", {"conv": {"channels": 4, "kernel": 3}}, "norm", "relu"]},
            {"last": {"conv": {"channels": 4, "kernel": 1}}},
            "relu",
        ],
        "features": ["features.0", "features.1", "features.3", "features", "last"],
    },
    "what is normalised and activated next": {
        "block": "preact_basic",
        "network": [
            {"conv1": {"conv": {"channels": 4, "kernel": 3}}},
            {"layer1": {"depth": 2, "width": 4}},
            {"layer2": {"depth": 2, "width": 6, "stride": 2}},
            {"bn": "norm"},
            "relu",
        ],
        "features": ["conv1", "layer1.0", "layer1", "layer2", "bn"],
    },
    "dense blocks": {
        "block": "dense_layer",
        "defaults": {"dense_layer": {"growth": 2}},
        "network": [
            {"features": [
                {"conv0": {"conv": {"channels": 4, "kernel": 3}}},
                {"denseblock1": {"depth": 3}},
                {"transition1": "transition"},
                {"denseblock2": {"depth": 2}},
                {"norm5": "norm"},
            ]},
            {"block": "dense_head", "classes": 5},
        ],
        "features": ["features.conv0", "features.denseblock1.denselayer2", "features.denseblock1", "features.transition1", "features.norm5"],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
def test_features(name: str, tmp_path: Path) -> None:
    """Features equal the maps of the interpreter by name: in torch, in training too, and in ONNX."""
    network = network_of(tmp_path, input=[3, 8, 8], **BACKBONES[name])
    wanted_names = ["logits", *BACKBONES[name]["features"]]
    weights, x = random_weights(network), random_input(network, 3)
    wanted = interpret(network, weights, x)
    module = module_of(network)
    modules, maps = dict(module.named_modules()), dict[str, list[Tensor]]()
    for part in (part for part in wanted_names[1:] if part in modules):  # an activation is a function, not a module
        maps[part] = []
        modules[part].register_forward_hook(lambda _, __, made, part=part: maps[part].append(made.clone()))
    with torch.no_grad():
        found = module.eval()(torch.from_numpy(x).double())
        training = module.train()(torch.from_numpy(x).double())
    assert sorted(found) == sorted(training) == sorted(wanted_names) == sorted(wanted)
    for part in wanted_names:
        assert relative_rmse(found[part].numpy(), wanted[part]) < 1e-12, part
    assert len(maps) >= 4
    assert all(
        torch.equal(found[part], made[0]) and torch.equal(training[part], made[1]) for part, made in maps.items()
    )
    runtime = ran(build(network, "onnx", weights).to_bytes(), {"input": x})
    assert runtime.keys() == wanted.keys()
    assert all(relative_rmse(runtime[part], wanted[part]) < FLOAT32_BOUND for part in wanted_names)


# --- checkpoint -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpoint_changes_no_number(dropout: float, tmp_path: Path) -> None:
    """Checkpointing changes no bit of losses, gradients, running statistics and counters in two steps, with dropout too."""
    runs = []
    for checkpoint in (False, True):
        network = network_of(
            tmp_path,
            extends="densenet_bc_100_k12_cifar",
            input=[3, 8, 8],
            parameters={"n": 2, "k": 4},
            defaults={"dense_layer": {"dropout": dropout}},
            checkpoint=checkpoint,
        )
        assert network.checkpoint == checkpoint
        module = module_of(network)
        torch.manual_seed(0)
        losses = []
        for step in range(2):
            logits = module(batch(network) + step)
            loss = logits.square().sum()
            losses.append(loss.item())
            loss.backward()
        runs.append((module, losses))
    (plain, wanted), (module, losses) = runs
    assert losses == wanted
    same(module, plain)
    assert int(module.features.denseblock1.denselayer1.norm1.num_batches_tracked) == 7 + 2


def test_checkpoint_keeps_less(tmp_path: Path) -> None:
    """Tensors saved for backward, with the inputs that checkpoints keep, take at most 0.6 of the size without checkpoints."""
    kept = []
    for checkpoint in (False, True):
        network = network_of(tmp_path, extends="densenet_bc_100_k12_cifar", checkpoint=checkpoint)
        module = build(network, "torch").module.train()  # type: ignore[attr-defined]
        saved = Saved()
        home = sys.modules[type(module).__module__]

        def held(function: Any, x: Tensor, saved: Saved = saved, **options: Any) -> Tensor:
            saved.tensors.append(x)  # checkpoint itself keeps it, invisible to hooks
            result: Tensor = torch.utils.checkpoint.checkpoint(function, x, **options)
            return result

        with mock.patch.object(home, "checkpoint", held, create=True), saved.watch():
            module(torch.from_numpy(random_input(network, 2)))
        kept.append(saved.bytes(module))
        assert any(len(tensor.shape) == 4 for tensor in saved.tensors)
    assert kept[1] <= 0.6 * kept[0]


def test_checkpoint_leaves_evaluation_alone(tmp_path: Path) -> None:
    """In evaluation, the module is the same scripted and exported, and nothing is recomputed without gradients."""
    document = {"extends": "densenet_bc_100_k12_cifar", "input": [3, 8, 8], "parameters": {"n": 1, "k": 4}}
    network, plain = (network_of(tmp_path, **document, checkpoint=checkpoint) for checkpoint in (True, False))
    module, x = module_of(network).eval(), batch(network)
    with torch.no_grad():
        wanted = module_of(plain).eval()(x)
        assert torch.equal(module(x), wanted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch recommends torch.export
            assert torch.equal(torch.jit.script(module)(x), wanted)
        dynamic = {"x": {0: torch.export.Dim("batch", min=1)}}
        program = torch.export.export(module, (x,), dynamic_shapes=dynamic).module()
        assert torch.equal(program(x[:3]), wanted[:3])
        called: list[None] = []
        module.train().features.denseblock1.denselayer1.conv1.register_forward_hook(lambda *_: called.append(None))
        assert torch.equal(module(x), module_of(plain)(x))
        assert len(called) == 1
