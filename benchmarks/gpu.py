"""Measure an NVIDIA GPU in half an hour: the most valuable parts first, each with its own time limit.

- `doctor`: which runtimes work; the others are not measured;
- `verify`: every network in ONNX Runtime's CUDA provider, in torch and in JAX, compared with float64;
- `table`: ONNX Runtime in fp16 and torch.compile in bf16 with channels last, batch 1 and 256, each with its fraction of
  the roofline;
- `peers`: the same for torchvision's networks;
- `sweep`: layouts and searches of ONNX Runtime, compiler modes of torch, and the times of the blocks, for resnet50.

A part is a command of rescompile in its own process, so that a failure does not affect the others. The JSON file
is rewritten after each part, with all samples; parts that it already has are not run again. A part that exceeds
its time is interrupted and keeps its rows.

Only `verify` has a verdict. Exit code: 0 if every part succeeded; 1 if an output was wrong; 4 if a part was
refused, cut off or left out, or there is no GPU.

    python benchmarks/gpu.py --json gpu.json --minutes 25
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compile import chosen, machine, say, write
from runtime import PEERS

#: The runtimes of the parts, and their nearest CPU equivalents, with which `--quick` checks that everything runs.
ORT, TORCH = "ort-cuda:graph:nhwc", "torch-cuda:compile=reduce-overhead:channels_last"
#: The runtimes and precisions that `verify` compares with float64, by the runtime that they need.
VERIFIED = {
    "ort-cuda": (f"ort-cuda,{ORT}", "fp32,tf32,fp16"),
    "torch-cuda": ("torch-cuda,torch-cuda:channels_last", "fp32,tf32,fp16,bf16"),
    "jax-cuda": ("jax-cuda", "fp32,tf32"),
}
ON_CPU = {
    ORT: "ort-cpu",
    TORCH: "torch-cpu:compile:channels_last",
    "ort-cuda": "ort-cpu",
    "torch-cuda": "torch-cpu",
    "jax-cuda": "jax-cpu",
}
BATCHES = "1,256"
SWEEP = (
    "ort-cuda,ort-cuda:graph,ort-cuda:graph:nhwc,ort-cuda:graph:search=heuristic,ort-cuda:graph:nhwc:search=heuristic"
)
MODES = "torch-cuda:channels_last,torch-cuda:compile:channels_last,torch-cuda:compile=max-autotune:channels_last"
#: Seconds after which an interrupted part is killed.
GRACE = 20
#: A part is not started with fewer seconds left.
LEAST = 45


@dataclass(frozen=True)
class Part:
    """A command of rescompile, the runtime that it needs, and its time limit in seconds."""

    name: str
    runtime: str | None
    words: tuple[str, ...]
    seconds: float

    @property
    def bench(self) -> bool:
        """Whether the part writes a result file."""
        return self.words[0] == "bench"


def parts(quick: bool) -> Iterator[Part]:
    """Yield all parts, the most valuable first."""
    yield Part("doctor", None, ("doctor", "--json"), 180)
    small = ("--set", "input=[3, 64, 64]") if quick else ()
    rounds = ("--rounds", "5", "--slot-ms", "0") if quick else ()
    for network in PEERS:
        for base, (runtimes, precisions) in VERIFIED.items():
            words = ("verify", network, "--runtime", runtimes, "--precision", precisions, "--json", *small)
            yield Part(f"verify {network}, {base}", base, words, 120)

    def bench(
        name: str, network: str, base: str, runtimes: str, precision: str, batch: str, seconds: float, *more: str
    ) -> Part:
        words = ("--runtime", runtimes, "--precision", precision, "--batch", batch)
        return Part(name, base, ("bench", network, *words, *more, *small, *rounds), seconds)

    for network in PEERS:
        yield bench(
            f"table {network}, ort-cuda",
            network,
            "ort-cuda",
            ORT,
            "fp16",
            BATCHES,
            180,
            "--fold-batchnorm",
            "--control",
        )
        yield bench(
            f"table {network}, torch-cuda",
            network,
            "torch-cuda",
            TORCH,
            "bf16",
            BATCHES,
            300,
            "--fold-batchnorm",
            "--control",
        )
    yield bench("sweep resnet50, ort-cuda", "resnet50", "ort-cuda", SWEEP, "fp16", "256", 300, "--profile")
    yield bench(
        "sweep resnet50, torch-cuda",
        "resnet50",
        "torch-cuda",
        MODES,
        "bf16",
        "256",
        480,
        "--profile",
        "--fold-batchnorm",
    )
    for network, (peer, *_) in PEERS.items():
        given = ("--compare", peer, "--control")
        yield bench(f"peers {network}, ort-cuda", network, "ort-cuda", ORT, "fp16", BATCHES, 300, *given)
        yield bench(f"peers {network}, torch-cuda", network, "torch-cuda", TORCH, "bf16", BATCHES, 400, *given)


def on_cpu(part: Part) -> Part:
    """Return the part with CPU runtimes instead of GPU ones, to check that everything runs."""

    def changed(word: str) -> str:
        if word == BATCHES or word == "256":
            return "1,2" if word == BATCHES else "2"
        if word == "fp16":  # no kernels on CPUs
            return "fp32"
        if word.startswith("fp32,tf32"):
            return "fp32,bf16" if "bf16" in word else "fp32"
        if "-cuda" in word:
            listed = (ON_CPU.get(each, ON_CPU[each.partition(":")[0]]) for each in word.split(","))
            return ",".join(dict.fromkeys(listed))
        return word

    return replace(part, runtime=part.runtime and ON_CPU[part.runtime], words=tuple(map(changed, part.words)))


def run(part: Part, seconds: float) -> dict[str, Any]:
    """Run a part for at most this many seconds; return how it ended and what it printed or wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path, stdout, stderr = (Path(folder) / name for name in ("result.json", "stdout", "stderr"))
        words = [sys.executable, "-m", "rescompile", *part.words, *(("-o", str(path)) if part.bench else ())]
        started = time.monotonic()
        # A background process ignores SIGINT, and its children would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with stdout.open("w") as out, stderr.open("w") as errors:
            process = subprocess.Popen(words, stdout=out, stderr=errors, start_new_session=True)
            cut = not _ended(process, seconds)
        output = _json(path if part.bench else stdout)
        return {
            "command": ["rescompile", *part.words], "code": process.returncode, "cut": cut,
            "seconds": round(time.monotonic() - started, 1), "output": output,
            "said": stderr.read_text(errors="replace").splitlines()[-20:],
        }  # fmt: skip


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process and return whether it ended in time; if not, interrupt it. Kill what it leaves running."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):  # compilers that the process started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return True


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def working(doctor: Mapping[str, Any] | None) -> dict[str, str | None]:
    """Return for each runtime why it does not work according to `doctor`, or None."""
    listed = (doctor or {}).get("runtimes", ())
    return {each["name"]: None if each["works"] else each["reason"] or "it fails in every precision" for each in listed}


