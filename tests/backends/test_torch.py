"""PyTorch modules: the text of `--target source` executed, with the names and numbers of the libraries' own modules.

Three references: torchvision, timm and the released code (see `peers` and `test_peers`) in evaluation and in training; the
ONNX file in ONNX Runtime; the interpreter of the tree. Networks that are large or slow are left to a longer run:

    RESCOMPILE_PARAMETERS=200e6 RESCOMPILE_MACS=20e9 pytest tests/backends/test_torch.py
"""

from __future__ import annotations

import copy
import inspect
import math
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from command_line import invoke
from every_op import EVERY_OP
from ort import ran
from output_comparison import random_input, random_weights

from rescompile.ir.interpreter import interpret

torch = pytest.importorskip("torch", reason="the modules are torch's: pip install 'rescompile[torch]'")

import peers  # before torchvision: it declares the operators whose library may not load

for package in ("torchvision", "timm"):
    pytest.importorskip(package, reason=f"a peer of many networks: pip install --no-deps {package}")

from differential import rms
from library_peers import Peer
from torch import nn
from zoo_peers import AUTOMATIC, OTHER_ORDER, PEERS, SIZES

from rescompile import backend, build, elaborate, load
from rescompile.analysis.cost import cost
from rescompile.diagnostics.errors import OutputError, Unavailable, UsageError
from rescompile.files import checksum
from rescompile.ir.network import LOGITS, Network, parameters
from rescompile.ir.ops import Draw, Parameter
from rescompile.weights import draw
from rescompile.weights.initialisation import RULES

Tensors = dict[str, peers.Array]

#: Limits for networks that run here: parameters, and multiply-adds per image.
PARAMETERS = float(os.environ.get("RESCOMPILE_PARAMETERS", "30e6"))
MACS = float(os.environ.get("RESCOMPILE_MACS", "0.26e9"))


@cache
def factory(name: str, *settings: str) -> Callable[[], nn.Module]:
    """Return the factory of a zoo network from its generated file, which is written and executed once."""
    network = facts.network(name, *settings)
    home = sys.modules[type(backend.load("torch").make(network)).__module__]  # type: ignore[attr-defined]
    function: Callable[[], nn.Module] = getattr(home, network.name)
    return function


