"""The command line: exit codes, streams, files, and the machine-readable output of each command."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
import typer
from command_line import invoke, run_after, run_on_terminal, screen
from generator import generate
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

import rescompile
from rescompile import backend, pipeline
from rescompile.cli import Commands, app
from rescompile.cli.command import command as as_command
from rescompile.diagnostics.codes import CODES
from rescompile.diagnostics.errors import Source
from rescompile.ir.network import Network
from rescompile.lang import library
from rescompile.lang.yaml_reader import plain, read
from rescompile.passes import PASSES
from rescompile.weights import draw

ROOT = Path(__file__).parents[2]
PROGRAM = str(Path(sysconfig.get_path("scripts")) / "rescompile")
COMMANDS = (
    "build", "verify", "validate", "show", "draw", "report", "explain", "paths", "list", "schema", "extract", "lsp", "run", "bench", "compare", "predict", "doctor",
)  # fmt: skip
WEIGHTS_COMMANDS = ("inspect", "convert", "transfer")
EXIT_CODES = {"0", "1", "2", "3", "4", "5", "129", "130", "143"}
ESCAPE = "\x1b["

TINY: dict[str, Any] = {
    "rescompile": 1,
    "name": "tiny",
    "input": [3, 8, 8],
    "network": [{"conv": {"channels": 4, "kernel": 3}}, "global_avgpool", "flatten", {"linear": 10}],
}
# Parameters: 3 * 4 * 9 of the convolution, 4 * 10 + 10 of the linear layer; MACs: 108 at each of 64 positions, and 40.
TINY_PARAMETERS, TINY_MACS = 158, 64 * 108 + 40


# As in a user's shell: without this variable, output is buffered, and a full disk makes the last flush fail.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}


# --- running the program ----------------------------------------------------------------------------------------------


def program(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a separate process."""
    return subprocess.run(
        [PROGRAM, *map(str, arguments)],
        cwd=cwd,
        env={**ENVIRONMENT, **(env or {})},
        **{"capture_output": True, "text": True, "timeout": 120} | options,
    )


def write_spec(path: Path, **changes: Any) -> Path:
    """Write a small spec to disk (JSON is valid YAML). A change to None removes the key."""
    path.write_text(json.dumps({key: value for key, value in {**TINY, **changes}.items() if value is not None}))
    return path


def build_tiny(folder: Path, *options: str) -> Path:
    """Build an ONNX file of the small spec."""
    model = folder / "tiny.onnx"
    assert invoke("build", write_spec(folder / "tiny.yaml"), "-t", "onnx", "-o", model, *options).exit_code == 0
    return model


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# --- help and exit codes ----------------------------------------------------------------------------------------------


def test_these_tests_cover_all_commands() -> None:
    """The commands that these tests iterate over are all the commands of the program."""
    group = typer.main.get_command(app)
    assert isinstance(group, Commands)
    context = group.make_context("rescompile", [], resilient_parsing=True)
    assert group.list_commands(context) == [*COMMANDS, "weights"]
    assert group.get_command(context, "weights").list_commands(context) == [*WEIGHTS_COMMANDS]


ALL_COMMANDS = [(), *((name,) for name in COMMANDS), ("weights",), *(("weights", name) for name in WEIGHTS_COMMANDS)]


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=lambda words: " ".join(words) or "all")
def test_help_lists_the_exit_codes(command: tuple[str, ...]) -> None:
    """`--help` of every command lists all exit codes, since scripts depend on them."""
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    listed = " ".join(result.stdout.split()).partition("Exit codes: ")[2]
    assert {part.split()[0] for part in listed.split("; ")} == EXIT_CODES


