"""Make every file system call of a command fail, or end the command at it, and check the files that remain (`make faults`).

A command runs in a fork of a process that has imported everything, under strace, which first lists its system calls on files in
the folder of the test and then injects one fault at one of them. After each fault the output must be complete, either old or
new, and the exit code must be a documented one; after the next run no file may remain that is not part of the output.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import io
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ERRORS = ("EIO", "ENOSPC", "EACCES", "EMFILE", "EROFS")
SIGNALS = {"SIGKILL": 137, "SIGTERM": 143, "SIGINT": 130}
#: Allowed exit codes after a failing call: success, an unreadable input or spec, or an output that was not written.
AFTER_ERROR = {0, 2, 3, 5}
CALLS = (
    "openat", "read", "write", "close", "fstat", "newfstatat", "stat", "lstat", "statx", "lseek", "ftruncate", "fsync", "fdatasync",
    "dup", "fcntl", "flock", "access", "faccessat", "faccessat2", "readlink", "getdents64", "rename", "renameat", "renameat2", "unlink",
    "unlinkat", "mkdir", "rmdir", "pread64", "pwrite64", "sendfile", "copy_file_range", "ioctl",
)  # fmt: skip

SPEC = """\
rescompile: 1
name: {name}
input: [3, 8, 8]
network:
  - stem: {{conv: {{channels: 16, kernel: 3}}}}
  - norm
  - relu
  - global_avgpool
  - flatten
  - fc: {{linear: {{features: 2}}}}
"""

Files = dict[str, bytes]


@dataclass(frozen=True)
class Scenario:
    """A command whose output depends on a seed. With `parts`, each file of the output is complete on its own."""

    command: Callable[[Path, int], list[str]]
    parts: bool = False


def _build(*options: str) -> Callable[[Path, int], list[str]]:
    return lambda at, seed: ["build", f"{at}/m.yaml", "--seed", str(seed), *(o.format(at=at) for o in options)]


def _features(at: Path, number: int) -> list[str]:
    return [f"{at}/m.yaml", "--set", f"fc.features={number}"]


SCENARIOS = {
    "onnx": Scenario(_build("-t", "onnx", "-o", "{at}/out/m.onnx")),
    "external data": Scenario(_build("-t", "onnx", "-o", "{at}/out/m.onnx")),
    "source": Scenario(lambda at, seed: ["build", *_features(at, seed + 2), "-t", "source", "-o", f"{at}/out/"]),
    "torch": Scenario(_build("-t", "torch", "-o", "{at}/out/"), parts=True),
    "several specs": Scenario(_build("{at}/n.yaml", "-t", "onnx", "-o", "{at}/out/"), parts=True),
    "convert": Scenario(
        lambda at, seed: [
            *("weights", "convert", f"{at}/w.safetensors", *_features(at, seed + 3)),
            *("--classes", "new", "-o", f"{at}/out/w.safetensors"),
        ]
    ),
    "extract": Scenario(lambda at, seed: ["extract", f"{at}/seed{seed}.onnx", "-o", f"{at}/out/m.yaml"]),
    "save": Scenario(lambda at, seed: ["run", f"{at}/seed{seed}.onnx", "--save", f"{at}/out/y.npz"]),
}


# --- one command in a child process -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """The result of a command: its exit code as in a shell, its output, and the log of strace."""

    code: int
    output: str
    log: str


def run(command: list[str], work: Path, inject: str | None = None, traced: bool = False) -> Ended:
    """Run a command in a fork of this process, optionally under strace, with a fault injected at one system call."""
    printed, log = work / "printed", work / "log"
    prepared, there = os.pipe()
    waiting, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ready)
        _become(command, printed, waiting, there)
    for handle in (waiting, there):
        os.close(handle)
    os.read(prepared, 1)  # earlier system calls are not traced
    os.close(prepared)
    tracer = _trace(child, log, inject) if traced or inject else None
    os.close(ready)
    limit = threading.Timer(300, os.kill, (child, signal.SIGKILL))  # for a command that hangs
    limit.start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    limit.cancel()
    if tracer is not None:
        tracer.communicate(timeout=60)
    text = printed.read_text(errors="replace")
    return Ended(code if code >= 0 else 128 - code, text, log.read_text(errors="replace") if tracer else "")


def _become(command: list[str], printed: Path, waiting: int, there: int) -> None:
    """Run the command in the forked process once the other end of `waiting` is closed; `there` is closed when it is ready."""
    code = 70
    try:
        for number in (1, 2):
            os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if number == 1 else os.O_APPEND)), number)
        from rescompile.__main__ import main

        sys.argv = ["rescompile", *command]
        os.close(there)
        select.select([waiting], [], [])  # a call that is not among CALLS
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def _trace(process: int, log: Path, inject: str | None) -> subprocess.Popen[str]:
    """Start strace and return it once it is attached to a process."""
    words = ["strace", "-y", "-s", "0", "-o", str(log), "-e", f"trace={','.join(CALLS)}", "-p", str(process)]
    if inject is not None:
        words += ["-e", f"inject={inject}"]
    tracer = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    line = tracer.stderr.readline()
    if "attached" not in line:
        sys.exit(f"strace cannot attach to a process: {line}")
    return tracer


# --- faults -----------------------------------------------------------------------------------------------------------


def prepared(name: str, at: Path, run: Callable[[list[str]], None]) -> None:
    """Create a folder with the inputs of a scenario and the output of seed 0."""
    (at / "out").mkdir(parents=True)
    for stem in ("m", "n"):
        (at / f"{stem}.yaml").write_text(SPEC.format(name=stem))
    if name == "convert":
        run(["build", f"{at}/m.yaml", "-t", "torch", "-o", f"{at}/w.pt2"])
    for seed in (0, 1) if name in ("extract", "save") else ():
        run(["build", *_features(at, seed + 2), "-t", "onnx", "-o", f"{at}/seed{seed}.onnx"])
    _external(name == "external data")
    run(SCENARIOS[name].command(at, 0))


def _here(command: list[str]) -> None:
    """Run a command in this process, so that everything is imported before it is forked."""
    from rescompile.__main__ import main

    sys.argv = ["rescompile", *command]
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(errors):
        try:
            main()
        except SystemExit as end:
            if end.code:
                sys.exit(errors.getvalue())


def _succeed(ended: Ended) -> None:
    assert ended.code == 0, ended.output


def _external(wanted: bool) -> None:
    """Set whether even small weights are written as external data."""
    importlib.import_module("rescompile.backends.onnx.file").EXTERNAL_ABOVE = 0 if wanted else 3 << 29


def points(log: str, at: Path) -> list[tuple[str, int, str]]:
    """Return the system calls on files in a folder: name, number among the calls of that name, and arguments."""
    counts: collections.Counter[str] = collections.Counter()
    found = []
    for line in log.splitlines():
        if match := re.match(r"(\w+)\((.*)", line):
            counts[match[1]] += 1
            if re.search(rf'{at}[/>"]', match[2]):
                found.append((match[1], counts[match[1]], match[2]))
    return found


def contents(folder: Path) -> Files:
    """Return the contents of the files in a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def complaints(scenario: Scenario, ended: Ended, fault: str, now: Files, old: Files, new: Files) -> Iterator[str]:
    """Yield everything that is wrong after a fault."""
    allowed = {0, SIGNALS[fault]} if fault in SIGNALS else AFTER_ERROR
    if ended.code not in allowed:
        yield f"exit code {ended.code}"
    if "Traceback" in ended.output:
        yield f"a traceback: {ended.output.strip().splitlines()[-1]}"
    if scenario.parts:
        torn = [name for name in old if now.get(name) not in (old[name], new[name])]
    else:
        torn = [] if any(version.items() <= now.items() for version in (old, new)) else sorted(now)
    if torn:
        yield f"neither the old nor the new output: {torn}"
    elif ended.code == 0 and not new.items() <= now.items():
        yield "exit code 0, but the output is not the new one"


