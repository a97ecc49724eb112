"""What stands at each position of a text, and where else the same thing is mentioned; all features share this one."""

from __future__ import annotations

from collections import defaultdict

from rescompile.lang.yaml_reader import Mapping
from rescompile.lsp.names import Entity, Names
from rescompile.lsp.positions import Lines
from rescompile.lsp.value_walker import Mention
from rescompile.lsp.walker import mentions


class Index:
    """The mentions of one text, by place and by what they mention."""

    def __init__(self, values: Mapping, base: Mapping | None, lines: Lines) -> None:
        self.names, self.lines = Names(values, base), lines
        self.mentions = mentions(self.names)
        self._by_line: dict[int, list[Mention]] = defaultdict(list)
        self._by_entity: dict[Entity, list[Mention]] = defaultdict(list)
        for mention in self.mentions:
            self._by_line[mention.place.line].append(mention)
            if mention.entity is not None:
                self._by_entity[mention.entity].append(mention)

    def at(self, index: int) -> Mention | None:
        """Return the smallest thing at an index of the text, or None.

        Of two things that touch there it is the one that begins, of two at the same place the one noted last.
        """
        line = self.lines.yaml_line(index)
        around = [
            (
                not self.lines.start(each.place) <= index < self.lines.end(each.place),
                each.place.end - each.place.column,
                -n,
            )
            for n, each in enumerate(self._by_line[line])
            if self.lines.start(each.place) <= index <= self.lines.end(each.place)
        ]
        return self._by_line[line][-min(around)[2]] if around else None

    def of(self, entity: Entity) -> list[Mention]:
        """Return every mention of a thing, in the order of the walk."""
        return self._by_entity.get(entity, [])
