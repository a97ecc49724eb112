"""Starting the language server: the settings in docs/editors.md, the VS Code extension, and a missing extra."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from rescompile.cli.lsp import lsp

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/editors.md").read_text("utf-8")
EXTENSION = ROOT / "editors/vscode"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the packages of the extra, the command names the extra to install and exits with 4."""
    for name in [*sys.modules]:
        if name.startswith("rescompile.lsp") or name.partition(".")[0] in ("lsprotocol", "pygls"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lsprotocol", None)
    with pytest.raises(typer.Exit) as ended:
        lsp()
    assert ended.value.exit_code == 4
    assert "pip install 'rescompile[lsp]'" in capsys.readouterr().err


def fences(language: str) -> list[str]:
    """Return the settings on the page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_settings_on_the_page_are_valid() -> None:
    """JSON and TOML on the page are valid, and the settings of every editor start `rescompile lsp`."""
    servers = [tomllib.loads(text).get("language-server", {}).get("rescompile") for text in fences("toml")]
    assert {"command": "rescompile", "args": ["lsp"]} in servers
    assert len([json.loads(text) for text in fences("json")]) == 2
    for language in ("lua", "elisp"):
        (text,) = fences(language)
        assert '"rescompile"' in text
        assert '"lsp"' in text


def test_the_manifest_of_the_extension_is_consistent() -> None:
    """The manifest of the extension starts `rescompile lsp`, declares the settings that are used, and refers to existing files."""
    manifest = json.loads((EXTENSION / "package.json").read_text("utf-8"))
    settings = manifest["contributes"]["configuration"]["properties"]
    assert settings["rescompile.command"]["default"] == ["rescompile", "lsp"]
    assert "rescompile.command" in json.loads(fences("json")[0])
    listed = [manifest["contributes"]["languages"][0]["configuration"], manifest["contributes"]["grammars"][0]["path"]]
    for name in listed:
        assert json.loads((EXTENSION / name).read_text("utf-8"))
        assert f"!{Path(name).name}" in (EXTENSION / ".vscodeignore").read_text("utf-8").splitlines()
    used = set(
        re.findall(
            r"getConfiguration\(\"rescompile\"\)\.get\(\"(\w+)\"\)", (EXTENSION / "extension.js").read_text("utf-8")
        )
    )
    assert {f"rescompile.{name}" for name in used} == set(settings)
