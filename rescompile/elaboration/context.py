"""The state that all parts of one elaboration share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rescompile.elaboration.evaluator import MAX_BUILT, MAX_NODES, Evaluator
from rescompile.elaboration.namer import Namer
from rescompile.elaboration.reporter import Reporter
from rescompile.elaboration.site import Frame, Path, Site
from rescompile.ir.ops import Attribute
from rescompile.ir.provenance import NO_HINTS, Hints, Origin
from rescompile.lang.spec.spec import Spec
from rescompile.lang.spec.values import BLOCKLESS
from rescompile.lang.yaml_reader import locate

#: Numbers of nodes, parameters, and elaborated parts.
Counted = tuple[int, int, int]


class Context:
    """The spec, the objects that report, evaluate and name, and what has been built so far."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.document = spec, spec.document
        self.block_words = frozenset({*spec.blocks, *BLOCKLESS})
        self.report = Reporter(spec.document)
        self.evaluator = Evaluator(self.report, self.block_words)
        self.namer = Namer(self.evaluator)
        self.top = Frame({}, (), ("network",))
        self.used: set[str] = set()  # words of ops and blocks
        self.outputs: list[tuple[str, Path]] = []  # of side branches, and where they were named
        self.nodes = self.parameters = self.built = 0
        self.full = False  # past a limit, so continuing is useless
        self._origins: dict[Path, Origin] = {}
        self._hints: dict[Path, Hints] = {}

    def defaults(self, word: str, name: str, site: Site, copy: Mapping[str, int]) -> Site:
        """Return where the spec sets the default of an attribute or argument; it may mention the network's
        parameters."""
        return site.within(self.top.with_values(**copy) if copy else self.top, ("defaults", word, name))

    def build(self, site: Site) -> None:
        """Count one more elaborated part."""
        self.built += 1
        self.check_limits(site, built=self.built)

    def grow(self, site: Site, nodes: int = 1, parameters: int = 0) -> None:
        """Count nodes and parameters, including those that copies share."""
        self.nodes += nodes
        self.parameters += parameters
        self.check_limits(site, self.nodes)

    @property
    def counted(self) -> Counted:
        """The counts so far."""
        return self.nodes, self.parameters, self.built

    def foresee(self, site: Site, depth: Any, before: Counted, times: int, shared: bool) -> None:
        """Check the limits as if the growth since `before` repeated this many times, so that no time is spent on too
        many copies."""
        nodes, _, built = before
        self.check_limits(site, self.nodes + (self.nodes - nodes) * times, raw=depth)
        if not shared:
            self.check_limits(site, built=self.built + (self.built - built) * times, raw=depth)

    def repeat(self, before: Counted, times: int) -> None:
        """Count the nodes and parameters since `before` this many times more."""
        self.nodes += (self.nodes - before[0]) * times
        self.parameters += (self.parameters - before[1]) * times

    def check_limits(self, site: Site, nodes: int = 0, built: int = 0, raw: Any = None) -> None:
        """Raise a problem if a limit is exceeded, caused by `raw`; the second limit bounds the time for a spec."""
        message, help = f"the network has more than {MAX_NODES:,} nodes", None
        if built > MAX_BUILT:
            message = f"the network has more than {MAX_BUILT:,} different ops, merges and copies of blocks"
            help = "copies of a block with equal arguments and equal inputs count once"
        elif nodes <= MAX_NODES:
            return
        self.full = True
        raise self.report.blamed("E0208", message, site, help, raw)

    def origin(self, path: Path) -> Origin:
        """Return the step of a definition at a path, created once."""
        if path not in self._origins:
            place = locate(self.document, path, key=True)
            self._origins[path] = Origin(place.source.name, place.line, ".".join(str(step) for step in path))
        return self._origins[path]

    def hints(
        self,
        path: Path,
        written: Mapping[str, Any],
        facts: Mapping[str, Attribute] | None = None,
        frame: Frame | None = None,
    ) -> Hints:
        """Return the expressions among the values written at a path, created once; a word of an attribute is an
        expression only if the frame has a value of that name."""
        if path not in self._hints:
            texts = {key: raw for key, raw in written.items() if isinstance(raw, str)}
            if facts is not None:
                names = frame.values if frame is not None else {}
                texts = {key: raw for key, raw in texts.items() if raw in names or raw not in facts[key].words}
            self._hints[path] = texts or NO_HINTS
        return self._hints[path]
