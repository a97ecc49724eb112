"""Where a node came from: the definition step, the block and its arguments, and the expressions behind its numbers.

Nothing here is compared or computed with: messages, the printed tree and generated source read it. `hints` may be stale after
a pass, so they are checked before they are printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from rescompile.records import record

Hints = Mapping[str, str]
NO_HINTS: Hints = {}  # shared, and no mappingproxy, so that networks can be copied and sent to other processes


@record
class Origin:
    """The step of a definition that a node came from; the same for all copies of a block."""

    file: str
    line: int
    path: str


@record
class Definition:
    """A block as it was written: parameters with their defaults (None: there is none), lets and condition as expressions,
    and its description. For code that prints the tree as source; nothing here is evaluated or compared."""

    parameters: Mapping[str, Any]
    lets: Mapping[str, Any]
    when: str | None
    doc: str
    reference: str


@record
class Call:
    """The block that a Series came from, with all its arguments and the literal defaults of its parameters; `index` is
    its place among `depth` copies, if repeated; `values` are the names of kept values that it shares with its user.

    `hints` are in the names of the block around, those of the ops inside in the names of this one.
    """

    block: str
    arguments: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict, compare=False)
    hints: Hints = field(default_factory=dict, compare=False)
    index: int | None = None
    depth: int | None = None
    values: tuple[str, ...] = ()
