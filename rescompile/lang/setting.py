"""`set` and `--set`: finds the row, attribute or key that a path addresses, and changes it.

A path is row.attribute, row, defaults.word.attribute, parameters.name, or another key of the spec. A row is addressed by
its full name in the tree, a macro row without a name by its block; null removes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from rescompile.diagnostics.errors import Place, Source, SpecError, clipped, nearest, one_of
from rescompile.ir import ops
from rescompile.ir.names import COMBINATORS
from rescompile.lang import library
from rescompile.lang.spec.later_ops import is_name
from rescompile.lang.yaml_reader import Items, Located, Mapping, Scalar, plain
from rescompile.records import record

#: Keys of a spec, beside rows, that `set` may reach into.
SETTABLE = (
    "input", "parameters", "defaults", "block", "survival", "drop_path", "init", "features", "checkpoint", "preprocess",
)  # fmt: skip


def problem(code: str, message: str, place: Place, help: str | None = None) -> SpecError:
    """Return an error with one diagnostic."""
    return SpecError.of(code, message, place, help=help)


Step = str | int
Change = Callable[[Located | None], Located | None]


@record
class Row:
    """A step of the network list that `set` can address."""

    address: str
    path: tuple[Step, ...]  # of the whole step in the document
    name: str | None  # the key, where the step is `name: ...`


def apply(document: Mapping, name: str, value: Located, place: Place) -> Mapping:
    """Return the document with the value at the path `name` changed, or removed by null. Raises SpecError."""
    new = None if isinstance(value, Scalar) and value.value is None and value.plain else value
    head, *rest = name.split(".")
    blocks, rows = _blocks(document), rows_of(document)
    whole = [row for row in rows if row.address == name]
    parent, _, attribute = name.rpartition(".")
    inside = [row for row in rows if parent and row.address == parent]
    matches = whole or inside
    in_a_list = any(row.address.startswith(f"{head}.") for row in rows)
    if head in SETTABLE and (not rest or not (matches or in_a_list)):
        return _set_key(document, head, rest, new, place)
    if len(matches) > 1:
        message = f"'{clipped(name)}' is ambiguous: {len(matches)} rows are named '{clipped(matches[0].address)}'"
        raise problem("E0505", message, place, "give the rows different names")
    if not matches:
        from rescompile.lang.spec.spec import Spec  # only a mistake needs it

        if head in Spec.model_fields and not in_a_list:
            raise problem("E0504", f"'{clipped(head)}' cannot be set", place, f"you can set a row, {one_of(SETTABLE)}")
        known = sorted({row.address for row in rows})
        hint = _nearest(name, known, document)
        if parent and (row_hint := nearest(parent, known)) and (not hint or hint == row_hint):
            hint = f"{row_hint[:-2]}.{attribute}'?"
        listed = f"the rows are {', '.join(known[:12])}" if known else None
        raise problem("E0504", f"'{clipped(name)}' does not match any row of the network", place, hint or listed)
    row = matches[0]
    if not whole:
        return _update(document, row.path, lambda step: _with_attribute(step, row, attribute, new, place, blocks))
    if new is None:
        return _update(document, row.path, lambda _: None)
    if row.name is None:
        return _update(document, row.path, lambda _: new)
    return _update(document, row.path, lambda step: _renewed(step, row.name, new, place))


def rows_of(document: Mapping) -> list[Row]:
    """Return the rows of a document, the lists in the network included, in order."""
    return list(_rows(document.get("network"), ("network",), "", _blocks(document)))


def _blocks(document: Mapping) -> set[str]:
    """Return the names of blocks, which win over later ops."""
    return {*library.blocks(), *document.table("blocks")}


def _nearest(name: str, rows: Collection[str], document: Mapping) -> str | None:
    """The question whether a similar row was meant, or a parameter: `classes` or `num_classes` for `parameters.classes`."""
    parameters = document.table("parameters")
    hint = nearest(name, [*rows, *parameters])
    meant = hint and hint.removeprefix("did you mean '").removesuffix("'?")
    return f"did you mean 'parameters.{meant}'?" if meant in parameters else hint


def _renewed(step: Located | None, name: str | None, new: Located, place: Place) -> Mapping:
    """Return a row with another step under its name. Its place is that of the setting, which causes any mistake in it."""
    assert isinstance(step, Mapping)
    assert name is not None
    return step.put(name, new, place)


def _set_key(document: Mapping, head: str, rest: list[str], new: Located | None, place: Place) -> Mapping:
    deepest = {"parameters": 1, "defaults": 2, "survival": 1, "drop_path": 1, "preprocess": 1}.get(head, 0)
    if len(rest) > deepest:
        limit = f"'{clipped(head)}' can only be set as a whole"
        if deepest:
            limit = f"paths into '{clipped(head)}' have at most {deepest + 1} parts"
        raise problem("E0504", f"'{clipped('.'.join([head, *rest]))}' cannot be set: {limit}", place)
    if head == "parameters" and rest:
        known = document.table("parameters")
        if rest[0] not in known:
            listed = f"the parameters are {', '.join(known)}" if known else "the network has no parameters"
            message = f"the network has no parameter '{clipped(rest[0])}'"
            raise problem("E0504", message, place, nearest(rest[0], known) or listed)
    if head == "input":
        _keep_axes(document.get("input"), new, place)
    return _update(document, (head, *rest), lambda _: new, place)


def _keep_axes(old: Located | None, new: Located | None, place: Place) -> None:
    """Refuse a size in place of a shape, or a shape with the batch, which would make other maps of the same network."""
    counts = [len(each.items) if isinstance(each, Items) else 0 for each in (old, new)]
    if min(counts) > 1 and counts[0] != counts[1]:
        names = one_of(ops.AXIS_NAMES.get(counts[0] - 1, ()), "and")
        message = f"'input' cannot be set to {counts[1]} numbers: the maps of the network have the axes {names}"
        help = "write [channels, ...] without the batch; for other axes, write a spec that extends this one"
        raise problem("E0504", message, place, help)


def _op_of(step: Located | None, blocks: Collection[str]) -> str | None:
    """Return the op that a step is: a bare word, or a mapping with one key."""
    if isinstance(step, Scalar) and isinstance(step.value, str):
        hidden = step.value in ops.LATER and step.value in blocks
        return step.value if step.value in ops.WORDS and not hidden else None
    if not isinstance(step, Mapping) or len(step.entries) != 1:
        return None
    ((word, (_, value)),) = step.entries.items()
    return word if word in ops.WORDS and not is_name(word, plain(value), blocks) else None


def _rows(node: Located | None, path: tuple[Step, ...], scope: str, blocks: Collection[str]) -> Iterator[Row]:
    if not isinstance(node, Items):
        return
    for at, item in enumerate(node.items):
        here = (*path, at)
        if isinstance(item, Scalar) and isinstance(item.value, str):
            yield Row(_join(scope, item.value), here, None)
        elif isinstance(item, Items):
            yield from _rows(item, here, scope, blocks)
        elif isinstance(item, Mapping):
            named, block = item.get("name"), item.get("block")
            if isinstance(block, Scalar):
                word = named.value if isinstance(named, Scalar) else block.value
                yield Row(_join(scope, str(word)), here, None)
            elif len(item.entries) == 1:
                ((key, (_, value)),) = item.entries.items()
                if key not in COMBINATORS:
                    yield Row(_join(scope, key), here, None if _op_of(item, blocks) else key)
                    yield from _rows(value, (*here, key), _join(scope, key), blocks)


def _join(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name


def _with_attribute(
    step: Located | None, row: Row, attribute: str, new: Located | None, place: Place, blocks: Collection[str]
) -> Located:
    """Return the step with one attribute changed: in the arguments of its block, or in the attributes of its op."""
    if row.name is not None:
        assert isinstance(step, Mapping)
        inner = Row(row.address, (), None)
        # What an attribute that is removed is missed by, is the setting.
        key_place = step.entries[row.name][0] if new is not None else place
        return step.put(row.name, _with_attribute(step.get(row.name), inner, attribute, new, place, blocks), key_place)
    if isinstance(step, Scalar) and isinstance(step.value, str):
        key = _op_of(step, blocks) or "block"
        step = Mapping({}, step.place).put(key, Mapping({}, step.place) if key != "block" else step)
    if not isinstance(step, Mapping):
        raise problem("E0506", f"'{clipped(row.address)}' is a list of steps and has no attributes", place)
    word = next(iter(step.entries)) if len(step.entries) == 1 else None
    op = _op_of(step, blocks)
    if word in COMBINATORS or "if" in step.entries:
        message = f"'{clipped(row.address)}' is neither a block nor an op, so it has no '{clipped(attribute)}'"
        raise problem("E0506", message, place, "set the whole row")
    if op is None:
        return step.put(attribute, new, place)
    attributes, main = step.get(op), ops.main_attribute(op)
    if not isinstance(attributes, Mapping):
        given = Mapping({}, step.place)
        attributes = given if main is None or attributes is None else given.put(main, attributes)
    return step.put(op, attributes.put(attribute, new, place))


def _update(node: Located | None, path: tuple[Step, ...], change: Change, place: Place | None = None) -> Mapping:
    updated = _updated(node, path, change, place)
    assert isinstance(updated, Mapping)
    return updated


def _updated(node: Located | None, path: tuple[Step, ...], change: Change, place: Place | None) -> Located | None:
    """Return a copy of `node` with the value at `path` changed; missing mappings are created if `place` is given."""
    if not path:
        return change(node)
    step, *rest = path
    if isinstance(step, int):
        assert isinstance(node, Items)
        new = _updated(node.items[step], tuple(rest), change, place)
        return Items((*node.items[:step], *([new] if new else []), *node.items[step + 1 :]), node.place)
    if not isinstance(node, Mapping):
        if node is not None or place is None:
            raise problem(
                "E0506",
                f"'{clipped(str(step))}' cannot be set here, because this is not a mapping",
                (node or Scalar(None, Place(Source("--set", ""), 1, 1, 2))).place,
            )
        node = Mapping({}, place)
    return node.put(step, _updated(node.get(step), tuple(rest), change, place), place)
