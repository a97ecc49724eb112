"""Documentation tests: every example does what its page shows, and generated tables are up to date.

Fences of docs/*.md and how they are tested:

    ```yaml                      a complete spec: loaded, elaborated, and its expectations checked
    ```yaml fragment: rows       rows of a network; the test adds the spec around them
    ```yaml fragment: spec       a spec without its first keys
    ```yaml fragment: block      the definition of one shortcut block, as in a library file
    ```yaml ... wrong: E0302     must be refused with this code and no other
    ```<any> file: small.yaml    also written to this file in the page's folder, where its commands run
    ```console                   `rescompile` or `python` commands, perhaps after `NAME=value`, and their output; `...`
                                 matches any lines
    ```python                    run in order, as one program, in the page's folder
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest
from doc_pages import DOCS, FENCE, ROOT, Fence, environment, fences, prepare_folder
from pydantic import TypeAdapter

from rescompile import elaboration
from rescompile.diagnostics.codes import CODES
from rescompile.diagnostics.errors import MAX_FOUND, Diagnostic, Source, SpecError
from rescompile.elaboration import blocks as block_uses
from rescompile.elaboration import elaborate, evaluator
from rescompile.elaboration.expect import unmet
from rescompile.ir import expressions, names, ops
from rescompile.lang import inheritance, yaml_reader
from rescompile.lang.load import from_document, load
from rescompile.lang.spec.blocks import Block
from rescompile.lang.spec.rows import Use
from rescompile.lang.spec.spec import Dimension, Spec
from rescompile.lang.yaml_reader import plain, read

#: errors.md is generated from the codes and has its own test.
PAGES = sorted(path for path in DOCS.glob("*.md") if path.name != "errors.md")
#: The maximum number of characters in a line of prose.
LONGEST = 140
LANGUAGE = (DOCS / "language.md").read_text("utf-8")


_VARIABLE = re.compile(r"[A-Z_]+=")
ALL = [fence for page in PAGES for fence in fences(page)]
YAML = [fence for fence in ALL if fence.language == "yaml"]
CONSOLE = [fence for fence in ALL if fence.language == "console"]
COMMANDS = sorted({fence.page for fence in CONSOLE})
#: Pages whose commands measure, train or run large networks.
SLOW = (
    "add-a-backend.md",
    "deploying.md",
    "designing.md",
    "forms.md",
    "source.md",
    "studying.md",
    "tutorial.md",
    "bench.md",
    "explain.md",
    "frameworks.md",
    "lesions.md",
    "paths.md",
    "predict.md",
    "report.md",
    "pytorch.md",
    "runtimes.md",
    "sizes.md",
    "unet.md",
    "weights.md",
)
SCHEMA = jsonschema.Draft7Validator(json.loads((DOCS / "spec.schema.json").read_text("utf-8")))
PROGRAMS = sorted({fence.page for fence in ALL if fence.language == "python" and "file" not in fence.marks})


def wrapped(fence: Fence) -> str:
    """Complete a fragment to a spec, adding only the required keys and parameters that it lacks."""
    kind = fence.marks.get("fragment")
    if kind is None:
        return fence.text
    text = fence.text
    if kind == "rows":
        text = "network:\n" + "".join(f"  {line}" if line.strip() else line for line in text.splitlines(True))
        known = {"k": 2, "n": 2, "classes": 10}
        used = {name: value for name, value in known.items() if re.search(rf"\b{name}\b", strip_comments(fence.text))}
        if used:
            text = f"parameters: {{{', '.join(f'{name}: {value}' for name, value in used.items())}}}\n{text}"
        if re.search(r"\{depth:", text):
            text = f"block: basic\n{text}"
    elif kind == "block":
        text = "blocks:\n  block1:\n" + "".join(f"    {line}" for line in text.splitlines(True))
        text += "network:\n  - {block: block1, channels: 8}\n"
    else:
        assert kind == "spec", f"{fence.id}: there is no kind of fragment {kind}"
    given = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    head = {"rescompile": "1", "name": "example"} | ({} if "extends" in given else {"input": "[3, 32, 32]"})
    return "".join(f"{key}: {value}\n" for key, value in head.items() if key not in given) + text


def strip_comments(text: str) -> str:
    """Remove comments, which may contain any words."""
    return re.sub(r"#.*", "", text)


# --- YAML -------------------------------------------------------------------------------------------------------------


def diagnostics(path: Path) -> Sequence[Diagnostic]:
    """Return all diagnostics of a spec, failed expectations included."""
    try:
        loaded = load(f"./{path}")
        return unmet(loaded, elaborate(loaded))
    except SpecError as error:
        return error.diagnostics


@pytest.mark.parametrize("fence", YAML, ids=lambda fence: fence.id)
def test_yaml(fence: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each YAML example elaborates, or is refused with the code that the page states."""
    monkeypatch.chdir(prepare_folder(fence.page, tmp_path))
    path = Path(fence.marks.get("file", "example.yaml"))
    path.write_text(wrapped(fence), "utf-8")
    wrong = fence.marks.get("wrong")
    assert wrong is None or wrong in CODES
    problems = diagnostics(path)
    assert {diagnostic.code for diagnostic in problems} == ({wrong} if wrong else set()), problems


