"""The fenced blocks of the pages in docs/, and the folder and environment in which their commands run."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Fence:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    marks: dict[str, str]
    text: str

    @property
    def id(self) -> str:
        """The ID in pytest, such as `language.md:120`."""
        return f"{self.page.name}:{self.line}"


FENCE = re.compile(r"^```(\w+)(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_MARK = re.compile(r"(fragment|wrong|file):\s*(\S+)")


def fences(page: Path) -> Iterator[Fence]:
    """Yield the fenced blocks of a page in order."""
    text = page.read_text("utf-8")
    for match in FENCE.finditer(text):
        line = text[: match.start()].count("\n") + 1
        assert not _MARK.sub("", match[2]).strip(), f"{page.name}:{line}: unknown mark in ```{match[1]}{match[2]}"
        yield Fence(page, line, match[1], dict(_MARK.findall(match[2])), match[3])


def prepare_folder(page: Path, folder: Path) -> Path:
    """Fill the folder of a page: the files that it shows, the projects among them installed, and the zoo's specs."""
    (folder / "specs").symlink_to(ROOT / "specs")
    for fence in fences(page):
        if "file" in fence.marks:
            path = folder / fence.marks["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(fence.text, "utf-8")
    _install(folder)
    return folder


def _install(folder: Path) -> None:
    """Install the projects that the page shows as `pip install` would: their modules, packages and entry points."""
    for project in folder.rglob("pyproject.toml"):
        settings = tomllib.loads(project.read_text("utf-8"))
        facts, found = settings["project"], settings["tool"]["setuptools"]
        info = folder / "site" / f"{facts['name'].replace('-', '_')}-{facts['version']}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {facts['name']}\nVersion: {facts['version']}\n")
        groups = facts["entry-points"].items()
        lines = [
            line for group, points in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for module in found.get("py-modules", ()):
            shutil.copy(project.with_name(f"{module}.py"), folder / "site")
        for package in found.get("packages", ()):
            shutil.copytree(project.with_name(package), folder / "site" / package)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a command: this checkout's rescompile, and the packages that the page installs."""
    left_out = ("FORCE_COLOR", "PYTHON")  # tinygrad reads PYTHON as a number
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST") and key not in left_out}
    path = [str(ROOT), str(folder / "site"), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(path), "NO_COLOR": "1", "COLUMNS": "120", "PYTHONUNBUFFERED": "1"}
