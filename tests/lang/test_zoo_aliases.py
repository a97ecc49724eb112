"""The names of other libraries for networks of the zoo, wherever a name of the zoo is taken."""

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
def test_an_alias_is_a_network_of_the_zoo_and_no_second_one(alias: str) -> None:
    """It means what its network means, and hides no other one."""
    assert alias not in library.zoo()
    assert load(alias).name == zoo_aliases.ALIASES[alias]


def test_every_peer_with_another_name_is_an_alias() -> None:
    """The rows of the facts name the networks of timm and torchvision that give the same outputs."""
    for name in facts.zoo():
        for library_name in ("timm", "torchvision"):
            theirs = (facts.rows()[name].get("peers") or {}).get(library_name, name)
            assert theirs in library.zoo() or zoo_aliases.ALIASES[theirs] == name


def test_aliases_in_specs_lists_and_suggestions(tmp_path: Path) -> None:
    """`extends` takes them, `list` shows them, and a mistake in one is recognised."""
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
def test_a_setting_of_a_parameter_without_its_key(name: str) -> None:
    """`--set classes=10` is what most people try first."""
    with pytest.raises(SpecError) as caught:
        load("resnet50", [f"{name}=10"])
    assert [each.help for each in caught.value.diagnostics] == ["did you mean 'parameters.classes'?"]


def test_a_setting_of_a_row_still_means_the_row() -> None:
    """A parameter does not hide a row that is more alike."""
    with pytest.raises(SpecError) as caught:
        load("resnet50", ["layer33=null"])
    assert "layer3" in str(caught.value.diagnostics[0].help)


def test_a_missing_file_with_the_name_of_a_network() -> None:
    """Without a clone of the repository there is no `specs/`, but the name alone works everywhere."""
    for path, help in (
        ("nowhere/densenet121.yaml", "for the network of the zoo, write densenet121"),
        ("./mine.yaml", None),
    ):
        with pytest.raises(UsageError) as caught:
            load(path)
        assert caught.value.diagnostics[0].help == help