@pytest.mark.parametrize("fence", [fence for fence in YAML if "wrong" not in fence.marks], ids=lambda fence: fence.id)
def test_editors_take_what_the_pages_show(fence: Fence) -> None:
    """The JSON Schema accepts every valid YAML example."""
    document = plain(read(Source(fence.id, wrapped(fence))))
    assert [error.message for error in SCHEMA.iter_errors(document)] == []


# --- commands ---------------------------------------------------------------------------------------------------------


def sessions(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a console block with the lines of its output."""
    command: str | None = None
    shown: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            if command is not None:
                yield command, shown
            command, shown = line[2:], []
        else:
            assert command is not None, "a console block begins with a command"
            shown.append(line)
    if command is not None:
        yield command, shown


def matches(shown: list[str], printed: list[str]) -> bool:
    """Return whether the output matches; a line `...` matches any lines, and `...` within a line any number."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.sub(r"\\\.\\\.\\\.(?=.)", r"[-+.e0-9]+", re.escape(line)) + r"\n"
        for line in shown
    )
    return re.fullmatch(pattern, "".join(f"{line.rstrip()}\n" for line in printed)) is not None


@pytest.mark.parametrize("page", COMMANDS, ids=lambda page: page.name)
@pytest.mark.slow_for(*SLOW)
def test_console(page: Path, tmp_path: Path) -> None:
    """The commands of a page, run in order, print the shown output, and fail only where an error is shown."""
    folder = prepare_folder(page, tmp_path)
    for fence in (fence for fence in CONSOLE if fence.page == page):
        for command, shown in sessions(fence.text):
            printed, failed = run(command, folder)
            assert matches(shown, printed.splitlines()), f"{fence.id}: $ {command}\n{printed}"
            assert failed == any("error[" in line for line in shown), f"{fence.id}: $ {command}\n{printed}"


def run(command: str, folder: Path) -> tuple[str, bool]:
    """Run a command in a folder, and return its output and whether it failed."""
    command, _, into = command.partition(" > ")
    words = shlex.split(command)
    variables = dict(word.split("=", 1) for word in takewhile(_VARIABLE.match, words))
    words = words[len(variables) :]
    if words[:2] == ["pip", "install"]:  # done by `prepare_folder`, since tests use no network
        return "", not (folder / "site").is_dir()
    if words[0] == "cmp":
        return "", (folder / words[1]).read_bytes() != (folder / words[2]).read_bytes()
    assert words[0] in ("rescompile", "python"), command
    program = [sys.executable, *(["-m", "rescompile"] if words[0] == "rescompile" else []), *words[1:]]
    done = subprocess.run(
        program, cwd=folder, env=environment(folder) | variables, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if into else subprocess.STDOUT, text=True, timeout=240, check=False,
    )  # fmt: skip
    if into:
        (folder / into).write_text(done.stdout, "utf-8")
    return done.stderr if into else done.stdout, done.returncode != 0