def empty(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a module with uninitialised weights, because initialising them takes longer than everything else."""
    with torch.device("meta"):
        module = make()
    return module.to_empty(device="cpu")


def outputs(found: Any) -> dict[str, torch.Tensor]:
    """Return the outputs of a module by name: ours are a dict if there are several, torchvision's a named tuple."""
    if isinstance(found, torch.Tensor):
        return {LOGITS: found}
    if isinstance(found, dict):
        return found
    ours = {"logits": LOGITS, "aux_logits1": "aux1", "aux_logits2": "aux2", "aux_logits": "aux"}
    return {ours[name]: value for name, value in found._asdict().items()}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Run torch on one thread: more threads would mostly wait for each other in networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- modules of the libraries -----------------------------------------------------------------------------------------

_PREACT = tuple(name for name in PEERS if re.fullmatch(r"preact_resnet\d+", name))


def _is_gated(name: str) -> bool:
    return "_gate_" in name or name.startswith("highway")


#: Networks that a peer computes differently, so that the last bits differ. All others are equal to the last bit, by the
#: same functions of the same framework in the same order.
INEXACT = {
    **dict.fromkeys(("darknet53", *_PREACT), "the classifier is a 1x1 convolution on one side"),
    "mobileone_s0": "the branches of a layer are added in a different order",
    "convnext_tiny": "timm's linear layers over the channels are 1x1 convolutions here",
    "resnetblur50": "a blur is two means of two by two here, a depthwise convolution in timm",
    **dict.fromkeys(
        ("nf_resnet50", "dm_nfnet_f0", "resnetv2_50x1_bit"), "timm standardises weights by a batch norm in training"
    ),
    **{name: "a gate is x + g (h - x) here, g h + (1 - g) x in the peer" for name in PEERS if _is_gated(name)},
}

#: Networks that are compared although they are large, because all peers of their families are.
FAMILIES = ("alexnet", "vgg11_bn")


@dataclass(frozen=True)
class Pair:
    """A peer and our module with the weights of the peer, both in evaluation mode, and images for them."""

    name: str
    peer: Peer
    theirs: nn.Module
    ours: nn.Module
    x: torch.Tensor


def setting(peer: Peer) -> tuple[str, ...]:
    """Return the settings that give our network the size of the peer."""
    return (f"input={list(peer.input)}", *peer.settings)


def network_of(name: str) -> Network:
    """Return our network of a comparison."""
    return facts.network(name, *setting(PEERS[name]))


@cache
def run_here() -> tuple[str, ...]:
    """Return the networks with a peer that are small enough to run."""
    return tuple(name for name in PEERS if name in FAMILIES or facts.size(name)[0] <= PARAMETERS)


#: Networks that rightly differ from their peer in training.
ANOTHER_IN_TRAINING = {
    **dict.fromkeys(_PREACT, "timm pools before its first norm, which therefore normalises a different batch"),
    "stochastic_depth_110": "drops blocks, see test_training",
    **{name: "mixes branches by random shares, see test_random_merges" for name in PEERS if "shake" in name},
    **{name: "drops averaged branches, see test_drop_path" for name in PEERS if "fractal" in name},
}

#: Momenta of peers' running statistics that differ from the spec: darknet keeps 0.99 of the old value
#: (`batchnorm_layer.c`); timm's darknet53 and the references, written for evaluation, keep torch's 0.9.
MOMENTA = {name: 0.01 for name in PEERS if name.startswith("darknet")}

#: Trained although slow, for its auxiliary heads.
HEADS = ("googlenet",)


@cache
def trained_here() -> tuple[str, ...]:
    """Return the networks that are fast enough to be trained in float64."""
    kept = (name for name in run_here() if name not in ANOTHER_IN_TRAINING)
    return tuple(name for name in kept if name in HEADS or is_fast(*size_of(name)))


def size_of(name: str) -> tuple[int, int]:
    """Return the parameters and approximate multiply-adds of our network, from its row where that is the same network,
    because counting takes long."""
    peer = PEERS[name]
    if peer.settings:
        total = cost(network_of(name))
        return total.parameters, total.macs
    parameters, macs, _ = facts.size(name)
    return parameters, macs * math.prod(peer.input) // math.prod(facts.rows()[name]["input"])


def is_fast(parameters: int, macs: int) -> bool:
    """Return whether a network of this size is trained in float64."""
    return macs <= MACS and parameters <= PARAMETERS


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest) -> Pair:
    """Return a peer and our module. All tests of one peer run in sequence, so that only one is in memory."""
    name = request.param
    peer = PEERS[name]
    theirs = peers.randomised(empty(peer.make), (2, *peer.input), positive=peer.positive)
    tensors = peer.renamed(name, peers.arrays(theirs))
    with torch.device("meta"):
        ours = factory(name, *setting(peer))()
    ours.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()}, strict=True, assign=True)
    x = torch.randn(2, *peer.input, generator=torch.Generator().manual_seed(1))
    return Pair(name, peer, theirs, ours.eval(), x)


@pytest.mark.parametrize("pair", run_here(), indirect=True)
@pytest.mark.sampled(one_in=2)
def test_outputs(pair: Pair) -> None:
    """On weights far from freshly initialised ones, outputs equal those of the peer, or are as close to float64 as the peer's."""
    with torch.no_grad():
        ours = peers.joined({name: value.numpy() for name, value in outputs(pair.ours(pair.x)).items()})
        if pair.name not in INEXACT:
            assert np.array_equal(ours, pair.theirs(pair.x).numpy())
            assert peers.telling(ours) > 0.001
            return
    single, double = peers.outputs(pair.theirs, pair.x.numpy())
    assert peers.telling(double) > 0.001
    assert peers.error(ours, double) <= peers.bound(single, double)


@pytest.mark.parametrize("pair", trained_here(), indirect=True)
@pytest.mark.slow
def test_training(pair: Pair) -> None:
    """In training without dropout, outputs, all gradients and running statistics equal those of the peer."""
    theirs = trained(pair.theirs, pair.x, MOMENTA.get(pair.name))
    ours = trained(pair.ours, pair.x)
    named = pair.peer.renamed(pair.name, theirs.state)
    assert ours.outputs.keys() == theirs.outputs.keys()
    assert ours.state.keys() == named.keys()
    largest = max(rms(value) for value in theirs.state.values())
    for key, found, wanted in (
        *((key, value, theirs.outputs[key]) for key, value in ours.outputs.items()),
        *((key, value, named[key]) for key, value in ours.state.items()),
    ):
        assert found.shape == wanted.shape, key
        # The bias of a convolution before a norm has no gradient, except for rounding errors.
        off, scale = rms(found - wanted), max(rms(wanted), 1e-6 * largest)
        assert off <= 1e-9 * scale, key


