"""The JSON Schema of spec format 1, generated from the models, in draft 7, which editors support."""

from __future__ import annotations

import json
import re
from typing import Any

from rescompile.files.checksum import GENERATOR
from rescompile.ir import ops
from rescompile.ir.names import IDENTIFIER, RESERVED, ROW_KEYS, TEMPLATE
from rescompile.lang.key_docs import KEY_DOCS
from rescompile.lang.spec.spec import Spec
from rescompile.lang.spec.values import EXPRESSION, SCALAR


def text() -> str:
    """Return the schema as JSON."""
    return json.dumps({**schema(), "$comment": GENERATOR}, indent=2) + "\n"


def schema() -> dict[str, Any]:
    """Return the schema of a spec file."""
    made = Spec.model_json_schema(ref_template="#/definitions/{model}")
    made = _draft_7(made)
    definitions = made["definitions"] = made.pop("$defs")
    value = definitions.pop("Attributes")["additionalProperties"]
    definitions["NamedStep"] |= {
        "minProperties": 1,
        "maxProperties": 1,
        "propertyNames": {
            "pattern": _whole(TEMPLATE),
            "not": {"enum": sorted([*(word for word in ops.WORDS if not ops.may_be_name(word)), *RESERVED])},
        },
    }
    definitions["OpStep"] = {"anyOf": [_op_step(word, value) for word in ops.WORDS]}
    for step, keys in (("Step", ["block"]), ("Named", list(ROW_KEYS))):
        _only_with(definitions[step], "Use", keys)
    definitions["Use"]["propertyNames"] = {"not": {"enum": sorted(RESERVED - set(definitions["Use"]["properties"]))}}
    for owner, key in ((made, "name"), (definitions["Use"], "block"), (definitions["Side"], "output")):
        owner["properties"][key]["pattern"] = _whole(IDENTIFIER)
    for model, owner in _OWNERS.items():
        for key, facts in (definitions[model] if model else made)["properties"].items():
            facts.setdefault("description", KEY_DOCS[owner][key])
    title = "rescompile spec, format 1"
    made["required"] = ["rescompile", "name"]
    made["anyOf"] = [{"required": ["extends"]}, {"required": ["input", "network"]}]
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": title} | {
        k: v for k, v in made.items() if k != "title"
    }


#: The models, and what docs of their keys go by; the spec itself has no name among the definitions.
_OWNERS = {
    "": "spec", "Block": "block", "ParameterDefinition": "parameter", "Use": "row", "Residual": "residual",
    "Parallel": "parallel", "Side": "side", "If": "if", "Survival": "survival", "DropPath": "drop_path",
    "Preprocess": "preprocess", "Expect": "expect",
}  # fmt: skip


def _whole(pattern: re.Pattern[str]) -> str:
    """Return a pattern that must match the whole text, in syntax that JavaScript shares."""
    return f"^(?:{pattern.pattern})$"


def _only_with(union: dict[str, Any], model: str, keys: list[str]) -> None:
    """Restrict this model to steps with one of these keys, as the compiler does; otherwise any mapping would match."""
    found = union["anyOf"].index({"$ref": f"#/definitions/{model}"})
    union["anyOf"][found] = {"allOf": [union["anyOf"][found], {"anyOf": [{"required": [key]} for key in keys]}]}


def _op_step(word: str, value: Any) -> dict[str, Any]:
    """Return the schema of an op with its attributes, from the table of ops."""
    facts = ops.attributes(word)
    properties = {name: value | {"description": attribute.doc} for name, attribute in facts.items()}
    attributes = {"type": "object", "properties": {**properties, "when": EXPRESSION}, "additionalProperties": False}
    body = {"anyOf": [attributes, SCALAR]} if ops.main_attribute(word) else attributes
    description = (ops.WORDS[word][0].__doc__ or "").split("\n")[0]
    return {
        "type": "object",
        "description": description,
        "properties": {word: body},
        "required": [word],
        "additionalProperties": False,
    }


#: Keys with another name. The forms of `oneOf` overlap: the first key of a step decides, which a schema cannot express.
_RENAMED: dict[str, str] = {"prefixItems": "items", "oneOf": "anyOf"}


def _draft_7(node: Any) -> Any:
    """Return the schema in draft 7. Titles that pydantic generates are removed, and so are defaults of null, which a spec
    cannot contain."""
    if isinstance(node, list):
        return [_draft_7(item) for item in node]
    if not isinstance(node, dict):
        return node
    out: dict[str, Any] = {}
    for key, value in node.items():
        titled, null = key == "title" and isinstance(value, str), key == "default" and value is None
        if titled or null or key == "discriminator":
            continue
        if key in ("anyOf", "oneOf"):
            value = [option for option in value if option not in ({"type": "null"}, {"not": {}})]
            if len(value) == 1:
                out |= _draft_7(value[0])
                continue
        out[_RENAMED.get(key) or key] = _draft_7(value)
    return out
