"""Time the work of the language server after each keystroke, diagnostics and row hints, for every spec of the zoo.

    python benchmarks/language_server.py [NAME ...]

Prints the CPU time of each spec, slowest first: the minimum over several checks of an edited text in one process, as in
the server. The exit code is 1 if one exceeds LIMIT seconds, which should not happen on an idle machine.
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
    """Return the minimum CPU time of one check in seconds."""
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
    """Print the times of the named specs, or of all specs, and return the exit code."""
    seconds_by_name = {name: check(name) for name in sys.argv[1:] or library.zoo()}
    for name, seconds in sorted(seconds_by_name.items(), key=lambda item: -item[1]):
        print(f"{seconds * 1000:7.1f} ms  {name}")
    return int(max(seconds_by_name.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
