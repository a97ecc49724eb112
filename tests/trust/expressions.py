"""Evaluation of the expressions of specs with Python's parser, whose grammar includes theirs."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from op_rules import Misfit


def _divided(a: float, b: float) -> float:
    """Return the quotient, as an integer if the division is exact."""
    return a // b if isinstance(a, int) and isinstance(b, int) and a % b == 0 else a / b


class _Spelled(ast.NodeTransformer):
    """Rewrite divisions as calls, and rename functions so that values cannot hide them: `length` is also the size of a
    map."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name):
            node.func.id = f"{node.func.id}()"
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div):
            return node
        return ast.Call(ast.Name("_divided", ast.Load()), [node.left, node.right], [])


_FUNCTIONS = {
    "__builtins__": {}, "_divided": _divided, "floor()": math.floor, "round()": round, "length()": len, "min()": min, "max()": max,
    "true": True, "false": False, "identity": "identity",
}  # fmt: skip


@cache
def _compiled(text: str) -> Any:
    return compile(ast.fix_missing_locations(_Spelled().visit(ast.parse(text.strip(), mode="eval"))), text, "eval")


def value(raw: Any, names: Mapping[str, Any], words: frozenset[str] | set[str] = frozenset()) -> Any:
    """Return the value of an entry of a spec: a number, an expression, an allowed word, or a list of these."""
    if isinstance(raw, list):
        return [value(item, names, words) for item in raw]
    if not isinstance(raw, str) or raw in words:
        return raw
    try:
        return eval(_compiled(raw), dict(_FUNCTIONS), dict(names))
    except (NameError, ArithmeticError, TypeError, IndexError, SyntaxError) as error:
        raise Misfit(f"{raw}: {error}") from None


def for_copy(raw: Any, names: Mapping[str, Any]) -> Any:
    """Return the value for one copy of an entry with `each`, or with `first` and `rest`."""
    if isinstance(raw, dict) and "index" not in names:
        raise Misfit("a value for each copy of what is not repeated")
    if isinstance(raw, dict) and "each" in raw:
        if len(raw["each"]) != names["depth"]:
            raise Misfit("as many values as copies")
        return raw["each"][names["index"]]
    if isinstance(raw, dict):
        return raw["first" if names["index"] == 0 else "rest"]
    return raw


def spelled(template: str, names: Mapping[str, Any]) -> str:
    """Return a name with its {expressions} filled in."""
    head, *parts = template.split("{")
    filled = (part.partition("}") for part in parts)
    return head + "".join(f"{value(text, names)}{rest}" for text, _, rest in filled)
