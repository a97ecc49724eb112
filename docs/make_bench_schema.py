"""Write docs/bench.schema.json, the JSON Schema of result files, from the dataclasses in rescompile/bench/results.py.

Run `python docs/make_bench_schema.py` after a change to these dataclasses; tests/bench/test_bench.py fails until you do.
"""

from __future__ import annotations

from pathlib import Path

from rescompile.bench.results import schema_text

PAGE = Path(__file__).parent / "bench.schema.json"

if __name__ == "__main__":
    PAGE.write_text(schema_text(), encoding="utf-8", newline="\n")
