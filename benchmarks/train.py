"""Check the promises about training: dropped blocks cost nothing, and checkpointing saves memory.

- ResNet-110 for CIFAR with the paper's stochastic depth: the mean cost of a training step relative to the same network
  of constant depth. For comparison, masks as in timm's DropPath and torchvision's StochasticDepth (`unit: sample,
  rescale: train`), which compute every block, and the zoo's stochastic_depth_110, whose convolutions have the biases of
  the paper's code;
- DenseNet-BC (100 layers, growth 12) with `checkpoint: true`: the bytes that autograd keeps for backward and the cost
  of a step, relative to the network without it, and the peak memory of a process that takes two steps.

Contenders are timed in one process, with a control: a copy of the network of constant depth. The cost of a step
depends on the blocks that it draws, so the ratio is one of means over all rounds; a promise is kept if the whole
95% interval keeps the bound. If the control is wider than 2%, the row is undecided.

Exit code: 0 if every measured promise is kept; 1 if one is missed; 4 if one is undecided or could not be measured
because a package is missing.

    python benchmarks/train.py --json train.json
"""

# Peak memory is measured before this process imports torch: on Linux a child's peak starts from its parent's.

from __future__ import annotations

import copy
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile import chosen, machine, say
from pairs import (
    MIB,
    Clock,
    Row,
    Times,
    arguments,
    exact,
    interleave,
    lacking,
    ratio_of_means,
    report,
    timed,
)
from torch_module import saved_bytes, stepper

if TYPE_CHECKING:
    import torch
    from torch import nn

DEPTH, CHECKPOINT = "stochastic depth", "checkpoint"
BLOCKS, LAST = 54, 0.5
EXPECTED = sum(1 - position / BLOCKS * (1 - LAST) for position in range(1, BLOCKS + 1))  # 40.25
PAPER = f"survival={{schedule: linear, last: {LAST}, unit: batch, rescale: test}}"
MASKS = f"survival={{schedule: linear, last: {LAST}, unit: sample, rescale: train}}"
SKIPPED, MASKED, CONSTANT, ZOO = "blocks skipped", "masks", "constant depth", "stochastic_depth_110"
#: The contenders of stochastic depth: a spec of the zoo, and its settings.
CONTENDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    CONSTANT: ("resnet110_cifar", ()),
    SKIPPED: ("resnet110_cifar", (PAPER,)),
    MASKED: ("resnet110_cifar", (MASKS,)),
    ZOO: (ZOO, ()),
}
CONTROL = "copy of constant depth"
DENSENET = "densenet_bc_100_k12_cifar"
KINDS: dict[str, tuple[str, ...]] = {"without": (), "with": ("checkpoint=true",)}
CLASSES, BATCH, QUICK_BATCH = 10, 32, 2


def network(spec: str, changes: tuple[str, ...]) -> nn.Module:
    """Return the module of a spec in training mode."""
    import rescompile

    return rescompile.build(rescompile.load(spec, set=changes), "torch").module.train()


def images(batch: int) -> torch.Tensor:
    """Return a batch of CIFAR-sized images."""
    import torch

    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# --- stochastic depth


def stochastic_depth(rounds: int, batch: int, clock: Clock) -> tuple[Times, list[Row]]:
    """Time interleaved training steps of all contenders, and count the blocks that each computed."""
    import torch

    modules = {name: network(*how) for name, how in CONTENDERS.items()}
    modules[CONTROL] = copy.deepcopy(modules[CONSTANT])
    ran: dict[str, list[int]] = {name: [] for name in modules}
    steps = {}
    for name, module in modules.items():
        take = stepper(module, images(batch), CLASSES)
        firsts = [block.conv1.weight for _, block in module.named_modules() if hasattr(block, "conv2")]
        assert len(firsts) == BLOCKS, f"{name}: {len(firsts)} blocks instead of {BLOCKS}"

        def step(take: Any = take, firsts: Any = firsts, counts: list[int] = ran[name]) -> None:
            take()
            counts.append(sum(weight.grad is not None for weight in firsts))

        steps[name] = step
    torch.manual_seed(0)  # for the draws of dropped blocks
    times = interleave(steps, rounds, DEPTH, clock)
    counts = {name: statistics.mean(values[-rounds:]) for name, values in ran.items()}
    for name in modules:
        skips = counts[name] < BLOCKS
        assert skips == (name in (SKIPPED, ZOO)), f"{name} computed {counts[name]} of {BLOCKS} blocks"
    control = (CONTROL, CONSTANT)
    mean = ratio_of_means
    return times, [
        timed(
            "blocks skipped: cost of constant depth", times, SKIPPED, CONSTANT, control, 0.80, slack=0, statistic=mean
        ),
        exact(f"blocks skipped: computed of {BLOCKS} (expected {EXPECTED:.2f})", counts[SKIPPED], unit=""),
        timed("masks: cost of constant depth", times, MASKED, CONSTANT, control, 1.0, sign=">=", statistic=mean),
        timed(f"{ZOO}: cost of constant depth without biases", times, ZOO, CONSTANT, control, statistic=mean),
    ]