@dataclass(frozen=True)
class Trained:
    """One forward and backward pass: the outputs, and for each tensor its gradient, or for a buffer its new value."""

    outputs: Tensors
    state: Tensors


def trained(model: nn.Module, x: torch.Tensor, momentum: float | None = None) -> Trained:
    """Run one pass of a copy of the model in float64, in training without dropout, with a loss that depends on every
    output.

    `momentum` is that of its norms, unless it is None.
    """
    model = copy.deepcopy(model).double().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d) and momentum is not None:
            module.momentum = momentum
    results = outputs(model(x.double()))
    generator = torch.Generator().manual_seed(2)
    weights = {
        name: torch.randn(results[name].shape, generator=generator, dtype=torch.double) for name in sorted(results)
    }
    torch.stack([(results[name] * weight).sum() for name, weight in weights.items()]).sum().backward()
    state = {
        name: (tensor if tensor.grad is None else tensor.grad)
        for name, tensor in model.state_dict(keep_vars=True).items()
    }
    assert all(parameter.grad is not None for parameter in model.parameters())
    return Trained(
        {name: value.detach().numpy() for name, value in results.items()},
        {name: tensor.detach().numpy() for name, tensor in state.items()},
    )


@pytest.mark.parametrize("name", [name for name in AUTOMATIC if name not in run_here()])
@pytest.mark.sampled
def test_names(name: str) -> None:
    """Networks of the libraries that are too large to run load the `state_dict` of their peer strictly, in the same order."""
    with torch.device("meta"):
        theirs, ours = PEERS[name].make(), factory(name, *setting(PEERS[name]))()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    if name not in OTHER_ORDER:
        assert list(ours.state_dict()) == list(theirs.state_dict())


# --- ONNX files, and the tree -----------------------------------------------------------------------------------------


def small_input(name: str) -> tuple[int, ...]:
    """Return the input of a network, reduced where it is large."""
    channels, *sizes = facts.rows()[name]["input"]
    small = SIZES.get(name, 64)
    if isinstance(small, tuple):
        return small
    large = sizes and sizes[-1] > 64 and small < 200
    return channels, *(small if large else size for size in sizes)


def small_settings(name: str) -> tuple[str, ...]:
    """Return the settings of that input."""
    small = [*small_input(name)]
    return () if small == facts.rows()[name]["input"] else (f"input={small}",)


def small_macs(name: str) -> float:
    """Return the approximate multiply-adds of a network with that input."""
    return facts.size(name)[1] * math.prod(small_input(name)) / math.prod(facts.rows()[name]["input"])


@cache
def light() -> tuple[str, ...]:
    """Return the networks that are small enough to run."""
    return tuple(name for name in facts.zoo() if small_macs(name) <= MACS and facts.size(name)[0] <= PARAMETERS)


@pytest.mark.parametrize("name", light())
@pytest.mark.sampled(macs=1e9, one_in=3)
def test_onnx(name: str) -> None:
    """ONNX Runtime on the file is as close to the module in float64 as the module in float32."""
    settings = small_settings(name)
    network = facts.network(name, *settings)
    module = peers.randomised(empty(factory(name, *settings)), (2, *network.input))
    x = random_input(network)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if key.endswith("gate.bias"):
                parameter -= 3  # as highways are initialised: 50 layers of half-open gates lose their input
        single = outputs(module(torch.from_numpy(x)))
        double = outputs(copy.deepcopy(module).double()(torch.from_numpy(x).double()))
    found = ran(build(network, "onnx", peers.arrays(module)).to_bytes(), {"input": x})
    assert found.keys() == double.keys()
    for key, value in found.items():
        exact = double[key].numpy()
        assert peers.telling(exact) > 0.001, key
        assert peers.error(value, exact) <= peers.bound(single[key].numpy(), exact), key


