"""The expected figures of every spec, from independent reference implementations.

`facts/architectures.yaml` is a copy, so that the tests need nothing outside the checkout. `facts/wider.yaml` contains
the networks that were added later, counted on their peers by `facts/make_wider.py`. Both are read once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rescompile import elaborate, load
from rescompile.ir.network import Network, Op, Side, parameters, walk
from rescompile.lang import library

FOLDER = Path(__file__).parents[1] / "facts"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def rows() -> dict[str, dict[str, Any]]:
    """The rows by the name of their spec: dots cannot stand in a name, so they are underscores there."""
    texts = [(FOLDER / f"{name}.yaml").read_text(encoding="utf-8") for name in ("architectures", "wider")]
    listed = [row for text in texts for row in yaml.load(text, LOADER)["architectures"]]
    found = {row["id"].replace(".", "_"): row for row in listed}
    assert len(found) == len(listed)
    return found


#: Rows without figures, each with the row that has them: networks whose tensors and costs are that other network's, since
#: they differ only in where norms and activations stand (facts, section 5.18), or shortcuts without parameters. Their specs
#: say that nobody counted them.
UNCOUNTED = {
    **dict.fromkeys(
        ("torchblog_reference", "torchblog_no_relu", "torchblog_bn_after_add", "torchblog_bn_after_add_no_relu"),
        "stochastic_depth_110",
    ),
    "he2016_1layer_skip_110": "resnet110_cifar",
}


def counted(name: str, tensor: str) -> str:
    """Return the name of a tensor in the network whose figures are used: there a unit has two layers, here one."""
    if name != "he2016_1layer_skip_110":
        return tensor
    return re.sub(r"\.(\d+)\.(conv|bn)1\.", lambda at: f".{int(at[1]) // 2}.{at[2]}{int(at[1]) % 2 + 1}.", tensor)


def figures(name: str) -> dict[str, Any]:
    """Return the facts of a spec, with the figures of another network of the same shapes if it has none of its own."""
    row = rows()[name]
    if name not in UNCOUNTED:
        return row
    other = rows()[UNCOUNTED[name]]
    computed = {key: {**row[key], "computed": other[key]["computed"]} for key in ("params", "macs")}
    return {**row, **computed, "output": other["output"], "state_dict": other["state_dict"]}


def size(name: str) -> tuple[int, int, int]:
    """Return the numbers of parameters, MACs and tensors of a network, without elaborating it."""
    row = figures(name)
    return int(row["params"]["computed"]), int(row["macs"]["computed"]), int(row["state_dict"]["tensors"])


@cache
def zoo() -> tuple[str, ...]:
    """Return the names of the zoo's networks."""
    return tuple(library.zoo())


@cache
def network(name: str, *settings: str) -> Network:
    """Return a network of the zoo with settings as in `--set`; it is elaborated once, since networks are immutable."""
    return elaborate(load(name, settings))


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a network's `state_dict`, in its order."""
    return {name: parameter.shape for name, parameter in parameters(network)}


def blocks(network: Network) -> set[str]:
    """Return the blocks that a network's canonical text defines."""
    return set(yaml.load(network.text, LOADER).get("blocks", {}))


def idle_macs(network: Network) -> int:
    """Return the MACs of the side branches that are never computed: the released code of the DRNs runs an unused
    projection, and the facts count it (facts, section 12)."""
    sides = [node for _, node in walk(network.root) if isinstance(node, Side) and node.mode == "never"]
    ops = [node for side in sides for _, node in walk(side.child) if isinstance(node, Op)]
    return sum(op.kind.macs(op.input) for op in ops)


def digest(tensors: Iterable[tuple[str, Iterable[int]]]) -> str:
    """Return the digest of names and shapes as the facts define it: SHA-256 of sorted `key:[shape]` lines, 16 hex
    digits."""
    lines = sorted(f"{name}:{list(shape)}" for name, shape in tensors)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Figure:
    """A figure as printed in a source; `digit` is one unit of its last digit, or 0 if the figure is exact."""

    text: str
    value: float
    digit: float

    def agrees(self, other: Figure) -> bool:
        """Return whether two figures can be the same number: they differ by at most one unit of the coarser last digit."""
        return abs(self.value - other.value) <= max(self.digit, other.digit) * (1 + 1e-9)


_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "e6": 1e6, "e9": 1e9, " Bn Ops (2x MACs)": 0.5e9}
_FIGURE = re.compile(r"~?(\d[\d,]*)(?:\.(\d+))?(" + "|".join(re.escape(unit) for unit in _UNITS) + ")")


def figure(given: int | str) -> Figure:
    """Parse a figure of the facts or of a spec's `expect`: `25.6M`, `3.8e9`, `41,609,928`, `18.7 Bn Ops (2x MACs)`,
    25557032."""
    match = _FIGURE.fullmatch(str(given))
    assert match is not None, f"a figure of no known form: {given}"
    whole, fraction, unit = match[1].replace(",", ""), match[2] or "", _UNITS[match[3]]
    return Figure(str(given), float(f"{whole}.{fraction}0") * unit, unit / 10 ** len(fraction) if match[3] else 0.0)


def published(row: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    """Yield every figure that a row quotes, as `parameters` or `macs`, except those in free text."""
    for ours, theirs in (("parameters", "params"), ("macs", "macs")):
        for quoted in row[theirs]["published"]:
            if _FIGURE.fullmatch(quoted["text"]):
                yield ours, figure(quoted["text"])
