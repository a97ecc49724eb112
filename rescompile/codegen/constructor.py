"""Class plan -> the entries of constructors: modules, sequences, rows of copies and the loops for both."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from rescompile.codegen.class_plan import (
    Class,
    Copies,
    Either,
    Group,
    Item,
    Join,
    Keeping,
    Layer,
    Module,
    NumberedCopies,
    Recalling,
    Repeated,
    Row,
    Run,
    Use,
    body_items,
    scope_names,
)
from rescompile.codegen.dialect import Dialect
from rescompile.codegen.entries import (
    Constructed,
    Copied,
    Entry,
    Filled,
    Joined,
    Listing,
    Looped,
    Make,
    MakeDropPath,
    MakeLayer,
    Number,
    Scanned,
    Separate,
)
from rescompile.codegen.naming import Counted, counted
from rescompile.ir import ops
from rescompile.ir.expressions import Term
from rescompile.records import record

#: The minimum number of repetitions for which a loop builds a sequence.
LOOP = 3


@record(slots=False)
class Names:
    """The attributes of a class: names, by id, for items that the plan leaves unnamed; the names of all modules; the
    numbers that forward reads; for merges, by id, the sizes of unequal channel ranges: numbers, or attributes with
    numbers; and how merging modules drop branches."""

    chosen: Mapping[int, str]
    taken: frozenset[str]
    numbers: Sequence[Number]
    sizes: Mapping[int, tuple[int | str, ...]]
    drop_path: MakeDropPath | None = None

    def of(self, item: Item) -> str:
        """Return the attribute of an item: its module, the number of copies, the survival probability of a merge or whether it has a
        shortcut, or the index of a value."""
        return self.chosen.get(id(item)) or getattr(item, "name", None) or ""

    def merger(self, join: Join) -> str:
        """Return the module that merges branches; empty if an expression merges them."""
        return "" if join.survival or join.when else self.chosen.get(id(join), "")

    def free(self, name: str, *others: str) -> str:
        """Return this name for a method, or a similar one that neither a module nor one of the others has."""
        return _free(name, {*self.taken, *others})


def attributes(of: Class, dialect: Dialect, drop_path: MakeDropPath | None = None) -> Names:
    """Return the names of the attributes of a class, and the numbers among them."""
    made = [item for item in body_items(of.items) if not isinstance(item, Layer) or is_module(item, dialect)]
    modules = {item.name for item in made if isinstance(item, Module)}
    taken = set(scope_names(of.items))
    chosen: dict[int, str] = {}
    sizes: dict[int, tuple[int | str, ...]] = {}
    numbers: list[Number] = []
    indices: dict[str, Number] = {}

    def number(wanted: str, value: Term, differs: bool = False) -> str:
        numbers.append(Number(_new_name(wanted, taken), value, differs))
        return numbers[-1].name

    for item in made:
        match item:
            case Run():
                chosen[id(item)] = _new_name(item.name, modules)
            case NumberedCopies():
                chosen[id(item)] = _new_name("copies", taken)
            case Join():
                sizes[id(item)] = tuple(
                    size.value if size.head == "constant" else number(f"channels{at}", size)
                    for at, size in enumerate(item.sizes)
                )
                if item.when is not None:
                    chosen[id(item)] = number("has_shortcut", item.when)
                elif item.survival is not None:
                    chosen[id(item)] = number("survival", item.survival, differs=True)
                elif item.merge == "mean" and drop_path and len(item.branches) > 1:
                    chosen[id(item)] = _new_name(item.name, modules)
            case Keeping(index=Term() as index) | Recalling(index=Term() as index) if index.head != "constant":
                if item.index_text not in indices:
                    name = _new_name(f"{item.values.name}_index", taken)
                    indices[item.index_text] = Number(name, index)
                chosen[id(item)] = indices[item.index_text].name
    return Names(chosen, frozenset(modules), [*numbers, *indices.values()], sizes, drop_path)


def _new_name(wanted: str, taken: set[str]) -> str:
    """Return a name that is not taken, which it then is."""
    name = _free(wanted, taken)
    taken.add(name)
    return name


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def is_module(layer: Layer, dialect: Dialect) -> bool:
    """Return whether an op in the body of a class becomes a module."""
    return not dialect.applies(layer) and layer.kind is not ops.Identity


def is_fresh(item: Item, dialect: Dialect) -> bool:
    """Return whether an item is a layer whose result may be overwritten."""
    return isinstance(item, Layer) and dialect.is_fresh(item.kind) and item.when is None


def constructed(of: Class, names: Names, dialect: Dialect, rolls: bool) -> tuple[Constructed, ...]:
    """Return the entries of a class's constructor, numbers first. With `rolls`, loops build repetitive
    sequences."""
    entries: list[Constructed] = [*names.numbers]
    for item in body_items(of.items):
        match item:
            case Layer() if not is_module(item, dialect):
                pass
            case Layer() | Use() | Either() | Row():
                entries.append(_entry(item, dialect))
            case Group():
                entries.append(_group_entry(item, dialect, rolls))
            case Run(items=[Layer() as alone]):
                entries.append(Entry(names.of(item), MakeLayer(alone), item.when))
            case Run():
                entries.append(replace(_entry(item, dialect), name=names.of(item)))
            case Copies():
                entries.append(Copied(item.name, item.use, item.count))
            case NumberedCopies():
                entries.append(Copied(names.of(item), _listing(item.items, dialect), item.count, own=True))
            case Join(merge="mean") if id(item) in names.chosen and names.drop_path:
                entries.append(Entry(names.of(item), names.drop_path))
    return tuple(entries)


def _group_entry(group: Group, dialect: Dialect, rolls: bool) -> Constructed:
    """Return the entry of a sequence: filled by a loop if it is repetitive, one by one if its names are
    words."""
    make = _listing(group.items, dialect)
    if group.when is None and group.name.isidentifier():
        if rolls and (loop := _loop(make.parts, dialect)):
            depth, parts = loop
            return Looped(group.name, depth, parts)
        if make.named:
            return Filled(group.name, make.parts)
    return Entry(group.name, make, group.when)


def _entry(item: Item, dialect: Dialect, fresh: bool = False) -> Entry:
    """Return the entry of a module; an activation may work in place on a `fresh` input."""
    match item:
        case Layer():
            return Entry(item.name, MakeLayer(item, fresh), item.when)
        case Use():
            return Entry(item.name, item, item.when)
        case Row():
            return Entry(item.name, _row(item), item.when)
        case Group():
            return Entry(item.name, _listing(item.items, dialect), item.when)
        case Run():  # without parameters: the names are irrelevant
            parts = enumerate(_listing(item.items, dialect).parts)
            return Entry(item.name, Listing(tuple(replace(part, name=str(at)) for at, part in parts)), item.when)
        case Either():
            then, otherwise = (_entry(part, dialect).make for part in (item.then, item.otherwise))
            return Entry(item.name, then, item.when, otherwise)
    raise AssertionError(f"{item} stands in a list of modules")


def _listing(items: Sequence[Item], dialect: Dialect) -> Listing:
    """Return modules in sequence; an activation may work in place on a fresh result of the module before it."""
    parts: list[Entry] = []
    fresh = False
    for item in items:
        parts.append(_entry(item, dialect, fresh))
        fresh = is_fresh(item, dialect)
    return Listing(tuple(parts))


def _row(row: Row) -> Make:
    """Return the module of a row of copies."""
    parts = tuple(row.parts)
    if row.values:
        return Separate(parts)
    numbered = any(part.stage.member is None if isinstance(part, Repeated) else part.name.isdigit() for part in parts)
    made = parts[0] if len(parts) == 1 and isinstance(parts[0], Repeated) else Joined(parts, numbered)
    return Scanned(made, row.scan) if row.scan is not None else made


def _loop(parts: Sequence[Entry], dialect: Dialect) -> tuple[int, tuple[tuple[Counted, Entry], ...]] | None:
    """Return a sequence as repetitions of its first modules: the depth, and each module with its naming rule."""
    texts = [dialect.conditional(part) for part in parts]
    for period in range(1, len(parts) // LOOP + 1):
        depth, rest = divmod(len(parts), period)
        if rest or any(text != texts[at % period] for at, text in enumerate(texts)):
            continue
        rules = [counted([part.name for part in parts[at::period]]) for at in range(period)]
        found = tuple((rule, part) for rule, part in zip(rules, parts[:period], strict=True) if rule is not None)
        return (depth, found) if len(found) == period else None
    return None
