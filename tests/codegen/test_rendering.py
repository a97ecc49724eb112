"""Rendering: which names and texts a template accepts, and how long lines are broken."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rescompile.codegen.allow_list import Refused
from rescompile.codegen.line_breaking import laid_out
from rescompile.codegen.source_text import block, ident, quoted


def test_only_source_imports_the_template_engine() -> None:
    """Only source needs the template engine; other targets do not import it."""
    code = (
        "import sys, rescompile; from rescompile import backend\n"
        "network = rescompile.elaborate(rescompile.load('resnet20_cifar'))\n"
        "rescompile.build(network, 'onnx'); source = backend.load('source'); assert 'jinja2' not in sys.modules\n"
        "source.source(network); assert 'jinja2' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("name", ["", "a b", "1", "class", "x\ny", "é", "a.b", "x=1"])
def test_invalid_identifiers_are_refused(name: str) -> None:
    with pytest.raises(Refused):
        ident(name)


@pytest.mark.parametrize("text", ['"', "\\", "x\ny", "\0"])
def test_characters_that_could_end_a_string_are_refused(text: str) -> None:
    with pytest.raises(Refused):
        quoted(text)


def test_a_block_is_indented_from_its_second_line() -> None:
    assert block("\na\n\nb\n", 4) == "a\n\n    b"


def test_a_long_sum_is_split_at_its_operators() -> None:
    """A long sum is split at its operators, as `ruff format` does where there are several."""
    call = f"self.{'n' * 30}(x)"
    assert list(laid_out([f"    x = {call} + {call} + {call}"])) == [
        "    x = (", f"        {call}", f"        + {call}", f"        + {call}", "    )",
    ]  # fmt: skip


def test_an_earlier_bracket_is_broken_where_the_last_one_does_not_fit() -> None:
    """An earlier bracket is broken where the last one does not fit, as in `ruff format`; the rest of the line stays together."""
    inner = "scale(self.gain(scale(y, factor=2.0)), factor=0.2)"
    assert list(laid_out([f"        return {inner} + self.downsample_of_the_shortcut(x)"])) == [
        "        return scale(",
        "            self.gain(scale(y, factor=2.0)), factor=0.2",
        "        ) + self.downsample_of_the_shortcut(x)",
    ]


def test_the_only_parameter_of_a_long_function_has_a_comma() -> None:
    """The only parameter of a long function gets a trailing comma, as in `ruff format`; several that fit on one line do not."""
    head, tail = f"def {'n' * 50}(", ") -> Tensor:"
    assert list(laid_out([f"{head}size: tuple[int, int] = (32, 32){tail}"])) == [
        head, "    size: tuple[int, int] = (32, 32),", tail,
    ]  # fmt: skip
    assert list(laid_out([f"{head}x: Tensor, size: tuple[int, int]{tail}"])) == [
        head, "    x: Tensor, size: tuple[int, int]", tail,
    ]  # fmt: skip
