"""Aliases: the names of other libraries are accepted for networks of the zoo."""

from __future__ import annotations

import json
from pathlib import Path

import facts
import pytest
from typer.testing import CliRunner

from rescompile.cli import app
from rescompile.diagnostics.errors import SpecError, UsageError
from rescompile.lang import library, zoo_aliases
from rescompile.lang.load import load


@pytest.mark.parametrize("alias", zoo_aliases.ALIASES)
def test_an_alias_loads_its_network(alias: str) -> None:
    """An alias loads its network, and is not the name of another one."""
    assert alias not in library.zoo()
    assert load(alias).name == zoo_aliases.ALIASES[alias]


def test_every_peer_with_another_name_is_an_alias() -> None:
    """Every peer of timm or torchvision in the facts has the name of a zoo network or is an alias of its network."""
    for name in facts.zoo():
        for library_name in ("timm", "torchvision"):
            theirs = (facts.rows()[name].get("peers") or {}).get(library_name, name)
            assert theirs in library.zoo() or zoo_aliases.ALIASES[theirs] == name


def test_aliases_in_specs_lists_and_suggestions(tmp_path: Path) -> None:
    """`extends` accepts aliases, `list` shows them, and misspelt ones get a suggestion."""
    path = tmp_path / "mine.yaml"
    path.write_text("rescompile: 1\nname: mine\nextends: resnet50d\n")
    assert load(path).blocks.keys() == load("resnet50_D").blocks.keys()
    entries = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)["networks"]
    assert {alias: entry["name"] for entry in entries for alias in entry["aliases"]} == zoo_aliases.ALIASES
    assert "also resnet50d" in CliRunner().invoke(app, ["list"]).stdout
    with pytest.raises(UsageError) as caught:
        load("resnetv2_5O")
    assert "resnetv2_50" in str(caught.value.diagnostics[0].help)


@pytest.mark.parametrize("name", ["classes", "num_classes", "n_classes", "nclasses", "clases"])
def test_a_setting_of_a_parameter_without_its_prefix(name: str) -> None:
    """`--set classes=10` and similar names get the suggestion `parameters.classes`."""
    with pytest.raises(SpecError) as caught:
        load("resnet50", [f"{name}=10"])
    assert [each.help for each in caught.value.diagnostics] == ["did you mean 'parameters.classes'?"]


def test_a_misspelt_row_is_not_taken_for_a_parameter() -> None:
    """A misspelt row gets the suggestion of the row rather than of a parameter."""
    with pytest.raises(SpecError) as caught:
        load("resnet50", ["layer33=null"])
    assert "layer3" in str(caught.value.diagnostics[0].help)


def test_a_missing_file_with_the_name_of_a_network() -> None:
    """The error of a missing file named like a zoo network suggests the name alone."""
    for path, help in (
        ("nowhere/densenet121.yaml", "for the network of the zoo, write densenet121"),
        ("./mine.yaml", None),
    ):
        with pytest.raises(UsageError) as caught:
            load(path)
        assert caught.value.diagnostics[0].help == help
