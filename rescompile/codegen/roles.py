"""The role of each part of a network in its source: a class, a row or bundle of copies, or a list of modules."""

from __future__ import annotations

from functools import cached_property

from rescompile.ir.network import Keep, Network, Node, Op, Parallel, Recall, Series, Side, children, walk
from rescompile.ir.values import Crossings, live_names


class Roles:
    """The roles of the parts of one network; if `unrolled`, each block has a separate class and there are no
    bundles."""

    def __init__(self, network: Network, unrolled: bool) -> None:
        self.network, self.unrolled = network, unrolled

    def is_class(self, series: Series) -> bool:
        """Return whether a part becomes an instance of a class."""
        if series.name is None or self.is_bundle(series) or is_bare(series):
            return False
        if id(series) in self.members:
            return True
        if series.call is not None:
            return series.call.index is not None or not (self.is_list(series) and is_numbered(series))
        return not self.is_row(series) and not self.is_list(series)

    def is_row(self, series: Series) -> bool:
        """Return whether a part consists only of copies of one step."""
        copies = [c for c in series.children if isinstance(c, Series) and c.name is not None and c.call is not None]
        return (
            series.call is None
            and len(copies) == len(series.children) > 0
            and id(series) not in self._tapped
            and (is_numbered(series) or not any(map(self.crossings.of, series.children)))
            and [copy.call.index for copy in copies if copy.call] == list(range(len(copies)))
            and len({copy.origin for copy in copies}) == 1
        )

    def is_list(self, series: Series) -> bool:
        """Return whether a part is a sequence of named modules: no merge, no side branch."""
        return not self.has_taps(series) and all(
            isinstance(child, Op)
            or (
                isinstance(child, Series)
                and id(child) not in self._alike
                and (child.name is not None or self.is_list(child))
            )
            for child in series.children
        )

    def is_bundle(self, series: Series) -> bool:
        """Return whether a part is parallel copies of one part, which are printed once."""
        return id(series) in self.bundles

    def once(self, node: Node) -> tuple[Node, ...]:
        """Return the child nodes that are printed: in a bundle, only the first copy."""
        return tuple(bundled(node)[:1]) if isinstance(node, Series) and self.is_bundle(node) else children(node)

    def has_taps(self, node: Node) -> bool:
        """Return whether a node contains a side branch or receives kept values, or has such a child."""
        return id(node) in self._tapped or any(map(self.crossings.of, (node, *children(node))))

    @cached_property
    def shared(self) -> dict[str, dict[str, bool]]:
        """The names of the values that cross the boundary of any use of a block, by its word, and whether they are
        passed in a dict, so that all of its classes, and the copies of a row, accept the same ones."""
        found: dict[str, dict[str, bool]] = {}
        for node in self.series.values():
            if node.call is None or not (crossing := self.crossings.of(node)):
                continue
            own = found.setdefault(node.call.block, {})
            for name in crossing.names:
                own[name] = own.get(name, False) or crossing.is_changed(name) or node.call.index is not None
        return found

    @cached_property
    def series(self) -> dict[int, Series]:
        """Every Series once, by id."""
        return {id(part): part for _, part in walk(self.network.root) if isinstance(part, Series)}

    @cached_property
    def crossings(self) -> Crossings:
        """The kept values that cross the boundaries of parts, if they are used there."""
        return Crossings(live_names(self.network.root))

    @cached_property
    def bundles(self) -> dict[int, Series]:
        """The parts that are parallel copies of one part, by id."""
        # With recomputation in training, the branches of a merge are printed separately.
        return {} if self.unrolled or self.network.checkpoint else self._alike

    @cached_property
    def _alike(self) -> dict[int, Series]:
        """The parts that consist only of copies of one part and their merge, by id."""
        return {at: part for at, part in self.series.items() if not self.has_taps(part) and _are_alike_copies(part)}

    @cached_property
    def members(self) -> dict[int, str]:
        """The copies in bundles, by id, with the name of the bundle."""
        return {id(copy): str(part.name) for part in self.bundles.values() for copy in bundled(part)}

    @cached_property
    def _tapped(self) -> frozenset[int]:
        """The nodes that contain a side branch, by id."""
        tapped: set[int] = set()
        for _, node in reversed([*walk(self.network.root)]):  # children first
            if isinstance(node, Side) or any(id(child) in tapped for child in children(node)):
                tapped.add(id(node))
        return frozenset(tapped)


def _are_alike_copies(series: Series) -> bool:
    """Return whether a part consists only of copies of one part, named 0, 1, 2 and so on, and their sum or
    concatenation."""
    if series.name is None or not series.name.isidentifier() or series.call is not None or len(series.children) != 1:
        return False
    (merge,) = series.children
    if not isinstance(merge, Parallel) or merge.merge not in ("add", "concat") or merge.survival:
        return False
    copies = [branch.children[0] for branch in merge.branches if len(branch.children) == 1]
    parts = [copy for copy in copies if isinstance(copy, Series)]
    return [part.name for part in parts] == [str(at) for at in range(len(merge.branches))] and all(
        part.children == parts[0].children and part.input == parts[0].input for part in parts
    )


def is_bare(series: Series) -> bool:
    """Return whether a part only keeps and uses values, so that it owns no module and its name is not written."""
    return (
        series.call is None
        and bool(series.children)
        and all(isinstance(each, Keep | Recall) for each in series.children)
    )


def bundled(bundle: Series) -> list[Series]:
    """Return the copies in a bundle."""
    copies = [branch.children[0] for branch in bundle_merge(bundle).branches]
    return [copy for copy in copies if isinstance(copy, Series)]


def bundle_merge(bundle: Series) -> Parallel:
    """Return the merge of the copies in a bundle."""
    (merge,) = bundle.children
    assert isinstance(merge, Parallel)
    return merge


def is_numbered(series: Series) -> bool:
    """Return whether the modules of a list are named 0, 1, 2 and so on."""
    names = _names(series)
    return names == [str(at) for at in range(len(names))]


def _names(series: Series) -> list[str]:
    """Return the names in the scope of a list."""
    names: list[str] = []
    for child in series.children:
        if isinstance(child, Series) and child.name is None:
            names += _names(child)
        elif isinstance(child, Op | Series) and child.name is not None:
            names.append(child.name)
    return names
