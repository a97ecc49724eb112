"""Every feature of the language server returns without an exception for unfinished or hostile texts, at any position."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from lsp_client import Editor
from lsprotocol.types import Position, Range
from mutations import mutant

from rescompile.lang import library
from rescompile.lsp.completion import completion, resolve
from rescompile.lsp.documents import Document, Documents
from rescompile.lsp.fixes import fixes
from rescompile.lsp.hints import hints
from rescompile.lsp.hover import hover
from rescompile.lsp.navigation import definition, highlights, references
from rescompile.lsp.outline import folds, symbols
from rescompile.lsp.problems import problems
from rescompile.lsp.renaming import CannotRename, prepared, rename

BAD = Path(__file__).parent.parent / "lang" / "bad"
#: Strings that are inserted into a text.
STRANGE = (
    "{",
    "[",
    "'",
    '"',
    ":",
    "- ",
    "\t",
    "\0",
    "\r",
    "\u2028",
    "\x85",
    "\ufeff",
    "𝐱",
    "\ud800",
    "&a",
    "*a",
    "<<:",
    "---\n",
    "!!x",
    "|\n",
    "{{",
    "{x}",
    "#",
)
SAMPLE = ("resnet50", "resnet50_D", "densenet121", "googlenet", "stochastic_depth_110", "he2016_shortcut_scale_0_5_0_5")


def features(document: Document, position: Position, documents: Documents) -> None:
    """Call every feature of the server at a position."""
    everything = Range(Position(0, 0), Position(document.lines.count, 0))
    problems(document)
    hints(document)
    fixes(document, everything)
    symbols(document)
    folds(document)
    at_a_position(document, position, documents)


def at_a_position(document: Document, position: Position, documents: Documents) -> None:
    """Call every feature that depends on the position."""
    hover(document, position)
    for item in completion(document, position)[:3]:
        resolve(item, documents.open)
    definition(document, position)
    references(document, position, True, documents)
    highlights(document, position)
    prepared(document, position)
    with suppress(CannotRename):
        rename(document, position, "renamed", documents)


def call_all(text: str, positions: list[int], before: str | None = None) -> None:
    """Call every feature on a text at these indices; `before` is an earlier text of the document."""
    documents, uri = Documents(), "file:///nowhere/x.yaml"
    if before is not None:
        problems(documents.put(uri, before, "rescompile"))
    document = documents.put(uri, text, "rescompile")
    for n, at in enumerate(positions):
        position = document.lines.position(min(at, len(text)))
        (features if n == 0 else at_a_position)(document, position, documents)


def prefixes(name: str, step: int, first: int) -> Iterator[tuple[str, str]]:
    """Yield a text of the zoo with prefixes of it, of lengths from `first` in steps of `step`."""
    text = library.zoo()[name].read_text("utf-8")
    for end in range(first, len(text), step):
        yield text, text[:end]


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.slow_for("googlenet")
def test_a_text_that_ends_anywhere(name: str) -> None:
    """Every feature works on a text that ends in the middle of a word or a bracket, as during typing."""
    for whole, text in prefixes(name, 67, len(name)):
        call_all(text, [len(text), len(text) // 2], whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_text_that_ends_at_many_characters(name: str) -> None:
    """Every feature works on a text that ends at one of many more positions."""
    for whole, text in prefixes(name, 11, len(name) % 11):
        call_all(text, [len(text)], whole)


@pytest.mark.parametrize("name", SAMPLE[:3])
def test_every_position_of_a_text(name: str) -> None:
    """Every feature works at positions throughout a valid text."""
    text = library.zoo()[name].read_text("utf-8")
    call_all(text, [*range(0, len(text) + 2, 7)])


def test_strange_insertions() -> None:
    """Every feature works with strange characters and YAML syntax inserted at random positions."""
    choose = random.Random(0)
    text = library.zoo()["resnet50"].read_text("utf-8")
    for strange in STRANGE * 2:
        at = choose.randrange(len(text))
        call_all(text[:at] + strange + text[at:], [at, at + 1, choose.randrange(len(text))], text)


def test_wrong_specs() -> None:
    """Every feature works on the invalid specs of tests/lang/bad."""
    for path in sorted(BAD.glob("*.yaml"))[::4]:
        text = path.read_bytes()[:20_000].decode("utf-8", "replace")
        call_all(text, [len(text) // 2, len(text) // 3, len(text)])


@pytest.mark.parametrize("seed", range(40))
def test_mutated_specs(seed: int) -> None:
    """Every feature works on mutated texts of the zoo and the library, at random positions."""
    text = mutant(seed).text[:20_000]
    choose = random.Random(seed)
    call_all(text, [choose.randrange(len(text) + 1) for _ in range(4)])


@pytest.mark.process
def test_the_server_continues_after_invalid_texts(tmp_path: Path) -> None:
    """After invalid texts and positions outside the text, the server still answers correctly."""
    text = library.zoo()["resnet50"].read_text("utf-8")
    with Editor(tmp_path) as editor:
        editor.open("x.yaml", text)
        for broken in ("", "{", text[:300], text.replace("network", "\0"), "rescompile: 1\nnetwork: [" + "[" * 500):
            editor.change("x.yaml", broken)
            for feature in ("hover", "completion", "definition", "documentHighlight", "prepareRename"):
                editor.ask(feature, "x.yaml", 99_999, 99_999)
            editor.hints("x.yaml")
        assert editor.change("x.yaml", text) == []
        assert len(editor.hints("x.yaml")) == 6
    assert editor.code == 0
