"""The language server's definitions, references, outline, folding, renaming and quick fixes."""

from __future__ import annotations

from pathlib import Path
from urllib.request import url2pathname

import pytest
from lsp_client import Editor
from lsprotocol.types import Location, Position, Range

from rescompile.lang import library
from rescompile.lsp.documents import Document, Documents
from rescompile.lsp.fixes import edits, fixes
from rescompile.lsp.navigation import definition, highlights, references
from rescompile.lsp.outline import folds, symbols
from rescompile.lsp.renaming import CannotRename, prepared, rename

BAD = Path(__file__).parent.parent / "lang" / "bad"
BASE = """rescompile: 1
name: base
input: [3, 32, 32]
parameters: {classes: 10, wide: 8}   # some
blocks:
  unit:
    parameters: {width: int, act_kind: {default: relu, one_of: [relu, tanh]}}
    let: {inner: width * 2}
    body:
      - conv1: {conv: {channels: inner, kernel: 3}}
      - conv{inner}: {conv: {channels: width, kernel: 3, bias: inner > width}}
      - act: {kind: act_kind}
defaults: {unit: {act_kind: tanh}}
network:
  - stage1: {block: unit, width: 2 * wide}
  - group:
      - a: {block: unit, width: wide}
      - b: {block: basic, depth: 1, width: wide}
  - {block: classifier, classes: classes}
features: [stage1, group.a]
"""
CHILD = """rescompile: 1
name: child
extends: base.yaml
set:
  stage1.width: wide
  group.a.width: 3 * wide
  parameters.wide: 4
  defaults.unit.act_kind: relu
"""


class Folder:
    """A folder with the two specs above, some of them open in the editor."""

    def __init__(self, path: Path, opened: tuple[str, ...] = ("base.yaml",)) -> None:
        self.path, self.documents = path, Documents()
        for name, text in (("base.yaml", BASE), ("child.yaml", CHILD)):
            (path / name).write_text(text, "utf-8")
            if name in opened:
                self.documents.put((path / name).as_uri(), text)

    def at(self, name: str, words: str) -> tuple[Document, Position]:
        """Return a document and the position of the mark `|` in an excerpt of its text."""
        uri = (self.path / name).as_uri()
        text = self.documents.texts(self.path / name).text
        document = self.documents.open.get(uri) or self.documents.put(uri, text)
        assert text.count(words.replace("|", "", 1)) == 1, words
        return document, document.lines.position(text.index(words.replace("|", "", 1)) + words.index("|"))

    def renamed(self, name: str, words: str, new: str) -> dict[str, str]:
        """Return the texts that a rename changes, by file."""
        document, position = self.at(name, words)
        changes = rename(document, position, new, self.documents).changes
        assert changes is not None
        found = {}
        for uri, listed in changes.items():
            file = Path(url2pathname(uri.removeprefix("file://")))
            lines = Document(uri, file.read_text("utf-8")).lines
            text = lines.text
            for edit in sorted(listed, key=lambda e: (e.range.start.line, e.range.start.character), reverse=True):
                text = text[: lines.index(edit.range.start)] + edit.new_text + text[lines.index(edit.range.end) :]
            found[file.name] = text
        return found


def marked(location: Location) -> tuple[str, str]:
    """Return the file name and the text of a location."""
    path = Path(url2pathname(location.uri.removeprefix("file://")))
    lines = Document(location.uri, path.read_text("utf-8")).lines
    return path.name, lines.text[lines.index(location.range.start) : lines.index(location.range.end)]


