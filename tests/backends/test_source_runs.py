"""Modules of generated source run scripted, compiled, exported, copied, and in other processes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import facts
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the text is executed with torch: pip install 'rescompile[torch]'")

from sources import (
    executed,
    factory,
    named,
    source,
)
from spec_texts import elaborated
from torch import nn

from rescompile import backend
from rescompile.ir.network import Network
from rescompile.weights import draw

Array = NDArray[Any]


SE = """
rescompile: 1
name: se_net
input: [3, 16, 16]
blocks:
  se_basic:
    parameters: {width: int, stride: {default: 1, only: first}, reduction: 4}
    body:
    - residual:
        branch:
        - conv1: {conv: {channels: width, kernel: 3, stride: stride}}
        - bn1: norm
        - relu
        - se:
            parallel:
              merge: mul
              branches:
              - identity
              - - global_avgpool
                - fc1: {conv: {channels: width // reduction, kernel: 1, bias: true}}
                - relu
                - fc2: {conv: {channels: width, kernel: 1, bias: true}}
                - sigmoid
        shortcut: {block: projection, channels: width, stride: stride}
    - relu
network:
- layer1: {block: se_basic, depth: 2, width: 8}
- layer2: {block: se_basic, depth: 2, width: 16, stride: 2}
- global_avgpool
- flatten
- fc: {linear: 10}
"""

PATHS = """
rescompile: 1
name: paths_net
input: [3, 16, 16]
parameters: {count: 4}
blocks:
  unit:
    parameters: {width: int, count: int}
    body:
    - residual:
        branch:
        - summed: {parallel: {merge: add, copies: count, branch: [{conv: {channels: width, kernel: 3, bias: true}}, norm, relu]}}
        - joined: {parallel: {merge: concat, copies: count, branch: [{conv: {channels: width / count, kernel: 1}}, norm]}}
        - again: {parallel: {merge: concat, copies: 2, branch: [{conv: {channels: width / 2, kernel: 1}}, norm]}}
        - final: {parallel: {merge: add, copies: 2, branch: [{conv: {channels: width, kernel: 1}}, norm]}}
        shortcut: {block: projection, channels: width}
    - relu
network:
- layer1: {block: unit, depth: 2, width: 8, count: count}
- layer2: {block: unit, width: 12, count: 3}
- global_avgpool
- flatten
- fc: {linear: 10}
"""

SPLIT = """
rescompile: 1
name: split_net
input: [3, 16, 16]
parameters: {count: 4}
blocks:
  unit:
    parameters: {count: int}
    body:
    - halves:
        parallel:
          merge: concat
          split: true
          branches: [identity, [conv1: {conv: {channels: in_channels, kernel: 3}}, norm, relu]]
    - joined: {parallel: {merge: concat, split: true, copies: count, branch: [{conv: {channels: in_channels, kernel: 3}}, norm, relu]}}
    - parallel:
        merge: concat
        branches:
        - one: {parallel: {merge: concat, split: true, copies: 2, branch: [{conv: {channels: in_channels, kernel: 1}}]}}
        - two: {parallel: {merge: concat, split: true, copies: count, branch: [{conv: {channels: 3, kernel: 1}}]}}
    - summed: {parallel: {merge: add, split: true, copies: count, branch: [{conv: {channels: 12, kernel: 1}}, norm]}}
network:
- stem: {conv: {channels: 12, kernel: 3}}
- layer1: {block: unit, depth: 2, count: count}
- layer2: {block: unit, count: 3}
- gated: {parallel: {merge: mul, split: true, branches: [identity, sigmoid]}}
- six: {parallel: {merge: add, split: true, branches: [identity, relu, identity, [conv1: {conv: {channels: 1, kernel: 1}}, relu], tanh, identity]}}
- global_avgpool
- flatten
- parallel: {merge: concat, split: true, branches: [{fc: {linear: 10}}]}
"""

SIZES = """
rescompile: 1
name: sizes_net
input: [3, 16, 16]
blocks:
  unit:
    parameters: {kept: int, widths: {type: list}}
    body:
    - halves:
        parallel:
          merge: concat
          split: [kept, in_channels - kept]
          branches: [identity, [conv1: {conv: {channels: in_channels, kernel: 3}}, norm, relu]]
    - mixed: {parallel: {merge: concat, split: widths, copies: 3, branch: [dw: {conv: {channels: in_channels, kernel: 3 + 2 * copy, groups: in_channels}}]}}
    - bare: {parallel: {merge: concat, split: [1, in_channels - 1], copies: 2, branch: identity}}
    - many: {parallel: {merge: concat, split: [1, 2, 3, 1, 2, in_channels - 9], branches: [identity, relu, tanh, identity, sigmoid, relu]}}
network:
- stem: {conv: {channels: 12, kernel: 3}}
- layer1: {block: unit, depth: 2, kept: 5, widths: [3, 4, 5]}
- layer2: {block: unit, kept: 4, widths: [2, 2, 8]}
- whole: {parallel: {merge: add, split: [3, 9], branches: [[c1: {conv: {channels: 4, kernel: 1}}], [c2: {conv: {channels: 4, kernel: 1}}]]}}
- one: {parallel: {merge: concat, split: [4], branches: [relu]}}
- global_avgpool
- flatten
- fc: {linear: 10}
"""

#: One network per kind of construct, from the zoo or by its text, made shallow.
CONSTRUCTS: dict[str, Sequence[str]] = {
    "resnet50": ("input=[3,32,32]", *(f"layer{at}.depth=2" for at in (1, 2, 3, 4))),
    "densenet121": ("input=[3,32,32]", *(f"features.denseblock{at}.depth=2" for at in (1, 2, 3, 4))),
    "googlenet": ("input=[3,32,32]", *(f"inception{at}=null" for at in ("3b", "4b", "4c", "4d", "5b"))),
    "inception_v3": (
        "input=[3,75,75]",
        "AuxLogits=null",
        *(f"Mixed_{at}=null" for at in ("5c", "5d", "6b", "6c", "6d", "7c")),
    ),
    "highway_b_cifar10_19": (),
    "stochastic_depth_110": tuple(f"layer{at}.depth=2" for at in (1, 2, 3)),
    "wrn_16_8_dropout": ("parameters.k=1",),
    "darknet53": ("input=[3,32,32]",),
    "drn_c_26": ("input=[3,32,32]",),
    "resnet18": ("input=[3,32,32]", "features=[layer2, layer3]"),
    "se_net": (SE,),
    "paths_net": (PATHS,),
    "split_net": (SPLIT,),
    "sizes_net": (SIZES,),
}


@pytest.fixture(scope="module", params=CONSTRUCTS)
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Live:
    """Return a network as a module with weights, and inputs of two batches."""
    return live_module(request.param, tmp_path_factory.mktemp("live"))


class Live:
    """A module in evaluation mode with its network, an input, and its outputs."""

    def __init__(self, network: Network, module: nn.Module) -> None:
        self.network, self.module = network, module.eval()
        torch.manual_seed(1)
        self.first, self.x = (torch.randn(batch, *network.input) for batch in (2, 3))
        with torch.no_grad():
            self.expected = list(named(module(self.x)).values())

    def assert_runs(self, run: Callable[[Any], Any]) -> None:
        """Assert that `run` computes what the module computes."""
        with torch.no_grad():
            self.assert_equal(run(self.x))

    def assert_equal(self, result: Any) -> None:
        """Assert that these are the outputs of the module, bit for bit."""
        found = list(named(result).values())
        assert len(found) == len(self.expected)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, self.expected, strict=True))


@cache
def live_module(name: str, folder: Path) -> Live:
    """Return the live module of a construct."""
    settings = CONSTRUCTS[name]
    network = (
        elaborated(settings[0], folder)
        if settings in ((SE,), (PATHS,), (SPLIT,), (SIZES,))
        else facts.network(name, *settings)
    )
    target: Any = backend.load("torch")
    return Live(network, target.make(network, draw(network, 0)))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.slow
def test_script(live: Live) -> None:
    """torch.jit.script accepts the module."""
    live.assert_runs(torch.jit.script(live.module))


@pytest.mark.slow
def test_compile(live: Live) -> None:
    """torch.compile captures one graph."""
    torch._dynamo.reset()
    live.assert_runs(torch.compile(live.module, fullgraph=True, backend="eager"))


@pytest.mark.slow
def test_export(live: Live) -> None:
    """torch.export keeps the batch dynamic: a program exported for one batch runs for another."""
    batch = {"x": {0: torch.export.Dim("batch", min=1)}}
    live.assert_runs(torch.export.export(live.module, (live.first,), dynamic_shapes=batch).module())


@pytest.mark.slow
def test_copies(live: Live) -> None:
    """A deep copy, and a new module with the pickled state, compute the same; the deep copy shares no storage."""
    twin = copy.deepcopy(live.module)
    live.assert_runs(twin)
    state = pickle.loads(pickle.dumps(live.module.state_dict()))
    empty_one = factory(executed(source(live.network)))().eval()
    assert empty_one.load_state_dict(state, strict=True)
    live.assert_runs(empty_one)
    storages = {tensor.data_ptr() for tensor in live.module.state_dict().values()}
    assert not storages & {tensor.data_ptr() for tensor in twin.state_dict().values()}


def test_a_second_module(tmp_path: Path) -> None:
    """A new module of the same text is not affected by what was done to the first."""
    live = live_module("se_net", tmp_path)
    torch._dynamo.reset()
    torch.compile(live.module, backend="eager")(live.x)
    target: Any = backend.load("torch")
    live.assert_runs(target.make(live.network, draw(live.network, 0)).eval())


@pytest.mark.slow_for("resnet50")
def test_data_parallel(live: Live) -> None:
    """nn.DataParallel without devices calls the module as it is."""
    live.assert_runs(nn.DataParallel(live.module, device_ids=[]))


_DISTRIBUTED = """
import importlib.util, sys
import torch
from torch import distributed, nn
path, rank = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{path}.meeting", rank=rank, world_size=2)
spec = importlib.util.spec_from_file_location("generated", path)
home = importlib.util.module_from_spec(spec)
spec.loader.exec_module(home)
given = torch.load(path + ".in", weights_only=True)
grads = []
for spread in (False, True):
    module = getattr(home, given["factory"])().double()
    module.load_state_dict(given["state"], strict=True)
    called = nn.parallel.DistributedDataParallel(module, find_unused_parameters=given["unused"]) if spread else module
    torch.manual_seed(rank)  # processes drop different blocks
    called(given["x"][rank]).square().mean().backward()
    grads.append([torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()])
torch.save(grads, f"{path}.{rank}")
distributed.destroy_process_group()
"""


@pytest.mark.parametrize("name", ["resnet18", "stochastic_depth_110"])
@pytest.mark.slow
def test_distributed(name: str, tmp_path: Path) -> None:
    """DistributedDataParallel gives both processes the mean of their gradients; where blocks are dropped, it needs
    find_unused_parameters, as the docstring of the file states."""
    settings = ("input=[3,16,16]", *(f"layer{at}.depth=2" for at in (1, 2, 3)))
    network = facts.network(name, *settings)
    text = source(network)
    path = tmp_path / "network.py"
    path.write_text(text, encoding="utf-8")
    module = factory(executed(text))().double()
    drops = "find_unused_parameters=True" in text
    assert drops == (name != "resnet18")
    torch.manual_seed(0)
    x = torch.randn(2, 4, *network.input, dtype=torch.float64)
    given = {"factory": factory(executed(text)).__name__, "state": module.state_dict(), "x": x, "unused": drops}
    torch.save(given, f"{path}.in")
    command = [sys.executable, "-c", _DISTRIBUTED, str(path)]
    processes = [subprocess.Popen([*command, str(rank)], cwd=tmp_path) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    (alone0, spread0), (alone1, spread1) = (torch.load(f"{path}.{rank}", weights_only=True) for rank in (0, 1))
    assert (
        any(bool((one == 0).all()) != bool((other == 0).all()) for one, other in zip(alone0, alone1, strict=True))
        == drops
    )
    for one, other, found0, found1 in zip(alone0, alone1, spread0, spread1, strict=True):
        assert torch.equal(found0, found1)
        assert torch.allclose(found0, (one + other) / 2, rtol=1e-9, atol=1e-12)


_ALONE = """
import importlib.util, sys
import torch
sys.modules["rescompile"] = None  # importing it fails, even if it is installed
torch.set_num_threads(1)
for path in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("generated", path)
    home = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(home)
    given = torch.load(path + ".in", weights_only=True)
    module = getattr(home, given["factory"])()
    module.load_state_dict(given["state"], strict=True)
    with torch.no_grad():
        found = module.eval()(given["x"])
    torch.save(found if isinstance(found, dict) else {"logits": found}, path + ".out")
"""


@pytest.mark.slow
def test_alone(tmp_path: Path) -> None:
    """In a process that cannot import rescompile, the file computes bit for bit what the target `torch` computes here."""
    lives = {str(tmp_path / f"{name}.py"): live_module(name, tmp_path) for name in CONSTRUCTS}
    for path, live in lives.items():
        text = source(live.network)
        Path(path).write_text(text, encoding="utf-8")
        given = {"factory": factory(executed(text)).__name__, "state": live.module.state_dict(), "x": live.x}
        torch.save(given, f"{path}.in")
    subprocess.run([sys.executable, "-c", _ALONE, *lives], cwd=tmp_path, check=True, timeout=300)
    for path, live in lives.items():
        live.assert_equal(torch.load(f"{path}.out", weights_only=True))
