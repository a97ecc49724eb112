"""Network -> the classes, arguments and loops of a program that builds it: what every source backend prints.

terms     expressions, and how Python writes them
class_plan what an outline is made of
grouping  which parts become classes, rows or lists
columns   corresponding nodes of many instances
spelling  the values of all instances in the names of one class
classes   many instances -> one class
stages    many rows -> one loop
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rescompile.codegen.class_plan import Class, Outline, Stage
from rescompile.codegen.classes import Builder
from rescompile.codegen.columns import Misfit
from rescompile.codegen.grouping import Kinds, Made, bundled, inside, is_row, segments
from rescompile.codegen.naming import Allocator, snake
from rescompile.codegen.spelling import IN
from rescompile.codegen.stages import make_stage, member
from rescompile.codegen.terms import constant, evaluate, read
from rescompile.ir.expressions import ExpressionError
from rescompile.ir.network import Network, Node, Series, children, walk
from rescompile.ir.provenance import Definition

Key = tuple[Any, ...]


def outline(network: Network, unrolled: bool = False) -> Outline:
    """The classes of a network, each before those that use it; `unrolled`, one for each block, with its own numbers."""
    kinds = Kinds(network, unrolled)
    instances: dict[Key, dict[int, tuple[Series, Mapping[str, Any]]]] = {}
    inner: dict[Key, set[Key]] = {}
    heights = _heights(kinds)
    nested = _nested(network.root)

    def key(series: Series) -> Key:
        part = kinds.copies.get(id(series), series.name)
        word = series.call.block if series.call else (series.origin.path if series.origin else "", part)
        if unrolled:
            return word, id(series)
        return (word, heights[id(series)]) if word in nested else (word,)

    def gather(node: Node, names: Mapping[str, Any], owner: Key | None, path: tuple[str, ...]) -> None:
        if isinstance(node, Series):
            if node.name is not None:
                digits = node.name.isdigit()
                path = (*path, f"{node.call.block if node.call else 'part'}{node.name}" if digits else node.name)
            if node.call is not None and not unrolled:
                names = _names(node, network.definitions.get(node.call.block))
            if kinds.is_class(node):
                mine = key(node)
                instances.setdefault(mine, {})[id(node)] = node, {} if unrolled else {**names, IN: node.input[0]}
                words[mine] = "_".join(path) if unrolled else node.call.block if node.call else _word(node, kinds)
                inner.setdefault(mine, set())
                if owner is not None:
                    inner[owner].add(mine)
                owner = mine
        for child in _once(node, kinds):
            gather(child, names, owner, path)

    words: dict[Key, str] = {}
    gather(network.root, network.parameters, None, ())
    allocate = Allocator(kinds.variables)
    function = allocate.name(network.name)
    root_name = allocate.class_name(network.name)
    classes: list[Class] = []
    stages: list[Stage] = []
    rows = [node for node in _series(network.root) if is_row(node)]
    for mine in _ordered(inner):
        for made in _made(list(instances[mine].values()), words[mine], kinds, allocate):
            classes.append(made.text)  # noqa: PERF401 - a generator that registers what it makes
        complete = [row for row in rows if all(id(child) in kinds.made for child in row.children)]
        rows = [row for row in rows if not any(row is other for other in complete)]
        pieces: dict[Any, tuple[Made, list[list[Series]]]] = {}
        for row in complete:
            for made, copies in segments(row, kinds):
                pieces.setdefault((id(made), member(copies)), (made, []))[1].append(copies)
        for (_, rule), (made, found) in pieces.items():
            # A single copy needs no loop, unless others of its class are in one.
            if rule is not None and any(len(copies) > 1 for copies in found) and not unrolled:
                stage = make_stage(allocate.name(f"{snake(made.text.name)}_stage"), made, found, rule, kinds)
                kinds.stages.update((id(copies[0]), stage) for copies in found)
                stages.append(stage.text)
    values = {**network.parameters, IN: network.input[0]}
    root = Builder(root_name, "", [network.root], [values], kinds).build()
    # Only what the outputs are counted by is left open: other parameters shape the network in ways a class does not know.
    kept = (root.out.value, IN)
    open_ones = [] if unrolled else [name for name in values if kinds.python_name(name) in kept]
    root = Builder(root_name, "", [network.root], [{name: values[name] for name in open_ones}], kinds).build()
    root.text.reference = network.reference
    for argument in root.text.arguments:
        argument.default = constant(root.values[id(network.root)][argument.name])
    return Outline(network, function, [*classes, root.text], stages)


def _made(
    instances: list[tuple[Series, Mapping[str, Any]]], word: str, kinds: Kinds, allocate: Allocator
) -> Iterator[Made]:
    """The class of some instances; several where they are too different for one."""
    nodes, names = zip(*instances, strict=True)
    call = nodes[0].call
    name = allocate.class_name(word)
    try:
        made = Builder(name, call.block if call else "", nodes, names, kinds).build()
    except Misfit:
        allocate.taken.discard(name)
        if len(instances) == 1:
            raise AssertionError(f"{word} does not fit into a class of its own") from None
        for part in _apart(instances, kinds):
            yield from _made(part, word, kinds, allocate)
        return
    for node in nodes:
        kinds.made[id(node)] = made
    if (bundle := kinds.copies.get(id(nodes[0]))) and call is None:
        made.text.doc = f"One of the {bundle}"
    yield made


def _apart(
    instances: list[tuple[Series, Mapping[str, Any]]], kinds: Kinds
) -> Iterable[list[tuple[Series, Mapping[str, Any]]]]:
    """Instances that do not fit into one class, in groups: by structure, else by the steps they came from, else each alone."""
    keys: tuple[Callable[[Series], Any], ...] = (
        lambda node: inside(node.children, kinds),
        lambda node: tuple(part.origin for _, part in walk(node)),
        id,
    )
    for key in keys:
        parts: dict[Any, list[tuple[Series, Mapping[str, Any]]]] = {}
        for node, values in instances:
            parts.setdefault(key(node), []).append((node, values))
        if len(parts) > 1:
            return parts.values()
    raise AssertionError("instances are not distinct")


def _once(node: Node, kinds: Kinds) -> tuple[Node, ...]:
    """The nodes directly inside, of copies side by side the first one."""
    return tuple(bundled(node)[:1]) if isinstance(node, Series) and kinds.is_bundle(node) else children(node)


def _word(part: Series, kinds: Kinds) -> str:
    """What a part that no block made is called: `path` where it is one of the copies in `paths`; a number is no word."""
    bundle = kinds.copies.get(id(part))
    if bundle is not None:
        return bundle.removesuffix("s") or bundle
    return "part" if str(part.name).isdigit() else str(part.name)


def _names(series: Series, definition: Definition | None) -> dict[str, Any]:
    """What the expressions of a block may mention, with the values that they have in one use of it."""
    assert series.call is not None
    names: dict[str, Any] = {**series.call.arguments, IN: series.input[0]}
    for name, raw in (definition.lets if definition else {}).items():
        try:
            names[name] = evaluate(read(raw), names)
        except ExpressionError:
            continue
    return names


def _series(node: Node) -> Iterator[Series]:
    """Every Series, once."""
    seen: set[int] = set()
    todo = [node]
    while todo:
        at = todo.pop()
        if id(at) not in seen:
            seen.add(id(at))
            todo.extend(reversed(children(at)))
            if isinstance(at, Series):
                yield at


def _heights(kinds: Kinds) -> dict[int, int]:
    """How deep classes are nested in each part."""
    heights: dict[int, int] = {}

    def visit(node: Node) -> int:
        if id(node) not in heights:
            below = max((visit(child) for child in children(node)), default=0)
            heights[id(node)] = below + (isinstance(node, Series) and kinds.is_class(node))
        return heights[id(node)]

    visit(kinds.network.root)
    return heights


def _nested(root: Series) -> set[str | tuple[str, str | None]]:
    """The words of blocks that contain themselves."""
    found: set[str | tuple[str, str | None]] = set()
    seen: set[tuple[int, frozenset[Any]]] = set()

    def visit(node: Node, around: frozenset[Any]) -> None:
        if (id(node), around) in seen:
            return
        seen.add((id(node), around))
        if isinstance(node, Series) and node.call is not None:
            if node.call.block in around:
                found.add(node.call.block)
            around |= {node.call.block}
        for child in children(node):
            visit(child, around)

    visit(root, frozenset())
    return found


def _ordered(inner: Mapping[Key, set[Key]]) -> Iterator[Key]:
    """Kinds, each after those that it contains."""
    done: set[Key] = set()
    left = list(inner)
    while left:
        mine = next(key for key in left if inner[key] <= done)
        left.remove(mine)
        done.add(mine)
        yield mine