@pytest.mark.parametrize(
    ("name", "words", "file", "line"),
    [
        ("base.yaml", "stage1: {block: un|it", "base.yaml", 5),
        ("base.yaml", "channels: inn|er", "base.yaml", 7),
        ("base.yaml", "inner: wid|th * 2", "base.yaml", 6),
        ("base.yaml", "width: 2 * wi|de", "base.yaml", 3),
        ("base.yaml", "stage1: {block: unit, wid|th", "base.yaml", 6),
        ("base.yaml", "[stage1, group.|a]", "base.yaml", 16),
        ("base.yaml", "[stage1, gro|up.a]", "base.yaml", 15),
        ("base.yaml", "kind: act|_kind", "base.yaml", 6),
        ("base.yaml", "b: {block: bas|ic", "basic.yaml", 0),
        ("base.yaml", "b: {block: basic, depth: 1, wid|th", "basic.yaml", None),
        ("child.yaml", "extends: ba|se.yaml", "base.yaml", 0),
        ("child.yaml", "sta|ge1.width", "base.yaml", 14),
        ("child.yaml", "stage1.wid|th", "base.yaml", 6),
        ("child.yaml", "group.|a.width", "base.yaml", 16),
        ("child.yaml", "parameters.wi|de", "base.yaml", 3),
        ("child.yaml", "defaults.un|it", "base.yaml", 5),
        ("child.yaml", "unit.act_|kind", "base.yaml", 6),
    ],
)
def test_definition(tmp_path: Path, name: str, words: str, file: str, line: int | None) -> None:
    """The definition of a name is found in the same text, in the base of the spec, or in the block library."""
    found = definition(*Folder(tmp_path).at(name, words))
    assert found is not None
    assert Path(found.uri).name == file
    assert line is None or found.range.start.line == line


def test_definitions_in_the_library(tmp_path: Path) -> None:
    """The definition of a parameter of a library block is in the block's YAML file; ops have no definition."""
    found = definition(*Folder(tmp_path).at("base.yaml", "b: {block: basic, depth: 1, wid|th"))
    assert found is not None
    assert marked(found) == ("basic.yaml", "width")
    assert definition(*Folder(tmp_path).at("base.yaml", "{con|v: {channels: inner")) is None


def test_references_in_other_files(tmp_path: Path) -> None:
    """References are found in the other specs of the folder, open or not; the same word with another meaning is not a reference."""
    folder = Folder(tmp_path)
    (tmp_path / "other.yaml").write_text(BASE.replace("name: base", "name: other"), "utf-8")
    document, position = folder.at("base.yaml", "wi|de: 8")
    found = sorted(map(marked, references(document, position, True, folder.documents)))
    assert found == [("base.yaml", "wide")] * 4 + [("child.yaml", "wide")] * 3
    assert len(references(document, position, False, folder.documents)) == 6
    assert len(highlights(document, position)) == 4


def test_the_outline_is_nested(tmp_path: Path) -> None:
    """The outline contains keys, blocks with their parameters and steps, and rows; each range lies within that of its parent."""
    document, _ = Folder(tmp_path).at("base.yaml", "n|ame: base")
    found = symbols(document)
    by_name = {symbol.name: symbol for symbol in found}
    assert [*by_name][3:] == ["parameters", "blocks", "defaults", "network", "features"]
    (unit,) = by_name["blocks"].children or ()
    assert [(child.name, child.detail) for child in unit.children or ()] == [
        ("width", None), ("act_kind", None), ("inner", None), ("conv1", "conv"), ("conv{inner}", "conv"),
    ]  # fmt: skip
    stage1, group = (by_name["network"].children or ())[:2]
    assert (stage1.name, stage1.detail) == ("stage1", "unit")
    assert [child.name for child in group.children or ()] == ["a", "b"]

    def check(symbols: list) -> None:  # type: ignore[type-arg]
        for symbol in symbols:
            start, end = symbol.range.start, symbol.range.end
            for inner in (symbol.selection_range, *(child.range for child in symbol.children)):
                assert (start.line, start.character) <= (inner.start.line, inner.start.character)
                assert (inner.end.line, inner.end.character) <= (end.line, end.character)
            check(symbol.children)

    check(found)