def injected(name: str, work: Path, errors: tuple[str, ...]) -> tuple[int, int, collections.Counter[str]]:
    """Inject each fault at each call of a scenario. Return the number of faults, the number of runs that left a temporary file,
    and how often each problem occurred."""
    scenario, wrong, left = SCENARIOS[name], collections.Counter[str](), 0
    at = work / "at"
    prepared(name, work / "warm", _here)
    prepared(name, at, lambda command: _succeed(run(command, work)))
    shutil.copytree(at, work / "template")
    old = contents(at / "out")
    base = run(scenario.command(at, 1), work, traced=True)
    new = contents(at / "out")
    assert base.code == 0, base.output
    assert old != new
    calls = points(base.log, at)
    assert len(calls) > 10, base.log[:2000]
    for call, number, shown in calls:
        for fault in (*errors, *SIGNALS):
            shutil.rmtree(at)
            shutil.copytree(work / "template", at)
            how = f"signal={fault}" if fault in SIGNALS else f"error={fault}"
            ended = run(scenario.command(at, 1), work, f"{call}:{how}:when={number}")
            problems = list(complaints(scenario, ended, fault, contents(at / "out"), old, new))
            if set(os.listdir(at / "out")) - set(old) - set(new):
                left += 1
            if run(scenario.command(at, 1), work).code or contents(at / "out") != new:
                problems.append(f"after the next run there is {sorted(os.listdir(at / 'out'))}")
            for problem in problems:
                wrong[problem] += 1
                print(f"  {fault} at {call} {number} ({shown[:120]}): {problem}", flush=True)
    return len(calls) * (len(errors) + len(SIGNALS)), left, wrong


def main() -> int:
    """Run scenarios and print a line for each. Return 1 if there is any problem, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], help="default: all")
    parser.add_argument("--errors", default=",".join(ERRORS), help="default: %(default)s")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if shutil.which("strace") is None:
        sys.exit("this needs strace, on Linux")
    total, failed = 0, 0
    for name in given.scenario or SCENARIOS:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(os.path.realpath(folder))
            faults, left, wrong = injected(name, work, tuple(filter(None, given.errors.split(","))))
        print(
            f"{name}: {faults} faults, {left} left a temporary file for the next run, {wrong.total()} wrong", flush=True
        )
        total, failed = total + faults, failed + wrong.total()
    print(f"{total} faults, {failed} wrong")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