def table(record: Mapping[str, Any]) -> str:
    """Return a Markdown table with one row per timing, and a list of how the parts ended."""
    lines = [
        "| part | model | runtime | precision | batch | ms | images/s | of the limit | memory sets | error |",
        "|---" * 10 + "|",
    ]
    for name, part in record["parts"].items():
        for row in (part["output"] or {}).get("rows", ()) if name.startswith(("table", "sweep", "peers")) else ():
            roof = row["roofline"]
            share = f"{roof['fraction']:.0%}" if roof else "-"
            times = row["summary"]
            cells = (
                name.partition(" ")[0], row["model"], row["runtime"], row["precision"], row["batch"], f"{1e3 * times['p50']:.3f}",
                f"{times['throughput']:.0f}", share, memory(row), f"{row['error']:.1e}",
            )  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "`memory sets`: the share of the limit that layers take whose bytes, not multiply-adds, set it.", ""]
    for name, part in record["parts"].items():
        lines.append(f"- {name}: {ending(part)}")
    return "\n".join(lines)


def memory(row: Mapping[str, Any]) -> str:
    """Return the fraction of the limit that memory-bound layers take, by the rates of the row."""
    if row["roofline"] is None or row["sha256"] is None:
        return "-"
    import rescompile
    from rescompile.runtimes import roofline

    roof = row["roofline"]
    found = roofline.limit(
        rescompile.elaborate(rescompile.load(row["group"])), row["batch"],
        roofline.Roofline(row["precision"], {1 << 30: roof["bandwidth"]}, roof["rate"]),
    )  # fmt: skip
    assert found is not None
    return f"{sum(found.layers[name] for name, bound in found.bounds.items() if bound == 'memory') / found.seconds:.0%}"


