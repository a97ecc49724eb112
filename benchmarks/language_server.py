"""Time what the language server does after each keystroke: diagnostics and row hints, for every spec of the zoo.

    python benchmarks/language_server.py [NAME ...]

Prints the CPU time of each spec, the slowest first: the least of several checks of an edited text, in one process, as the server
does it. None should be above LIMIT on a quiet machine; the exit code is 1 if one is.
"""

from __future__ import annotations

import sys
import time

from rescompile.lang import library
from rescompile.lsp.documents import Document
from rescompile.lsp.hints import hints
from rescompile.lsp.problems import problems

LIMIT = 0.1
EDITS = 5


def check(name: str) -> float:
    """Return the least CPU time of one check, in seconds."""
    path = library.zoo()[name]
    text, times = path.read_text("utf-8"), []
    for edit in range(EDITS):
        document = Document(path.as_uri(), text + "\n" * edit, is_spec=True)
        start = time.process_time()
        problems(document)
        hints(document)
        times.append(time.process_time() - start)
    return min(times)


def main() -> int:
    """Print the times of the named specs, or of all."""
    found = {name: check(name) for name in sys.argv[1:] or library.zoo()}
    for name, seconds in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{seconds * 1000:7.1f} ms  {name}")
    return int(max(found.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
