"""Files are written completely or not at all, for any fault at any call and any number of writing processes."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from faults import FAULTS, exit_code, forked, injected, outcome

from rescompile.files.atomic_write import Chunk, File, write_files
from rescompile.files.checksum import GENERATOR, with_checksum

fcntl = pytest.importorskip("fcntl", reason="Windows has no fork and no flock")


def content(version: str) -> list[Chunk]:
    """Return the contents of a data file of more than one buffer."""
    return list(with_checksum([version.encode() * 25_000], b"", b"  "))


def artifact(version: str) -> list[File]:
    """Return a data file, and a file that refers to it by name."""
    names: list[str] = []

    def main() -> list[Chunk]:
        return [f"{version} {names[-1]} {GENERATOR}".encode()]

    return [File("m.onnx.{checksum}.data", lambda: content(version), named=names.append), File("m.onnx", main)]


def version_of(folder: Path) -> str | None:
    """Check the data of the artifact in a folder, and return its version, or None if there is none."""
    if not (folder / "m.onnx").exists():
        return None
    version, name, _ = (folder / "m.onnx").read_text().split(" ", 2)
    assert (folder / name).read_bytes() == b"".join(bytes(chunk) for chunk in content(version))
    return version


def assert_only(folder: Path, version: str) -> None:
    """Assert that a folder contains this version of the artifact and nothing else."""
    assert version_of(folder) == version
    data = zlib.crc32(b"".join(bytes(chunk) for chunk in content(version)))
    assert sorted(os.listdir(folder)) == ["m.onnx", f"m.onnx.{data:08x}.data"]


def attempts(tmp_path: Path, fault: str, old: str | None) -> Iterator[tuple[Path, int]]:
    """Yield the folder and the exit code of one attempt to write for each call, with the fault at that call."""
    point, code = 0, -1
    while code != 0 or point < 20:
        point += 1
        folder = tmp_path / str(point)
        folder.mkdir()
        if old:
            write_files(artifact(old), folder)
        reached = folder.with_suffix(".reached")

        def attempt(folder: Path = folder, point: int = point, reached: Path = reached) -> None:
            with injected(fault, point) as faults:
                write_files(artifact("new"), folder)
            if faults.calls >= point:
                reached.touch()

        code = outcome(attempt)
        yield folder, code
        if code == 0 and reached.exists():
            code = -1  # the attempt succeeded despite the fault, and there may be more calls
    assert point > 30, "the calls were not counted"


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_call(fault: str, old: str | None, tmp_path: Path) -> None:
    """After a fault the old or the new artifact is complete; the next run leaves only its own files."""
    ends = {"kill -9": {137}, "Ctrl-C": {130}}.get(fault, {0, 5})
    for folder, code in attempts(tmp_path, fault, old):
        assert code in ends | {0}
        assert version_of(folder) in ({"new"} if code == 0 else {old, "new"})
        if fault != "kill -9" and code == 5:
            assert version_of(folder) == old, "exit code 5, but the new artifact was written"
        write_files(artifact("next"), folder)
        assert_only(folder, "next")


def test_an_error_leaves_no_temporary_file(tmp_path: Path) -> None:
    """After an error no temporary file is left, unless it is the removal that fails."""
    for fault in ("ENOSPC", "Ctrl-C"):
        (tmp_path / fault).mkdir()
        left = [list(folder.glob(".rescompile-*")) for folder, _ in attempts(tmp_path / fault, fault, "old")]
        assert sum(map(bool, left)) <= 2  # at the two calls that remove temporary files


def test_processes_that_write_at_once(tmp_path: Path) -> None:
    """Eight processes write to one folder while others are killed; none removes the temporary file of another one that is alive."""
    folder = tmp_path / "out"
    folder.mkdir()

    def write_many(number: int) -> None:
        for turn in range(15):
            write_files(artifact(f"v{number}.{turn}"), folder)

    def write_until_killed() -> None:
        while True:
            write_files(artifact("killed"), folder)

    children = [forked(partial(write_many, number)) for number in range(8)]
    for wait in (0.01, 0.02, 0.03, 0.05, 0.08):
        child = forked(write_until_killed)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        assert exit_code(child) == 137
    assert [exit_code(child) for child in children] == [0] * 8
    assert version_of(folder) is not None
    write_files(artifact("next"), folder)
    assert_only(folder, "next")


def test_no_build_comes_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second build waits while the first has renamed only its data file, which it would remove otherwise."""
    renamed, go, replace = threading.Event(), threading.Event(), os.replace

    def slowly(source: Path, target: Path) -> None:
        replace(source, target)
        if threading.current_thread().name == "slow" and target.suffix == ".data":
            renamed.set()
            assert go.wait(60)

    monkeypatch.setattr(os, "replace", slowly)
    builds = [
        threading.Thread(target=write_files, args=(artifact(name), tmp_path), name=name) for name in ("slow", "fast")
    ]
    builds[0].start()
    assert renamed.wait(60)
    builds[1].start()
    builds[1].join(0.5)
    go.set()
    for build in builds:
        build.join(60)
    assert_only(tmp_path, "fast")


def test_the_lock_is_released_if_closing_the_folder_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of a folder is released even if closing it fails, as the same process would otherwise wait forever."""
    close, left = os.close, []

    def failing(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            left.append(handle)
            raise OSError(errno.EIO, "")
        close(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", failing)
        write_files(artifact("new"), tmp_path)
    again = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for handle in (*left, again):
        close(handle)
    assert len(left) == 1


def test_only_abandoned_files_of_ours_are_removed(tmp_path: Path) -> None:
    """An abandoned temporary file is removed; links, folders, pipes and files with other names are kept."""
    (tmp_path / "aim").write_text("mine")
    (tmp_path / ".rescompile-1-00000001").symlink_to(tmp_path / "aim")
    (tmp_path / ".rescompile-1-00000002").mkdir()
    os.mkfifo(tmp_path / ".rescompile-1-00000003")
    (tmp_path / ".rescompile-notes").write_text("mine")
    (tmp_path / ".rescompile-1-00000004").write_text("abandoned")
    before = set(os.listdir(tmp_path))
    write_files(artifact("new"), tmp_path)
    assert before - set(os.listdir(tmp_path)) == {".rescompile-1-00000004"}
    assert version_of(tmp_path) == "new"
