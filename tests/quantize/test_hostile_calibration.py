"""An unusable file in a calibration folder causes one error with a code and its name; nothing hangs or is unpickled."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rescompile import elaborate, load
from rescompile.diagnostics.errors import UsageError
from rescompile.quantize import calibration


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def header(path: Path, text: str) -> None:
    """Write a .npy file that consists of this header only."""
    data = text.encode().ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(data)) + data)


def dangling(path: Path) -> None:
    """Make a dangling symbolic link."""
    path.symlink_to(path.parent / "nothing")


def linked(path: Path) -> None:
    """Make a symbolic link to itself."""
    path.symlink_to(path)


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a dangling link": dangling,
    "a link to itself": linked,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "objects": lambda path: np.save(path, np.array([Bomb(path.parent / "ran")]), allow_pickle=True),
    "a size that is not there": lambda path: header(
        path, "{'descr': '<f4', 'fortran_order': False, 'shape': (9, 3, 32, 32)}"
    ),
    "a size beyond 64 bits": lambda path: header(
        path, "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 3, 32, 32)}"
    ),
    "a negative size": lambda path: header(path, "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3, 32, 32)}"),
    "code": lambda path: header(path, "__import__('os').mkdir('ran')"),
    "a deep header": lambda path: header(path, "(" * 100),
    "an empty file": lambda path: path.write_bytes(b""),
    "an archive": lambda path: path.write_bytes(b"PK\x03\x04"),
    "complex numbers": lambda path: np.save(path, np.ones((3, 32, 32), complex)),
    "text": lambda path: np.save(path, np.array(["a"])),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_files(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unusable calibration file causes E0840 with its name, and no code in it is executed."""
    monkeypatch.chdir(tmp_path)
    UNUSABLE[case](tmp_path / "z.npy")
    with pytest.raises(UsageError) as caught:
        calibration.data(str(tmp_path), elaborate(load("resnet20_cifar")), 0)
    (problem,) = caught.value.diagnostics
    assert problem.code == "E0840"
    assert "z.npy" in problem.message
    assert not (tmp_path / "ran").exists()
