"""Shell completion: the offered words, and their insertion into the command line by bash, zsh and fish."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from rescompile import backend
from rescompile.cli import COMPLETE, app, completion
from rescompile.cli.completion_scripts import SCRIPTS
from rescompile.lang import library
from rescompile.runtimes import RUNTIMES

ROOT = typer.main.get_command(app)


def offered(line: str) -> list[str]:
    """Return the words offered at the end of a line after `rescompile`."""
    return [word.text for word in completion.offers(ROOT, completion.split(f"rescompile {line}")[1:])]


def commands(group: Any = ROOT, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command with its name."""
    for each in group.list_commands(None):
        command = group.get_command(None, each)
        if hasattr(command, "list_commands"):
            yield from commands(command, each)
        else:
            yield f"{name} {each}".strip(), command


COMMANDS = dict(commands())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("val", ["validate"]),
        ("weights ", ["inspect", "convert", "transfer"]),
        ("build --targ", ["--target"]),
        ("validate resnet50 --format ", ["text", "json", "github", "sarif"]),
        ("validate resnet50 --format=s", ["--format=sarif"]),
        ("build resnet50 --input uint8", ["uint8", "uint8-nhwc"]),
        ("build resnet50 --for o", ["ort-cpu", "openvino", "ort-cuda", "ort-tensorrt"]),
        ("build resnet50 --set layer3.dep", ["layer3.depth="]),
        ("show resnet50 --set layer1=", []),
        ("show resnet50_B --set layer2.last_norm=", ["layer2.last_norm=branch", "layer2.last_norm=sum"]),
        ("show resnet50 --set=layer3.stride_a", ["--set=layer3.stride_at="]),
        ("show --set layer3.width=4 resnet5", [name for name in library.zoo() if name.startswith("resnet5")]),
        ("show resnet18 --drop layer1.0,layer1", ["layer1.0,layer1.1"]),
        ("run resnet18 --features layer1,layer", ["layer1,layer2", "layer1,layer3", "layer1,layer4"]),
        ("bench resnet18 --runtime ort-cpu,torch-cpu:compile:thr", ["ort-cpu,torch-cpu:compile:threads="]),
        ("verify resnet18 --precision fp32,int", ["fp32,int8"]),
        ("bench resnet18 --variant form", ["form=a", "form=b", "form=c"]),
        ("weights transfer w.pt resnet18 darknet5", [name for name in library.zoo() if name.startswith("darknet5")]),
        ("weights convert w.pt resnet18 --from keras_v", ["keras_vgg16", "keras_vgg19"]),
        ("run resnet18 --preprocess channel", ["channel_order=rgb", "channel_order=bgr"]),
        ("run resnet18 --labels image", ["imagenet"]),
        ("list --family highw", ["highway"]),
        ("show -- resnet34", [name for name in library.zoo() if name.startswith("resnet34")]),
        ("show 'resnet101", [name for name in library.zoo() if name.startswith("resnet101")]),
        ("nothing --set ", []),
        ("show no_such_network --set lay", []),
        ("build --seed ", []),
    ],
)
def test_offers(line: str, expected: list[str]) -> None:
    """Commands, options, zoo names and values of options are offered, but nothing after a mistake."""
    try:
        found = offered(line)
    except completion.RescompileError:
        found = []
    assert sorted(found) == sorted(expected)


def test_offers_are_complete() -> None:
    """Every command, network, target and runtime is offered, and options that were given are not offered again."""
    assert offered("") == list(ROOT.list_commands(None))
    assert set(library.zoo()) <= set(offered("build "))
    assert offered("build resnet18 --target ") == list(backend.targets())
    assert offered("verify resnet18 --runtime ") == list(RUNTIMES)
    assert "--set" in offered("build resnet18 --set layer1.depth=3 --")
    assert "--seed" not in offered("build resnet18 --seed 3 --")


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Specs and models are offered beside zoo names; the shell offers other files itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "mine.onnx").touch()
    (tmp_path / "mined").mkdir()
    (tmp_path / "mined" / "deep.yml").touch()
    assert offered("build mi") == [*(name for name in library.zoo() if name.startswith("mi")), "mine.yaml", "mined/"]
    assert "mine.onnx" in offered("run mine")
    assert offered("build mined/") == ["mined/deep.yml"]
    for line in ("build resnet18 --weights ", "compare ", "draw resnet18 -o x", "run resnet18 --labels w"):
        with pytest.raises(completion.FilesError):
            offered(line)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_has_a_source(name: str) -> None:
    """Every parameter is a number or has a source of words to offer."""
    for parameter in COMMANDS[name].params:
        if getattr(parameter, "is_flag", False):
            continue
        number = parameter.type_descriptor.annotation in (int, float)
        assert number or completion.source_of(name, parameter) is not None, f"{name} {parameter.opts}"


