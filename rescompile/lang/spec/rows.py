"""The grammar of a row: a block with arguments, once or `depth` times; `- layer1: {depth: 3, width: 64}`."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from rescompile.lang.spec.values import Expression, SpecModel, Template, Value, Word


class Use(SpecModel):
    """A block with arguments, once or `depth` times. A row without `block` uses that of the spec."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Value] = Field(init=False)

    block: Word | None = None
    name: Template | None = None
    depth: Expression | None = None
    members: Template | None = None
    when: Expression | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments for the block's parameters, unevaluated."""
        return self.model_extra or {}
