"""Invalid specs: every mistake that a spec can contain, with its exact message.

Each `bad/<mistake>.yaml` (or `bad/<mistake>/main.yaml` if several files are needed) has a `<mistake>.txt`, the standard error of
`rescompile validate`; lines `# --set path=value` at its top are options of the command. `pytest --update-golden` rewrites the
texts: review the difference as the user who made that mistake. Line numbers in library blocks are written as N, since blocks
change; `test_lines_of_the_library` checks them.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mutations import mutant
from refusals import hold, refusal, text_of

from rescompile.diagnostics.codes import CODES
from rescompile.diagnostics.errors import MAX_FOUND, MAX_SHOWN, RescompileError, UsageError
from rescompile.diagnostics.rendering import render
from rescompile.ir import ops
from rescompile.ir.expressions import MAX_LENGTH
from rescompile.lang import library
from rescompile.lang.yaml_reader import MAX_BYTES, MAX_DEPTH, MAX_NODES

BAD = Path(__file__).parent / "bad"
CASES = sorted(
    path.relative_to(BAD).as_posix() for path in BAD.rglob("*.yaml") if path.parent == BAD or path.name == "main.yaml"
)
#: The codes that a spec can cause: reading, shapes, values, blocks, inheritance, the whole.
CAUSED_BY_SPECS = sorted(code for code in CODES if code < "E07")
LIBRARY = re.compile(r"\bblocks/(\w+)\.yaml:(\d+)")
HEAD = "rescompile: 1\nname: my_net\ninput: [3, 32, 32]\n"


def settings(case: str) -> list[str]:
    """Return the `--set` options of a case."""
    return re.findall(r"^# --set (.*)$", (BAD / case).read_bytes().decode("utf-8", "replace"), re.MULTILINE)


def refused(case: str) -> RescompileError:
    """Return the error of a case, which must be refused."""
    error = refusal(case, settings(case))
    assert error is not None, f"{case} was accepted"
    return error


def golden(case: str) -> Path:
    """Return the path of the golden message of a case."""
    return (BAD / case).with_suffix(".txt")


@pytest.fixture(autouse=True)
def _in_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the folder of the cases, since messages contain paths as given."""
    monkeypatch.chdir(BAD)


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_message(case: str, update_golden: bool) -> None:
    """The message of each case equals the golden file."""
    text = LIBRARY.sub(r"blocks/\1.yaml:N", text_of(refused(case)))
    if update_golden:
        golden(case).write_text(text, encoding="utf-8", newline="\n")
    assert golden(case).is_file(), "run pytest --update-golden, and review the new file"
    assert text == golden(case).read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_located_in_files_of_the_user(case: str) -> None:
    """A mistake is located at text in a file or option of the user, even if it occurs inside a library block or a spec of the zoo,
    and no diagnostic is repeated."""
    error = refused(case)
    hold(error)
    reported = [(diagnostic.code, str(diagnostic.place), diagnostic.message) for diagnostic in error.diagnostics]
    assert len(reported) == len(set(reported))
    for diagnostic in error.diagnostics:
        if (place := diagnostic.place) is None:
            continue
        assert place.source.name == "--set" or (BAD / place.source.name).is_file(), (
            f"{place} is not in a file of the user"
        )
        line = place.source.line(place.line)
        marked = line[place.column - 1 : place.end - 1].strip(" ")
        missing = line[: place.column - 1].rstrip().endswith(("-", ":"))
        empty = all(line.lstrip()[:1] in ("", "#", "-") for line in place.source.text.splitlines())
        assert marked or missing or empty, f"{place} points at nothing: {diagnostic.message}"


def test_lines_of_the_library() -> None:
    """A note with a location in a library block refers to the line of the step that it names."""
    notes = [note for case in CASES for diagnostic in refused(case).diagnostics for note in diagnostic.notes]
    found = [(note, match) for note in notes if (match := LIBRARY.search(note))]
    assert len(found) > 10
    for note, match in found:
        lines = library.blocks()[match[1]].read_text(encoding="utf-8").splitlines()[: int(match[2])]
        assert "body:" in lines[:-1], f"{note} is above the steps"
        step = next(line for line in reversed(lines) if line.lstrip().startswith(("- ", "shortcut:", "gate:")))
        named = re.search(r", step ([^ ,]+)", note)
        assert named is None or f"{named[1]}:" in step, f"{note}: {step}"