@pytest.mark.parametrize("fence", CONSOLE, ids=lambda fence: fence.id)
def test_a_changed_output_would_be_seen(fence: Fence) -> None:
    """The comparison can fail: a change in any shown line is detected."""
    for _, shown in sessions(fence.text):
        for line in (line for line in shown if line != "..."):
            assert not matches(shown, [other + "!" if other == line else other for other in shown])


# --- Python -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.name)
@pytest.mark.slow_for("draw.md", "lesions.md", "pytorch.md")
def test_python(page: Path, tmp_path: Path) -> None:
    """The Python programs of the pages run as written."""
    parts = [fence for fence in fences(page) if fence.language == "python" and "file" not in fence.marks]
    assert any(isinstance(node, ast.Assert) for part in parts for node in ast.walk(ast.parse(part.text))), (
        "a program that checks nothing cannot fail"
    )
    folder = prepare_folder(page, tmp_path)
    (folder / "example.py").write_text("\n".join(part.text for part in parts), "utf-8")
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=folder, env=environment(folder), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --- generated pages and tables ---------------------------------------------------------------------------------------


def script(name: str) -> ModuleType:
    """Import a script of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(page: Path) -> Iterator[str]:
    """Yield the lines of a page outside tables and examples, or those of the explanations in errors.yaml."""
    text = page.read_text("utf-8")
    if page.suffix == ".yaml":
        yield from "".join(re.findall(r"^  why: >-\n((?:    .*\n)+)", text, re.MULTILINE)).splitlines()
    elif not text.startswith("<!-- Generated"):
        yield from (line for line in FENCE.sub("", text).splitlines() if not line.lstrip().startswith("|"))


@pytest.mark.parametrize("page", [*PAGES, DOCS / "errors.yaml"], ids=lambda page: page.name)
def test_prose_is_wrapped(page: Path) -> None:
    """No line of prose is longer than LONGEST."""
    assert [line for line in prose(page) if len(line) > LONGEST] == []


def test_table_of_ops_is_up_to_date() -> None:
    """The table of ops is up to date; to renew it, run `python docs/make_ops.py`."""
    assert script("make_ops").renewed(LANGUAGE) == LANGUAGE


def test_list_of_blocks_is_up_to_date() -> None:
    """The list of blocks is up to date; to renew it, run `python docs/make_blocks.py`."""
    assert script("make_blocks").page() == (DOCS / "blocks.md").read_text("utf-8")


@pytest.mark.parametrize(
    "fence", [fence for fence in YAML if fence.marks.get("fragment") == "block"], ids=lambda f: f.id
)
def test_a_block_that_a_page_shows_can_be_listed(fence: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's block example is a valid library file that `make_blocks.py` can list."""
    path = tmp_path / "shown.yaml"
    path.write_text(fence.text, "utf-8")
    make_blocks = script("make_blocks")
    monkeypatch.setattr(make_blocks.library, "blocks", lambda: {"shown": path})
    assert "\n## shown\n\nOption C" in make_blocks.page()


def test_map_of_the_source_is_up_to_date() -> None:
    """The map of the source is up to date; to renew it, run `python docs/make_map.py`."""
    assert script("make_map").page() == (DOCS / "map.md").read_text("utf-8")


@pytest.mark.slow
def test_list_of_the_zoo_is_up_to_date() -> None:
    """The list of the zoo is up to date; to renew it, run `python docs/make_zoo.py`."""
    assert script("make_zoo").page().rstrip() + "\n" == (DOCS / "zoo.md").read_text("utf-8")


def test_every_op_and_attribute_is_in_the_reference() -> None:
    """The reference contains every op and every attribute with its description."""
    for word in ops.WORDS:
        kind, _ = ops.WORDS[word]
        part = LANGUAGE.split(f"### {kind.word}\n")[1].split("\n### ")[0]
        assert f"`{word}`" in part or word == kind.word
        for name, facts in ops.attributes(word).items():
            assert f"| `{name}`" in part
            assert facts.doc in part