def test_no_source_is_unused() -> None:
    """Every entry of the table of sources belongs to a parameter."""
    used = {
        key
        for name, command in COMMANDS.items()
        for each in command.params
        for word in (*each.opts, each.metavar)
        for key in (word, f"{name.split()[-1]} {word}")
    }
    assert set(completion.SOURCES) <= used


@pytest.mark.parametrize("line", ["rescompile b", "rescompile build resnet50 --set layer3.", "rescompile build x -t "])
def test_completion_imports_no_framework(line: str) -> None:
    """Completion imports neither a framework nor numpy, and prints a word, a tab and its help on each line."""
    code = (
        "import sys\nfrom rescompile.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'onnx', 'jax', 'numpy', 'jinja2'} & sys.modules.keys()"
    )
    environment = {**os.environ, COMPLETE: line}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert output
    assert all(re.fullmatch(r"[^\t\n]+\t[^\t\n]*", each) for each in output.splitlines())


#: Text typed into a shell, with \t for Tab, and the arguments of the resulting call.
TYPED = {
    "rescompile vali\tresnet1001\r": ["validate", "resnet1001"],
    "rescompile validate preact_resnet18\t\r": ["validate", "preact_resnet18"],
    "rescompile build resnet50 --set layer3.dep\t23\r": ["build", "resnet50", "--set", "layer3.depth=23"],
    "rescompile build resnet50 --set=layer3.dep\t23\r": ["build", "resnet50", "--set=layer3.depth=23"],
    "rescompile bench resnet18 --runtime ort-cpu,torch-cpu:chan\t\r":
        ["bench", "resnet18", "--runtime", "ort-cpu,torch-cpu:channels_last"],
    "rescompile run resnet18 --weights some\t\r": ["run", "resnet18", "--weights", "some file.pt"],
    "rescompile validate fold\tinn\t\r": ["validate", "folder/inner.yaml"],
}  # fmt: skip
SETUP = {
    "bash": "source ./script\r",
    "zsh": "autoload -Uz compinit; compinit -u -D; source ./script\r",
    "fish": "source ./script\r",
}
START = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config", "--interactive"]}

#: A program that answers completion requests, and records the arguments of all other calls.
STAND_IN = f"""#!{sys.executable}
import json, os, sys
if "{COMPLETE}" in os.environ:
    os.execv(sys.executable, [sys.executable, "-m", "rescompile", *sys.argv[1:]])
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""


def keys(terminal: int, calls: Path, setup: str) -> Iterator[bytes]:
    """Type into a terminal and yield its output. Each line is typed after the previous one has called the command."""
    calls.touch()
    os.write(terminal, setup.encode())
    for number, typed in enumerate(TYPED, 1):
        os.write(terminal, typed.encode())
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(calls.read_text().splitlines()) < number:
            if select.select([terminal], [], [], 0.05)[0]:
                yield os.read(terminal, 1 << 16)


@pytest.mark.slow
@pytest.mark.parametrize("shell", SCRIPTS)
def test_in_a_shell(shell: str, tmp_path: Path) -> None:
    """In a real shell with a terminal, Tab completes words with = and :, lists, files with spaces, and folders."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rescompile").write_text(STAND_IN)
    (tmp_path / "bin" / "rescompile").chmod(0o755)
    (tmp_path / "some file.pt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner.yaml").touch()
    (tmp_path / "script").write_text(SCRIPTS[shell])
    calls = tmp_path / "calls"
    environment = {
        **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(calls), "HOME": str(tmp_path),
        "TERM": "xterm", "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    process, terminal = pty.fork()  # with a controlling terminal, which fish requires
    if process == 0:
        os.chdir(tmp_path)
        os.execvpe(shell, [shell, *START[shell]], environment)
    try:
        seen = b"".join(keys(terminal, calls, SETUP[shell]))
        got = [json.loads(line) for line in calls.read_text().splitlines()]
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)
    assert got == list(TYPED.values()), seen.decode(errors="replace")


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_is_printed(shell: str) -> None:
    """`--show-completion` prints the script of a shell, which shells with a checker accept."""
    command = [sys.executable, "-m", "rescompile", "--show-completion", shell]
    assert subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout == SCRIPTS[shell]
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=SCRIPTS[shell], check=True, text=True)
