"""The common parser for the options of passes, targets and runtimes."""

from __future__ import annotations

from typing import Any

import pytest

from rescompile.diagnostics.errors import UsageError
from rescompile.options import Option, assignment, read

TABLE = (
    Option("threads", int, None, "", 1, 64),
    Option("share", float, 0.5, ""),
    Option("graph", bool, False, ""),
    Option("style", str, None, "", choices=("classes", "flat")),
)


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (["threads=8", "graph"], {"threads": 8, "graph": True}),
        (["share=1e-3", "style"], {"share": 1e-3, "style": "classes"}),
        (["graph=false", "style=flat"], {"graph": False, "style": "flat"}),
        ([], {}),
    ],
)
def test_values_are_converted_to_the_types_of_options(given: list[str], values: dict[str, Any]) -> None:
    """Texts are converted to the types of the options; flags and choices may omit their value."""
    assert read(map(assignment, given), TABLE, "it") == values


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("threads", "0", "threads must be an integer from 1 to 64, not '0'"),
        ("threads", "1_0", "an integer from 1 to 64, not '1_0'"),
        ("threads", True, "an integer from 1 to 64, not True"),
        ("threads", "9" * 5000, "an integer from 1 to 64, not '999"),
        ("threads", None, "threads needs a value: an integer from 1 to 64"),
        ("share", "nan", "share must be a number, not 'nan'"),
        ("graph", "yes", "graph must be true or false, not 'yes'"),
        ("style", "flta", "style must be classes or flat, not 'flta'"),
        ("thraeds", "1", "it has no option 'thraeds'"),
    ],
)
def test_wrong_values_are_refused(name: str, value: Any, message: str) -> None:
    """A wrong value raises a UsageError that states the expected value and the given one."""
    with pytest.raises(UsageError) as caught:
        read([(name, value)], TABLE, "it")
    assert message in caught.value.diagnostics[0].message


def test_help_for_misspelt_words() -> None:
    """A misspelt option or choice gets a suggestion; a repeated option is refused."""
    for name, value, word in (("thraeds", "1", "threads"), ("style", "flta", "flat")):
        with pytest.raises(UsageError) as caught:
            read([(name, value)], TABLE, "it")
        assert caught.value.diagnostics[0].help == f"did you mean '{word}'?"
    with pytest.raises(UsageError, match="twice"):
        read([("graph", None), ("graph", None)], TABLE, "it")
