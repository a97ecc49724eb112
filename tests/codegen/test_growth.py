"""The length of generated source and the work for it grow linearly with the spec, rather than with its expanded expressions."""

from __future__ import annotations

import cProfile
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the text is executed with torch: pip install 'rescompile[torch]'")

from sources import compare, drawn, source
from spec_texts import elaborated

from rescompile.ir.network import Network

HEAD = """
rescompile: 1
name: growing
input: [16, 4, 4]
network:
  - u: {block: b0, width: 16}
  - v: {block: b0, width: 32}
blocks:
"""
TWICE = "(width + width) / 2"


def block(number: int, steps: Sequence[str], keys: str = "") -> str:
    body = "".join(f"      - {step}\n" for step in steps)
    return f"  b{number}:\n    parameters: {{width: int}}\n{keys}    body:\n{body}"


def conv(name: str, channels: str) -> str:
    return f"{name}: {{conv: {{channels: {channels}, kernel: 1}}}}"


def concat(*branches: str, split: str = "") -> str:
    return f"parallel: {{merge: concat, {split}branches: [{', '.join(branches)}]}}"


def quarters(size: int) -> str:
    """Return blocks whose channels after a concatenation are four times a quarter of those before."""
    steps = [concat("identity", "act", "act", "act", split="split: true, ")] * size
    return block(0, [conv("start", "width"), *steps, conv("last", "in_channels")])


def halves(size: int, last: str = "in_channels") -> str:
    """Return blocks whose channels are sums of two different expressions of those before."""
    steps = [
        concat(f"{{{conv(f'a{at}', '(in_channels + 1) // 2')}}}", f"{{{conv(f'b{at}', 'in_channels // 2')}}}")
        for at in range(size)
    ]
    return block(0, [conv("start", "width"), *steps, *([conv("last", last)] if last else ["act"])])


def unread(size: int) -> str:
    """Return the same where nothing reads the last channels."""
    return halves(size, "")


def branches(size: int) -> str:
    """Return many branches, each with another expression."""
    listed = [f"{{{conv(f'c{at}', f'in_channels + {at}')}}}" for at in range(10 * size)]
    return block(0, [conv("start", "width"), concat(*listed), conv("last", "in_channels")])


def lets(size: int) -> str:
    """Return a block of names, each of which mentions the one before twice."""
    names = ["width", *(f"a{at}" for at in range(size))]
    listed = "".join(f"      {name}: ({before} + {before}) / 2\n" for before, name in itertools.pairwise(names))
    return block(0, [conv("c", names[-1])], f"    let:\n{listed}")


def lets_of_a_macro(size: int) -> str:
    """Return the same in an inline block, whose steps belong to the block around it."""
    return block(0, ["{block: b1, width: width}"]) + lets(size).replace("b0:", "b1:\n    inline: true")


def macros(size: int) -> str:
    """Return nested inline blocks, each of which passes on an argument that mentions its own twice."""
    return "".join(
        block(
            at,
            [conv(f"c{at}", TWICE), *([f"{{block: b{at + 1}, width: {TWICE}}}"] if at < size - 1 else [])],
            "    inline: true\n" if at else "",
        )
        for at in range(size)
    )


def classes(size: int) -> str:
    """Return the same with a class for each block."""
    return macros(size).replace("    inline: true\n", "").replace("{block:", "d: {block:")


FAMILIES = [quarters, halves, unread, branches, lets, lets_of_a_macro, macros, classes]


def network(family: Callable[[int], str], size: int, folder: Path) -> Network:
    return elaborated(HEAD + family(size), folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_and_work_are_linear(family: Callable[[int], str], tmp_path: Path) -> None:
    """Three times the size takes at most about three times the characters and calls; the first network fills caches."""
    sizes: list[tuple[int, int]] = []
    for size in (2, 5, 15):
        built, profile = network(family, size, tmp_path), cProfile.Profile()
        profile.enable()
        text = source(built)
        profile.disable()
        sizes.append((len(text), sum(entry.callcount for entry in profile.getstats())))
    for small, large in zip(*sizes[1:], strict=True):
        assert large < 3.5 * small


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow_for("branches")
def test_long_expressions_have_the_right_values(family: Callable[[int], str], tmp_path: Path) -> None:
    built = network(family, 9, tmp_path)
    compare(built, *drawn(built, seed=1))


def test_equal_channels_are_simplified(tmp_path: Path) -> None:
    """Four times a quarter of the width is simplified to the width."""
    assert "self.last = nn.Conv2d(width, width, 1, bias=False)" in source(network(quarters, 9, tmp_path))


def test_a_long_expression_gets_a_name(tmp_path: Path) -> None:
    text = source(network(halves, 9, tmp_path))
    assert "nn.Conv2d(channels2, channels2 // 2, 1, bias=False)" in text


def test_unused_names_are_not_written(tmp_path: Path) -> None:
    text = source(network(unread, 9, tmp_path))
    names = {line.split()[0] for line in text.splitlines() if line.lstrip().startswith("channels")}
    assert names
    assert all(text.count(name) > 1 for name in names)