# --- checkpoint


def child(kind: str, steps: str, batch: str) -> None:
    """Run as the measured process: build the network and take this many training steps."""
    step = stepper(network(DENSENET, KINDS[kind]), images(int(batch)), CLASSES)
    for _ in range(int(steps)):
        step()


def peak_bytes(*words: str) -> int:
    """Return the peak memory of a child process."""
    process = subprocess.Popen([sys.executable, str(Path(__file__).resolve()), "--child", *words])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"the child {words} ended with {process.returncode}"
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peaks(batch: int) -> list[Row]:
    """Return the rows of peak memory; the first process takes no step, which shows what training adds."""
    say(f"{CHECKPOINT}: peak memory of three processes")
    asked = {"no step": ("without", "0"), **{kind: (kind, "2") for kind in KINDS}}
    found = {name: peak_bytes(*words, str(batch)) / MIB for name, words in asked.items()}
    texts = {
        "no step": "network made, no step",
        "without": "2 steps without checkpoint",
        "with": "2 steps with checkpoint",
    }
    return [
        exact(f"{CHECKPOINT}: peak of a process, {texts[name]}", value, unit=" MiB") for name, value in found.items()
    ]


def checkpoint(rounds: int, batch: int, clock: Clock) -> tuple[Times, list[Row]]:
    """Measure the bytes kept for backward, and the cost in time."""
    modules = {kind: network(DENSENET, changes) for kind, changes in KINDS.items()}
    modules["copy of without"] = copy.deepcopy(modules["without"])
    x = images(batch)
    kept = {kind: saved_bytes(modules[kind], x) for kind in KINDS}
    times = interleave(
        {name: stepper(module, x, CLASSES) for name, module in modules.items()}, rounds, CHECKPOINT, clock
    )
    rows = [
        exact(f"{CHECKPOINT}: bytes kept for backward, of those without", kept["with"] / kept["without"], 0.6),
        *(exact(f"{CHECKPOINT}: bytes kept for backward, {kind}", kept[kind] / MIB, unit=" MiB") for kind in KINDS),
        timed(f"{CHECKPOINT}: cost of a step without", times, "with", "without", ("copy of without", "without")),
    ]
    return times, rows


def main() -> int:
    """Measure, print both tables, write the JSON file, and return the exit code."""
    options = arguments(__doc__ or "", pairs=120)
    if options.child:
        child(*options.child)
        return 0
    described = machine()
    wanted = chosen((DEPTH, CHECKPOINT), options.only)
    if rows := lacking(("rescompile", "torch"), wanted):
        return report(options, described, {}, rows)
    batch = QUICK_BATCH if options.quick else BATCH
    memory = peaks(batch) if CHECKPOINT in wanted else []
    import torch

    torch.set_num_threads(options.threads)
    samples: dict[str, Times] = {}
    if DEPTH in wanted:
        samples[DEPTH], more = stochastic_depth(options.pairs, batch, options.clock)
        rows += more
    if CHECKPOINT in wanted:
        samples[CHECKPOINT], more = checkpoint(2 if options.quick else 30, batch, options.clock)
        rows += more + memory
    return report(options, described, samples, rows)


if __name__ == "__main__":
    sys.exit(main())
