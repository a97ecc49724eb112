"""The language server in a real editor: headless Neovim 0.11 or newer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SPEC = """rescompile: 1
name: mine
input: [3, 32, 32]
block: basic
network:
  - cifar_stem
  - layer1: {depth: 2, widht: 16, }
  - {block: classifier, classes: 10}
features: [layer1]
"""


#: The first version with `vim.lsp.config`.
OLDEST = (0, 11)


def neovim() -> str | None:
    """Return a Neovim that is new enough, or None."""
    program = shutil.which("nvim")
    output = subprocess.run([program, "--version"], capture_output=True, text=True).stdout if program else ""
    version = re.match(r"NVIM v(\d+)\.(\d+)", output)
    return program if version and (int(version[1]), int(version[2])) >= OLDEST else None


@pytest.mark.process
def test_in_neovim(tmp_path: Path) -> None:
    """Neovim shows the mistake and applies its fix; then hints, completions, hovers and renaming work."""
    program = neovim()
    if program is None:
        pytest.skip(f"Neovim {'.'.join(map(str, OLDEST))} or newer is not installed")
    spec, out = tmp_path / "mine.yaml", tmp_path / "seen.json"
    spec.write_text(SPEC, "utf-8")
    environment = {
        **os.environ, "COMMAND": json.dumps([sys.executable, "-m", "rescompile", "lsp"]), "SPEC": str(spec), "OUT": str(out),
        "XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }  # fmt: skip
    script = Path(__file__).with_name("neovim.lua")
    subprocess.run([program, "--clean", "--headless", "-l", str(script)], env=environment, check=True, timeout=120)
    seen = json.loads(out.read_text("utf-8"))
    assert "error" not in seen, seen["error"]
    (wrong,) = seen["diagnostics"]
    assert (wrong["code"], wrong["line"], wrong["column"], wrong["last"]) == ("E0402", 6, 23, 28)
    assert "did you mean 'width'?" in wrong["message"]
    assert seen["fixed"] == "  - layer1: {depth: 2, width: 16, }"
    assert [hint["line"] for hint in seen["hints"]] == [5, 6, 7]
    assert seen["hints"][1]["label"].startswith("-> 16x32x32, 9.344 k parameters")
    assert "stride" in seen["completion"]
    assert "depth" not in seen["completion"]
    assert "2 x basic(width=16)" in seen["hover"]
    assert seen["renamed"][6].startswith("  - stage1: ")
    assert spec.read_text("utf-8").endswith("features: [stage1]\n")
