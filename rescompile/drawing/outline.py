"""What a picture shows, before it has coordinates: cards in series, merges, side branches, frames around repeated blocks.

`outline` opens the tree to a depth. Copies of a block that have the same ops are one frame or card with their number, whatever
their shapes and survival probabilities, so the outline of a network does not grow with its depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal, TypeAlias

from rescompile.analysis.tree_table import describe
from rescompile.diagnostics.errors import UsageError
from rescompile.drawing.op_titles import is_pointwise, op_title, side_title, times, value_title
from rescompile.drawing.structure import is_copy, is_row, kept, same, shortcut_merge, skeleton, survivals
from rescompile.explain.op_wording import listed
from rescompile.explain.stages import steps
from rescompile.ir.network import Again, Network, Node, Op, Parallel, Series, Side, join, scope, walk
from rescompile.ir.ops import Shape
from rescompile.records import record

Depth: TypeAlias = Literal["rows", "blocks", "ops"]
Tint: TypeAlias = Literal["weighted", "resizing", "pointwise", "value"]
#: The most cards of a picture; a larger one could not be read, and its network should repeat a block.
MOST = 1000
#: Copies of a branch from this number on are drawn as the first and the last.
COPIES = 3
#: Copies in more groups than this are grouped by their ops without numbers.
GROUPS = 4
#: The word before the survival probabilities of a row.
SURVIVAL = "survival"
#: Those before the probability of one branch.
KEPT = "kept with p ="


@record
class Card:
    """An op with those that it absorbs, or a whole row. `parts` are the nodes that it stands for, each with the scope that it
    lives in; `shortcut` is the merge of the row's blocks that has one; `letters` are those of the panels that open its blocks."""

    title: str
    details: tuple[str, ...]
    output: Shape
    parts: tuple[tuple[str, Node], ...]
    tint: Tint
    count: int = 1
    shortcut: str | None = None
    letters: tuple[str, ...] = ()
    is_row: bool = False


@record
class Chain:
    """Items one after the other; without items the identity. `input` is the shape before the first."""

    items: tuple[Item, ...]
    input: Shape
    output: Shape


@record
class Split:
    """Branches on the same input with their merge. `copies` counts equal branches, of which `branches` has the first and the
    last; `share` is the channels that each gets of a divided input, or None. `notes` stand beside the merge."""

    merge: str
    branches: tuple[Chain, ...]
    output: Shape
    copies: int = 0
    share: int | None = None
    notes: tuple[str, ...] = ()
    is_residual: bool = False
    parts: tuple[tuple[str, Node], ...] = ()

    @property
    def is_dropped(self) -> bool:
        """Whether its branch survives with a probability, which is then its first note."""
        return bool(self.notes) and self.notes[0].startswith(KEPT)


@record
class Tap:
    """A side branch: its items, and the words at its end."""

    child: Chain
    label: str
    output: Shape
    parts: tuple[tuple[str, Node], ...] = ()


@record
class Frame:
    """Items under a title: a row, or `count` copies of a block with the same ops."""

    title: str
    notes: tuple[str, ...]
    child: Chain
    output: Shape
    count: int = 1
    parts: tuple[tuple[str, Node], ...] = ()


Item: TypeAlias = Card | Split | Tap | Frame


@record
class Panel:
    """A block opened once, beside the rows; `title` is the block, `notes` say which copy it is."""

    letter: str
    title: str
    notes: tuple[str, ...]
    child: Chain


@record
class Outline:
    """Everything that a picture shows of a network."""

    network: Network
    rows: Chain
    panels: tuple[Panel, ...]


def outline(network: Network, depth: Depth = "blocks") -> Outline:
    """Return the outline of a network. Raises UsageError where it has more cards than a picture can show."""
    rows = (outliner := _Outliner(depth)).top(network.root)
    if sum(1 for chain in (rows, *(panel.child for panel in outliner.panels.values())) for _ in cards(chain)) > MOST:
        message = f"the network has more than {MOST:,} parts that differ, too many to draw"
        help = "draw fewer of them with --depth rows, or write repeated blocks as one row with 'depth'"
        raise UsageError.of("E0810", message, help=help)
    return Outline(network, rows, tuple(outliner.panels.values()))


