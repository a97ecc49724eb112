"""`make fuzz-bytes N=1000000`: coverage-guided fuzzing of the YAML reader and the expression parser with atheris.

    python tests/support/fuzz_bytes.py reader|expressions COUNT

Any bytes must be accepted, or rejected by a documented error with a location, within one second.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: run pip install 'rescompile[fuzz]'")

with atheris.instrument_imports(include=["rescompile.ir.expressions", "rescompile.lang.yaml_reader"]):
    from rescompile.diagnostics.errors import SpecError
    from rescompile.ir.expressions import MAX_MAGNITUDE, ExpressionError, parse
    from rescompile.lang import library
    from rescompile.lang.yaml_reader import Mapping, plain, read

from refusals import hold_text

#: The names and words that expressions can use.
SCOPE = {"a": 3, "b": 0.5, "c": True, "d": [1, 2, [3]], "e": "word", "in_channels": 64}
WORDS = ("same", "word")
#: The limits on bytes and time; `fuzz_specs` covers long and deep inputs.
LONGEST, SECONDS = 160, 1.0


def reader(data: bytes) -> None:
    """Read a document."""
    try:
        document = read(library.decoded("fuzz.yaml", data))
    except SpecError as error:
        hold_text(error)
        return
    assert isinstance(plain(document), dict) == isinstance(document, Mapping)


def expressions(data: bytes) -> None:
    """Parse and evaluate an expression."""
    text = data.decode("utf-8", "replace")
    try:
        term = parse(text)
        assert all(text[token.offset :].startswith(name) for name, token in term.names.items())
        value = term.evaluate(SCOPE, WORDS)
    except ExpressionError as error:
        value, refused = None, error
        assert refused.code in ("E0301", "E0302", "E0303")
        assert 0 <= refused.offset <= len(text)
        assert refused.length >= 1
    assert not isinstance(value, int | float) or abs(value) <= MAX_MAGNITUDE


def timed(test: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Return a test that fails if it takes more CPU time than allowed; the limit of libFuzzer is in wall-clock time."""

    def run(data: bytes) -> None:
        began = time.process_time()
        test(data)
        assert time.process_time() - began < SECONDS

    return run


def seeds(target: str) -> list[str]:
    """Return initial texts: a few lines each of the zoo and the library, or the values in them."""
    texts = [path.read_text(encoding="utf-8") for path in (*library.zoo().values(), *library.blocks().values())]
    pattern = r"(?:.+\n){1,4}" if target == "reader" else r": ([^\n{}:,]+)"
    return sorted({match for text in texts for match in re.findall(pattern, text) if len(match) <= LONGEST})


def main(target: str, count: int) -> None:
    """Run one target; atheris ends the process, with a nonzero exit status on failure."""
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(seeds(target)):
            (Path(folder) / f"{number}").write_text(text, encoding="utf-8")
        flags = (f"-runs={count}", f"-max_len={LONGEST}", "-timeout=100", "-rss_limit_mb=600", "-verbosity=0")
        test = {"reader": reader, "expressions": expressions}[target]
        atheris.Setup([sys.argv[0], *flags, "-print_final_stats=1", "-detect_leaks=0", folder], timed(test))
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