def table(section: str) -> list[list[str]]:
    """Return the cells of the first table in a section of the reference."""
    part = LANGUAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)
    assert lines is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def test_every_key_of_a_spec_has_its_row() -> None:
    """The reference has a row for every key of a spec, in the same order."""
    assert [row[0].strip("`") for row in table("Keys of a spec")] == list(Spec.model_fields)


def test_every_key_of_a_block_and_of_a_row_is_explained() -> None:
    """The reference has a row for every key of block definitions and of rows."""
    blocks = {key for row in table("Blocks") for key in re.findall(r"`(\w+)`", row[0])}
    assert blocks == set(Block.model_fields)
    assert {row[0].strip("`") for row in table("Rows")} == set(Use.model_fields)


def test_reserved_words_are_the_enforced_ones() -> None:
    """The reserved words in the reference are exactly those that are enforced."""
    listed = re.search(r"The names of \[ops\]\(#ops\) and the words (.*?) are\s+reserved", LANGUAGE, re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[1])) == names.RESERVED


def test_later_words_are_the_marked_ones() -> None:
    """The reference lists exactly the later words, which specs may still use as their own names."""
    listed = re.search(r"\nLater words so far: (.*?)\.\n", LANGUAGE, re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[1])) == ops.LATER


def test_names_in_expressions_are_the_known_ones() -> None:
    """The reference lists all built-in names and functions of expressions."""
    part = LANGUAGE.split("### Names in expressions\n")[1].split("\n## ")[0]
    assert {*names.BUILTINS, "depth"} <= set(re.findall(r"`(\w+)`", part))
    for function in expressions.FUNCTIONS:
        assert f"`{function}(" in LANGUAGE


def largest(attribute: str) -> int:
    """Find the largest accepted value of a convolution's attribute by bisection."""

    def accepted(value: int) -> bool:
        text = (
            f"rescompile: 1\nname: x\ninput: [1, 1, 1]\nnetwork: [c: {{conv: {{kernel: 1, {attribute}: {value}}}}}]\n"
        )
        try:
            elaborate(from_document(yaml_reader.read(Source("x", text))))
        except SpecError:
            return False
        return True

    low, high = 1, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepted(middle) else (low, middle)
    return low


def test_limits_are_those_of_the_code() -> None:
    """The limits in the reference, which are copied by hand, are those of the code."""
    enforced = {
        "characters in a file": yaml_reader.MAX_BYTES,
        "values in a file": yaml_reader.MAX_NODES,
        "levels of nesting in a file": yaml_reader.MAX_DEPTH,
        "digits of an integer": yaml_reader.MAX_DIGITS,
        "characters of an expression": expressions.MAX_LENGTH,
        "levels of nesting in an expression": expressions.MAX_NESTING,
        "magnitude of a value in an expression": expressions.MAX_MAGNITUDE,
        "characters of a name": next(n for n in range(1, 1000) if names.refusal("a" * (n + 1))),
        "length of a chain of `extends`": inheritance.MAX_BASES,
        "nested blocks": block_uses.MAX_CALLS,
        "`depth`, `copies`, and nodes of a network": evaluator.MAX_NODES,
        "value of an attribute of an op": largest("channels"),
        "a dimension of the input": TypeAdapter(Dimension).json_schema()["maximum"],
        "height or width of a feature map after `upsample`": ops.MAX_SIDE,
        "parameters of a network": elaboration.MAX_PARAMETERS,
        "entries of `set`": inheritance.MAX_SETTINGS,
        "different ops, merges and copies of blocks; equal copies with equal inputs count once": evaluator.MAX_BUILT,
        "errors collected in one spec": MAX_FOUND,
    }
    assert {row[0]: float(row[1].replace(",", "")) for row in table("Limits")} == enforced


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, DOCS / "errors.md", ROOT / "README.md"], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_links(page: Path) -> None:
    """Every relative link points to an existing file and heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(linked.read_text("utf-8")), f"{page.name}: {target}"