def cards(chain: Chain) -> Iterator[Card]:
    """Yield every card of a chain, in the order of execution."""
    for item in chain.items:
        match item:
            case Card():
                yield item
            case Split():
                for branch in item.branches:
                    yield from cards(branch)
            case Tap() | Frame():
                yield from cards(item.child)


def unfolded(item: Item) -> Chain:
    """Return a row with all of its ops: what depth `ops` shows of an item of depth `rows`. Equal rows on one card are shown
    once."""
    count = item.count if isinstance(item, Card) and len(item.parts) > 1 else 1
    parts = item.parts[: len(item.parts) // count]
    items = tuple(_Outliner("ops")._items(parts, rows=True))
    return Chain(items, parts[0][1].input if parts else item.output, item.output)


class _Outliner:
    """Opens a tree from the top. `panels` has those made so far, by the structure of their block."""

    def __init__(self, depth: Depth) -> None:
        self.depth = depth
        self.panels: dict[str, Panel] = {}

    def top(self, root: Series) -> Chain:
        """Return the rows of the network."""
        items = self._items(_flat(root, "", calls=False), rows=True)
        return Chain(tuple(_folded(items)), root.input, root.output)

    def chain(self, node: Series, path: str, rows: bool = False) -> Chain:
        """Return what is inside a Series that lives in the scope `path`, as rows or as ops."""
        return Chain(tuple(self._items(_flat(node, path, calls=not rows), rows)), node.input, node.output)

    def _items(self, nodes: Iterable[tuple[str, Node]], rows: bool) -> Iterator[Item]:
        run: list[tuple[str, Op]] = []
        for path, node in nodes:
            if isinstance(node, Op):
                if run and (self.depth == "ops" or not is_pointwise(node)):
                    yield self._ops(run, rows)
                    run = []
                run.append((path, node))
                continue
            if run:
                yield self._ops(run, rows)
                run = []
            yield self._item(path, node, rows)
        if run:
            yield self._ops(run, rows)

    def _item(self, path: str, node: Node, rows: bool) -> Item:
        if title := value_title(node):
            tint: Tint = "weighted" if isinstance(node, Again) else "value"
            details = (times(listed(steps(node.child))),) if isinstance(node, Again) else ()
            return Card(title, details, node.output, (), tint, is_row=rows)
        match node:
            case Parallel():
                return self._split(path, node, rows)
            case Side():
                return Tap(self.chain(node.child, path, rows), side_title(node), node.output, ((path, node),))
            case Series() if not rows or self.depth == "ops":
                return self._frame(path, node)
            case _:
                assert isinstance(node, Series)
                return self._row(path, node)

    def _ops(self, run: Sequence[tuple[str, Op]], rows: bool) -> Card:
        """Return the card of an op and of those that follow it channel by channel."""
        path, first = run[0]
        words = [op_title(op) for _, op in run]
        if first.zeros:
            words[0] += f", {first.zeros:,} zeros"
        title, *details = [join(path, first.name), *words] if rows else words
        if rows and details[0] == title:
            del details[0]
        tint: Tint = (
            "pointwise" if is_pointwise(first) else "weighted" if first.kind.parameters(first.input) else "resizing"
        )
        return Card(title, (" · ".join(details),) if details else (), run[-1][1].output, tuple(run), tint, is_row=rows)

    def _row(self, path: str, node: Series) -> Card:
        """Return the card of a row: a block, or copies of one."""
        copies = _copies(node)
        title, details = _titled(path, node, len(copies))
        letters = tuple(dict.fromkeys(filter(None, (self._letter(path, node, copy) for copy in copies))))
        if not letters:
            details.append(self._in_words(copies[0]))
        if chance := _chance(copies):
            details.append(chance)
        weighted = any(isinstance(each, Op) and each.kind.parameters(each.input) for _, each in walk(node))
        return Card(
            title, tuple(filter(None, details)), node.output, ((path, node),), "weighted" if weighted else "resizing",
            len(copies), shortcut_merge(copies[0]) or shortcut_merge(copies[-1]), letters, is_row=True,
        )  # fmt: skip

    def _letter(self, path: str, row: Series, copy: Series) -> str:
        """Return the letter of the panel that opens a block, which is made on first use; none if the card shows all of the block."""
        if self.depth != "blocks":
            return ""
        key = skeleton(copy)
        if key not in self.panels:
            child = self.chain(copy, path if copy is row else join(path, row.name))
            if len(child.items) < 2 and not any(isinstance(each, Split | Frame | Tap) for each in child.items):
                return ""
            letter, number = "", len(self.panels)
            while number >= 0:
                letter, number = chr(ord("A") + number % 26) + letter, number // 26 - 1
            block = copy.call.block if copy.call else ""
            names = [row.name] if copy is row else [row.name, copy.name]
            own = f"as {'.'.join(filter(None, [path, *names]))}" if names[-1] else ""
            self.panels[key] = Panel(letter, block, (own,) if own else (), child)
        return self.panels[key].letter

    def _in_words(self, copy: Series) -> str:
        """Return the only op card of a block, in one line."""
        if self.depth != "blocks":
            return ""
        cards = self.chain(copy, "").items
        return " · ".join(word for card in cards if isinstance(card, Card) for word in (card.title, *card.details))

    def _frame(self, path: str, node: Series) -> Frame:
        """Return a row opened: its copies in groups with the same ops, each group as its first copy."""
        inside = scope(path, node)
        copies = _copies(node)
        groups = [list(group) for _, group in groupby(copies, same)]
        if len(groups) > GROUPS:  # nearly every copy has numbers of its own
            groups = [list(group) for _, group in groupby(copies, skeleton)]
        title, notes = _titled(path, node, len(copies))
        if len(groups) == 1:
            child = self.chain(copies[0], inside if copies[0] is not node else path)
            child = _with_chances(child, groups[0])
            return Frame(title, (*notes, *_varied(groups[0])), child, node.output, len(copies), ((path, node),))
        frames = [self._group(inside, group) for group in groups]
        child = Chain(tuple(frames), node.input, node.output)
        return Frame(title, tuple(notes), child, node.output, len(copies), ((path, node),))

    def _group(self, path: str, group: Sequence[Series]) -> Frame:
        """Copies with the same ops, under their names or else their numbers."""
        ends = [
            join(path, copy.name) if copy.name else f"copy {copy.call.index + 1}"
            for copy in (group[0], group[-1])
            if copy.call is not None and copy.call.index is not None
        ]
        title = " – ".join(dict.fromkeys(ends))
        child = _with_chances(self.chain(group[0], path), group)
        parts = tuple((path, copy) for copy in group)
        return Frame(title, _varied(group), child, group[-1].output, len(group), parts)

    def _split(self, path: str, node: Parallel, rows: bool) -> Split:
        branches = node.branches
        copies = len(branches) if len(branches) >= COPIES and len(set(map(same, branches))) == 1 else 0
        shown = (branches[0], branches[-1]) if copies else branches
        chains = tuple(self.chain(branch, path, rows) for branch in shown)
        notes = [f"{KEPT} {node.survival.probability:.4g}"] if node.survival else []
        channels = [shape[0] for shape in node.given]
        if node.split and not copies:
            notes.append(f"channels: {' + '.join(map(str, channels))}")
        share = channels[0] if node.split else None
        return Split(node.merge, chains, node.output, copies, share, tuple(notes), node.residual, ((path, node),))


def _flat(node: Series, path: str, calls: bool) -> Iterator[tuple[str, Node]]:
    """Yield the nodes of a Series, each with its scope; lists inside it are inlined, with `calls` single blocks too, and
    identities are left out. A block itself is inlined where it is the one that is opened."""
    inner = scope(path, node)
    for child in _in_rows(filter(kept, node.children)):
        inlined = isinstance(child, Series) and not is_row(child) and (calls or child.call is None or _is_list(child))
        if inlined:
            yield from _flat(child, inner, calls)  # type: ignore[arg-type]
        else:
            yield inner, child


def _in_rows(nodes: Iterable[Node]) -> Iterator[Node]:
    """Nodes with the copies of one row in a Series, which they are not where they stand among other steps."""
    run: list[Series] = []
    for node in nodes:
        first = isinstance(node, Series) and node.call is not None and node.call.index == 0
        if run and (first or not is_copy(node)):
            yield Series(tuple(run), run[0].input, run[-1].output)
            run = []
        if isinstance(node, Series) and is_copy(node):
            run.append(node)
        else:
            yield node
    if run:
        yield Series(tuple(run), run[0].input, run[-1].output)


def _is_list(node: Series) -> bool:
    """Return whether a block is a list of rows: with several rows of copies it is a network rather than a block of one."""
    starts = [child for child in node.children if isinstance(child, Series) and child.call and child.call.index == 0]
    return len(starts) + sum(isinstance(child, Series) and is_row(child) for child in node.children) > 1


def _titled(path: str, node: Series, copies: int) -> tuple[str, list[str]]:
    """Return the title of a row and its block with the arguments; a row without a name has that of its block."""
    block, _, given = describe(node).removeprefix(f"{copies} x ").removesuffix(")").partition("(")
    given = given.replace("=", " ")
    if node.name is None:
        return block, [given] if given else []
    return join(path, node.name), [f"{block}: {given}" if given else block]


def _copies(node: Series) -> tuple[Series, ...]:
    """Return the copies of a row; a single block is its own."""
    return tuple(child for child in node.children if isinstance(child, Series)) if is_row(node) else (node,)


def _chance(copies: Sequence[Series]) -> str:
    """Return the survival probabilities of copies, from the first to the last."""
    found = survivals((copies[0], copies[-1]))
    if not found:
        return ""
    return f"{SURVIVAL} {found[0]:.4g}" + (f" → {found[-1]:.4g}" if found[-1] != found[0] else "")


def _with_chances(child: Chain, group: Sequence[Series]) -> Chain:
    """Return the first copy of a group, with the survival probabilities of all."""
    found = survivals((group[0], group[-1]))
    if len(set(found)) < 2:
        return child
    note = f"{KEPT} {found[0]:.4g} → {found[-1]:.4g}"
    items = (
        replace(each, notes=(note, *each.notes[1:])) if isinstance(each, Split) and each.is_dropped else each
        for each in child.items
    )
    return replace(child, items=tuple(items))


def _varied(group: Sequence[Series]) -> tuple[str, ...]:
    """Return a note where the numbers or the shapes are those of the first copy only."""
    if len(set(map(same, group))) > 1:
        return ("numbers of the first",)
    return ("shapes of the first",) if len({(copy.input, copy.output) for copy in group}) > 1 else ()


def _folded(items: Iterable[Item]) -> Iterator[Item]:
    """Equal neighbours as one card with their number: rows that differ in their names only."""
    for _, group in groupby(
        items, lambda item: _alike(item) if isinstance(item, Card) and item.count == 1 else id(item)
    ):
        first, *rest = group
        if not rest or not isinstance(first, Card):
            yield first
            yield from rest
            continue
        cards = [first, *(card for card in rest if isinstance(card, Card))]
        titles = list(dict.fromkeys(card.title for card in cards))
        title = titles[0] if len(titles) == 1 else f"{titles[0]} – {titles[-1]}"
        yield replace(first, title=title, parts=tuple(part for card in cards for part in card.parts), count=len(cards))


def _alike(card: Card) -> object:
    """Return what neighbours share that are drawn as one: their blocks or ops, and their shapes."""
    return (
        card.details, card.letters, card.output,
        tuple((same(node), node.input) if isinstance(node, Series) else (node.kind, node.input)
              for _, node in card.parts if isinstance(node, Series | Op)),
    )  # fmt: skip
