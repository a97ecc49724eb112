"""Check the promises about the speed and memory of torch modules.

Our modules, torchvision's own and timm's own, with equal weights, are timed in one process, with a control: a copy of ours.

- forward in evaluation mode, and a training step (forward, loss, backward, SGD);
- the bytes that autograd keeps for backward, without the weights and the input, which stay alive anyway;
- making the resnet50 module, with its first weights, and on the meta device.

A ratio of times is the median over pairs; it keeps its promise if the upper end of its 95% interval is at most the bound
plus the half-width of the control's interval. Where the control is wider than 2%, the row is undecided.

Exit code: 0 if every measured promise is kept; 1 if one is missed; 4 if one is undecided or could not be measured because a
package is missing.

    python benchmarks/torch_module.py --json torch_module.json
"""

from __future__ import annotations

import copy
import importlib.util
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile import chosen, machine, probe
from pairs import Clock, Row, Times, arguments, exact, interleave, report, timed, unmeasured

if TYPE_CHECKING:
    import torch
    from torch import nn

PEERS = ("torchvision", "timm")
NETWORKS = ("resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121")
FORWARD_BATCH, STEP_BATCH, SIDE, CLASSES = 1, 2, 224, 1000
CONSTRUCTION, META = "resnet50 construction", "resnet50 on the meta device"
FRESH = 5  # processes that construct once each

#: One construction in a new process, after the imports: nothing that a first call has to load is left out.
META_CODE = """
import importlib.util, time, torch, torch.nn.functional
spec = importlib.util.spec_from_file_location("generated", {path!r})
home = importlib.util.module_from_spec(spec)
spec.loader.exec_module(home)
start = time.perf_counter()
with torch.device("meta"):
    home.resnet50()
print(time.perf_counter() - start)
"""


def names() -> list[str]:
    """Every measurement, in its order."""
    kinds = ("forward", "training step", "saved for backward")
    return [f"{network} {kind}" for network in NETWORKS for kind in kinds] + [CONSTRUCTION, META]


class Twins:
    """One network with the same weights: ours, torchvision's, timm's, and a copy of ours as the control."""

    def __init__(self, name: str, side: int) -> None:
        import timm
        import torch
        import torchvision

        import rescompile

        torch.manual_seed(0)
        self.name, self.side = name, side
        peers = {"torchvision": torchvision.models.get_model(name, weights=None), "timm": timm.create_model(name)}
        peers["timm"].load_state_dict(peers["torchvision"].state_dict())
        state = {key: value.numpy() for key, value in peers["torchvision"].state_dict().items()}
        ours = rescompile.build(name, "torch", weights=state).module
        self.modules: dict[str, nn.Module] = {"ours": ours, **peers, "copy of ours": copy.deepcopy(ours)}
        for module in self.modules.values():
            module.eval()
        with torch.no_grad():
            x = self.input(1)
            for peer in peers.values():
                assert torch.allclose(ours(x), peer(x), atol=1e-4), f"{name}: the outputs differ, so times say nothing"

    def input(self, batch: int) -> torch.Tensor:
        import torch

        return torch.randn(batch, 3, self.side, self.side, generator=torch.Generator().manual_seed(1))

    def forward(self, rounds: int, label: str, clock: Clock) -> Times:
        """Inference, as a user runs it."""
        import torch

        x = self.input(FORWARD_BATCH)
        for module in self.modules.values():
            module.eval()
        with torch.no_grad():
            return interleave({key: (lambda m=m: m(x)) for key, m in self.modules.items()}, rounds, label, clock)

    def step(self, rounds: int, label: str, clock: Clock) -> Times:
        """Training; every module trains on its own from the same weights."""
        x = self.input(STEP_BATCH)
        return interleave({key: stepper(m, x, CLASSES) for key, m in self.modules.items()}, rounds, label, clock)

    def saved(self) -> dict[str, int]:
        """The bytes kept between forward and backward."""
        x = self.input(STEP_BATCH)
        return {key: saved_bytes(module, x) for key, module in self.modules.items()}