def test_folding(tmp_path: Path) -> None:
    """Values and comments of several lines can be folded."""
    document = Document("file:///nowhere/x.yaml", "# one\n# two\n" + BASE)
    assert {(fold.start_line, fold.end_line) for fold in folds(document)} >= {
        (0, 1),
        (6, 13),
        (7, 13),
        (15, 20),
        (17, 19),
    }


@pytest.mark.parametrize(
    ("words", "new", "expected"),
    [
        ("  un|it:", "cell", {"  unit:": "  cell:", "block: unit": "block: cell", "{unit: {": "{cell: {", "defaults.unit": "defaults.cell"}),
        ("inn|er: width", "hidden", {"inner: w": "hidden: w", ": inner": ": hidden", "{inner}": "{hidden}", "bias: inner": "bias: hidden"}),
        ("wid|th: int", "w", {"{width: int": "{w: int", "inner: width": "inner: w", "channels: width": "channels: w", "> width": "> w",
            "unit, width": "unit, w", "stage1.width": "stage1.w", "a.width": "a.w"}),
        ("act_ki|nd: {def", "nonlinearity", {"act_kind": "nonlinearity"}),
        ("wi|de: 8", "factor", {"wide": "factor"}),
        ("stage|1: {", "first", {"stage1": "first"}),
        ("  - gro|up:", "middle", {"group": "middle"}),
        ("- |a: {", "aa", {"- a:": "- aa:", "group.a": "group.aa"}),
        ("con|v1: {conv", "entry", {"conv1": "entry"}),
    ],
)  # fmt: skip
def test_rename(tmp_path: Path, words: str, new: str, expected: dict[str, str]) -> None:
    """A block, parameter or step is renamed with all its references, in this file and in those that extend it."""
    folder = Folder(tmp_path)
    texts = {"base.yaml": BASE, "child.yaml": CHILD}
    for old, replacement in expected.items():
        texts = {name: text.replace(old, replacement) for name, text in texts.items()}
    changed = {name: text for name, text in texts.items() if text != {"base.yaml": BASE, "child.yaml": CHILD}[name]}
    assert folder.renamed("base.yaml", words, new) == changed
    document, position = folder.at("base.yaml", words)
    found = prepared(document, position)
    assert found is not None


@pytest.mark.parametrize(
    ("words", "new", "reason"),
    [
        ("b: {block: bas|ic", "mine", "comes with rescompile"),
        ("  un|it:", "basic", "there already is a block 'basic'"),
        ("  un|it:", "2x", "not a valid name"),
        ("  un|it:", "conv", "reserved word"),
        ("inn|er: width", "width", "there already is a parameter 'width'"),
        ("inn|er: width", "relu", "would no longer be valid"),
        ("stage|1: {", "group", "there already is a step 'group'"),
        ("stage|1: {", "forward", "would shadow an attribute"),
        ("stage|1: {", "conv", "reserved word"),
        ("ne|twork:", "net", "only blocks, parameters, steps"),
    ],
)
def test_invalid_renames_are_refused(tmp_path: Path, words: str, new: str, reason: str) -> None:
    """Renaming something of rescompile, or to an invalid or existing name, is refused with the reason."""
    folder = Folder(tmp_path)
    document, position = folder.at("base.yaml", words)
    with pytest.raises(CannotRename, match=reason):
        rename(document, position, new, folder.documents)


KEPT = """rescompile: 1
name: kept
input: [3, 32, 32]
blocks:
  unit:
    values: [y]
    body:
      - {conv: {channels: 8, kernel: 3}}
      - if: index > 0
        then: {parallel: {merge: add, branches: [identity, {use: "y[index - 1]"}]}}
      - keep: "y[index]"
network:
  - units: {block: unit, depth: 4}
  - {use: "y[0]"}
"""


