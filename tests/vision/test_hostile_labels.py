"""Unusual or broken label files give one coded error that names the file, in bounded memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rescompile.diagnostics.errors import UsageError
from rescompile.vision import labels

JSON = {
    "an integer of 5,000 digits": "[" + "9" * 5000 + "]",
    "such an integer in a mapping": '{"0": ' + "9" * 5000 + "}",
    "deep lists": "[" * 100_000,
    "deep mappings": '{"0":' * 100_000,
    "numbers": "[1, 2]",
    "not a number": '["a", NaN]',
    "nothing": "",
    "null": "null",
    "an empty list": "[]",
    "classes that are missing": '{"0": "a", "2": "b"}',
    "an empty label list": '{"0": []}',
    "a list of lists": '[["a"]]',
    "an end that is cut off": '["a", "b',
}
TEXT = {
    "not UTF-8": b"\xff\xfe\xfa",
    "an empty line": b"a\n\nb",
    "UTF-16": "a\nb".encode("utf-16"),
}


def refused(path: Path) -> str:
    """Return the message with which a label file is refused."""
    with pytest.raises(UsageError) as caught:
        labels.read(str(path))
    (problem,) = caught.value.diagnostics
    assert problem.code in ("E0801", "E0831")
    place = problem.place.source.name if problem.place else ""
    assert path.name in problem.message + place
    return problem.message


@pytest.mark.parametrize("case", JSON)
def test_invalid_json_is_refused(case: str, tmp_path: Path) -> None:
    """Invalid JSON label files are refused with a short message."""
    (tmp_path / "l.json").write_text(JSON[case], "utf-8")
    assert len(refused(tmp_path / "l.json")) < 300


@pytest.mark.parametrize("case", TEXT)
def test_invalid_text_is_refused(case: str, tmp_path: Path) -> None:
    """Text label files that are not UTF-8, or have an empty line, are refused."""
    (tmp_path / "l.txt").write_bytes(TEXT[case])
    refused(tmp_path / "l.txt")


def test_special_files_are_refused(tmp_path: Path) -> None:
    """A pipe or a folder is refused, and the message states what it is."""
    os.mkfifo(tmp_path / "pipe.txt")
    assert "is not a regular file" in refused(tmp_path / "pipe.txt")
    assert "is a folder" in refused(tmp_path)


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    """A label file above the size limit is refused unread."""
    with (tmp_path / "l.txt").open("wb") as file:
        file.truncate(1 << 34)
    assert "more than 16,777,216 bytes" in refused(tmp_path / "l.txt")


def test_labels_of_keras(tmp_path: Path) -> None:
    """The valid Keras mapping of class index to (WordNet ID, label) is accepted."""
    (tmp_path / "l.json").write_text(json.dumps({"1": ["n1", "b"], "0": ["n0", "a"]}))
    assert labels.read(str(tmp_path / "l.json")) == ["a", "b"]
