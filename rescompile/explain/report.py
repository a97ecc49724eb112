"""The explanation as data, from which the text is written as well. `docs/explain.md` documents the keys."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rescompile.analysis.cost import cost
from rescompile.analysis.paths import paths
from rescompile.analysis.receptive_field import View, of_input, view
from rescompile.explain import Against, Explanation
from rescompile.explain.differences import Difference
from rescompile.explain.facts import FACTS, channels, kind_of
from rescompile.explain.merger import Edit
from rescompile.explain.op_wording import times
from rescompile.explain.stages import Segment, Structure, stride
from rescompile.explain.topics import NETWORK_WIDE, TITLES
from rescompile.ir.ops import Shape

#: The keys of a spec that describe a network without changing it.
ABOUT = ("family", "description", "reference", "notes", "unverified")
#: The maximum number of edits of a topic, and of block numbers, that are listed; the rest is counted.
LISTED = 4


def report(explanation: Explanation, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the explanation as data. `about` has the keys of ABOUT that the spec has."""
    network, structure = explanation.network, explanation.structure
    total, layers = cost(network), paths(network, "layers")
    stages, last_map = _stages(structure)
    return {
        "name": network.name, "sha256": network.sha256, "passes": list(network.passes),
        "family": about.get("family"), "description": about.get("description"), "reference": about.get("reference"),
        "notes": about.get("notes") or [], "unverified": about.get("unverified") or [],
        "input_shape": list(network.input), "parameters": total.parameters, "macs": total.macs,
        "layers": {"longest": layers.longest, "shortest": layers.shortest}, "paths": str(paths(network).total),
        "last_map": last_map, "stages": stages,
        "facts": {topic: fact.read(structure) for topic, fact in FACTS.items()},
        "against": [_against(each, structure) for each in explanation.against],
    }  # fmt: skip


def _stages(network: Structure) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Return a row for each stage, and the last feature map with a receptive field that is not the whole input."""
    rows: list[dict[str, Any]] = []
    seen = of_input(network.input)
    last: tuple[Shape, View] | None = None
    for segment in network.segments:
        for step in (step for unit in segment.units for step in unit):
            seen = view(step, seen)
            if seen is not None:
                last = step.output, seen
            elif len(step.output) > 1 and max(step.output[1:]) > 1:
                last = None  # from here on the receptive field depends on the position
        if segment.is_stage:
            rows.append({**_stage(segment), **_field(seen)})
    return rows, last and {"shape": list(last[0]), **_field(last[1])}


def _stage(stage: Segment) -> dict[str, Any]:
    return {
        "name": stage.name, "block": stage.block, "blocks": len(stage.units), "kind": kind_of(stage.units[-1]),
        "channels": [int(number) for number in channels(stage.units[-1]).split("-") if number],
        "stride": math.prod(max(stride(block), default=1) for block in stage.units), "output_shape": list(stage.output),
    }  # fmt: skip


def _field(seen: View) -> dict[str, Any]:
    """Return the receptive field and its stride, of each axis."""
    return {
        "output_stride": None if seen is None else [span.jump for span in seen],
        "receptive_field": None if seen is None else [span.size for span in seen],
    }


def _against(other: Against, subject: Structure) -> dict[str, Any]:
    comparison, reference = other.comparison, other.reference
    return {
        "name": reference.name, "set": list(reference.set), "zero_init": reference.zero_init,
        "what": reference.what or None, "closest": other.closest,
        "aligned": comparison.differences is not None, "renamed": other.renamed,
        "parameters": comparison.parameters, "macs": comparison.macs,
        "beyond_sum": comparison.beyond and dict(zip(("parameters", "macs"), comparison.beyond, strict=True)),
        "differences": [
            {
                "topics": list(each.topics), "words": describe(each, subject, reference.structure), "where": places(each.edits),
                "parameters": each.parameters, "macs": each.macs, "edits": len(each.edits),
            }
            for each in comparison.differences or ()
        ],
    }  # fmt: skip


def describe(difference: Difference, subject: Structure, reference: Structure) -> str:
    """Return a difference in words: a sentence for each topic, and the places."""
    sentences = []
    for topic in difference.topics:
        sentence = FACTS[topic].difference(subject, reference) if topic in FACTS else None
        if sentence is None:
            texts = Counter(edit.text for edit in difference.edits if edit.topic == topic)
            words = [f"{text} ({times(number)})" if number > 1 else text for text, number in texts.items()]
            more = [f"and {len(words) - LISTED} more"] if len(words) > LISTED else []
            sentence = f"{TITLES[topic]}: {', '.join([*words[:LISTED], *more])}"
        if sentence not in sentences:
            sentences.append(sentence)
    where = places(difference.edits) if set(difference.topics) - NETWORK_WIDE else ""
    return "; and ".join(sentences) + (f" (in {where})" if where else "")


def places(edits: Sequence[Edit]) -> str:
    """Return the places of edits: rows and, unless all are meant, their blocks."""
    blocks: dict[tuple[str, int], set[int]] = {}
    for edit in edits:
        blocks.setdefault((edit.segment, edit.of), set()).add(edit.unit)
    rows: dict[str, list[str]] = {}
    for (name, of), numbers in blocks.items():
        rows.setdefault(_which(numbers, of), []).append(name)
    return "; ".join(f"{', '.join(names)}{which and f': {which}'}" for which, names in rows.items())


def _which(blocks: set[int], of: int) -> str:
    if len(blocks) == of:
        return ""
    if blocks == {0}:
        return "first block"
    if blocks == set(range(1, of)):
        return "all but the first block"
    if len(blocks) > LISTED:
        return f"{len(blocks)} of {of} blocks"
    return f"block{'s' if len(blocks) > 1 else ''} {', '.join(str(block + 1) for block in sorted(blocks))}"