def ending(part: Mapping[str, Any]) -> str:
    """Describe how a part ended."""
    if part["code"] is None:
        return f"not run: {part['said'][0]}"
    how = "cut off" if part["cut"] else {0: "done", 1: "WRONG"}.get(part["code"], f"exit code {part['code']}")
    output = part["output"] or {}
    figures = "".join(
        f"; {each['runtime']} {each['precision']} {each['error']:.1e} of {each['bound']:.1e}{'' if each['passed'] else ' FAILED'}"
        for each in output.get("targets", ())
        if "bound" in each
    )
    said = [each["message"] for each in output.get("diagnostics", ())] + part["said"]
    why = "" if part["code"] == 0 else f"; {said[0] if said else 'no message'}"
    return f"{how} in {part['seconds']} s{figures}{why}"


def measure(record: dict[str, Any], wanted: Sequence[Part], minutes: float, path: Path | None) -> None:
    """Run all parts that can run and are not done, and add them to `record` and its file."""
    until = time.monotonic() + 60 * minutes
    done = record["parts"]
    for part in wanted:
        if part.name in done and done[part.name]["code"] == 0:
            continue
        left = until - time.monotonic()
        lacking = working(done["doctor"]["output"]).get(part.runtime) if part.runtime else None
        why = lacking or (f"only {left:.0f} s were left" if left < LEAST else None)
        if why is None:
            say(f"{part.name}: at most {min(part.seconds, left - GRACE):.0f} s")
            done[part.name] = run(part, min(part.seconds, left - GRACE))
        else:
            done[part.name] = {
                "command": ["rescompile", *part.words],
                "code": None,
                "cut": False,
                "seconds": 0.0,
                "output": None,
                "said": [why],
            }
        say(f"{part.name}: {ending(done[part.name])}")
        if path is not None:
            write(path, record)


def here() -> str | None:
    """Return why no GPU can be measured, or None."""
    from rescompile.runtimes import RUNTIMES

    reasons = {name: row.missing() for name, row in RUNTIMES.items() if row.device == "cuda"}
    if any(reason is None for reason in reasons.values()):
        return None
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def main() -> int:
    """Measure, print the table, write the JSON file, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all results to FILE, and continue from those in it"
    )
    parser.add_argument("--minutes", type=float, default=25.0, metavar="N", help="time limit in minutes (25)")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="only parts with TEXT in their name, and doctor"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few rounds on small images; on the CPU if there is no GPU"
    )
    options = parser.parse_args()
    reason = here()
    if reason is not None and not options.quick:
        print(f"no GPU can be measured here: {reason}", file=sys.stderr)
        return 4
    named = {part.name: part for part in parts(options.quick)}
    wanted = [named[name] for name in named if name == "doctor" or name in chosen(list(named), options.only)]
    if reason is not None:
        wanted = [on_cpu(part) for part in wanted]
    before = _json(options.json) if options.json else None
    same = isinstance(before, dict) and before.get("quick") == options.quick and isinstance(before.get("parts"), dict)
    record = before if same else {"machine": machine(), "quick": options.quick, "parts": {}}
    measure(record, wanted, options.minutes, options.json)
    print(table(record))
    codes = [0 if p["code"] == 0 else 1 if p["code"] == 1 and not p["cut"] else 4 for p in record["parts"].values()]
    return 4 if not codes else 1 if 1 in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())
