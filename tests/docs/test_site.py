"""The documentation site: every page is in its navigation, llms.txt is up to date, and relative links stay within the site."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_SPEC = importlib.util.spec_from_file_location("make_site", DOCS / "make_site.py")
assert _SPEC is not None
assert _SPEC.loader is not None
make_site = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_site)
PAGES = make_site.pages()
NAVIGATION = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)


def test_every_page_is_in_the_navigation() -> None:
    """Each page is in the navigation once, and in the list of pages."""
    assert sorted(NAVIGATION) == sorted(PAGES)
    listed = re.findall(r"^- \[([\w-]+\.md)\]", (DOCS / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(set(PAGES) - {"README.md", "pages.md"})


def test_llms_txt() -> None:
    """llms.txt is up to date and lists every page with its description; to renew it, run `make site`."""
    text = (DOCS / "llms.txt").read_text("utf-8")
    assert text == make_site.llms()
    assert all(f"- [{page}]({page}): " in text for page in set(PAGES) - {"README.md", "pages.md"})


@pytest.mark.parametrize("page", PAGES)
def test_a_prepared_page(page: str) -> None:
    """On the site, relative links lead to pages and pictures of the site, and fences have only their language."""
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        assert "://" in target or target in PAGES or (DOCS / target).is_file(), target
    assert not re.search(r"^```\w+ ", PAGES[page], re.MULTILINE)


def test_there_are_no_plugins() -> None:
    """The configuration has no plugins, so that both Zensical and MkDocs can read it."""
    text = re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text("utf-8"))
    assert "plugins" not in yaml.safe_load(text)


@pytest.mark.slow
def test_the_site_builds_without_broken_links(tmp_path: Path) -> None:
    """Zensical builds every page and finds no broken link or anchor, but does find one that is added."""
    pytest.importorskip("zensical", reason="the site is built by Zensical: pip install '.[dev]'")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "-f", str(tmp_path / "mkdocs.yml")]
    make_site.prepare(tmp_path / "build" / "docs")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in PAGES:
        folder = "" if page == "README.md" else page.removesuffix(".md")
        assert (tmp_path / "build" / "site" / folder / "index.html").is_file(), page
    with (tmp_path / "build" / "docs" / "unet.md").open("a") as file:
        file.write("\n[nowhere](language.md#nowhere)\n")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode != 0