def stepper(module: nn.Module, x: torch.Tensor, classes: int) -> Callable[[], None]:
    """A training step of this module on one batch."""
    import torch

    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    target = torch.randint(classes, (len(x),), generator=torch.Generator().manual_seed(2))

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(module(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def saved_bytes(module: nn.Module, x: torch.Tensor) -> int:
    """The bytes of all storages that autograd holds after a training forward: each counts once, weights and input never."""
    import torch

    module.train()
    alive = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers(), x)}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in alive:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor  # which keeps it alive, so that no other storage takes its address

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    del output
    return sum(found.values())


def construction(rounds: int, clock: Clock) -> Times:
    """Making the module with its first weights, ours and torchvision's; the control is torchvision a second time."""
    import torchvision

    peer = torchvision.models.resnet50
    return interleave({"ours": factory(), "torchvision": peer, "torchvision again": peer}, rounds, CONSTRUCTION, clock)


def factory() -> Callable[[], nn.Module]:
    """The function resnet50 of the generated file."""
    import rescompile

    module = rescompile.build("resnet50", "torch", structure_only=True).module
    return getattr(sys.modules[type(module).__module__], "resnet50")  # noqa: B009, the name is that of the network


def on_meta(quick: bool, clock: Clock) -> tuple[Times, list[Row]]:
    """The first construction of a process, then what `build` takes in one that has built before, the text included."""

    import torch

    import rescompile

    seconds = []
    with tempfile.TemporaryDirectory(prefix="module-benchmark-") as folder:
        path = Path(folder) / "generated.py"
        rescompile.build("resnet50", "source").write(path)
        for _ in range(1 if quick else FRESH):
            command = [sys.executable, "-c", META_CODE.format(path=str(path))]
            seconds.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))

    make = factory()

    def again() -> None:
        with torch.device("meta"):
            make()

    def build() -> None:
        rescompile.build("resnet50", "torch", structure_only=True)

    times = {"first of its process": seconds}
    for name, call in (("again", again), ("rescompile.build, spec to module", build)):
        times |= interleave({name: call}, 2 if quick else 10, META, clock)
    rows = [
        exact(f"{META}: {name}", 1e3 * statistics.median(values), 50 if position == 0 else None, "<", " ms")
        for position, (name, values) in enumerate(times.items())
    ]
    return times, rows


def judged(name: str, times: Times) -> list[Row]:
    """The rows of a forward or a training step."""
    return [timed(f"{name}: time of {peer}'s", times, "ours", peer, ("copy of ours", "ours"), 1.02) for peer in PEERS]


def measure(options: Any) -> tuple[dict[str, Times], list[Row]]:
    """Everything that was asked for, one network after the other."""
    samples: dict[str, Times] = {}
    rows: list[Row] = []
    wanted = chosen(names(), options.only)
    for network in NETWORKS:
        mine = [name for name in wanted if name.startswith(f"{network} ") and name not in (CONSTRUCTION, META)]
        if not mine:
            continue
        twins = Twins(network, 64 if options.quick else SIDE)
        for name in mine:
            if name.endswith("saved for backward"):
                kept = twins.saved()
                rows += [exact(f"{name}: bytes of {peer}'s", kept["ours"] / kept[peer], 1.0) for peer in PEERS]
                continue
            run = twins.forward if name.endswith("forward") else twins.step
            samples[name] = run(options.pairs, name, options.clock)
            rows += judged(name, samples[name])
    if CONSTRUCTION in wanted:
        times = samples[CONSTRUCTION] = construction(options.pairs, options.clock)
        control = ("torchvision again", "torchvision")
        rows.append(timed(f"{CONSTRUCTION}: time of torchvision's", times, "ours", "torchvision", control, 1.0))
    if META in wanted:
        samples[META], more = on_meta(options.quick, options.clock)
        rows += more
    return samples, rows


def main() -> int:
    """Measure, print both tables, write the JSON file; the exit code says whether the promises hold."""
    options = arguments(__doc__ or "", pairs=60)
    described = machine()
    missing = [package for package in ("rescompile", "torch", *PEERS) if not importlib.util.find_spec(package)]
    if missing:
        rows = [unmeasured(name, f"not measured: no {missing[0]}") for name in chosen(names(), options.only)]
        return report(options, described, {}, rows)
    if probe("import torchvision"):
        from rescompile.bench import torchvision_operators

        torchvision_operators.declare()
    import torch

    torch.set_num_threads(options.threads)
    samples, rows = measure(options)
    return report(options, described, samples, rows)


if __name__ == "__main__":
    sys.exit(main())
