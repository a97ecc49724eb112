"""Check the promises about the speed and memory of torch modules.

Our modules, torchvision's and timm's, with equal weights, are timed in one process, with a copy of ours as control.

- forward in evaluation mode, and a training step (forward, loss, backward, SGD);
- the bytes that autograd keeps for backward, without the weights and the input, which stay alive anyway;
- construction of the resnet50 module, with initialised weights, and on the meta device.

A ratio of times is the median over pairs; it keeps its promise if the upper end of its 95% interval is at most
the bound plus the half-width of the control's interval. If the control is wider than 2%, the row is undecided.

Exit code: 0 if every measured promise is kept; 1 if one is missed; 4 if one is undecided or could not be measured
because a package is missing.

    python benchmarks/torch_module.py --json torch_module.json
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile import chosen, machine, probe
from pairs import Clock, Row, Times, arguments, exact, interleave, lacking, report, timed

if TYPE_CHECKING:
    import torch
    from torch import nn

PEERS = ("torchvision", "timm")
NETWORKS = ("resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121")
FORWARD_BATCH, STEP_BATCH, SIDE, CLASSES = 1, 2, 224, 1000
CONSTRUCTION, META = "resnet50 construction", "resnet50 on the meta device"
FRESH = 5  # processes that construct once each

#: One construction in a new process, after the imports; it includes everything that a first call loads.
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
    """Return the names of all measurements in order."""
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
                assert torch.allclose(ours(x), peer(x), atol=1e-4), (
                    f"{name}: the outputs differ, so the times cannot be compared"
                )

    def input(self, batch: int) -> torch.Tensor:
        import torch

        return torch.randn(batch, 3, self.side, self.side, generator=torch.Generator().manual_seed(1))

    def forward(self, rounds: int, label: str, clock: Clock) -> Times:
        """Time inference."""
        import torch

        x = self.input(FORWARD_BATCH)
        for module in self.modules.values():
            module.eval()
        with torch.no_grad():
            return interleave({key: (lambda m=m: m(x)) for key, m in self.modules.items()}, rounds, label, clock)

    def step(self, rounds: int, label: str, clock: Clock) -> Times:
        """Time training steps; every module trains from the same weights."""
        x = self.input(STEP_BATCH)
        return interleave({key: stepper(m, x, CLASSES) for key, m in self.modules.items()}, rounds, label, clock)

    def saved(self) -> dict[str, int]:
        """Return the bytes that each module keeps between forward and backward."""
        x = self.input(STEP_BATCH)
        return {key: saved_bytes(module, x) for key, module in self.modules.items()}


def stepper(module: nn.Module, x: torch.Tensor, classes: int) -> Callable[[], None]:
    """Return a function that takes one training step on one batch."""
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
    """Return the bytes of all storages that autograd keeps after a training forward, without weights and input."""
    import torch

    module.train()
    alive = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers(), x)}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in alive:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor  # which keeps it alive, so that its address is not reused

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    del output
    return sum(found.values())


def construction(rounds: int, clock: Clock) -> Times:
    """Time the construction of initialised modules, ours and torchvision's, with torchvision again as the control."""
    import torchvision

    peer = torchvision.models.resnet50
    return interleave({"ours": factory(), "torchvision": peer, "torchvision again": peer}, rounds, CONSTRUCTION, clock)


def factory() -> Callable[[], nn.Module]:
    """Return the function resnet50 of the generated file."""
    import rescompile

    module = rescompile.build("resnet50", "torch", structure_only=True).module
    return getattr(sys.modules[type(module).__module__], "resnet50")  # noqa: B009, the name is that of the network


def on_meta(quick: bool, clock: Clock) -> tuple[Times, list[Row]]:
    """Time the first construction in a process, and repeated constructions and builds in another one."""

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
    """Return the rows of a forward or a training step."""
    return [timed(f"{name}: time of {peer}'s", times, "ours", peer, ("copy of ours", "ours"), 1.02) for peer in PEERS]


def measure(options: Any) -> tuple[dict[str, Times], list[Row]]:
    """Run all requested measurements, one network after the other."""
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
    """Measure, print both tables, write the JSON file, and return the exit code."""
    options = arguments(__doc__ or "", pairs=60)
    described = machine()
    if rows := lacking(("rescompile", "torch", *PEERS), chosen(names(), options.only)):
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