def test_kept_values() -> None:
    """A kept value is found, highlighted and renamed at all its uses, also if a block shares it with the network."""
    documents = Documents()
    document = documents.put("file:///nowhere/x.yaml", KEPT)
    assert not document.checked.diagnostics
    position = document.lines.position(KEPT.index("y[0]"))
    assert len(highlights(document, position)) == 4
    found = definition(document, position)
    assert found is not None
    assert found.range.start.line == 10
    (listed,) = (rename(document, position, "earlier", documents).changes or {}).values()
    assert len(listed) == 4
    with pytest.raises(CannotRename, match="reserved word"):
        rename(document, position, "depth", documents)


CASES = sorted([*BAD.glob("*.yaml"), *BAD.glob("*/main.yaml")])


def test_fixes_remove_their_mistakes() -> None:
    """In the invalid specs of tests/lang/bad, every fix removes its mistake, and every misspelt name has a fix."""
    fixed = 0
    for path in CASES:
        document = Document(path.as_uri(), path.read_bytes().decode("utf-8", "replace"), is_spec=True)
        for problem in document.checked.diagnostics:
            offered = list(edits(document, problem))
            here = problem.place is not None and problem.place.source.name == document.source.name
            if here and "did you mean" in (problem.help or ""):
                assert offered, (path.name, problem)
            for start, end, new in offered:
                text = document.text[:start] + new + document.text[end:]
                after = Document(document.uri, text, is_spec=True).checked.diagnostics
                assert all(each.code != "E0101" for each in after), (path.name, problem)
                still = [
                    (each.code, each.message)
                    for each in after
                    if each.place and problem.place and each.place.line == problem.place.line
                ]
                assert (problem.code, problem.message) not in still, (path.name, problem)
                fixed += 1
    assert fixed > 85


def test_a_fix_is_offered_only_at_its_mistake() -> None:
    """A fix is offered only in the range of its mistake, with the diagnostic."""
    document = Document("file:///nowhere/x.yaml", BASE.replace("width: 2 * wide", "width: 2 * wdie"))
    (found,) = fixes(document, Range(Position(14, 0), Position(14, 60)))
    assert found.title == "Replace by 'wide'"
    assert found.diagnostics
    assert found.diagnostics[0].code == "E0302"
    assert not fixes(document, Range(Position(2, 0), Position(2, 1)))


@pytest.mark.process
def test_over_the_protocol(tmp_path: Path) -> None:
    """All requests tested in this file work over the protocol."""
    Folder(tmp_path)
    with Editor(tmp_path) as editor:
        editor.open("base.yaml", BASE)
        assert editor.ask("definition", "base.yaml", 14, 20)["range"]["start"] == {"line": 5, "character": 2}
        library_block = editor.ask("definition", "base.yaml", 17, 20)["uri"]
        assert library_block == library.blocks()["basic"].as_uri()
        found = editor.ask("references", "base.yaml", 3, 28, context={"includeDeclaration": True})
        assert len(found) == 7
        assert len(editor.ask("documentHighlight", "base.yaml", 3, 28)) == 4
        assert [symbol["name"] for symbol in editor.ask("documentSymbol", "base.yaml")][:2] == ["rescompile", "name"]
        assert {"startLine": 13, "endLine": 18, "kind": "region"} in editor.ask("foldingRange", "base.yaml")
        assert editor.ask("prepareRename", "base.yaml", 3, 28)["placeholder"] == "wide"
        changes = editor.ask("rename", "base.yaml", 3, 28, newName="factor")["changes"]
        assert {uri: len(listed) for uri, listed in changes.items()} == {
            editor.uri("base.yaml"): 4,
            editor.uri("child.yaml"): 3,
        }
        with pytest.raises(AssertionError, match="reserved word"):
            editor.ask("rename", "base.yaml", 3, 28, newName="if")
        (wrong,) = editor.change("base.yaml", BASE.replace("2 * wide", "2 * wdie"))
        (action,) = editor.ask("codeAction", "base.yaml", range=wrong["range"], context={"diagnostics": [wrong]})
        (edit,) = action["edit"]["changes"][editor.uri("base.yaml")]
        assert (edit["newText"], edit["range"]) == ("wide", wrong["range"])