@pytest.fixture(scope="module")
def every_op(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Return a small network with every op, every merge, every mode of a side branch, features and survival factors."""
    path = tmp_path_factory.mktemp("every_op") / "every_op.yaml"
    path.write_text(EVERY_OP)
    return elaborate(load(path))


def test_outputs_are_those_of_the_interpreter(every_op: Network) -> None:
    """Every output equals that of the interpreter by name, in float64 on both sides."""
    weights, x = random_weights(every_op), random_input(every_op, 3)
    module = build(every_op, "torch", weights).module.double()  # type: ignore[attr-defined]
    wanted = interpret(every_op, weights, x)
    with torch.no_grad():
        found = module(torch.from_numpy(x).double())
    assert found.keys() == wanted.keys() == every_op.outputs.keys()
    for name, value in wanted.items():
        assert peers.error(found[name].numpy(), value) < 1e-12, name


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["every_op", "googlenet", "drn_c_26", "highway_mnist_fc_10"])
def test_weights_are_drawn_as_for_every_target(name: str, every_op: Network) -> None:
    """`build` loads the weights of (seed, name) that ONNX files have, bit for bit, counters and unused branches included."""
    network = every_op if name == "every_op" else facts.network(name)
    module = build(network, "torch", seed=3).module  # type: ignore[attr-defined]
    assert not module.training
    state, wanted = peers.arrays(module), draw(network, 3)
    assert list(state) == list(wanted)
    for key, value in state.items():
        assert value.dtype == wanted[key].dtype, key
        assert np.array_equal(value, wanted[key]), key
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_weights_of_a_mapping_are_copied(every_op: Network) -> None:
    """Training a module changes none of the arrays it was built from, and two modules of one mapping share no weights."""
    weights = random_weights(every_op)
    before = {name: value.copy() for name, value in weights.items()}
    first, second = (build(every_op, "torch", weights).module for _ in range(2))  # type: ignore[attr-defined]
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor += 1
    assert all(np.array_equal(weights[name], value) for name, value in before.items())
    assert all(np.array_equal(value, before[name]) for name, value in peers.arrays(second).items())


def test_the_module_is_like_one_of_a_file(every_op: Network) -> None:
    """`inspect` finds the source of the class, its instances can be pickled, and modules of one network share their class."""
    first, second = (build(every_op, "torch", seed=seed).module for seed in (0, 1))  # type: ignore[attr-defined]
    assert type(first) is type(second)
    text = backend.load("source").source(every_op)  # type: ignore[attr-defined]
    assert inspect.getsource(type(first)) in text
    # Annotations are evaluated, because `from __future__ import annotations` in this package does not apply to the
    # text.
    assert inspect.get_annotations(type(first).forward)["x"] is torch.Tensor
    x = torch.from_numpy(random_input(every_op))
    with torch.no_grad():
        wanted = first(x)
        for twin in (pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
            assert all(torch.equal(value, wanted[name]) for name, value in twin(x).items())
        assert not torch.equal(second(x)[LOGITS], wanted[LOGITS])


# --- initialisation by the file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in facts.zoo() if facts.size(name)[0] <= PARAMETERS])
@pytest.mark.slow
def test_initialisation(name: str) -> None:
    """Without weights, the file's factory follows the `init` of the spec, tensor by tensor, in the order of the tree."""
    torch.manual_seed(0)
    state = factory(name)().state_dict()
    wanted = dict(parameters(facts.network(name)))
    assert list(state) == list(wanted)
    for key, parameter in wanted.items():
        initialised(key, state[key], parameter)


def initialised(name: str, values: torch.Tensor, parameter: Parameter) -> None:
    """Assert that a tensor follows its rule: a constant exactly, moments and bounds of a distribution within six
    standard errors."""
    assert tuple(values.shape) == parameter.shape, name
    fill = parameter.fill
    if not isinstance(fill, Draw):
        assert bool((values == fill).all()), f"{name} is not {fill}"
        return
    # By rule: the standard deviation, the relative standard error of its estimate times sqrt(count), and the bound of
    # the distribution.
    deviation, spread, end = {
        "he_normal_fan_out": (math.sqrt(2 / parameter.fan_out), math.sqrt(1 / 2), math.inf),
        "he_normal_fan_in": (math.sqrt(2 / parameter.fan_in), math.sqrt(1 / 2), math.inf),
        "torch_default": (math.sqrt(1 / (3 * parameter.fan_in)), math.sqrt(1 / 5), math.sqrt(3)),
    }[fill.rule]
    unit, count = values.flatten() / (deviation * fill.factor), values.numel()
    assert abs(float(unit.mean())) <= 6 / math.sqrt(count), f"the mean of {name}"
    largest = float(unit.abs().max())
    assert largest <= end * (1 + 1e-6), f"{name} is drawn from too wide a range"
    if count >= 1000:
        assert abs(float(unit.std()) - 1) <= 6 * spread / math.sqrt(count), f"the deviation of {name}"
        assert largest > (1.75 if end == math.inf else 1.7), f"{name} is drawn from another distribution"


def test_every_rule_is_met() -> None:
    """The zoo has every rule, for weights and for biases, and constants of gates."""
    fills = {
        (name.rpartition(".")[2], parameter.fill)
        for key in facts.zoo()
        for name, parameter in parameters(facts.network(key))
    }
    assert {("weight", Draw(rule)) for rule in RULES} <= fills
    assert ("weight", Draw("he_normal_fan_out", 54**-0.5)) in fills
    assert {("bias", value) for value in (Draw("torch_default"), 0.0, -1.0, -2.0, -6.0, -7.0)} <= fills


INITIAL = """
rescompile: 1
name: initial
input: [3, 16, 16]
init: torch_default
defaults:
  norm: {scale_init: 0.5}
  linear: {bias_init: torch_default}
blocks:
  unit:
    parameters: {start: 1.0, strange: 0, factor: 1.0}
    body:
      - residual:
          branch:
            - conv1: {conv: {channels: 32, kernel: 3, init: he_normal_fan_in, bias: true, bias_init: 0.125}}
            - bn1: norm
            - act
            - conv2: {conv: {channels: 32, kernel: 3, bias: true, bias_init: torch_default, init_scale: factor ** 2}}
            - bn2: {norm: {scale_init: start}}
      - if: strange == 1
        then: [extra: {conv: {channels: 32, kernel: 3, init: he_normal_fan_out, bias: true, bias_init: -3}}]
network:
  - conv1: {conv: {channels: 32, kernel: 5, init: he_normal_fan_out}}
  - layer1: {block: unit, depth: 3, start: {each: [0, 0.25, 1]}, strange: {each: [0, 1, 0]}, factor: {each: [1, 0.5, 0.25]}}
  - one: {block: unit, start: 0}
  - listed:
      - conv: {channels: 32, kernel: 3, init: he_normal_fan_out}
      - norm: {scale_init: 2}
      - act
  - constant: {conv: {channels: 32, kernel: 3, init: 0}}
  - halved: {conv: {channels: 32, kernel: 3, init: 0.5, init_scale: 0.5}}
  - wide: {conv: {channels: 32, kernel: 3, init: he_normal_fan_out, init_scale: 3}}
  - flatten
  - hidden: {linear: {features: 64, init: he_normal_fan_in, bias_init: 1}}
  - flat_norm: {norm: {scale_init: 0.75}}
  - fc: {linear: {features: 10, init: 0.5}}
"""


def test_exceptions_to_rules(tmp_path: Path) -> None:
    """Rules hold where they differ between layers of a class, between uses of a class, in lists, and in conditional steps."""
    path = tmp_path / "initial.yaml"
    path.write_text(INITIAL)
    network = elaborate(load(path))
    torch.manual_seed(0)
    module = backend.load("torch").make(network)  # type: ignore[attr-defined]
    state = getattr(sys.modules[type(module).__module__], network.name)().state_dict()
    for key, parameter in parameters(network):
        initialised(key, state[key], parameter)
    assert {float(state[f"layer1.{index}.bn2.weight"][0]) for index in range(3)} == {0.0, 0.25, 1.0}


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(every_op: Network, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write the program and its weights, and return their paths."""
    files = build(every_op, "torch", seed=3).write(tmp_path_factory.mktemp("torch") / "net.pt2")
    assert sorted(file.name for file in files) == ["net.pt2", "net.safetensors"]
    by_suffix = {file.suffix: file for file in files}
    return by_suffix[".pt2"], by_suffix[".safetensors"]


LOADED = """
import sys

sys.modules["rescompile"] = None  # so that any import of it fails
import numpy as np
import torch

torch.set_num_threads(1)  # like the module it is compared with
program = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    for batch in (1, 5):
        outputs = program(torch.from_numpy(np.load(f"{sys.argv[2]}/x{batch}.npy")))
        np.savez(f"{sys.argv[2]}/y{batch}.npz", **{name: value.numpy() for name, value in outputs.items()})
"""


@pytest.mark.slow
def test_the_program_needs_no_rescompile(written: tuple[Path, Path], every_op: Network, tmp_path: Path) -> None:
    """torch alone loads the program, which accepts other batches than that of the export, and equals the module."""
    for batch in (1, 5):
        np.save(tmp_path / f"x{batch}.npy", random_input(every_op, batch))
    command = [sys.executable, "-c", LOADED, str(written[0]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    module = build(every_op, "torch", seed=3).module  # type: ignore[attr-defined]
    for batch in (1, 5):
        found = dict(np.load(tmp_path / f"y{batch}.npz"))
        with torch.no_grad():
            wanted = module(torch.from_numpy(random_input(every_op, batch)))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert np.array_equal(found[name], value.numpy()), name


def test_a_fixed_batch(tmp_path: Path) -> None:
    """`batch=3` exports a program for three images, which refuses two."""
    network = tiny(tmp_path)
    build(network, "torch", batch=3).write(tmp_path / "tiny.pt2")
    program = torch.export.load(tmp_path / "tiny.pt2").module()
    assert program(torch.zeros(3, *network.input)).shape == (3, *network.root.output)
    with pytest.raises(AssertionError):
        program(torch.zeros(2, *network.input))


def test_weights_beside_the_program(written: tuple[Path, Path], every_op: Network) -> None:
    """The safetensors file loads strictly into the module, and any target accepts it as weights."""
    from safetensors.torch import load_file

    tensors = load_file(written[1])
    with torch.device("meta"):
        module = type(backend.load("torch").make(every_op))()  # type: ignore[attr-defined]
    module.load_state_dict(tensors, strict=True, assign=True)
    assert all(np.array_equal(value, draw(every_op, 3)[name]) for name, value in peers.arrays(module).items())
    again = build(every_op, "torch", weights=written[1]).module  # type: ignore[attr-defined]
    assert all(torch.equal(value, tensors[name]) for name, value in again.state_dict().items())


def test_extract(written: tuple[Path, Path], every_op: Network, tmp_path: Path) -> None:
    """A program records the canonical spec and the passes, and these build the same network."""
    recorded = backend.extract(written[0])
    assert recorded is not None
    assert (recorded.text, recorded.sha256, recorded.passes) == (every_op.text, every_op.sha256, ())
    (tmp_path / "again.yaml").write_text(recorded.text)
    assert elaborate(load(tmp_path / "again.yaml")) == every_op
    network = tiny(tmp_path)
    build(network, "torch", fold_batchnorm=True).write(tmp_path / "folded.pt2")
    folded = backend.extract(tmp_path / "folded.pt2")
    assert folded is not None
    assert (folded.text, folded.passes, folded.options) == (network.text, ("fold-batchnorm",), ())


def test_extract_of_the_command(tmp_path: Path) -> None:
    """`extract` prints the spec of a program and the options that build it again, as docs/pytorch.md describes."""
    network, path = tiny(tmp_path), tmp_path / "net.PT2"
    build(network, "torch", fold_batchnorm=True, batch=3, seed=5).write(path)
    done = invoke("extract", path, "-o", tmp_path / "again.yaml")
    assert (done.exit_code, done.stderr) == (0, "built with --fold-batchnorm --batch=3 --seed=5\n"), done.output
    again = build(tmp_path / "again.yaml", "torch", fold_batchnorm=True, batch=3, seed=5).module  # type: ignore[attr-defined]
    x = torch.ones(3, *network.input)
    with torch.no_grad():
        assert torch.equal(torch.export.load(path).module()(x), again(x))
    weights = dict(draw(network))
    build(network, "torch", weights).write(path)
    assert invoke("extract", path).stderr == "built with --weights=FILE\n"


@pytest.mark.parametrize(
    "record",
    [
        "no JSON",
        "[]",
        "{}",
        '{"text": 1, "sha256": "", "passes": []}',
        '{"text": "", "sha256": "", "passes": ["\\u001b[2J"]}',
        '{"text": "\\ud800", "sha256": "", "passes": []}',
        '{"text": "\\u001b[2J", "sha256": "", "passes": []}',
        '{"text": "", "sha256": "", "passes": ["drop=\\ud800"]}',
        f'{{"text": {"9" * 5000}}}',
        "[" * 100_000,
    ],
)
def test_an_edited_record_is_refused(record: str, tmp_path: Path) -> None:
    """An edited record is refused and not printed, because it may contain anything."""
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("archive/extra/rescompile.json", record)
    done = invoke("extract", tmp_path / "net.pt2")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error[E0801]: the record of the spec in ")


def test_a_program_without_a_record(written: tuple[Path, Path], tmp_path: Path) -> None:
    """A program without a record is not an error; a file that is not a program is one."""
    torch.export.save(torch.export.load(written[0]), tmp_path / "other.pt2")
    assert backend.extract(tmp_path / "other.pt2") is None
    (tmp_path / "none.pt2").write_bytes(b"no program")
    with pytest.raises(UsageError, match="E0801"):
        backend.extract(tmp_path / "none.pt2")


TINY = """
rescompile: 1
name: tiny
input: [2, 6, 6]
network:
  - conv: {channels: 3, kernel: 3}
  - norm
  - act
  - global_avgpool
  - flatten
  - fc: {linear: 4}
"""


def tiny(folder: Path) -> Network:
    """Return a network that is exported quickly."""
    (folder / "tiny.yaml").write_text(TINY)
    return elaborate(load(folder / "tiny.yaml"))


@pytest.mark.parametrize("suffix", [".pt2", ".safetensors"])
def test_changed_files_are_not_overwritten(suffix: str, tmp_path: Path) -> None:
    """Both files count as ours until the program is edited or other weights are saved; then neither is overwritten
    without --force."""
    artifact = build(tiny(tmp_path), "torch")
    files = artifact.write(tmp_path / "tiny.pt2")
    assert [checksum.state(file) for file in files] == ["ours", "ours"]
    artifact.write(tmp_path / "tiny.pt2")
    (file,) = (file for file in files if file.suffix == suffix)
    (other,) = (file for file in files if file.suffix != suffix)
    whole, beside = file.read_bytes(), other.read_bytes()
    middle = len(whole) // 2
    changes = {
        "edited": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "foreign": b"somebody's own",
    }
    if suffix == ".safetensors":  # has no checksum
        del changes["edited"]
    for state, changed in changes.items():
        file.write_bytes(changed)
        assert checksum.state(file) == state
        with pytest.raises(OutputError):
            artifact.write(tmp_path / "tiny.pt2")
        assert (file.read_bytes(), other.read_bytes()) == (changed, beside)
    artifact.write(tmp_path / "tiny.pt2", force=True)
    assert [checksum.state(file) for file in files] == ["ours", "ours"]


def test_without_weights(tmp_path: Path) -> None:
    """Without weights, the module is on the meta device, and no program is written."""
    artifact = build(tiny(tmp_path), "torch", structure_only=True)
    assert all(tensor.is_meta for tensor in artifact.module.state_dict().values())  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="weights"):
        artifact.write(tmp_path / "tiny.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    "pool", ["avgpool: {kernel: 2, stride: 1, padding: 1}", "maxpool: {kernel: 2, stride: 1, padding: 1}"]
)
def test_a_window_that_is_longer_than_a_volume(pool: str, tmp_path: Path) -> None:
    """A window longer than a volume is refused for `avg_pool3d`, with the name of the step; `max_pool3d` accepts it."""
    path = tmp_path / "flat.yaml"
    path.write_text(f"rescompile: 1\nname: flat\ninput: [2, 1, 4, 5]\nnetwork: [pool: {{{pool}}}]\n", encoding="utf-8")
    network = elaborate(load(path))
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)
    if pool.startswith("max"):
        with torch.no_grad():
            found = backend.load("torch").make(network, draw(network, 0))(torch.from_numpy(x))
        assert np.array_equal(found.numpy(), interpret(network, {}, x, "fp32")["logits"])
        return
    with pytest.raises(Unavailable, match=r"E0901: pool has a window of 2x2x2, but .* this one is 1x4x5"):
        backend.load("source").source(network)
    with pytest.raises(RuntimeError, match="smaller than kernel size"):
        torch.nn.AvgPool3d(2, 1, 1)(torch.from_numpy(x))
