"""What all parts of one elaboration share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rescompile.elaboration.evaluator import MAX_NODES, Evaluator
from rescompile.elaboration.namer import Namer
from rescompile.elaboration.reporter import Reporter
from rescompile.elaboration.site import Frame, Path, Site
from rescompile.ir.ops import Attribute
from rescompile.ir.provenance import NO_HINTS, Hints, Origin
from rescompile.lang.spec.spec import Spec
from rescompile.lang.spec.values import BLOCKLESS
from rescompile.lang.yaml_reader import locate


class Context:
    """The spec, the members that report, evaluate and name, and what has been built so far."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.document = spec, spec.document
        self.block_words = frozenset({*spec.blocks, *BLOCKLESS})
        self.report = Reporter(spec.document)
        self.evaluator = Evaluator(self.report, self.block_words)
        self.namer = Namer(self.evaluator)
        self.top = Frame({}, (), ("network",))
        self.used: set[str] = set()  # words of ops and blocks
        self.outputs: list[tuple[str, Path]] = []  # of side branches, and where they were named
        self.nodes = self.parameters = 0
        self._origins: dict[Path, Origin] = {}
        self._hints: dict[Path, Hints] = {}

    def defaults(self, word: str, name: str, site: Site, copy: Mapping[str, int]) -> Site:
        """Where the spec gives the default of an attribute or argument; it sees the network's parameters."""
        return site.within(self.top.with_values(**copy) if copy else self.top, ("defaults", word, name))

    def grow(self, site: Site, nodes: int = 1, parameters: int = 0) -> None:
        """Count nodes and parameters, those that copies share too. Raises a problem past the limit of nodes."""
        self.nodes += nodes
        self.parameters += parameters
        if self.nodes > MAX_NODES:
            raise self.report.blamed("E0208", f"the network has more than {MAX_NODES:,} nodes", site)

    def origin(self, path: Path) -> Origin:
        """The step of a definition at a path, made once."""
        if path not in self._origins:
            place = locate(self.document, path, key=True)
            self._origins[path] = Origin(place.source.name, place.line, ".".join(str(step) for step in path))
        return self._origins[path]

    def hints(self, path: Path, written: Mapping[str, Any], facts: Mapping[str, Attribute] | None = None) -> Hints:
        """The expressions among the values written at a path, made once; the words of an attribute are not expressions."""
        if path not in self._hints:
            texts = {key: raw for key, raw in written.items() if isinstance(raw, str)}
            if facts is not None:
                texts = {key: raw for key, raw in texts.items() if raw not in facts[key].words}
            self._hints[path] = texts or NO_HINTS
        return self._hints[path]
