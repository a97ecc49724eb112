"""`**` in expressions has the values and precedence of Python, within the limits of the language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rescompile import build, elaborate, load
from rescompile.ir.expressions import ExpressionError, parse
from rescompile.ir.network import parameters


@pytest.mark.parametrize(
    "text",
    [
        "2 ** 3", "2 ** -1", "-2 ** 2", "2 ** 3 ** 2", "2 * 3 ** 2", "4 ** 0.5", "n ** -0.5", "-n ** -2 ** 2", "8 ** (1 / 3)",
        "(-2) ** 3", "(-2) ** -2.0", "0 ** 0", "1 ** 1e12", "10 ** 12", "0.5 ** 1e12", "n ** (-1 / (2 * m - 2))", "2 ** n // 3",
    ],
)  # fmt: skip
def test_values(text: str) -> None:
    """Values and types equal those of Python."""
    names = {"n": 39, "m": 3}
    found, expected = parse(text).evaluate(names), eval(text, {}, names)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 ** -1", "division by zero"),
        ("(-2) ** 0.5", "a root of -2 is not a real number"),
        ("10 ** 13", r"exceeds 1e\+12"),
        ("9 ** 9 ** 9", r"exceeds 1e\+12"),
        ("1e12 ** 1e12", r"exceeds 1e\+12"),
        ("(-1e12) ** 99", r"exceeds 1e\+12"),
        ("2 ** true", "needs numbers"),
        ("**".join("1" * 40), "more than 30 levels"),
        ("2 **", "missing value at the end"),
        ("2 * * 3", r"missing value before '\*'"),
    ],
)
def test_refused(text: str, message: str) -> None:
    """Undefined and too large powers are refused, the latter without computing them."""
    with pytest.raises(ExpressionError) as caught:
        parse(text).evaluate({})
    caught.match(message)


POWERS = """
rescompile: 1
name: powers
input: [3, 8, 8]
blocks:
  unit:
    parameters: {base: int, step: int, rate: 0.5}
    body:
      - conv1: {conv: {channels: base ** (step + 1), kernel: 1}}
      - {dropout: rate ** -step / 2 ** 4}
      - conv2: {conv: {channels: 2 ** base + -(-step) ** 3 - -base ** 2, kernel: 1}}
network:
  - units: {block: unit, depth: 3, base: 4, step: {each: [1, 2, 3]}}
"""


def test_source(tmp_path: Path) -> None:
    """Generated source contains the powers as formatted code and gives the same parameters."""
    path = tmp_path / "powers.yaml"
    path.write_text(POWERS)
    network = elaborate(load(path))
    text = build(network, "source", structure_only=True).to_bytes().decode()
    for power in ("base ** (step + 1)", "rate**-step / 16", "2**base + -((-step) ** 3) - -(base**2)"):
        assert power in text, power
    space: dict[str, Any] = {}
    exec(compile(text, "powers.py", "exec"), space)
    module = space["powers"]()
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert shapes == {name: parameter.shape for name, parameter in parameters(network)}
