"""The catalogue of errors: every code has an entry, and every example gives the stated result."""

from __future__ import annotations

import importlib.util
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest
from refusals import hold, refusal, text_of

from rescompile.diagnostics.codes import CODES

ROOT = Path(__file__).parents[2]


def generator() -> ModuleType:
    """Import docs/make_errors.py, which is not in a package."""
    found = importlib.util.spec_from_file_location("make_errors", ROOT / "docs" / "make_errors.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


CATALOGUE = generator()
ENTRIES = CATALOGUE.entries()
SPECS = [code for code, entry in ENTRIES.items() if not entry.commands]
COMMANDS = [code for code, entry in ENTRIES.items() if entry.commands and entry.not_run is None]


def test_every_code_is_explained() -> None:
    """The catalogue has an entry for exactly the existing codes."""
    assert list(ENTRIES) == list(CODES)


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_in_a_group(code: str) -> None:
    """Every code belongs to a group of the page."""
    assert any(code.startswith(prefix) for prefix in CATALOGUE.GROUPS)


def test_codes_of_specs_have_examples() -> None:
    """Every code that a spec can cause has an example spec, except E0111, which concerns bytes."""
    assert {code for code in CODES if code < "E07"} - set(SPECS) == {"E0111"}


def test_the_page_is_up_to_date() -> None:
    """docs/errors.md is up to date; to renew it, run `python docs/make_errors.py`."""
    assert CATALOGUE.PAGE.read_text(encoding="utf-8") == CATALOGUE.page(), "run python docs/make_errors.py"


def test_the_example_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message at the top of the page equals the output of rescompile."""
    monkeypatch.chdir(tmp_path)
    Path("specs").mkdir()
    head = ["rescompile: 1", "name: my", "input: [3, 32, 32]", "block: basic", "network:"]
    row = "  - layer1: {depth: 3, width: [16, 32, 32]}"
    Path("specs/my.yaml").write_text("\n".join([*head, "", "", "", row, ""]), encoding="utf-8")
    error = refusal("specs/my.yaml")
    assert error is not None
    assert textwrap.indent(text_of(error), "    ") in CATALOGUE.page()


@pytest.mark.parametrize("code", SPECS)
def test_wrong_spec(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong spec is refused with this code and no other."""
    monkeypatch.chdir(tmp_path)
    Path("my_net.yaml").write_text(ENTRIES[code].wrong, encoding="utf-8")
    error = refusal("my_net.yaml")
    assert error is not None, f"the wrong example of {code} is accepted"
    hold(error)
    assert {diagnostic.code for diagnostic in error.diagnostics} == {code}
    assert error.exit_code == next(
        number for prefix, (_, number) in CATALOGUE.GROUPS.items() if code.startswith(prefix)
    )


@pytest.mark.parametrize("code", SPECS)
def test_right_spec(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right spec is accepted."""
    monkeypatch.chdir(tmp_path)
    Path("my_net.yaml").write_text(ENTRIES[code].right, encoding="utf-8")
    error = refusal("my_net.yaml")
    assert error is None, str(error)


def session(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run command lines in a shell in an empty folder, with `rescompile` of this environment."""
    tools, work = folder / "bin", folder / "work"
    tools.mkdir()
    work.mkdir()
    command = tools / "rescompile"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rescompile "$@"\n', encoding="utf-8")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-e", "-c", text], cwd=work, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.skipif(os.name == "nt", reason="the examples are for a POSIX shell")
@pytest.mark.parametrize("code", COMMANDS)
def test_wrong_commands(code: str, tmp_path: Path) -> None:
    """The wrong command fails with this code and the exit code of its group."""
    done = session(ENTRIES[code].wrong, tmp_path)
    assert f"error[{code}]" in done.stderr
    assert done.stderr.count("error[") == 1
    assert done.returncode == next(n for prefix, (_, n) in CATALOGUE.GROUPS.items() if code.startswith(prefix))


@pytest.mark.skipif(os.name == "nt", reason="the examples are for a POSIX shell")
@pytest.mark.parametrize("code", COMMANDS)
def test_right_commands(code: str, tmp_path: Path) -> None:
    """The right command succeeds."""
    done = session(ENTRIES[code].right, tmp_path)
    assert done.returncode == 0, done.stderr
