"""Time the commands of this checkout and of another one: whole processes, in interleaved rounds.

    git worktree add ../before COMMIT && (cd ../before && make .venv/.dev)
    python benchmarks/commands.py --baseline ../before/.venv/bin/rescompile --cpu-time

No command may be more than 3% slower than before. The control is a second copy of the other checkout.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from compile import machine
from pairs import Row, Times, interleave, promise_table, time_table, timed, write

#: The timed commands by name; `{folder}` is an empty folder for each contender.
COMMANDS = {
    "start-up": "--version",
    "list": "list",
    "validate": "validate resnet50",
    "show": "show densenet121 --depth 3",
    "paths": "paths resnet110_cifar",
    "explain": "explain resnet50 --against resnet50_v1",
    "weights": "weights inspect {folder}/weights.safetensors resnet18",
    "source": "build resnet50 -t source -o {folder}/resnet50.py",
    "onnx, graph": "build resnet50 -t onnx --no-weights -o {folder}/graph.onnx",
    "onnx, resnet50": "build resnet50 -t onnx -o {folder}/resnet50.onnx",
    "onnx, densenet121": "build densenet121 -t onnx -o {folder}/densenet121.onnx",
    "onnx, 1001 layers": "build preact_resnet1001_cifar -t onnx -o {folder}/deep.onnx",
    "onnx, folded": "build resnet50 -t onnx --fold-batchnorm -o {folder}/folded.onnx",
}
SLOWER = 1.03
#: Without a bytecode cache, every process would compile all packages again.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def children() -> float:
    """Return the CPU time of all finished child processes in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def call(program: str, command: str, folder: Path) -> None:
    """Run one command to its end. Raises CalledProcessError if it fails."""
    words = [word.format(folder=folder) for word in command.split()]
    subprocess.run([program, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)


def contender(program: str, command: str, folder: Path) -> Callable[[], None]:
    """Prepare a folder with the input files of one command, and return a function that runs the command there."""
    folder.mkdir()
    if "weights.safetensors" in command:
        call(program, "build resnet18 -t torch -o {folder}/weights.pt2", folder)
    return partial(call, program, command, folder)


def main() -> int:
    """Print both tables. Return 1 if a command became slower, 4 if one is undecided, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", required=True, metavar="PROGRAM", help="rescompile of the other checkout")
    parser.add_argument("--ours", default=str(Path(sys.executable).with_name("rescompile")), metavar="PROGRAM")
    parser.add_argument("--pairs", type=int, default=30, metavar="N", help="rounds of each command (30)")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time of the processes, for a shared machine")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only commands with TEXT in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples and the machine to FILE")
    options = parser.parse_args()
    clock = children if options.cpu_time else time.perf_counter
    samples: dict[str, Times] = {}
    rows: list[Row] = []
    for name, command in COMMANDS.items():
        if options.only and not any(text in name for text in options.only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            programs = {"ours": options.ours, "before": options.baseline, "control": options.baseline}
            contenders = {who: contender(program, command, Path(folder, who)) for who, program in programs.items()}
            samples[name] = interleave(contenders, options.pairs, name, clock)
        rows.append(timed(name, samples[name], "ours", "before", ("control", "before"), SLOWER))
    print(time_table(samples), promise_table(rows), sep="\n\n")
    if options.json:
        write(options.json, {"machine": machine(), "rows": [asdict(row) for row in rows], "seconds": samples})
    verdicts = {row.verdict for row in rows}
    return 1 if "MISSED" in verdicts else 4 if "UNDECIDED" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
