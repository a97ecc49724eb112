"""Prepare the pages of the documentation site in build/docs, write docs/llms.txt, and build the site strictly.

Run `make site`. The pages in this folder are written for GitHub: some links point to source files outside the documentation, and
the info strings of some fences name the test that runs them. On the site such a link becomes plain text, and a fence keeps only
its language. The README of the repository is the start page of the site; that of this folder is the list of pages.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: The site's name of each page whose name differs in the repository.
MOVED = {"README.md": "pages.md", "../README.md": "README.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```\w+) .*$", re.MULTILINE)
#: A page in the list of pages, with its description.
ENTRY = re.compile(r"^- \[([\w-]+\.md)\]\([\w-]+\.md\): (.*(?:\n  .*)*)", re.MULTILINE)


def prepared(page: Path) -> str:
    """Return the text of a page for the site."""

    def link(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        name, sharp, anchor = target.partition("#")
        if not name or "://" in name:
            return match[0]
        path = (page.parent / name).resolve()
        if path.is_dir() or not (path.is_relative_to(DOCS) or path == ROOT / "README.md"):
            return text
        inside = path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else "../README.md"
        return f"{mark}[{text}]({MOVED.get(inside, inside)}{sharp}{anchor})"

    parts = re.split(r"(^```.*?^```$)", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return "".join(FENCE.sub(r"\1", part) if part.startswith("```") else LINK.sub(link, part) for part in parts)


def pages() -> dict[str, str]:
    """Return the pages of the site by name."""
    found = {MOVED.get(page.name, page.name): prepared(page) for page in sorted(DOCS.glob("*.md"))}
    return {**found, "README.md": prepared(ROOT / "README.md")}


def llms() -> str:
    """Return the text of llms.txt (llmstxt.org): a summary of the project, and its pages with one sentence each."""
    readme, index = (ROOT / "README.md").read_text("utf-8"), (DOCS / "README.md").read_text("utf-8")
    summary = ". ".join(" ".join(readme.split("\n\n")[1].split()).split(". ")[:2])
    lines = ["# rescompile", "", f"> {summary}.", ""]
    for section in re.split(r"^(?=\w.*:$)", index, flags=re.MULTILINE)[1:]:
        head = section.partition(":\n")[0]
        entries = [f"- [{name}]({name}): {' '.join(text.split())}" for name, text in ENTRY.findall(section)]
        lines += [f"## {head}", "", *entries, ""]
    return "\n".join(lines)


def prepare(folder: Path) -> None:
    """Write the pages, pictures and schemas of the site to a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in pages().items():
        (folder / name).write_text(text, "utf-8")
    for path in (*DOCS.glob("*.svg"), *DOCS.glob("*.json"), DOCS / "llms.txt"):
        shutil.copy(path, folder)
    shutil.copytree(DOCS / "pictures", folder / "pictures")


if __name__ == "__main__":
    (DOCS / "llms.txt").write_text(llms(), "utf-8")
    prepare(ROOT / "build" / "docs")
    command = [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean", "-f", ROOT / "mkdocs.yml"]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)
