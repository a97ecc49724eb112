"""Write docs/bench.schema.json, the JSON Schema of result files, from the dataclasses in rescompile/bench/results.py.

Run `python docs/make_bench_schema.py` after a change to these dataclasses; tests/bench/test_bench.py fails until you do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from rescompile.bench.results import FORMAT, Result

PAGE = Path(__file__).parent / "bench.schema.json"


class Untitled(GenerateJsonSchema):
    """A generator that adds no titles to fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_text() -> str:
    """Return the text of the schema file, in draft 7."""
    schema = TypeAdapter(Result).json_schema(ref_template="#/definitions/{model}", schema_generator=Untitled)
    schema["definitions"] = schema.pop("$defs")
    schema["properties"]["bench"] = {"const": FORMAT, "description": "the version of this format"}
    schema["properties"]["$comment"] = {"type": "string"}
    head = {"$schema": "http://json-schema.org/draft-07/schema#"}
    return json.dumps({**head, **schema, "title": f"result of rescompile bench, format {FORMAT}"}, indent=2) + "\n"


if __name__ == "__main__":
    PAGE.write_text(schema_text(), encoding="utf-8", newline="\n")
