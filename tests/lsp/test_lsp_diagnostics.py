"""The language server's diagnostics and inlay hints, over the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lsp_client import Editor

from rescompile.lang import library
from rescompile.lsp.documents import Document
from rescompile.lsp.hints import hints
from rescompile.lsp.problems import problems

pytestmark = pytest.mark.process

GOOD = """rescompile: 1
name: mine
input: [3, 32, 32]
block: basic
network:
  - cifar_stem
  - layer1: {depth: 2, width: 16}
  - layer2: {depth: 2, width: 32, stride: 2}   # halves the map
  - {block: classifier, classes: 10}
"""


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    """Return an editor connected to a server for an empty folder."""
    with Editor(tmp_path_factory.mktemp("lsp")) as editor:
        yield editor
    assert editor.code == 0


def test_several_mistakes_with_code_place_and_help(editor: Editor) -> None:
    """Both mistakes of an unsaved text are reported, with code, location and help."""
    text = GOOD.replace("width: 16", "widht: 16").replace("block: classifier", "block: clasifier")
    found = editor.open("two.yaml", text)
    assert [(each["code"], each["severity"], each["source"]) for each in found] == [
        ("E0402", 1, "rescompile"),
        ("E0401", 1, "rescompile"),
    ]
    first, second = found
    assert first["range"] == {"start": {"line": 6, "character": 23}, "end": {"line": 6, "character": 28}}
    assert "help: did you mean 'width'?" in first["message"]
    assert second["range"]["start"] == {"line": 8, "character": 12}
    assert not editor.change("two.yaml", GOOD)


def test_a_mistake_inside_a_block_has_a_related_location(editor: Editor) -> None:
    """A mistake that occurs in a library block is located at its cause, with the step of the block as a related location."""
    (found,) = editor.open("inside.yaml", GOOD.replace("block: basic", "block: bottleneck").replace(
        "width: 16}", "width: 16, base_width: 6}"))  # fmt: skip
    assert found["code"] == "E0304"
    assert found["range"]["start"]["line"] == 6
    related = found["relatedInformation"]
    assert related[0]["location"]["uri"] == library.blocks()["bottleneck"].as_uri()
    line = related[0]["location"]["range"]["start"]["line"]
    assert "conv1" in library.blocks()["bottleneck"].read_text("utf-8").splitlines()[line]


def test_the_first_of_two_definitions_is_a_related_location(editor: Editor) -> None:
    """For a repeated key or name, the first one is a related location."""
    (found,) = editor.open("twice.yaml", GOOD.replace("layer2", "layer1"))
    assert found["code"] == "E0406"
    assert found["relatedInformation"][0]["location"]["range"]["start"]["line"] == 6
    (found,) = editor.open("again.yaml", GOOD + "name: again\n")
    assert found["code"] == "E0105"
    assert found["relatedInformation"][0]["location"]["range"]["start"]["line"] == 1


def test_expectations_are_checked(editor: Editor) -> None:
    """Failed expectations are reported as diagnostics."""
    (found,) = editor.open("expect.yaml", GOOD + "expect: {parameters: 1}\n")
    assert found["code"] == "E0701"


def test_columns_are_in_utf_16_code_units(editor: Editor) -> None:
    """A character outside the basic multilingual plane counts as two columns."""
    text = GOOD.replace("- layer1: {depth: 2, width: 16}", '- layer1: {block: "𝐛asic", dpth: 1}')
    (found, *_) = editor.open("wide.yaml", text)
    line = text.split("\n")[6]
    units = len(line[: line.index('"')].encode("utf-16-le")) // 2
    assert found["range"]["start"] == {"line": 6, "character": units + 1}


def test_other_yaml_files_are_not_checked(editor: Editor) -> None:
    """A YAML file that is not a spec has no diagnostics, unless the editor declares it as a spec."""
    assert editor.open("compose.yaml", "services: {web: {image: nginx}}\n") == []
    assert editor.open("ci.yaml", "on: [push]\n", language="github-actions-workflow") == []
    assert [each["code"] for each in editor.open("new.yaml", "name: x\n", language="rescompile")] == ["E0108"]


def test_a_base_is_read_from_the_editor(editor: Editor) -> None:
    """A spec uses the unsaved text of its base and is checked again when that changes; mistakes in the base are shown at `extends`."""
    (editor.root / "base.yaml").write_text(GOOD)
    editor.open("base.yaml", GOOD)
    child = "rescompile: 1\nname: child\nextends: base.yaml\nset: {layer1.depth: 3}\n"
    assert editor.open("child.yaml", child) == []
    assert list(editor.hints("child.yaml")) == [3]
    editor.diagnostics.clear()
    editor.change("base.yaml", GOOD.replace("layer1", "stage1"))
    (found,) = editor.published("child.yaml")
    assert (found["code"], found["range"]["start"]["line"]) == ("E0504", 3)
    editor.diagnostics.clear()
    editor.change("base.yaml", GOOD.replace("width: 16", "widht: 16"))
    (found,) = editor.published("child.yaml")
    assert found["range"]["start"] == {"line": 2, "character": 9}
    assert found["relatedInformation"][0]["location"]["uri"] == editor.uri("base.yaml")
    editor.diagnostics.clear()
    editor.notify("textDocument/didClose", textDocument={"uri": editor.uri("base.yaml")})
    assert editor.published("base.yaml") == []
    assert editor.published("child.yaml") == []


def test_hints_are_kept_while_the_text_is_invalid(editor: Editor) -> None:
    """Each row has a hint with its output and cost; while the text is invalid, the last hints move with their lines."""
    assert not editor.open("hints.yaml", GOOD)
    before = editor.hints("hints.yaml")
    assert before == {
        5: "-> 16x32x32, 464 parameters, 442.4 k MACs",
        6: "-> 16x32x32, 9.344 k parameters, 9.437 M MACs",
        7: "-> 32x16x16, 33.09 k parameters, 8.389 M MACs",
        8: "-> 10, 330 parameters, 320 MACs",
    }
    broken = GOOD.replace("network:\n", "network:\n  # a comment\n").replace("width: 32,", "width: [32,")
    assert editor.change("hints.yaml", broken)
    assert editor.hints("hints.yaml") == {line + 1: label for line, label in before.items()}
    assert not editor.change("hints.yaml", GOOD)
    assert editor.hints("hints.yaml") == before


def test_hints_of_set() -> None:
    """A line of `set` that changes one row has the hint of this row; one that changes several has none."""
    head = "rescompile: 1\nname: x\nextends: resnet50\n"
    document = Document(
        "file:///nowhere/x.yaml", head + "set:\n  layer3.depth: 2\n  parameters.classes: 10\n  layer2.depth: 1\n"
    )
    assert {hint.position.line: str(hint.label).split(",")[0] for hint in hints(document)} == {
        4: "-> 1024x14x14",
        6: "-> 512x28x28",
    }
    assert not hints(Document("file:///nowhere/x.yaml", head + "set: {layer3.depth: 2, layer2.depth: 1}\n"))


def test_diagnostics_follow_the_last_edit(editor: Editor) -> None:
    """After a burst of edits, the diagnostics are those of the last one."""
    editor.open("burst.yaml", GOOD)
    for n in range(30):
        editor.edit("burst.yaml", GOOD.replace("depth: 2", f"depth: -{n}", 1))
    assert not editor.change("burst.yaml", GOOD)


def test_large_specs_of_the_zoo_have_no_diagnostics() -> None:
    """The largest networks of the zoo have no diagnostics, and hints unless they extend another (benchmarks/language_server.py
    measures the times)."""
    for name in ("densenet264_k48", "densenet201", "stochastic_depth_1202", "resnet1001_cifar", "darknet_resnet152"):
        path = library.zoo()[name]
        text = path.read_text("utf-8")
        document = Document(path.as_uri(), text, is_spec=True)
        assert not problems(document)
        assert hints(document) or "extends" in text


def test_a_text_without_a_file_is_checked(tmp_path: Path) -> None:
    """A text that was never saved is checked."""
    document = Document("untitled:Untitled-1", GOOD.replace("depth: 2", "depth: 0", 1))
    assert [each.code for each in problems(document)] == ["E0405"]
