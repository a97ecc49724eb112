"""Records of origin in untrusted files: an error with a code, bounded memory, no code execution, no traceback."""

from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from rescompile.backends.onnx import protobuf
from typer.testing import CliRunner, Result

import rescompile
from rescompile.cli import app

torch = pytest.importorskip("torch", reason="the target torch reads .pt2 files")


def command(*arguments: object) -> Result:
    """Run the command; a traceback fails the test."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done


def archive_with(record: bytes, path: Path, method: int) -> Path:
    """Write an archive with a record of origin, compressed by a method of zipfile, and return its path."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/extra/rescompile.json", record)
    return path


RECORD = {
    "text": "a: 1\n", "sha256": hashlib.sha256(b"a: 1\n").hexdigest(), "passes": ["drop=x; rm -rf ~"],
    "options": ["for=ort-cpu"],
}  # fmt: skip


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_record_in_another_compression(method: int, tmp_path: Path) -> None:
    """Such a record is refused, because zipfile does not bound the size to which these methods unpack."""
    done = command("extract", archive_with(b"{}", tmp_path / "net.pt2", method))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "its record is compressed by another method than deflate" in done.stderr


def test_a_record_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    """A record is refused by its stated size; where it states less, no more is read."""
    path = tmp_path / "net.pt2"
    size = (64 << 20).to_bytes(4, "little")
    archive_with(b"0" * (64 << 20), path, zipfile.ZIP_DEFLATED)
    honest = path.read_bytes()
    assert len(honest) < 1 << 20
    for stated in (64 << 20, 100):
        path.write_bytes(honest.replace(size, stated.to_bytes(4, "little")))
        tracemalloc.start()
        try:
            done = command("extract", path)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith("error[E0801]: ")
        assert most < 8 << 20


def test_damaged_archives(tmp_path: Path) -> None:
    """`extract` of an archive with a changed byte, or truncated, returns the spec or an error."""
    path = archive_with(json.dumps(RECORD).encode(), tmp_path / "net.pt2", zipfile.ZIP_DEFLATED)
    assert command("extract", path).stdout == RECORD["text"]
    damage(path, RECORD["text"], range(0, len(path.read_bytes()), 2))


def test_damaged_models(tmp_path: Path) -> None:
    """`extract` of a damaged ONNX file returns the spec or an error; its metadata are at the end."""
    path = tmp_path / "net.onnx"
    rescompile.build("resnet20_cifar", "onnx", structure_only=True).write(path)
    size = len(path.read_bytes())
    spec = command("extract", path).stdout
    damage(path, spec, [*range(0, 60, 3), *range(size - 1200, size, 17)])


def damage(path: Path, spec: str, places: Iterable[int]) -> None:
    """Change each of some bytes, and truncate the file there; assert that `extract` returns this spec or an error."""
    whole, rng = path.read_bytes(), random.Random(0)
    for at in places:
        for damaged in (whole[:at] + bytes([whole[at] ^ rng.randint(1, 255)]) + whole[at + 1 :], whole[:at]):
            path.write_bytes(damaged)
            done = command("extract", path)
            assert done.exit_code in (0, 1, 2), done.output
            assert done.stdout == (spec if done.exit_code == 0 else "")


def test_huge_fields_and_too_many_fields(tmp_path: Path) -> None:
    """A huge field, and too many fields, are refused before they take memory or time."""
    path = tmp_path / "net.onnx"
    huge = (protobuf.data(14, protobuf.text(1, "k") + protobuf.data(2, bytes(17 << 20))), "a text has more than")
    for text, message in (huge, (b"\x08\x01" * 1_100_000, "a message has more than 1,048,576 fields")):
        path.write_bytes(text)
        done = command("extract", path)
        assert (done.exit_code, done.stdout) == (2, "")
        assert message in done.stderr


def test_options_of_a_record_are_quoted(tmp_path: Path) -> None:
    """Words of a record, which may have been edited, are quoted for the shell."""
    path = archive_with(json.dumps(RECORD).encode(), tmp_path / "net.pt2", zipfile.ZIP_STORED)
    done = command("extract", path)
    assert done.exit_code == 0, done.output
    assert done.stderr == "built with '--drop=x; rm -rf ~' --for=ort-cpu --no-fold-batchnorm\n"
