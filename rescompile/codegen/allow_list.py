"""Checks generated source against an allow-list, so that any unforeseen construct is refused."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Mapping
from functools import cached_property

from rescompile.ir.ops import AXIS_NAMES
from rescompile.records import record

_NODES = (
    ast.Module, ast.Expr, ast.Import, ast.ImportFrom, ast.alias, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg,
    ast.Return, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If, ast.For, ast.Try, ast.Lambda, ast.IfExp, ast.BoolOp,
    ast.And, ast.Or, ast.Not, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow,
    ast.BitOr, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.Call, ast.keyword,
    ast.Starred, ast.Attribute, ast.Subscript, ast.Slice, ast.Name, ast.Load, ast.Store, ast.Constant, ast.Tuple, ast.List,
    ast.Dict, ast.ListComp, ast.GeneratorExp, ast.comprehension, ast.JoinedStr, ast.FormattedValue, ast.Yield,
)  # fmt: skip
#: Builtins that a file may use.
_BUILTINS = {
    "any", "bool", "dict", "enumerate", "float", "getattr", "int", "isinstance", "len", "list", "max", "min", "range",
    "round", "str", "super", "tuple",
}  # fmt: skip


@record(slots=False)
class Allowed:
    """The contents allowed in a file of a framework: imported modules with their aliases, names imported from modules,
    dotted names, decorators, and beyond what all files may contain: builtins, special names of a class and nodes."""

    modules: Mapping[str, str | None]
    imports: Mapping[str, Collection[str]]
    names: Collection[str]
    decorators: Collection[str]
    builtins: Collection[str] = ()
    methods: Collection[str] = ()
    nodes: tuple[type[ast.AST], ...] = ()

    @cached_property
    def imported(self) -> frozenset[str]:
        """The names that imports define."""
        names = [name for names in self.imports.values() for name in names]
        return frozenset([*names, *(alias or name for name, alias in self.modules.items())])

    @cached_property
    def roots(self) -> frozenset[str]:
        """The first components of the dotted names."""
        return frozenset(name.partition(".")[0] for name in self.names)


def dotted(names: Mapping[str, str]) -> set[str]:
    """Return dotted names, from those in each module with spaces between them; `{}` stands for each number of axes."""
    return {
        f"{root}.{name.format(axes)}" for root, text in names.items() for name in text.split() for axes in AXIS_NAMES
    }


class Refused(AssertionError):
    """Raised if generated source contains anything not allowed: a bug of the code generator, or an attack on it."""


def check(text: str, allowed: Allowed) -> None:
    """Check a file. Raises Refused for anything that is not allowed."""
    tree = ast.parse(text)
    bound = {name for node in ast.walk(tree) if (name := _bound(node)) is not None}
    # Builtins and imported names may not be redefined.
    if shadowing := sorted(bound & {*dir(builtins), *allowed.imported}):
        raise Refused(f"{shadowing[0]} is redefined")
    known = bound | _BUILTINS | {*allowed.builtins} | allowed.imported
    # A generator is allowed only as the argument of `any`.
    asked = {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "any" and node.args
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.GeneratorExp) and id(node) not in asked:
            raise Refused(f"line {node.lineno}: a generator is not allowed here")
        _check_node(node, known, allowed)


def _bound(node: ast.AST) -> str | None:
    """Return the name that a node defines, or None."""
    match node:
        case ast.ClassDef() | ast.FunctionDef():
            return node.name
        case ast.arg():
            return node.arg
        case ast.Name(ctx=ast.Store()):
            return node.id
    return None


def _check_node(node: ast.AST, known: set[str], table: Allowed) -> None:
    if not isinstance(node, (*_NODES, *table.nodes)):
        raise Refused(f"line {getattr(node, 'lineno', '?')}: {type(node).__name__} is not allowed")
    match node:
        case ast.Import():
            allowed = all(
                alias.name in table.modules and alias.asname == table.modules[alias.name] for alias in node.names
            )
        case ast.ImportFrom():
            names = table.imports.get(node.module or "", ())
            allowed = node.level == 0 and all(alias.name in names and alias.asname is None for alias in node.names)
        case ast.Attribute():
            allowed = _allowed_attribute(node, table)
        case ast.Name():
            allowed = node.id in known and (not node.id.startswith("__") or node.id in table.methods)
        case ast.Call(func=ast.Name(id="getattr" | "setattr" as function)):
            # Only for modules whose names are numbers.
            second = node.args[1] if len(node.args) == (2 if function == "getattr" else 3) else None
            allowed = isinstance(second, ast.Constant) and isinstance(second.value, str) and second.value.isdigit()
            # In a loop, a format that takes integers alone.
            allowed = allowed or (second is not None and ast.unparse(second) == "f'{index:d}'")
        case ast.ClassDef() | ast.FunctionDef():
            allowed = not node.name.startswith("_") or node.name in ("__init__", *table.methods)
            allowed = allowed and all(ast.unparse(decorator) in table.decorators for decorator in node.decorator_list)
        case ast.arg():
            allowed = not node.arg.startswith("_")
        case ast.Constant():
            allowed = node.value in (None, ...) or isinstance(node.value, int | float | str)
        case _:
            allowed = True
    if not allowed:
        raise Refused(f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)[:80]} is not allowed")


def _allowed_attribute(node: ast.Attribute, table: Allowed) -> bool:
    """Return whether an attribute may be read or set: a framework's only if listed, a string's never."""
    if node.attr.startswith("_") and node.attr not in ("__init__", *table.methods):
        return False
    root: ast.expr = node
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(root, ast.Constant | ast.JoinedStr):
        return False
    if not (isinstance(root, ast.Name) and root.id in table.roots):
        return True
    dotted = ast.unparse(node)
    reads = isinstance(node.ctx, ast.Load)
    return reads and (dotted in table.names or any(name.startswith(f"{dotted}.") for name in table.names))
