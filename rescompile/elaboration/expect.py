"""`expect`: compares the published figures in a spec with its network."""

from __future__ import annotations

from rescompile.analysis.cost import cost
from rescompile.diagnostics.errors import Diagnostic
from rescompile.ir.network import Network
from rescompile.lang.spec.spec import FIGURE, Spec
from rescompile.lang.yaml_reader import locate

_UNITS = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


def unmet(spec: Spec, network: Network) -> list[Diagnostic]:
    """Return a diagnostic for each expectation that the network does not meet."""
    expect = spec.expect
    if expect is None:
        return []
    computed = cost(network)
    problems = []
    for key, expected, actual in (
        ("parameters", expect.parameters, computed.parameters),
        ("macs", expect.macs, computed.macs),
    ):
        if expected is not None and not agrees(expected, actual):
            message = f"expected {expected if isinstance(expected, str) else f'{expected:,}'} {key}, but the network has {actual:,}"
            problems.append(Diagnostic("E0701", message, locate(spec.document, ("expect", key))))
    if expect.output is not None and tuple(expect.output) != network.root.output:
        message = f"expected an output of {expect.output}, but the network produces {list(network.root.output)}"
        problems.append(Diagnostic("E0701", message, locate(spec.document, ("expect", "output"))))
    return problems


def agrees(expected: int | str, actual: int) -> bool:
    """Return whether a figure matches: an integer exactly, text such as "25.6M" within one unit of its last digit."""
    if isinstance(expected, int):
        return expected == actual
    match = FIGURE.fullmatch(expected)
    assert match is not None, "the model has checked the form"
    whole, fraction, unit = match[1], match[2] or "", match[3] or ""
    scale = 10.0 ** int(unit[1:]) if unit.startswith("e") else _UNITS.get(unit, 1.0)
    last_digit = scale / 10 ** len(fraction)
    return bool(abs(float(f"{whole}.{fraction or 0}") * scale - actual) <= last_digit * (1 + 1e-9))
