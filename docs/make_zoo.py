"""Writes docs/zoo.md, the list of networks that come with rescompile, from the files in specs.

Run `python docs/make_zoo.py` after a change to a spec; tests/docs/test_docs.py fails until you do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rescompile import elaborate, load
from rescompile.analysis.cost import cost
from rescompile.lang import library

PAGE = Path(__file__).parent / "zoo.md"

HEAD = """\
<!-- made by docs/make_zoo.py from specs; do not edit -->

# The zoo

Networks that `rescompile build NAME --target onnx` finds by name. Parameters are exact; MACs are multiply-adds of
convolution and linear layers for one input of the size given. `rescompile show NAME` says more, and the spec itself
([specs](../specs)) names its paper and where sources disagree.

Where nobody else's implementation was found to count a network, its spec says so under `unverified`.

Not here, since no source that we found defines them well enough:

| network | what is missing |
|---|---|
| PReLU-net (He et al. 2015b) | only results of it are known to us, not its table of layers |
| BN-Inception (Ioffe & Szegedy 2015) | the same: results, and no table of layers that could be checked |
| Highway A for CIFAR-10, 11 layers (Srivastava et al. 2015) | the widths of its layers |
| Highway C for CIFAR-10, 32 layers (Srivastava et al. 2015) | the widths of its layers, of 3x3 and 1x1 convolutions by turns |
"""


def page() -> str:
    """The whole text of docs/zoo.md."""
    families: dict[str, list[str]] = {}
    for name in library.zoo():
        spec = load(name)
        network = elaborate(spec)
        total = cost(network)
        size = "x".join(str(n) for n in network.input)
        row = f"| `{name}` | {spec.description} | {size} | {total.parameters:,} | {total.macs / 1e9:.3f} G |"
        families.setdefault(spec.family or "other", []).append(row)
    return HEAD + "".join(f"\n{line}" for line in _lines(families)) + "\n"


def _lines(families: dict[str, list[str]]) -> Iterator[str]:
    for family in sorted(families):
        yield from (f"## {family}", "", "| network | | input | parameters | MACs |", "|---|---|---|---|---|")
        yield from families[family]
        yield ""


if __name__ == "__main__":
    PAGE.write_text(page().rstrip() + "\n", "utf-8")