@pytest.mark.parametrize("case", CASES)
def test_diagnostics_are_in_the_order_of_the_text(case: str) -> None:
    """Diagnostics are sorted by their location, so that a user can correct a file from top to bottom."""
    places = [diagnostic.place for diagnostic in refused(case).diagnostics]
    located = [(place.line, place.column) for place in places if place is not None and place.source.name == case]
    assert located == sorted(located)


@pytest.mark.parametrize("case", CASES)
def test_the_exit_code_follows_from_the_code(case: str) -> None:
    """The exit code is that of the group of the error codes."""
    error = refused(case)
    kinds = {"E07": 1, "E08": 2}
    assert {kinds.get(diagnostic.code[:3], 3) for diagnostic in error.diagnostics} == {error.exit_code}


def test_no_message_without_a_case() -> None:
    """Every golden message belongs to a case."""
    assert {path.relative_to(BAD) for path in BAD.rglob("*.txt")} <= {Path(case).with_suffix(".txt") for case in CASES}


@pytest.mark.parametrize("code", CAUSED_BY_SPECS)
def test_every_code_has_a_case(code: str) -> None:
    """Every code that a spec can cause has a case."""
    assert any(f"error[{code}]" in path.read_text(encoding="utf-8") for path in BAD.rglob("*.txt"))


def test_all_mistakes_are_reported_at_once() -> None:
    """One run reports every mistake of a kind."""
    wrong_lines = {
        "several_mistakes_of_reading.yaml": {3, 5, 6, 7},
        "several_mistakes_of_form.yaml": {2, 4, 7, 9, 10, 11},
        "several_mistakes_of_words.yaml": {4, 5, 6, 9, 10, 11, 12},
        "several_mistakes_of_values.yaml": {8, 9, 10, 11, 12},
    }
    for case, lines in wrong_lines.items():
        assert {diagnostic.place.line for diagnostic in refused(case).diagnostics if diagnostic.place} >= lines, case


# --- specs too large to commit ----------------------------------------------------------------------------------------


def chain(folder: Path, length: int) -> Path:
    """Write a chain of specs that extend one another, and return the first."""
    for number in range(length):
        (folder / f"n{number}.yaml").write_text(f"rescompile: 1\nname: n{number}\nextends: n{number + 1}.yaml\n")
    (folder / f"n{length}.yaml").write_text(HEAD + "network: [relu]\n")
    return folder / "n0.yaml"


def doubling(levels: int, body: str) -> str:
    """Return a spec in which each block uses the next one twice, so that a short text gives 2^levels nodes."""
    blocks = "".join(f"  b{n}: {body.replace('NEXT', f'b{n + 1}')}\n" for n in range(levels))
    return f"{HEAD}blocks:\n{blocks}  b{levels}: {{inline: true, body: [relu]}}\nnetwork: [z: {{block: b0}}]\n"


