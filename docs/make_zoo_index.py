"""Write rescompile/weights/zoo_index.json, by which weights find the network of the zoo that they fit.

Run `python docs/make_zoo_index.py` after a change to the zoo; tests/zoo/test_zoo.py fails until you do.
"""

from __future__ import annotations

import json

from rescompile.elaboration import elaborate
from rescompile.lang import library
from rescompile.lang.load import load
from rescompile.weights import zoo_index


def text() -> str:
    """Return the index as JSON, a line for each network."""
    entries = {name: zoo_index.Entry.of(elaborate(load(name))).data() for name in sorted(library.zoo())}
    lines = (f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    zoo_index.FILE.write_text(text(), encoding="utf-8")
