"""Holds generated source to what such a file may contain: an allow-list, so that what nobody thought of is refused."""

from __future__ import annotations

import ast

_NODES = (
    ast.Module, ast.Expr, ast.Import, ast.ImportFrom, ast.alias, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg,
    ast.Return, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If, ast.For, ast.Try, ast.Lambda, ast.IfExp, ast.BoolOp,
    ast.And, ast.Or, ast.Not, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod,
    ast.BitOr, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.Call, ast.keyword,
    ast.Starred, ast.Attribute, ast.Subscript, ast.Slice, ast.Name, ast.Load, ast.Store, ast.Constant, ast.Tuple, ast.List,
    ast.Dict, ast.ListComp, ast.GeneratorExp, ast.comprehension, ast.JoinedStr, ast.FormattedValue, ast.Yield,
)  # fmt: skip
_IMPORTS = {
    "collections": {"OrderedDict"},
    "collections.abc": {"Callable", "Iterator"},
    "contextlib": {"contextmanager", "nullcontext"},
    "torch": {"Tensor", "nn"},
    "torch.utils.checkpoint": {"checkpoint"},
}
_MODULES = {"torch", "torch.nn.functional"}
#: Functions of Python itself that may be called.
_BUILTINS = {"super", "range", "isinstance", "len", "max", "min", "int", "getattr", "any"}
#: Names of Python itself that stand in annotations, or for a value.
_TYPES = {"int", "float", "bool", "str", "tuple", "dict", "list", "None"}


class Refused(AssertionError):
    """Generated source contains what it never should: a mistake of this program, or an attack on it."""


def check(text: str) -> None:
    """Raises Refused unless the text is made of the allowed parts only."""
    tree = ast.parse(text)
    known = (
        _BUILTINS | _TYPES | {"OrderedDict", "Callable", "Iterator", "contextmanager", "nullcontext", "Tensor", "nn"}
    )
    known |= {"checkpoint", "torch", "F"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.add(node.id)
    for node in ast.walk(tree):
        _check_node(node, known)


def _check_node(node: ast.AST, known: set[str]) -> None:
    if not isinstance(node, _NODES):
        raise Refused(f"line {getattr(node, 'lineno', '?')}: {type(node).__name__} is not allowed")
    match node:
        case ast.Import():
            allowed = all(alias.name in _MODULES and alias.asname in (None, "F") for alias in node.names)
        case ast.ImportFrom():
            names = _IMPORTS.get(node.module or "", set())
            allowed = node.level == 0 and all(alias.name in names and alias.asname is None for alias in node.names)
        case ast.Attribute():
            allowed = not node.attr.startswith("_") or node.attr == "__init__"
        case ast.Name():
            allowed = node.id in known and not node.id.startswith("__")
        case ast.Call(func=ast.Name(id="getattr")):
            # Only for modules that are called by a number.
            second = node.args[1] if len(node.args) == 2 else None
            allowed = isinstance(second, ast.Constant) and isinstance(second.value, str) and second.value.isdigit()
        case ast.ClassDef() | ast.FunctionDef():
            name = node.name
            allowed = (not name.startswith("_") or name == "__init__") and name not in _BUILTINS | {"nn", "F", "torch"}
            allowed = allowed and all(_plain(decorator) for decorator in node.decorator_list)
        case ast.arg():
            allowed = node.arg not in _BUILTINS and not node.arg.startswith("_")
        case ast.Constant():
            allowed = node.value in (None, ...) or isinstance(node.value, int | float | str)
        case _:
            allowed = True
    if not allowed:
        raise Refused(f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)[:80]} is not allowed")


def _plain(decorator: ast.expr) -> bool:
    return ast.unparse(decorator) in ("contextmanager", "torch.jit.unused")
