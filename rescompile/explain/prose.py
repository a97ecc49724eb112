"""An explanation as text for people and as data for machines."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rescompile.analysis.cost import cost
from rescompile.analysis.paths import paths
from rescompile.analysis.receptive_field import View, of_input, view
from rescompile.analysis.tree_table import count, survival
from rescompile.diagnostics.text_table import text_table
from rescompile.explain import Explanation, Held, facts
from rescompile.explain.differences import Difference
from rescompile.explain.facts import shown
from rescompile.explain.merger import Edit
from rescompile.explain.stages import Segment, Structure, merges, stride
from rescompile.ir.network import LOGITS, Network
from rescompile.ir.ops import Shape

#: So many different edits of a topic are told; the rest is counted.
EDITS = 4


# --- figures ----------------------------------------------------------------------------------------------------------


def _stages(network: Structure) -> tuple[list[dict[str, Any]], View, Shape]:
    """The rows of the table of stages; what a position of the last map sees that does not see all, and that map."""
    rows = []
    seen = of_input(network.input)
    last: View = None  # of a network without maps
    shape = network.input
    for segment in network.segments:
        for step in (step for unit in segment.units for step in unit):
            seen = view(step, seen)
            if seen is not None:
                last, shape = seen, step.output
            elif len(step.output) == 3 and max(step.output[1:]) > 1:
                last = None  # a map whose positions do not see alike: none to tell of, whatever head follows
        if segment.is_stage:
            rows.append(_stage(segment, seen))
    return rows, last, shape


def _stage(segment: Segment, seen: View) -> dict[str, Any]:
    unit = segment.units[-1]
    return {
        "name": segment.name, "block": segment.block, "blocks": len(segment.units),
        "kind": facts.kind_of(unit), "channels": [int(n) for n in facts.channels(unit).split("-") if n],
        "stride": math.prod(stride(each)[0] for each in segment.units), "output_shape": list(segment.output),
        "output_stride": _jump(seen), "receptive_field": _size(seen),
    }  # fmt: skip


def _size(seen: View) -> list[int] | None:
    return None if seen is None else [seen[0].size, seen[1].size]


def _jump(seen: View) -> list[int] | None:
    return None if seen is None else [seen[0].jump, seen[1].jump]


# --- for people -------------------------------------------------------------------------------------------------------


def lines(found: Explanation, about: Mapping[str, Any], width: int) -> Iterator[str]:
    """The text, in lines of at most `width` characters where words allow. `about` is what the spec says of itself: its family,
    description, reference, notes and unverified."""

    def wrapped(text: str, indent: str = "", hanging: str | None = None) -> list[str]:
        return textwrap.wrap(
            text, width, initial_indent=indent, subsequent_indent=indent if hanging is None else hanging,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip

    network, structure = found.network, found.structure
    family = f" (family {about['family']})" if about.get("family") else ""
    described = f": {about['description']}" if about.get("description") else ""
    yield from wrapped(f"{network.name}{family}{described}")
    if about.get("reference"):
        yield from wrapped(f"source: {about['reference']}")
    if network.passes:
        yield from wrapped(f"passes: {' '.join(network.passes)}")
    yield ""
    stages, last, shape = _stages(structure)
    yield from wrapped(_paragraph(network, structure, last, shape))
    if stages:
        yield ""
        yield from _table(stages)
    for held in found.held:
        yield ""
        yield from wrapped(_heading(held))
        yield from _told(held, structure, wrapped)
    for key, title in (("notes", "what no tree says"), ("unverified", "unverified")):
        if about.get(key):
            yield ""
            yield f"{title}:"
            for note in about[key]:
                yield from wrapped(f"- {note}", "  ", "    ")


def _paragraph(network: Network, structure: Structure, last: View, shape: Sequence[int]) -> str:
    said = [f"The input is {shown(structure.input)}."]
    if structure.stages:
        if structure.stem:
            said.append(f"Stem: {facts.listed(structure.stem)}.")
        blocks = [len(stage.units) for stage in structure.stages]
        many = f"{len(blocks)} stages of {', '.join(map(str, blocks[:-1]))} and {blocks[-1]} blocks"
        style = facts.activation_style(structure)
        blocks_of = dict.fromkeys(facts.kind_of(stage.units[-1]) for stage in structure.stages)
        said.append(
            f"{many if len(blocks) > 1 else f'One stage of {blocks[0]} blocks'} of {' or '.join(blocks_of)}"
            f"{f', {style}' if style else ''}."
        )
        if facts.skips(structure):
            said.append(f"Shortcuts: {facts.shortcuts(structure)}.")
        else:
            kinds = Counter(merge.merge for block in structure.blocks for merge in merges(block))
            said.append(f"No shortcuts{''.join(f'; {n} merges by {kind}' for kind, n in kinds.items())}.")
        if (place := facts.stride_place(structure)) != "none":
            said.append(f"The stride of a block is in {place}.")
        if structure.head:
            said.append(f"Head: {facts.listed(structure.head)}.")
    else:
        said.append(f"It has no stages of blocks: {facts.listed(structure.stem)}.")
    others = {name: shown(sizes) for name, sizes in network.outputs.items() if name != LOGITS}
    if others:
        said.append(f"Outputs beside the last one: {', '.join(f'{name} ({sizes})' for name, sizes in others.items())}.")
    if (dropped := facts.dropout(structure)) != "nowhere":
        said.append(f"Dropout: {dropped}.")
    if schedule := survival(network):
        said.append(
            f"In training a residual branch survives {facts.survival(structure)}: {schedule['expected']:.6g} of "
            f"{schedule['count']} on average."
        )
    total, layers, ways = cost(network), paths(network, "layers"), paths(network)
    said.append(
        f"{total.parameters:,} parameters, {count(total.macs)} multiply-adds; {layers.longest} layer{'s' * (layers.longest != 1)} with "
        f"weights on the longest path and {layers.shortest} on the shortest, {_ways(ways.total)}."
    )
    if last is not None and len(shape) == 3:
        high, wide = (min(span.size, 10**9) for span in last)
        more = "more than all of it" if high >= structure.input[1] and wide >= structure.input[2] else "not all of it"
        said.append(
            f"A position of the last map ({shape[1]}x{shape[2]}, stride {_pair(_jump(last))}) sees {high}x{wide} of the "
            f"input, {more}."
        )
    return " ".join(said)


def _ways(total: int) -> str:
    if total == 1:
        return "1 path"
    power = f" = 2^{total.bit_length() - 1}" if not total & (total - 1) else ""
    return f"{total:,}{power} paths" if total < 10**12 else f"about 10^{math.log10(total):.1f}{power} paths"


def _pair(pair: Sequence[int] | None) -> str:
    return "-" if pair is None else str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def _table(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = [("stage", "blocks", "kind", "channels", "stride", "map", "output stride", "sees")]
    rows += [
        (
            stage["name"], str(stage["blocks"]), stage["kind"], "-".join(map(str, stage["channels"])), str(stage["stride"]),
            shown(stage["output_shape"]), _pair(stage["output_stride"]),
            "all" if stage["receptive_field"] is None else shown(stage["receptive_field"]),
        )
        for stage in stages
    ]  # fmt: skip
    yield from text_table(rows)


def _heading(held: Held) -> str:
    reference = held.reference
    name = reference.name + "".join(f" --set {text}" for text in reference.set)
    name += " with zero-init" if reference.zero_init else ""
    what = f", {reference.what}" if reference.what else ""
    if held.closest and held.comparison.differences is None:
        return f"Of the zoo, {name} has the most ops in common with it."
    if held.closest:
        same = held.comparison.differences == ()
        return (
            f"The same network as {name} of the zoo."
            if same
            else f"Closest to {name} of the zoo. It departs from it in:"
        )
    if held.comparison.differences == ():
        return f"The same network as {name}{what}{', under other names' if held.renamed else ''}."
    return f"Against {name}{what}:"


def _told(held: Held, subject: Structure, wrapped: Any) -> Iterator[str]:
    comparison = held.comparison
    if comparison.differences == ():
        return
    if comparison.differences is None:
        yield from wrapped("The two have too little in common to be compared part by part.", "  ")
    for difference in comparison.differences or ():
        yield from wrapped(f"- {said(difference, subject, held.reference.structure)}", "  ", "    ")
        yield f"    {_figures(difference.parameters, difference.macs)}"
    beyond = comparison.beyond
    if beyond is not None and beyond != (0, 0):
        yield from wrapped(f"- all of these together, beyond their sum: {_figures(*beyond)}", "  ", "    ")
    yield f"  in all {_figures(comparison.parameters, comparison.macs)}"


def _figures(parameters: int | None, macs: int | None) -> str:
    if parameters is None or macs is None:
        return "alone it makes no valid network, so it has no figures of its own"
    if parameters == macs == 0:
        return "no parameters and no MACs more or less"
    return f"{parameters:+,} parameters, {macs:+,} MACs"


# --- differences in words ---------------------------------------------------------------------------------------------


def said(difference: Difference, subject: Structure, reference: Structure) -> str:
    """A difference in words: a sentence for each topic, and where."""
    sentences = []
    for topic in difference.topics:
        fact = facts.FACTS.get(topic)
        edits = [edit for edit in difference.edits if edit.topic == topic]
        sentence = fact.difference(subject, reference) if fact else None
        if sentence is None:
            sentence = f"{facts.TITLES[topic]}: {_texts(edits)}"
        if sentence not in sentences:
            sentences.append(sentence)
    where = places(difference.edits) if set(difference.topics) - GLOBAL else ""
    return "; and ".join(sentences) + (f" (in {where})" if where else "")


#: Topics that are of the whole network, or name their place themselves.
GLOBAL = frozenset(
    {"input", "stem", "stages", "depth", "head", "classes", "eps", "momentum", "activation", "bias", "init", "scale-init", "survival",
     "downsampling"}
)  # fmt: skip


def _texts(edits: Sequence[Edit]) -> str:
    texts = Counter(edit.text for edit in edits)
    listed = [f"{text} ({facts.times(number)})" if number > 1 else text for text, number in list(texts.items())[:EDITS]]
    more = len(texts) - EDITS
    return ", ".join(listed) + (f", and {more} more" if more > 0 else "")


def places(edits: Sequence[Edit]) -> str:
    """Where edits are: rows, and which of their blocks."""
    found: dict[str, tuple[set[int], int]] = {}
    for edit in edits:
        units, _ = found.setdefault(edit.segment, (set(), edit.of))
        units.add(edit.unit)
    grouped: dict[str, list[str]] = {}
    for name, (units, of) in found.items():
        grouped.setdefault(_which(units, of), []).append(name)
    return "; ".join(f"{', '.join(names)}{f': {which}' if which else ''}" for which, names in grouped.items())


def _which(units: set[int], of: int) -> str:
    if len(units) == of:
        return ""
    if units == {0}:
        return "first block"
    if units == set(range(1, of)):
        return "all but the first block"
    listed = [str(unit + 1) for unit in sorted(units)]
    if len(listed) > EDITS:
        return f"{len(listed)} of {of} blocks"
    return f"block{'s' if len(listed) > 1 else ''} {', '.join(listed)}"


# --- for machines -----------------------------------------------------------------------------------------------------


def data(found: Explanation, about: Mapping[str, Any]) -> dict[str, Any]:
    """The explanation for machines. `docs/explain.md` documents the keys."""
    network, structure = found.network, found.structure
    total, layers, ways = cost(network), paths(network, "layers"), paths(network)
    stages, last, shape = _stages(structure)
    return {
        "name": network.name, "sha256": network.sha256, "passes": list(network.passes),
        "family": about.get("family"), "description": about.get("description"), "reference": about.get("reference"),
        "notes": about.get("notes") or [], "unverified": about.get("unverified") or [],
        "input_shape": list(network.input), "parameters": total.parameters, "macs": total.macs,
        "layers": {"longest": layers.longest, "shortest": layers.shortest}, "paths": str(ways.total),
        "last_map": None if last is None else {
            "shape": list(shape), "output_stride": _jump(last), "receptive_field": _size(last),
        },
        "stages": stages,
        "facts": {topic: fact.read(structure) for topic, fact in facts.FACTS.items()},
        "against": [_held(held, structure) for held in found.held],
    }  # fmt: skip


def _held(held: Held, subject: Structure) -> dict[str, Any]:
    comparison, reference = held.comparison, held.reference
    return {
        "name": reference.name, "set": list(reference.set), "zero_init": reference.zero_init,
        "what": reference.what or None, "closest": held.closest,
        "aligned": comparison.differences is not None, "renamed": held.renamed,
        "parameters": comparison.parameters, "macs": comparison.macs,
        "beyond_sum": None if comparison.beyond is None else dict(zip(("parameters", "macs"), comparison.beyond, strict=True)),
        "differences": [
            {
                "topics": list(each.topics), "words": said(each, subject, reference.structure), "where": places(each.edits),
                "parameters": each.parameters, "macs": each.macs, "edits": len(each.edits),
            }
            for each in comparison.differences or ()
        ],
    }  # fmt: skip