@pytest.mark.parametrize("group", [(), ("weights",)])
def test_help_describes_each_command_in_a_sentence_that_fits(group: tuple[str, ...]) -> None:
    """In a terminal of 80 columns, no description in the list of commands is cut off."""
    commands = invoke(*group, "--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(commands) >= 3
    assert not [line for line in commands if not line.endswith(".")]
    assert not [line for line in commands if line.endswith("...")]


def test_version_is_that_of_the_package() -> None:
    """`--version` prints the version of the installed package."""
    assert program("--version").stdout == f"rescompile {importlib.metadata.version('rescompile')}\n"


def test_python_m_is_the_same_program() -> None:
    """`python -m rescompile` runs the same program, for systems where scripts are not on the path."""
    by_module = subprocess.run([sys.executable, "-m", "rescompile", "list"], capture_output=True, text=True, timeout=60)
    assert by_module.returncode == 0
    assert by_module.stdout == program("list").stdout


USAGE_ERRORS = [
    ["frobnicate"],
    ["list", "--frobnicate"],
    ["show"],
    ["build", "resnet18"],
    ["show", "resnet18", "--depth", "0"],
    ["show", "resnet18", "--format", "xml"],
    ["show", "no_such_network"],
    ["show", "./no_such_file.yaml"],
    ["show", "."],
    ["show", "resnet18", "--set", "no_equals_sign"],
    ["validate", "no_such_network"],
    ["validate", "."],
    ["list", "--family", "no_such_family"],
    ["build", "resnet18", "-t", "onnx", "--opset", "12"],
    ["build", "resnet18", "-t", "onnx", "--opset", "29"],
    ["build", "resnet18", "-t", "onnx", "--batch", "0"],
    ["build", "resnet18", "-t", "onnx", "--batch", "many"],
    ["build", "resnet18", "-t", "onnx", "--seed", "-1"],
    ["build", "resnet18", "-t", "onnx", "--option", "no_such=1"],
    ["build", "resnet18", "-t", "onnx", "--option", "opset"],
    ["build", "resnet18", "-t", "onnx", "--weights", "no_such.safetensors"],
    ["build", "resnet18", "-t", "onnx", "--weights", "w.safetensors", "--no-weights"],
    ["build", "resnet18", "-t", "onnx", "-o", ""],
    ["extract", "no_such.onnx"],
    ["extract", "."],
    ["build", "", "-t", "onnx"],
    ["build", "resnet18", "-t", "onnx", "--features", " "],
    ["build", "resnet18", "-t", "onnx", "--weights", ""],
    ["build", "resnet18", "-t", "onnx", "--precision", "int8", "--calibrate", ""],
    ["validate", ""],
    ["show", f"./{'x' * 300}.yaml"],
    ["show", "x" * 300],
    ["validate", "x" * 300],
    ["run", "resnet18", "--image", "x" * 300],
    ["build", "resnet18", "-t", "onnx", "--precision", "int8", "--calibrate", "x" * 300],
    ["build", "resnet18", "-t", "onnx", "--precision", "int8", "--calibrate", "9" * 5000],
    ["extract", ""],
    ["extract", "resnet18.yaml"],
    ["run", "resnet18", "--repeats", "9" * 20],
    ["paths", "resnet18", "--gradients", "--samples", "9" * 20],
    ["run", "no_such.onnx"],
    ["run", "."],
]


@pytest.mark.parametrize("arguments", USAGE_ERRORS, ids=" ".join)
@pytest.mark.usefixtures("here")
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    """Wrong arguments and missing inputs exit with 2 and are reported on standard error only."""
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.search(r"^(error\[E\d{4}\]|Error): .", result.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "what", "use"),
    [
        ("net.pt2", "a torch.export program", "torch.export.load reads it"),
        ("./net.py", "Python source", "import it in Python"),
        ("net.safetensors", "a weights file", "--weights FILE"),
        ("net.npy", "a NumPy file", "numpy.load reads it"),
        ("cat.JPG", "an image", "rescompile run MODEL --image FILE"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_file_of_the_wrong_type_is_identified(name: str, what: str, use: str) -> None:
    """A file of the wrong type is identified by its suffix, and the help names the right command for it."""
    for command, wanted in (("run", "'run' needs an ONNX model"), ("show", "a spec is a .yaml file")):
        result = invoke(command, name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"error[E0801]: {name} has the suffix of {what}, but {wanted}")
        assert use in result.stderr.splitlines()[1]
    assert "rescompile extract" in invoke("show", "net.onnx").stderr


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs /dev/null")
@pytest.mark.parametrize(
    "command",
    [
        ["weights", "inspect", "/dev/null"],
        ["build", "resnet18", "-t", "onnx", "--weights", "/dev/null"],
        ["extract", "/dev/null"],
        ["compare", "/dev/null", "/dev/null"],
        ["paths", "resnet18", "--gradients", "--data", "/dev/null"],
    ],
    ids=" ".join,
)
def test_a_special_file_is_not_reported_as_missing(command: list[str], here: Path) -> None:
    """A device or a pipe such as `<(...)` is reported as "not a regular file", not as missing."""
    result = invoke(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error[E0801]: /dev/null is not a regular file" in result.stderr
    assert list(here.iterdir()) == []


def test_a_spec_with_another_suffix_needs_a_path(here: Path) -> None:
    """A name without a / means a network of the zoo; if a file of that name exists, the help suggests `./NAME`."""
    write_spec(here / "tiny.json")
    refused = invoke("show", "tiny.json")
    assert refused.exit_code == 2
    assert "to use the file of this name, write ./tiny.json" in refused.stderr
    assert invoke("show", "./tiny.json").exit_code == 0


@pytest.mark.parametrize("command", [["show"], ["validate"], ["build", "-t", "onnx"]], ids=lambda words: words[0])
def test_an_invalid_spec_exits_with_3(command: list[str], here: Path) -> None:
    """All errors of a spec are reported in one run, each with its location, and nothing is written."""
    path = write_spec(here / "wrong.yaml", colour="red", input="3x8x8")
    result = invoke(command[0], "./wrong.yaml", *command[1:])
    assert (result.exit_code, result.stdout) == (3, "")
    assert len(re.findall(r"^(?:\./)?wrong\.yaml:1:\d+: error\[E\d{4}\]", result.stderr, re.MULTILINE)) == 2
    assert list(here.iterdir()) == [path]


def test_a_failed_expectation_exits_with_1(here: Path) -> None:
    """`validate` and `build` check `expect` and write nothing if it fails; `show` does not check it."""
    path = write_spec(here / "tiny.yaml", expect={"parameters": TINY_PARAMETERS + 1})
    for command in (["validate"], ["build", "-t", "onnx"]):
        result = invoke(command[0], path, *command[1:])
        assert (result.exit_code, result.stdout) == (1, "")
        assert "error[E0701]" in result.stderr
        assert f"{TINY_PARAMETERS}" in result.stderr
    assert list(here.iterdir()) == [path]
    assert invoke("show", path).exit_code == 0


def test_expectations_are_not_checked_for_a_changed_spec(here: Path) -> None:
    """`--set` disables `expect`, because the declared figures describe the unchanged network."""
    path = write_spec(here / "tiny.yaml", parameters={"classes": 10}, expect={"parameters": TINY_PARAMETERS},
                      network=[*TINY["network"][:3], {"linear": "classes"}])  # fmt: skip
    changed = ["--set", "parameters.classes=7"]
    assert invoke("validate", path, *changed).exit_code == 0
    assert invoke("build", path, "-t", "onnx", *changed).exit_code == 0
    shown = json.loads(invoke("show", path, "--json", *changed).stdout)
    assert shown["output_shapes"] == {"logits": [7]}
    assert shown["parameters"] == TINY_PARAMETERS - 3 * 5


def test_weights_that_do_not_fit_exit_with_1(here: Path) -> None:
    """A checkpoint that does not fit the network is a failed check (exit code 1), not a usage error."""
    save_file({"conv.weight": np.zeros((4, 3, 5, 5), np.float32)}, here / "other.safetensors")
    write_spec(here / "tiny.yaml")
    result = invoke("build", "./tiny.yaml", "-t", "onnx", "--weights", "other.safetensors")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error[E0702]" in result.stderr
    assert not (here / "tiny.onnx").exists()


@pytest.mark.usefixtures("here")
def test_an_unknown_target_exits_with_4() -> None:
    """An unknown target exits with 4, like a missing package, since its backend may just not be installed."""
    result = invoke("build", "resnet18", "--target", "onxn")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "there is no target 'onxn'" in result.stderr
    assert "did you mean 'onnx'?" in result.stderr
    for internal in ("_onnx_file", "__init__", "../onnx"):
        assert invoke("build", "resnet18", "--target", internal).exit_code == 4


def test_without_onnxruntime_run_exits_with_4(tmp_path: Path) -> None:
    """Without ONNX Runtime, `run` prints a short message with the command that installs it."""
    model = build_tiny(tmp_path)
    result = run_after("sys.modules['onnxruntime'] = None", "run", model)
    assert (result.returncode, result.stdout) == (4, "")
    assert "pip install 'rescompile[run]'" in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_an_unavailable_provider_exits_with_4(tmp_path: Path) -> None:
    """An unavailable execution provider is an error; ONNX Runtime alone would silently fall back to the CPU."""
    import onnxruntime

    model = build_tiny(tmp_path)
    if os.path.exists("/dev/nvidiactl") and "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine may have every provider")
    assert invoke("run", model, "--runtime", "ort-tensorrt").exit_code == 4


# --- what is written, and where ---------------------------------------------------------------------------------------


def test_the_readme_command_and_the_name_build_the_same_bytes(tmp_path: Path) -> None:
    """`specs/densenet121.yaml` in the checkout and `densenet121` anywhere else build identical files."""
    target = tmp_path / "by_path.onnx"
    by_path = program("build", "specs/densenet121.yaml", "--target", "onnx", "-o", target, cwd=ROOT)
    assert (by_path.returncode, by_path.stdout) == (0, "")
    assert "7,978,856 parameters" in by_path.stderr
    assert program("build", "densenet121", "--target", "onnx", cwd=tmp_path).returncode == 0
    assert (tmp_path / "densenet121.onnx").read_bytes() == target.read_bytes()


def test_the_output_path_does_not_affect_the_content(here: Path) -> None:
    """`-o` determines where the file is written, never its content."""
    spec = write_spec(here / "some_file.yaml")
    (here / "folder").mkdir()
    assert invoke("build", spec, "-t", "onnx").exit_code == 0
    assert invoke("build", spec, "-t", "onnx", "-o", "folder/").exit_code == 0
    assert invoke("build", spec, "-t", "onnx", "-o", "folder/other.onnx").exit_code == 0
    piped = invoke("build", spec, "-t", "onnx", "-o", "-")
    assert piped.exit_code == 0
    onnx.checker.check_model(onnx.load_model_from_string(piped.stdout_bytes), full_check=True)
    assert sorted(path.name for path in here.rglob("*.onnx")) == ["other.onnx", "tiny.onnx", "tiny.onnx"]
    assert {path.read_bytes() for path in here.rglob("*.onnx")} == {piped.stdout_bytes}


def test_a_generated_file_is_overwritten(here: Path) -> None:
    """Building again overwrites a file that rescompile wrote and that is unchanged."""
    model = build_tiny(here)
    first = model.read_bytes()
    assert build_tiny(here, "--seed", "1") == model
    assert model.read_bytes() != first


def _foreign(path: Path) -> None:
    path.write_bytes(b"mine")


def _edited(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _appended(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("change", [_foreign, _edited, _appended, _truncated])
def test_a_foreign_or_changed_file_is_kept(change: Any, here: Path) -> None:
    """A file that rescompile did not write, or that was changed since, is overwritten with `--force` only."""
    model = build_tiny(here)
    made = model.read_bytes()
    change(model)
    changed = model.read_bytes()
    result = invoke("build", "./tiny.yaml", "-t", "onnx", "-o", model)
    assert (result.exit_code, result.stdout) == (5, "")
    assert "error[E1001]" in result.stderr
    assert "--force" in result.stderr
    assert model.read_bytes() == changed
    assert invoke("build", "./tiny.yaml", "-t", "onnx", "-o", model, "--force").exit_code == 0
    assert model.read_bytes() == made


def test_a_build_never_overwrites_its_inputs(here: Path) -> None:
    """An output path that is the spec or the weights file is refused, even with `--force`."""
    spec, weights = write_spec(here / "tiny.yaml"), here / "tiny.safetensors"
    save_file({"conv.weight": np.zeros((4, 3, 5, 5), np.float32)}, weights)
    kept = {file: file.read_bytes() for file in (spec, weights)}
    for output, what in ((spec, "the spec"), (weights, f"the --weights file {weights}")):
        result = invoke("build", spec, "-t", "onnx", "--weights", weights, "-o", output, "--force")
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"error[E0802]: -o {output} would overwrite {what}" in result.stderr
    assert {file: file.read_bytes() for file in kept} == kept


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_second_output_never_overwrites_an_input(force: list[str], here: Path) -> None:
    """The weights file next to a torch program never replaces the `--weights` file, even if rescompile wrote that file."""
    pytest.importorskip("torch", reason="the torch target: pip install 'rescompile[torch]'")
    spec = write_spec(here / "tiny.yaml")
    save_file(dict(draw(rescompile.elaborate(rescompile.load("./tiny.yaml")))), here / "new.safetensors")
    assert invoke("weights", "convert", "new.safetensors", spec, "-o", "tiny.safetensors").exit_code == 0
    kept = (here / "tiny.safetensors").read_bytes()
    result = invoke("build", spec, "-t", "torch", "--weights", "tiny.safetensors", "--fold-batchnorm", *force)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error[E0802]: -o tiny.pt2 would overwrite the --weights file tiny.safetensors" in result.stderr
    assert (here / "tiny.safetensors").read_bytes() == kept
    assert not (here / "tiny.pt2").exists()


def test_the_stride_of_a_feature_is_that_of_both_axes(here: Path) -> None:
    """A feature's stride is a pair where the axes differ, and one number where they agree."""
    (here / "wide.yaml").write_text(
        "rescompile: 1\nname: wide\ninput: [1, 8, 64]\nfeatures: [conv1]\nnetwork:\n"
        "- conv1: {conv: {channels: 4, kernel: 3, stride: [1, 2]}}\n"
        "- conv2: {conv: {channels: 4, kernel: 3, stride: [4, 2]}}\n"
    )
    assert "features: logits 4 channels, stride 4; conv1 4 channels, stride 1x2\n" in invoke("show", "wide.yaml").stdout
    listed = json.loads(invoke("show", "wide.yaml", "--json").stdout)["features"]
    assert listed == {"logits": {"channels": 4, "stride": 4}, "conv1": {"channels": 4, "stride": [1, 2]}}


@pytest.mark.parametrize(
    ("features", "column", "code"),
    [("no_such", 1, "E0602"), ("conv,no_such", 6, "E0602"), ("conv]", 5, "E0101"), ("conv, conv", 1, "E0602")],
)
def test_errors_in_features_are_located_in_that_option(features: str, column: int, code: str, here: Path) -> None:
    """Errors in `--features` are located in that option, not in the `--set` that it is translated to."""
    spec = write_spec(here / "tiny.yaml")
    result = invoke("show", spec, "--features", features)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"--features:1:{column}: error[{code}]")
    assert f"1 | {features}\n" in result.stderr
    by_setting = invoke("show", spec, "--set", f"features=[{features}]")
    assert by_setting.stderr.startswith("--set:1:")


def test_an_extracted_spec_is_kept_once_edited(here: Path) -> None:
    """`extract` overwrites a spec that it wrote itself, but not one that has been edited since."""
    model = build_tiny(here)
    assert invoke("extract", model, "-o", "back.yaml").exit_code == 0
    assert invoke("extract", model, "-o", "back.yaml").exit_code == 0
    edited = (here / "back.yaml").read_text().replace("tiny", "mine")
    (here / "back.yaml").write_text(edited)
    assert invoke("extract", model, "-o", "back.yaml").exit_code == 5
    assert (here / "back.yaml").read_text() == edited


@pytest.mark.parametrize("output", ["no_such_folder/", "no_such_folder/x.onnx", "tiny.yaml/x.onnx", "/proc/x.onnx"])
def test_an_unwritable_path_exits_with_5(output: str, here: Path) -> None:
    """An unwritable output path exits with 5; /proc refuses new files even to root."""
    write_spec(here / "tiny.yaml")
    result = invoke("build", "./tiny.yaml", "-t", "onnx", "-o", output)
    assert (result.exit_code, result.stdout) == (5, "")
    assert "error[E1002]" in result.stderr
    assert [path.name for path in here.iterdir()] == ["tiny.yaml"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
def test_a_special_file_is_never_replaced(force: list[str], here: Path) -> None:
    """A named pipe (or a device such as /dev/null) is never replaced by a file, even with `--force`."""
    write_spec(here / "tiny.yaml")
    os.mkfifo(here / "pipe")
    assert invoke("build", "./tiny.yaml", "-t", "onnx", "-o", "pipe", *force).exit_code == 5
    assert (here / "pipe").is_fifo()


def test_a_link_is_followed(here: Path) -> None:
    """An output path that is a symbolic link is followed: its target is written, and the link stays."""
    write_spec(here / "tiny.yaml")
    (here / "folder").mkdir()
    (here / "link.onnx").symlink_to("folder/real.onnx")
    for _ in range(2):
        assert invoke("build", "./tiny.yaml", "-t", "onnx", "-o", "link.onnx").exit_code == 0
        assert (here / "link.onnx").is_symlink()
        assert onnx.load(here / "folder/real.onnx").graph.name == "tiny"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A failed write leaves the previous file unchanged; a file size limit stands in for a full disk."""
    resource = pytest.importorskip("resource", reason="needs file size limits (setrlimit)")
    model = tmp_path / "resnet18.onnx"
    assert invoke("build", "resnet18", "-t", "onnx", "-o", model, "--no-weights").exit_code == 0
    old = model.read_bytes()
    limit = 1 << 20
    assert len(old) < limit
    result = program(
        "build", "resnet18", "-t", "onnx", "-o", model,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (5, "")
    assert f"error[E1002]: cannot write {model}" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [model]
    assert model.read_bytes() == old


PRINTING = [
    ["list"],
    ["schema"],
    ["show", "densenet121", "--depth", "9"],
    ["build", "resnet18", "-t", "onnx", "-o", "-"],
]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_full_standard_output_exits_with_5(arguments: list[str]) -> None:
    """Output that cannot be written exits with 5, even if only the last flush fails."""
    with open("/dev/full", "w") as full:
        result = program(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 5
    assert re.fullmatch(r"error\[E1002\]: .*\n", result.stderr)


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_broken_pipe_is_silent(arguments: list[str]) -> None:
    """A reader that closes the pipe, as `head -1` does, is not an error. Here it is closed from the start."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        result = program(*arguments, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(("arguments", "expected"), [("list >&-", 5), ("show no_such_network 2>&-", 2)])
def test_a_closed_stream_gives_no_traceback(arguments: str, expected: int) -> None:
    """Closed standard streams, as a daemon may pass on, do not cause a traceback."""
    line = f"'{PROGRAM}' {arguments}"
    result = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert result.returncode == expected
    assert "Traceback" not in result.stderr


def _interrupt(process: subprocess.Popen[bytes], ready: Iterator[bool], by: str = "SIGINT") -> tuple[bytes, bytes]:
    """Send Ctrl-C, or another signal, once `ready` yields true, and return the process's output and errors."""
    deadline = time.monotonic() + 60
    for is_ready in ready:
        assert process.poll() is None, "the build finished before it could be interrupted"
        assert time.monotonic() < deadline, "the build never started to write"
        if is_ready:
            break
    process.send_signal(getattr(signal, by))
    return process.communicate(timeout=60)


#: The signals that end a command: Ctrl-C, a scheduler's, and that of a closed terminal.
STOPS = [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated"), ("SIGHUP", 129, "the terminal was closed")]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send a signal to one process")
@pytest.mark.parametrize(("by", "code", "word"), STOPS)
def test_an_interrupted_build_leaves_the_old_file(by: str, code: int, word: str, tmp_path: Path) -> None:
    """A signal while the weights are written leaves the previous file unchanged and no temporary file."""
    model = tmp_path / "wide_resnet101_2.onnx"
    assert invoke("build", "wide_resnet101_2", "-t", "onnx", "-o", model, "--no-weights").exit_code == 0
    old = model.read_bytes()

    def writing() -> Iterator[bool]:
        while True:
            sizes = [path.stat().st_size for path in tmp_path.iterdir() if path != model]
            yield any(size > 1 << 20 for size in sizes)

    line = [PROGRAM, "build", "wide_resnet101_2", "-t", "onnx", "-o", str(model)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stdout, stderr = _interrupt(process, writing(), by)
    assert (process.returncode, stdout, stderr) == (code, b"", f"{word}\n".encode())
    assert list(tmp_path.iterdir()) == [model]
    assert model.read_bytes() == old


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupted_build_of_several_specs(as_json: bool, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted build of several specs reports the files written so far and the number of specs not reached."""
    execute = pipeline.execute

    def interrupted(request: pipeline.Request) -> backend.Artifact:
        assert isinstance(request.spec, Network)
        if request.spec.name == "resnet56_cifar":
            raise KeyboardInterrupt
        return execute(request)

    monkeypatch.setattr(pipeline, "execute", interrupted)
    specs = ["no_such", "resnet20_cifar", "resnet56_cifar", "resnet110_cifar"]
    done = invoke("build", *specs, "-t", "source", "-o", "./", *(["--json"] if as_json else []))
    assert (done.exit_code, [path.name for path in here.glob("*.py")]) == (130, ["resnet20_cifar.py"])
    if as_json:
        reported = json.loads(done.stdout)
        assert ([entry.get("files") for entry in reported["specs"]], reported["interrupted"]) == (
            [None, ["resnet20_cifar.py"]],
            True,
        )
    else:
        assert done.stderr.startswith("resnet20_cifar.py: ")
        assert "no_such" in done.stderr
        assert done.stderr.endswith("\n4 specs, 1 failed, 2 not reached\ninterrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send SIGINT to one process")
def test_an_interrupted_pipe_exits_with_130() -> None:
    """Ctrl-C, which reaches every process of a pipeline, exits with 130 while output is piped."""
    process = subprocess.Popen(
        [PROGRAM, "build", "resnet18", "-t", "onnx", "-o", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    first = process.stdout.read(1 << 20)
    assert len(first) == 1 << 20
    _, stderr = _interrupt(process, iter([True]))
    assert (process.returncode, stderr) == (130, b"interrupted\n")


def _signalled(by: int) -> Result:
    """Run a command that sends itself a signal and prints a line if it continues."""

    @as_command
    def work() -> None:
        os.kill(os.getpid(), by)
        typer.echo("went on")

    made = typer.Typer()
    made.command()(work)
    return CliRunner().invoke(made, catch_exceptions=False)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send a signal to one process")
def test_signal_handlers_are_installed_only_while_a_command_runs() -> None:
    """Signal handlers are installed only while a command runs; ignored signals and a caller's handlers are kept."""
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert (_signalled(signal.SIGTERM).exit_code, signal.getsignal(signal.SIGTERM)) == (143, signal.SIG_DFL)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert _signalled(signal.SIGHUP).stdout == "went on\n"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        seen: list[int] = []
        signal.signal(signal.SIGHUP, lambda number, frame: seen.append(number))
        assert _signalled(signal.SIGHUP).stdout == "went on\n"
        assert seen == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)
    results: list[Result] = []
    worker = threading.Thread(target=lambda: results.append(invoke("list")))  # signals reach the main thread only
    worker.start()
    worker.join()
    assert results[0].exit_code == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send a signal to one process")
def test_a_second_signal_does_not_interrupt_cleanup() -> None:
    """A second signal, as from GNU `timeout` or a closed terminal, does not interrupt cleanup."""

    @as_command
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            for again in (signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), again)
            typer.echo("saved")

    made = typer.Typer()
    made.command()(work)
    done = CliRunner().invoke(made, catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (143, "saved\n")
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == [signal.SIG_DFL] * 2


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(KeyboardInterrupt, (130, "interrupted\n", SystemExit)), (ValueError, (1, "", RuntimeError))],
)
def test_an_interruption_in_a_lock(stop: type[BaseException], expected: tuple[int, str, type]) -> None:
    """A RuntimeError that Ctrl-C causes in `Condition.wait` counts as an interruption; other ones do not."""

    class Lock(threading.Condition):
        def _release_save(self) -> Any:
            self.release()
            raise stop

    @as_command
    def work() -> None:
        lock = Lock(threading.Lock())
        with lock:
            lock.wait()

    made = typer.Typer()
    made.command()(work)
    done = CliRunner().invoke(made)
    assert (done.exit_code, done.stderr, type(done.exception)) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_signal_to_a_forked_child_does_not_end_the_command() -> None:
    """SIGTERM to a forked worker does not end the command, though both share the pipe that reports signals."""
    start = (
        "import os, signal, time\n"
        "from rescompile.cli import command, signals\n"
        "signals.GRACE = 0.2\n"
        "@command.command\n"
        "def work():\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        os._exit(7)\n"  # the signal did not end it
        "    ended = os.waitpid(child, 0)[1]\n"
        "    time.sleep(0.6)\n"  # by now a signal to the parent would have ended it
        "    print(os.waitstatus_to_exitcode(ended))\n"
        "work()"
    )
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{-signal.SIGTERM}\n", "")


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send a signal to one process")
def test_a_command_that_hangs_in_native_code_is_ended() -> None:
    """A command blocked in native code, where Python cannot handle the signal, is ended after a grace period."""
    start = (
        "import contextlib, hashlib\n"
        "from rescompile.cli import command, signals\n"
        "signals.GRACE = 0.2\n"
        "@command.command\n"
        "def work():\n"
        "    while True:\n"
        "        with contextlib.suppress(BaseException):\n"  # the signal may arrive before the native call begins
        "            print('working', flush=True)\n"
        "            hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"
        "work()"
    )
    process = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"working\n"
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(timeout=30) == 143
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_standard_error_is_ignored(here: Path) -> None:
    """A full standard error loses messages only: files are written and the exit code is unchanged."""
    write_spec(here / "tiny.yaml")
    for arguments, code in ((("build", "./tiny.yaml", "-t", "onnx"), 0), (("show", "no_such_network"), 2)):
        with open("/dev/full", "w") as full:
            done = program(*arguments, cwd=here, capture_output=False, stdout=subprocess.PIPE, stderr=full)
        assert (done.returncode, done.stdout) == (code, "")
    assert (here / "tiny.onnx").exists()


# --- human-readable output: streams, colours, progress ----------------------------------------------------------------


def test_data_goes_to_stdout_and_the_rest_to_stderr(here: Path) -> None:
    """Requested data goes to standard output; messages and warnings go to standard error."""
    for command in (["show", "resnet18"], ["list"], ["schema"], ["validate", "resnet18"]):
        result = invoke(*command)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout
    built = invoke("build", "resnet18", "-t", "onnx", "--no-weights")
    assert (built.exit_code, built.stdout) == (0, "")
    assert built.stderr.startswith("resnet18.onnx: ")
    assert "[batch, 3, 224, 224]" in built.stderr
    assert "[batch, 1000]" in built.stderr
    ran = invoke("run", build_tiny(here))
    assert ran.exit_code == 0
    assert len(ran.stderr.splitlines()) == 1
    assert "has randomly initialised weights" in ran.stderr
    for fact in ("input [1, 3, 8, 8]", "logits [1, 10]", "ExecutionProvider", " ms"):
        assert fact in ran.stdout


def test_no_escape_codes_off_a_terminal() -> None:
    """Output to a file or a pipe contains no escape codes."""
    failed = program("show", "no_such_network", env={"TERM": "xterm-256color"})
    assert "error[E0801]" in failed.stderr
    for text in (failed.stderr, program("list").stdout, program("--help").stdout, program("show", "resnet18").stdout):
        assert text
        assert "\x1b" not in text


@pytest.mark.parametrize(
    ("env", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
    ids=str,
)
def test_colours_on_a_terminal_only(env: dict[str, str], coloured: bool) -> None:
    """Colours are used on a terminal only, and a NO_COLOR that is not empty disables them (no-color.org)."""
    code, output = run_on_terminal([PROGRAM, "show", "no_such_network"], **env)
    assert code == 2
    assert re.sub(r"\x1b\[[\d;]*m", "", output).startswith("error[E0801]: unknown network 'no_such_network'")
    assert (ESCAPE in output) is coloured


@pytest.mark.slow
def test_a_progress_bar_once_writing_takes_a_second(here: Path) -> None:
    """A progress bar appears on a terminal once writing takes over a second; the clock runs 1000 times faster here, or stands still."""
    start = "import sys, time; from rescompile.cli import main; {}; sys.argv[0] = 'rescompile'; main()"
    hurry = "clock = time.monotonic; time.monotonic = lambda: 1000 * clock()"
    arguments = ["build", "resnet18", "-t", "onnx", "-o", str(here / "x.onnx")]
    code, output = run_on_terminal([sys.executable, "-c", start.format(hurry), *arguments])
    assert code == 0
    assert re.search(r"\d+%", output)
    assert "%" not in "".join(screen(output)), "the bar is erased at the end"
    code, output = run_on_terminal([sys.executable, "-c", start.format("time.monotonic = lambda: 0.0"), *arguments])
    assert code == 0
    assert "%" not in output
    piped = run_after(f"import time; {hurry}", *arguments)
    assert piped.returncode == 0
    assert "%" not in piped.stderr


# --- machine-readable output ------------------------------------------------------------------------------------------


def data(*arguments: str | Path, code: int = 0) -> Any:
    """Return the output of a command with `--json`, which must be a single JSON value."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == code
    assert ESCAPE not in result.stdout
    return json.loads(result.stdout)


def test_show_as_json() -> None:
    """`show --json` has the documented keys, torchvision's parameter count, and stages that add up to the totals."""
    shown = data("show", "resnet18")
    assert (shown["name"], shown["parameters"]) == ("resnet18", 11_689_512)
    assert (shown["input_shape"], shown["output_shapes"]) == ([3, 224, 224], {"logits": [1000]})
    stages = shown["stages"]
    assert [stage["name"] for stage in stages if stage["name"]][:4] == ["layer1", "layer2", "layer3", "layer4"]
    for figure in ("parameters", "macs"):
        assert sum(stage[figure] for stage in stages) == shown[figure]
    for before, after in itertools.pairwise(stages):
        assert before["output_shape"] == after["input_shape"]


def test_show_counts_equal_those_by_hand(tmp_path: Path) -> None:
    """`show` counts the parameters and multiply-adds of a network that is small enough to check by hand."""
    shown = data("show", write_spec(tmp_path / "tiny.yaml"))
    assert (shown["parameters"], shown["macs"]) == (TINY_PARAMETERS, TINY_MACS)
    text = invoke("show", tmp_path / "tiny.yaml").stdout
    assert str(TINY_PARAMETERS) in text.splitlines()[-1]


def test_show_depth_goes_down_the_tree() -> None:
    """A larger `--depth` adds rows whose names extend those of the rows above them."""
    names = [{row["name"] for row in data("show", "resnet18", "--depth", str(depth))["stages"]} for depth in (1, 2, 9)]
    assert names[0] < names[1] < names[2]
    assert {"layer2.0", "layer2.1"} <= names[1] - names[0]
    assert "layer2.0.conv1" in names[2] - names[1]


def test_build_as_json(here: Path) -> None:
    """`build --json` describes the files written, the shapes, the opset and the hash of the spec."""
    spec = write_spec(here / "tiny.yaml")
    built = data("build", spec, "-t", "onnx", "--batch", "8", "--opset", "18")
    assert built["files"] == ["tiny.onnx"]
    assert built["bytes"] == (here / "tiny.onnx").stat().st_size
    assert (built["parameters"], built["macs"]) == (TINY_PARAMETERS, TINY_MACS)
    assert (built["input"], built["outputs"], built["opset"]) == ([8, 3, 8, 8], {"logits": [8, 10]}, 18)
    assert built["sha256"] == data("show", spec)["sha256"]


def test_build_of_several_specs(here: Path) -> None:
    """A folder of specs builds into the same files as separate builds; an invalid spec does not stop the others."""
    (here / "specs").mkdir()
    (here / "models").mkdir()
    for name in ("one", "two"):
        write_spec(here / "specs" / f"{name}.yaml", name=name)
    write_spec(here / "specs" / "wrong.yaml", name="wrong", input=[0, 8, 8])
    entries = data("build", "specs", "-t", "onnx", "-o", "models", code=3)["specs"]
    assert [(entry["spec"], entry["ok"]) for entry in entries] == [
        ("specs/one.yaml", True), ("specs/two.yaml", True), ("specs/wrong.yaml", False),
    ]  # fmt: skip
    assert entries[0]["files"] == ["models/one.onnx"]
    assert entries[2]["diagnostics"][0]["code"] == "E0104"
    assert sorted(path.name for path in (here / "models").iterdir()) == ["one.onnx", "two.onnx"]
    assert invoke("build", "specs/two.yaml", "-t", "onnx", "-o", "alone.onnx").exit_code == 0
    assert (here / "alone.onnx").read_bytes() == (here / "models/two.onnx").read_bytes()
    (here / "specs/wrong.yaml").unlink()
    result = invoke("build", "specs", "-t", "onnx", "-o", "models/")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, "2 specs, 0 failed")


def test_several_specs_go_into_a_folder(here: Path) -> None:
    """Several specs share neither an output file nor a checkpoint, and two with the same file name are refused."""
    specs = write_spec(here / "tiny.yaml"), write_spec(here / "same.yaml")
    for options, message in (
        (["-o", "model.onnx"], "2 specs need a folder"),
        (["-o", "-"], "2 specs need a folder"),
        (["--weights", "tiny.safetensors"], "takes one spec, but 2 were given"),
        ([], "would both be written to tiny.onnx"),
    ):
        result = invoke("build", *specs, "-t", "onnx", *options)
        assert result.exit_code == 2
        assert message in result.stderr
    assert [path.name for path in here.iterdir() if path.suffix != ".yaml"] == ["tiny.onnx"]


def test_list_as_json_is_the_zoo() -> None:
    """`list` contains exactly the networks that have a spec file."""
    networks = data("list")["networks"]
    assert sorted(n["name"] for n in networks) == sorted(path.stem for path in ROOT.glob("specs/**/*.yaml"))
    assert all(network["family"] and network["description"] and network["reference"] for network in networks)


@pytest.mark.slow
def test_list_of_a_family() -> None:
    """`list --family` partitions the zoo: every network belongs to exactly one family."""
    networks = data("list")["networks"]
    families = {network["family"] for network in networks}
    assert len(families) > 1
    shared = [data("list", "--family", family)["networks"] for family in sorted(families)]
    assert sorted(n["name"] for part in shared for n in part) == sorted(n["name"] for n in networks)
    for part in shared:
        assert len({network["family"] for network in part}) == 1
    printed = invoke("list", "--family", "densenet").stdout.splitlines()
    assert {"densenet121", "densenet161", "densenet169", "densenet201"} <= {line.split()[0] for line in printed}
    assert not any(line.startswith("resnet") for line in printed)


def test_extract_gives_back_spec_and_passes(here: Path) -> None:
    """Building the extracted spec with the recorded passes reproduces the file byte for byte."""
    model = build_tiny(here, "--fold-batchnorm")
    found = data("extract", model)
    assert found["passes"] == ["fold-batchnorm"]
    assert found["sha256"] == data("show", "./tiny.yaml")["sha256"]
    plain = invoke("extract", model)
    assert plain.stdout == found["spec"]
    assert "--fold-batchnorm" in plain.stderr
    (here / "back.yaml").write_text(plain.stdout)
    passes = [f"--{name}" for name in found["passes"]]
    assert invoke("build", "./back.yaml", "-t", "onnx", "-o", "again.onnx", *passes).exit_code == 0
    assert (here / "again.onnx").read_bytes() == model.read_bytes()


def test_extract_refuses_a_model_without_a_valid_spec(here: Path) -> None:
    """A recorded spec with another hash is a failed check; a model without a recorded spec is a usage error."""
    model = onnx.load(build_tiny(here))
    for entry in model.metadata_props:
        if entry.key == "rescompile.spec":
            entry.value = entry.value.replace("tiny", "tidy")
    onnx.save(model, here / "tampered.onnx")
    tampered = invoke("extract", "tampered.onnx")
    assert (tampered.exit_code, tampered.stdout) == (1, "")
    assert "error[E0703]" in tampered.stderr
    del model.metadata_props[:]
    onnx.save(model, here / "foreign.onnx")
    assert invoke("extract", "foreign.onnx").exit_code == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("passes", "no JSON"), ("passes", "3"), ("passes", "[1]"), ("passes", "[" * 100_000),
        ("dynamic", "[[]]"), ("dynamic", "3"), ("calibration", "[]"), ("calibration", "{\"seed\": 1}"),
        ("precision", "\x1b[2J"),
    ],
)  # fmt: skip
def test_extract_refuses_invalid_metadata(key: str, value: str, here: Path) -> None:
    """Invalid metadata is refused and never printed, since it may contain anything."""
    model = onnx.load(build_tiny(here))
    model.metadata_props.append(onnx.StringStringEntryProto(key=f"rescompile.{key}", value=value))
    onnx.save(model, here / "edited.onnx")
    done = invoke("extract", "edited.onnx")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error[E0801]: the metadata of edited.onnx cannot be read\n"


REBUILT = {
    "--opset 21 --batch 2": "--opset=21 --batch=2",
    "--seed 7 --precision fp16": "--precision=fp16 --seed=7",
    "--no-weights --opset 18": "--opset=18 --no-weights",
    "--for ort-cuda": "--fold-batchnorm --for=ort-cuda --precision=fp16 --batch=1",
    "--for ort-cuda --precision fp32 --batch 3": "--fold-batchnorm --for=ort-cuda --precision=fp32 --batch=3",
    "--for ort-cpu --no-fold-batchnorm": "--for=ort-cpu --precision=fp32 --no-fold-batchnorm",
    "--precision int8 --calibrate 5 --seed 9": "--fold-batchnorm --precision=int8 --seed=9 --calibrate=5",
    "--precision int8 --for ort-cpu --join-groups 0":
        "--fold-batchnorm --for=ort-cpu --precision=int8 --calibrate=32 --join-groups=0",
    "--weights own.safetensors": "--weights=FILE",
    "--weights own.safetensors --precision int8 --calibrate 3 --seed 4":
        "--fold-batchnorm --precision=int8 --weights=FILE --calibrate=3 --seed=4",
}  # fmt: skip


@pytest.mark.parametrize("options", REBUILT)
def test_the_options_that_extract_reports_build_the_same_bytes(options: str, here: Path) -> None:
    """`extract` reports all options that change the file; building with them reproduces it byte for byte."""
    if "int8" in options:
        pytest.importorskip("onnxruntime", reason="int8 quantisation: pip install 'rescompile[quantize]'")
    build_tiny(here)
    network = rescompile.elaborate(rescompile.load("./tiny.yaml"))
    save_file(dict(draw(network, 3)), here / "own.safetensors")
    model = build_tiny(here, *options.split())
    done = invoke("extract", model, "-o", "back.yaml")
    assert done.stderr == f"built with {REBUILT[options]}\n"
    assert data("extract", model)["passes"] + data("extract", model)["options"] == [
        word.removeprefix("--") for word in REBUILT[options].split()
    ]
    words = REBUILT[options].replace("FILE", "own.safetensors").split()
    assert invoke("build", "./back.yaml", "-t", "onnx", "-o", "again.onnx", *words).exit_code == 0
    assert (here / "again.onnx").read_bytes() == model.read_bytes()


def test_run_as_json(tmp_path: Path) -> None:
    """`run --json` reports shapes, times and the provider actually used; outputs depend on the seed only."""
    model = build_tiny(tmp_path)
    ran, again, other = (data("run", model, "--batch", "2", "--seed", seed, "--runtime", "ort-cpu") for seed in "112")
    assert ran["inputs"] == {"input": [2, 3, 8, 8]}
    assert ran["outputs"]["logits"]["shape"] == [2, 10]
    assert ran["provider"] == "CPUExecutionProvider"
    assert all(ran[key] > 0 for key in ("load_seconds", "first_seconds", "seconds"))
    assert ran["outputs"] == again["outputs"] != other["outputs"]


def test_run_refuses_a_batch_that_differs_from_a_fixed_one(tmp_path: Path) -> None:
    """A model of fixed batch 3 runs with batch 3, and `--batch 2` is refused."""
    model = build_tiny(tmp_path, "--batch", "3")
    assert data("run", model)["inputs"] == {"input": [3, 3, 8, 8]}
    assert data("run", model, "--batch", "3")["inputs"] == {"input": [3, 3, 8, 8]}
    refused = invoke("run", model, "--batch", "2")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "3" in refused.stderr


def test_validate_of_several_specs(here: Path) -> None:
    """`validate` checks every file regardless of failures, and the exit code is the most severe of them."""
    (here / "folder/inner").mkdir(parents=True)
    write_spec(here / "folder/good.yaml")
    write_spec(here / "folder/inner/unlike.yml", expect={"macs": TINY_MACS + 1})
    (here / "folder/notes.txt").write_text("not a spec")
    result = data("validate", "folder", "resnet18", code=1)
    assert {entry["spec"]: entry["ok"] for entry in result["specs"]} == {
        "folder/good.yaml": True, "folder/inner/unlike.yml": False, "resnet18": True,
    }  # fmt: skip
    write_spec(here / "folder/bad.yaml", input="3x8x8")
    found = {entry["spec"]: entry for entry in data("validate", "folder", code=3)["specs"]}
    assert sorted(found) == ["folder/bad.yaml", "folder/good.yaml", "folder/inner/unlike.yml"]
    assert found["folder/good.yaml"]["parameters"] == TINY_PARAMETERS
    (diagnostic,) = found["folder/bad.yaml"]["diagnostics"]
    assert (diagnostic["file"], diagnostic["line"]) == ("folder/bad.yaml", 1)
    assert found["folder/inner/unlike.yml"]["diagnostics"][0]["code"] == "E0701"
    printed = invoke("validate", "folder")
    assert printed.exit_code == 3
    assert re.fullmatch(r"folder/good\.yaml: ok, .*\n", printed.stdout)
    assert "folder/bad.yaml:1:" in printed.stderr
    assert "folder/inner/unlike.yml:1:" in printed.stderr
    assert printed.stderr.endswith("\n3 specs, 1 invalid, 1 with failed expectations\n")
    missing = invoke("validate", "folder/good.yaml", "no_such")
    assert missing.exit_code == 2
    assert missing.stderr.endswith("\n2 specs, 0 invalid, 0 with failed expectations, 1 not found\n")


@pytest.mark.slow
def test_validate_the_whole_zoo() -> None:
    """`validate specs` accepts every network of the zoo."""
    result = program("validate", "specs", "--json", cwd=ROOT)
    assert result.returncode == 0, result.stdout
    names = [entry["name"] for entry in json.loads(result.stdout)["specs"]]
    assert sorted(names) == sorted(path.stem for path in ROOT.glob("specs/**/*.yaml"))


@pytest.mark.parametrize("command", [["show"], ["validate"], ["build", "-t", "onnx"]], ids=lambda words: words[0])
def test_errors_as_json(command: list[str], here: Path) -> None:
    """With `--json`, errors are JSON on standard output, with code, location and help."""
    write_spec(here / "wrong.yaml", nmae="x", input="3x8x8")
    found = data(command[0], "./wrong.yaml", *command[1:], code=3)
    diagnostics = found["specs"][0]["diagnostics"] if command == ["validate"] else found["diagnostics"]
    assert len(diagnostics) == 2
    text = (here / "wrong.yaml").read_text()
    for diagnostic in diagnostics:
        assert diagnostic["code"] in CODES
        assert diagnostic["message"]
        assert (Path(diagnostic["file"]).name, diagnostic["line"]) == ("wrong.yaml", 1)
        assert 1 <= diagnostic["column"] < diagnostic["end_column"] <= len(text) + 1
    (unknown,) = [diagnostic for diagnostic in diagnostics if "nmae" in diagnostic["message"]]
    assert text[unknown["column"] - 1 : unknown["end_column"] - 1] in ("nmae", '"nmae"')
    assert "name" in unknown["help"]


def test_diagnostics_for_continuous_integration(here: Path) -> None:
    """GitHub workflow commands and SARIF report the same code and location as the text format."""
    write_spec(here / "wrong.yaml", colour="red")
    text = invoke("validate", "./wrong.yaml").stderr
    place, code = re.match(r"\S*wrong\.yaml:1:(\d+): error\[(E\d+)\]", text).groups()  # type: ignore[union-attr]
    github = invoke("validate", "./wrong.yaml", "--format", "github")
    assert github.exit_code == 3
    command = rf"::error file=\S*wrong\.yaml,line=1,col={place},\S*title={code}::unknown key 'colour'.*\n"
    assert re.fullmatch(command, github.stdout)
    sarif = invoke("validate", "./wrong.yaml", "--format", "sarif")
    assert sarif.exit_code == 3
    (run,) = json.loads(sarif.stdout)["runs"]
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == (code, "error")
    assert result["locations"][0]["physicalLocation"]["region"]["startColumn"] == int(place)
    assert code in {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    clean = invoke("validate", "resnet18", "--format", "sarif")
    assert clean.exit_code == 0
    assert json.loads(clean.stdout)["runs"][0]["results"] == []


@pytest.mark.parametrize("command", ["build", "show", "draw"])
def test_every_pass_is_an_option(command: str) -> None:
    """Every pass is an option of each command that transforms a network."""
    assert PASSES
    text = invoke(command, "--help").stdout
    for step in PASSES:
        assert f"--{step.name}" in text


def test_show_applies_passes() -> None:
    """Folding the 20 norms of resnet18 removes 4,800 scales and turns 4,800 shifts into biases."""
    before, after = data("show", "resnet18"), data("show", "resnet18", "--fold-batchnorm")
    assert (before["passes"], after["passes"]) == ([], ["fold-batchnorm"])
    assert before["parameters"] - after["parameters"] == 4800
    assert before["sha256"] == after["sha256"]


# --- the schema -------------------------------------------------------------------------------------------------------


def committed_schema() -> dict[str, Any]:
    """Return the published schema that editors use."""
    loaded: dict[str, Any] = json.loads((ROOT / "docs/spec.schema.json").read_text())
    return loaded


def test_the_committed_schema_is_up_to_date() -> None:
    """The committed schema is up to date. If this fails: rescompile schema > docs/spec.schema.json"""
    assert program("schema").stdout == (ROOT / "docs/spec.schema.json").read_text()


def test_a_schema_written_to_a_file_is_json(here: Path) -> None:
    """`schema -o` writes the same schema to a file, and overwrites it when repeated."""
    for _ in range(2):
        assert invoke("schema", "-o", "schema.json").exit_code == 0
        assert json.loads((here / "schema.json").read_text())["definitions"] == committed_schema()["definitions"]


def test_the_schema_is_draft_7() -> None:
    """The schema is valid draft 7, as editors expect: no later keywords, and no dangling references."""
    schema = committed_schema()
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(schema)
    text = json.dumps(schema)
    for later in ("$defs", "prefixItems", "unevaluatedProperties", "dependentRequired", "$anchor", "discriminator"):
        assert f'"{later}":' not in text
    references = set(re.findall(r'"\$ref": "([^"]*)"', text))
    assert references
    assert references <= {f"#/definitions/{name}" for name in schema["definitions"]}


@pytest.mark.parametrize("path", sorted(ROOT.glob("specs/**/*.yaml")), ids=lambda path: path.stem)
def test_the_schema_accepts_the_zoo(path: Path) -> None:
    """The schema accepts every spec of the zoo."""
    document = plain(read(library.source(path)))
    assert [error.message for error in jsonschema.Draft7Validator(committed_schema()).iter_errors(document)] == []


@pytest.mark.parametrize("seed", range(0, 200, 20))
def test_the_schema_accepts_random_specs(seed: int) -> None:
    """The schema accepts random valid specs, which cover every construct of the language."""
    document = plain(read(Source("random.yaml", generate(seed).text)))
    assert [error.message for error in jsonschema.Draft7Validator(committed_schema()).iter_errors(document)] == []


WRONG: dict[str, dict[str, Any]] = {
    "unknown key": {"colour": "red"},
    "misspelt key": {"netwrok": []},
    "other format": {"rescompile": 2},
    "no format": {"rescompile": None},
    "no name": {"name": None},
    "name of the wrong type": {"name": 18},
    "no network": {"network": None},
    "network of the wrong type": {"network": {"conv": {"channels": 4, "kernel": 3}}},
    "input of the wrong type": {"input": "3x8x8"},
    "input of five sizes": {"input": [3, 8, 8, 8, 8]},
    "input of text": {"input": [3, "x", 8]},
    "unknown key in expect": {"expect": {"params": TINY_PARAMETERS}},
    "notes that are not a list": {"notes": "text"},
    "unknown survival schedule": {"survival": {"schedule": "quadratic", "last": 0.5, "unit": "batch", "rescale": "test"}},
    "unknown attribute of an op": {"network": [{"conv": {"channels": 4, "kernel": 3, "colour": 1}}]},
    "parallel without merge": {"network": [{"parallel": {"branches": ["act", "act"]}}]},
    "parallel in both forms": {"network": [{"parallel": {"merge": "add", "branches": ["act"], "copies": 2, "branch": "act"}}]},
    "parallel of copies of nothing": {"network": [{"parallel": {"merge": "add", "copies": 2}}]},
    "name with a dash": {"name": "my-net"},
    "name of a step with a dash": {"network": [{"my-act": "act"}]},
    "misspelt key beside if": {"network": [{"if": "1 > 2", "then": "act", "esle": "tanh"}]},
    "if without then": {"network": [{"if": "1 > 2", "else": "act"}]},
    "misspelt op": {"network": [{"dropuot": 0.5}]},
    "value of an op without a main attribute": {"network": [{"leaky_relu": 0.2}]},
    "depth without a name": {"block": "basic", "network": ["cifar_stem", {"depth": 2, "width": 16}]},
    "construct beside a block": {"network": [{"block": "cifar_stem", "then": "act"}]},
    "side branch without output": {"network": [{"side": {"body": "act", "mode": "training"}}]},
    "output that is never computed": {"network": [{"side": {"body": "act", "mode": "never", "output": "aux"}}]},
}  # fmt: skip


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_the_schema_refuses_what_the_compiler_refuses(changes: dict[str, Any], tmp_path: Path) -> None:
    """The schema rejects mistakes that can be found without elaboration, and so does `validate`."""
    path = write_spec(tmp_path / "spec.yaml")
    validator = jsonschema.Draft7Validator(committed_schema())
    assert validator.is_valid(json.loads(path.read_text()))
    assert invoke("validate", path).exit_code == 0
    write_spec(path, **changes)
    assert not validator.is_valid(json.loads(path.read_text()))
    assert invoke("validate", path).exit_code == 3


# --- imports ----------------------------------------------------------------------------------------------------------

HEAVY = ["numpy", "onnx", "google", "torch", "onnxruntime", "safetensors", "rich", "matplotlib", "jsonschema", "PIL"]


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--version"], [*HEAVY, "yaml"]),
        (["list"], HEAVY),
        (["show", "resnet18"], HEAVY),
        (["show", "resnet18", "--fold-batchnorm"], [name for name in HEAVY if name != "numpy"]),
        (["validate", "resnet18"], HEAVY),
        (["schema"], HEAVY),
        (["build", "tiny.yaml", "-t", "onnx"], [name for name in HEAVY if name != "numpy"]),
        (["build", "tiny.yaml", "-t", "source"], HEAVY),
        (["extract", "tiny.onnx"], ["torch", "onnxruntime", "safetensors", "rich", "yaml"]),
        (["run", "tiny.onnx"], ["torch", "onnx", "google", "safetensors", "rich", "yaml", "PIL"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_a_command_loads_only_what_it_uses(arguments: list[str], unwanted: list[str], tmp_path: Path) -> None:
    """A command imports only the packages that it uses, because imports dominate its start-up time."""
    build_tiny(tmp_path)
    report = (
        "import atexit, os\n"
        "def report():\n"
        "    open('loaded', 'w').write(' '.join({name.partition('.')[0] for name in sys.modules}))\n"
        "atexit.register(report)"
    )
    result = run_after(report, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    loaded = set((tmp_path / "loaded").read_text().split())
    assert {"rescompile", "typer"} <= loaded
    assert loaded & set(unwanted) == set()