LETS = "".join(f"      a{n}: [{f'a{n - 1}' if n else 1}, {f'a{n - 1}' if n else 1}]\n" for n in range(40))
#: By name: the expected code and place (12 values precede the list of `values`), and the text.
HUGE: dict[str, tuple[str, str, Callable[[], str]]] = {
    "flow lists": ("E0107", f"4:{11 + MAX_DEPTH - 1}", lambda: f"{HEAD}network: {'[' * 100_000}{']' * 100_000}\n"),
    "flow mappings": ("E0107", f"4:{10 + 4 * (MAX_DEPTH - 1) + 1}", lambda: f"{HEAD}network: {'{a: ' * 100_000}1{'}' * 100_000}\n"),
    "block lists": ("E0107", f"5:{3 + 2 * MAX_DEPTH}", lambda: f"{HEAD}network: \n  {'- ' * 100_000}relu\n".replace(": \n  ", ":\n  ")),
    "values": ("E0107", f"4:{11 + 6 * (MAX_NODES - 12)}", lambda: f"{HEAD}network: [{'relu, ' * (MAX_NODES + 1)}relu]\n"),
    "bytes": ("E0107", "1:1", lambda: f"{HEAD}network: [relu]\n# {'x' * MAX_BYTES}\n"),
    "a long line": ("E0401", f"4:{11 + 6 * 5_000}", lambda: f"{HEAD}network: [{'relu, ' * 5_000}rlu]\n"),
    "a long word": ("E0401", "4:11", lambda: f"{HEAD}network: [{'k' * 500_000}]\n"),
    "a long key": ("E0102", "5:3", lambda: f"{HEAD}network: [relu]\n? {'k' * 500_000}\n: 1\n"),
    "a long expression": ("E0301", "4:19", lambda: f"{HEAD}network: [{{scale: {'1 + ' * MAX_LENGTH}1}}]\n"),
    "a large integer": ("E0107", "4:19", lambda: f"{HEAD}network: [{{scale: {'9' * 100_000}}}]\n"),
    "nodes of blocks": ("E0208", "36:11", lambda: doubling(30, "{body: [{x: {block: NEXT}}, {y: {block: NEXT}}]}")),
    "nodes of macros": ("E0208", "36:11", lambda: doubling(30, "{inline: true, body: [NEXT, NEXT]}")),
    "copies": ("E0208", "4:42", lambda: f"{HEAD}network: [parallel: {{merge: add, copies: 90000000, branch: relu}}]\n"),
    "lists in lists": ("E0208", "48:11", lambda: f"{HEAD}blocks:\n  m:\n    let:\n{LETS}    body: [relu]\nnetwork: [x: {{block: m}}]\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", HUGE)
@pytest.mark.slow
def test_huge(what: str, tmp_path: Path) -> None:
    """A text that is too long or too deep, or that gives too large a network, is refused at once in a short message."""
    code, place, text = HUGE[what]
    (tmp_path / "huge.yaml").write_text(text())
    command = [sys.executable, "-m", "rescompile", "validate", "huge.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3, done.stderr[:2000]
    assert len(done.stderr) < 2_000, "a single message without a line of a megabyte"
    assert re.findall(r"^huge\.yaml:(\d+:\d+): error\[(\w+)\]", done.stderr, re.MULTILINE) == [(place, code)]


#: By name: the number of mistakes that is found, and the text.
MANY: dict[str, tuple[int, Callable[[], str]]] = {
    "unknown words": (MAX_FOUND, lambda: f"{HEAD}network:\n" + "  - foo\n" * 20_000),
    "different words": (MAX_FOUND, lambda: f"{HEAD}network:\n" + "".join(f"  - foo{n}\n" for n in range(5_000))),
    "unknown keys": (MAX_FOUND, lambda: f"{HEAD}network: [relu]\n" + "".join(f"k{n}: 1\n" for n in range(5_000))),
    "keys given again": (MAX_FOUND, lambda: f"{HEAD}network: [relu]\n" + "k: 1\n" * 5_000),
    "empty rows": (MAX_FOUND, lambda: f"{HEAD}network:\n" + "  -\n" * 5_000),
    "unused parameters": (MAX_FOUND, lambda: f"{HEAD}network: [relu]\nparameters:\n" + "".join(f"  a{n}: 1\n" for n in range(5_000))),
    "wrong values": (MAX_FOUND, lambda: f"{HEAD}network:\n" + "".join(f"  - a{n}: {{conv: {{channels: 8.5, kernel: 3}}}}\n" for n in range(5_000))),
    "blocks in a circle": (MAX_FOUND, lambda: f"{HEAD}network: [relu]\nblocks:\n" + "".join(f"  b{n}: {{body: [b{(n + 1) % 5_000}]}}\n" for n in range(5_000))),
    "aliases": (81, lambda: HEAD + "".join(f"{key}: &{key} [{', '.join([f'*{key}'] * 8)}]\n" for key in "abcdefghj")),
}  # fmt: skip


@pytest.mark.parametrize("what", MANY)
def test_many_mistakes(what: str, tmp_path: Path) -> None:
    """Many mistakes take linear time; the first ones are shown, and the others counted."""
    count, text = MANY[what]
    (tmp_path / "many.yaml").write_text(text())
    began = time.process_time()
    error = refusal(tmp_path / "many.yaml")
    assert error is not None
    shown = text_of(error)
    assert time.process_time() - began < 4, "this used to take minutes"
    assert len(error.diagnostics) == count
    assert shown.count(": error[") == MAX_SHOWN
    least = "at least " if count == MAX_FOUND else ""
    assert shown.endswith(f"\n... and {least}{count - MAX_SHOWN} more mistakes\n")
    assert len(json.loads(render(error.diagnostics, "json"))["diagnostics"]) == count
    assert str(error).count("\n") == MAX_SHOWN


def test_chain_of_bases(tmp_path: Path) -> None:
    """A chain of 10 bases is accepted, and one of 1,500 is refused before Python's recursion limit."""
    (tmp_path / "short").mkdir()
    assert refusal(chain(tmp_path / "short", 10)) is None
    error = refusal(chain(tmp_path, 1500))
    assert error is not None
    hold(error)
    assert [diagnostic.code for diagnostic in error.diagnostics] == ["E0502"]


# --- the command ------------------------------------------------------------------------------------------------------


def validate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `rescompile validate` in a separate process."""
    command = [sys.executable, "-m", "rescompile", "validate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False)


def test_command_text() -> None:
    """The text on stderr equals the golden file, and the exit code is that of an invalid spec."""
    done = validate("several_mistakes_of_words.yaml")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == golden("several_mistakes_of_words.yaml").read_text(encoding="utf-8")


def test_command_with_set() -> None:
    """A mistake in `--set` is located in that option."""
    case = "option_set_a_row_misspelt.yaml"
    done = validate(case, *(f"--set={setting}" for setting in settings(case)))
    assert (done.returncode, done.stdout, done.stderr) == (3, "", golden(case).read_text(encoding="utf-8"))


def test_command_json() -> None:
    """JSON on stdout contains every field of a diagnostic."""
    case = "groups_do_not_divide.yaml"
    done = validate(case, "--format", "json")
    assert (done.returncode, done.stderr) == (3, "")
    (found,) = json.loads(done.stdout)["diagnostics"]
    (expected,) = refused(case).diagnostics
    assert expected.place is not None
    assert found == {
        "code": "E0203", "message": expected.message, "file": case, "line": expected.place.line,
        "column": expected.place.column, "end_column": expected.place.end, "notes": list(expected.notes), "help": expected.help,
    }  # fmt: skip


def test_command_github() -> None:
    """Each diagnostic is a GitHub workflow command on one line."""
    done = validate("several_mistakes_of_reading.yaml", "--format", "github")
    assert (done.returncode, done.stderr) == (3, "")
    expected = refused("several_mistakes_of_reading.yaml").diagnostics
    lines = done.stdout.splitlines()
    assert len(lines) == len(expected)
    for line, diagnostic in zip(lines, expected, strict=True):
        place = diagnostic.place
        assert place is not None
        where = f"file={place.source.name},line={place.line},col={place.column},endColumn={place.end}"
        assert line.startswith(f"::error {where},title={diagnostic.code}::")


def test_command_github_escapes() -> None:
    """Text in a message can neither end a workflow command nor start another."""
    done = validate("escape_codes_in_a_word.yaml", "--format", "github")
    assert done.returncode == 3
    assert all(line.startswith("::error ") for line in done.stdout.splitlines())
    assert "\x1b" not in done.stdout


def test_command_sarif() -> None:
    """Every SARIF result has a rule and a region, as code scanning requires."""
    done = validate("several_mistakes_of_words.yaml", "--format", "sarif")
    assert (done.returncode, done.stderr) == (3, "")
    log = json.loads(done.stdout)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    expected = refused("several_mistakes_of_words.yaml").diagnostics
    rules = {rule["id"]: rule["shortDescription"]["text"] for rule in run["tool"]["driver"]["rules"]}
    assert rules == {diagnostic.code: CODES[diagnostic.code] for diagnostic in expected}
    for result, diagnostic in zip(run["results"], expected, strict=True):
        location = result["locations"][0]["physicalLocation"]
        place = diagnostic.place
        assert place is not None
        assert result["ruleId"] == diagnostic.code
        assert result["message"]["text"].startswith(diagnostic.message)
        assert location["artifactLocation"]["uri"] == "several_mistakes_of_words.yaml"
        assert location["region"] == {"startLine": place.line, "startColumn": place.column, "endColumn": place.end}


def test_command_exit_codes(tmp_path: Path) -> None:
    """Failed expectations exit with 1 and missing files with 2; an invalid spec takes precedence over a failed expectation."""
    assert validate("expected_figure_not_met.yaml").returncode == 1
    assert validate("no_such_file.yaml").returncode == 2
    assert validate("expected_figure_not_met.yaml", "alias.yaml").returncode == 3
    assert validate("option_set_without_a_path.yaml", "--set", "=3").returncode == 2


def test_command_checks_all_files(tmp_path: Path) -> None:
    """All files of a folder are checked, even if some are invalid."""
    for name in ("not_utf8", "zero_byte", "alias", "groups_do_not_divide", "linear_on_a_map"):
        (tmp_path / f"{name}.yaml").write_bytes((BAD / f"{name}.yaml").read_bytes())
    (tmp_path / "right.yaml").write_text(HEAD + "network: [relu]\n")
    done = validate(str(tmp_path), "--json")
    assert done.returncode == 3
    found = {Path(entry["spec"]).stem: entry["ok"] for entry in json.loads(done.stdout)["specs"]}
    assert found == {
        "alias": False, "groups_do_not_divide": False, "linear_on_a_map": False, "not_utf8": False, "right": True,
        "zero_byte": False,
    }  # fmt: skip


# --- fuzz -------------------------------------------------------------------------------------------------------------

NOISE = [
    *"[]{}:,-&*!|>'\"%@`#?~\n\t ",
    "- ",
    ": ",
    "\n  ",
    "\n    - ",
    *ops.WORDS,
    *("block", "depth", "each", "if", "1", "2.5", "-3"),
]
ROUNDS, CHUNK = 300, 50


def survives(path: Path, settings: tuple[str, ...] = ()) -> bool:
    """Return whether a text is accepted; if it is not, check its errors."""
    error = refusal(path, settings)
    if error is not None:
        hold(error)
    return error is None


#: The seeds in chunks, so that one failure does not hide all others.
CHUNKS = [range(start, start + CHUNK) for start in range(0, ROUNDS, CHUNK)]


@pytest.mark.parametrize("seeds", CHUNKS, ids=str)
@pytest.mark.slow
def test_mutated_specs(seeds: range, tmp_path: Path) -> None:
    """A mutated text of the zoo or the library is accepted or refused with a location, never with a traceback. `make fuzz` runs
    many more, with limits on time and memory."""
    path, accepted = tmp_path / "mutated.yaml", []
    for seed in seeds:
        case = mutant(seed)
        path.write_text(case.text, encoding="utf-8")
        try:
            accepted.append(survives(path, case.settings))
        except Exception as error:
            error.add_note(f"seed {seed}:\n{case.text[:4000]}")
            raise
    assert 0 < sum(accepted) < len(accepted), "mutations that all pass, or all fail, test nothing"


#: Seeds that failed in the past: messages that quoted a whole text, and a scan of brackets by the slow parser.
REGRESSIONS = (718, 801, 1991, 22_686)


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_mutants_that_failed_in_the_past(seed: int, tmp_path: Path) -> None:
    """Mutants that failed in the past are accepted or refused properly."""
    path = tmp_path / "mutated.yaml"
    path.write_text(mutant(seed).text, encoding="utf-8")
    survives(path, mutant(seed).settings)


@pytest.mark.parametrize("seeds", CHUNKS, ids=str)
def test_random_bytes(seeds: range, tmp_path: Path) -> None:
    """Random bytes, alone and after the head of a spec, and YAML-like noise are accepted or refused properly."""
    path = tmp_path / "bytes.yaml"
    for seed in seeds:
        generator = random.Random(seed)
        noise = generator.randbytes(generator.randint(1, 300))
        words = "".join(generator.choice(NOISE) for _ in range(generator.randint(1, 60)))
        head = f"{HEAD}network: ".encode()
        for data in (noise, head + noise, head + words.encode(), bytes(b & 0x7F for b in noise)):
            path.write_bytes(data)
            try:
                survives(path)
            except Exception as error:
                error.add_note(f"seed {seed}: {data!r}")
                raise


@pytest.mark.parametrize("seeds", CHUNKS, ids=str)
def test_random_settings(seeds: range) -> None:
    """Random paths and values of `--set` are accepted or refused properly."""
    paths = [
        "layer1",
        "layer4",
        "depth",
        "input",
        "parameters",
        "classes",
        "defaults",
        "basic",
        "conv",
        "network",
        "",
        "0",
    ]
    for seed in seeds:
        generator = random.Random(seed)
        path = ".".join(generator.choice(paths) for _ in range(generator.randint(1, 4)))
        value = "".join(generator.choice(NOISE) for _ in range(generator.randint(0, 6)))
        setting = f"{path}={value}"
        try:
            survives(library.zoo()["resnet18"], (setting,))
        except Exception as error:
            error.add_note(f"seed {seed}: --set {setting!r}")
            raise


def test_missing_files() -> None:
    """A missing file and an unknown name are usage errors, with a suggestion if there is a similar name."""
    for argument, help in (("gone.yaml", None), ("./gone", None), ("resnet5", "did you mean 'resnet56'?")):
        error = refusal(argument)
        assert isinstance(error, UsageError)
        assert [diagnostic.code for diagnostic in error.diagnostics] == ["E0801"]
        assert help in (None, error.diagnostics[0].help)
