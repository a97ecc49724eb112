"""Write the indices of the zoo: rescompile/weights/zoo_index.json, in which the network that fits given weights is looked up,
and rescompile/explain/zoo_ops.json, in which `explain` looks up the closest network.

Run `python docs/make_zoo_index.py` after a change to the zoo; tests/zoo/test_zoo.py fails until you do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rescompile.elaboration import elaborate
from rescompile.explain import zoo_ops
from rescompile.explain.stages import structure
from rescompile.lang import library
from rescompile.lang.load import load
from rescompile.weights import zoo_index


def text(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return an index as JSON, a line for each network."""
    lines = (f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    networks = {name: elaborate(load(name)) for name in sorted(library.zoo())}
    tensors = {name: asdict(zoo_index.Entry.of(network)) for name, network in networks.items()}
    ops = {name: zoo_ops.Entry.of(structure(network)).data() for name, network in networks.items()}
    zoo_index.FILE.write_text(text(tensors), encoding="utf-8")
    zoo_ops.FILE.write_text(text(ops), encoding="utf-8")
