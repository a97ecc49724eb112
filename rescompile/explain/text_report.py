"""The explanation as text."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from rescompile.analysis.tree_table import count, survival
from rescompile.diagnostics.text_table import text_table
from rescompile.explain import Explanation
from rescompile.explain.facts import activation_style
from rescompile.explain.report import report
from rescompile.explain.stages import merges
from rescompile.ir.network import LOGITS
from rescompile.ir.ops.op import short_size_text, size_text


def lines(explanation: Explanation, about: Mapping[str, Any], width: int, window: int | None = None) -> Iterator[str]:
    """Yield the text in lines of at most `width` characters, if words allow, and its table in lines of at most `window`. `about`
    is that of `report`."""
    wrap = partial(textwrap.wrap, width=width, break_long_words=False, break_on_hyphens=False)
    indented = partial(wrap, initial_indent="  ", subsequent_indent="    ")
    data = report(explanation, about)
    family = f" (family {data['family']})" if data["family"] else ""
    description = f": {data['description']}" if data["description"] else ""
    yield from wrap(f"{data['name']}{family}{description}")
    if data["reference"]:
        yield from wrap(f"source: {data['reference']}")
    if data["passes"]:
        yield from wrap(f"passes: {' '.join(data['passes'])}")
    yield ""
    yield from wrap(" ".join(sentences(data, explanation)))
    if data["stages"]:
        yield from ("", *_table(data["stages"], window))
    for other in data["against"]:
        yield ""
        yield from wrap(heading(other))
        if other["aligned"] and not other["differences"]:
            continue
        if not other["aligned"]:
            yield "  The two networks have too little in common for a comparison part by part."
        for difference in other["differences"]:
            yield from indented(f"- {difference['words']}")
            yield f"    {figures(difference)}"
        if other["beyond_sum"] and any(other["beyond_sum"].values()):
            yield from indented(f"- interaction of these differences: {figures(other['beyond_sum'])}")
        yield f"  total: {figures(other)}"
    for key, title in (("notes", "notes"), ("unverified", "unverified")):
        if data[key]:
            yield from ("", f"{title}:")
            for note in data[key]:
                yield from indented(f"- {note}")


def sentences(data: Mapping[str, Any], explanation: Explanation) -> Iterator[str]:
    """Yield the description of a network, sentence by sentence. `data` is the explanation as `report` returns it."""
    facts, network = data["facts"], explanation.network
    yield f"The input is {facts['input']}."
    if data["stages"]:
        yield from _stages(data, explanation)
    else:
        yield f"No block stages: {facts['stem']}."
    others = [f"{name} ({size_text(sizes)})" for name, sizes in network.outputs.items() if name != LOGITS]
    if others:
        yield f"Additional outputs: {', '.join(others)}."
    if facts["dropout"] != "nowhere":
        yield f"Dropout: {facts['dropout']}."
    if schedule := survival(network):
        average = f"{schedule['expected']:.6g} of {schedule['count']} on average"
        yield f"In training, residual branches survive {facts['survival']}: {average}."
    if how := network.drop_path:
        yield (
            f"In training, branches of means are dropped, for each {how.unit}: with probability {how.columns:.6g} all but those of "
            f"one column, else each with probability {how.rate:.6g}."
        )
    longest, shortest = data["layers"]["longest"], data["layers"]["shortest"]
    yield f"{data['parameters']:,} parameters, {count(data['macs'])} multiply-adds;"
    yield f"{longest} layer{'s' * (longest != 1)} with weights on the longest path and {shortest} on the shortest,"
    yield f"{_paths(int(data['paths']))}."
    last = data["last_map"]
    if last is not None and len(last["shape"]) == 3:
        last_map = f"the last feature map ({size_text(last['shape'][1:])}, stride {_pair(last['output_stride'])})"
        seen = [min(size, 10**9) for size in last["receptive_field"]]
        whole = all(size >= side for size, side in zip(seen, data["input_shape"][1:], strict=True))
        yield f"The receptive field of {last_map} is {size_text(seen)}, which covers {'the whole' if whole else 'part of the'} input."


def _stages(data: Mapping[str, Any], explanation: Explanation) -> Iterator[str]:
    facts, structure = data["facts"], explanation.structure
    if structure.stem:
        yield f"Stem: {facts['stem']}."
    *most, last = [str(stage["blocks"]) for stage in data["stages"]]
    number = f"{len(most) + 1} stages of {', '.join(most)} and {last}" if most else f"One stage of {last}"
    kinds = dict.fromkeys(stage["kind"] for stage in data["stages"])
    style = activation_style(structure)
    yield f"{number} blocks of {' or '.join(kinds)}{(style and f', {style}') or ''}."
    if facts["shortcut"] != "none":
        yield f"Shortcuts: {facts['shortcut']}."
    else:
        numbers = Counter(merge.merge for block in structure.blocks for merge in merges(block))
        counted = [(kind, number, "s" * (number != 1)) for kind, number in numbers.items()]
        yield f"No shortcuts{''.join(f'; {number} {kind} merge{plural}' for kind, number, plural in counted)}."
    if facts["stride"] != "none":
        yield f"The stride of a block is in {facts['stride']}."
    if structure.head:
        yield f"Head: {facts['head']}."


def _paths(total: int) -> str:
    if total == 1:
        return "1 path"
    power = f" = 2^{total.bit_length() - 1}" if not total & (total - 1) else ""
    return f"{total:,}{power} paths" if total < 10**12 else f"about 10^{math.log10(total):.1f}{power} paths"


def _pair(pair: Sequence[int] | None) -> str:
    return "-" if pair is None else short_size_text(pair)


def _table(stages: Sequence[Mapping[str, Any]], window: int | None) -> list[str]:
    rows = [("stage", "blocks", "kernels", "channels", "stride", "output", "output stride", "receptive field")]
    for stage in stages:
        numbers = "-".join(map(str, stage["channels"])), str(stage["stride"]), size_text(stage["output_shape"])
        field = "all" if stage["receptive_field"] is None else size_text(stage["receptive_field"])
        rows.append(
            (stage["name"], str(stage["blocks"]), stage["kind"], *numbers, _pair(stage["output_stride"]), field)
        )
    return text_table(rows, width=window)


def heading(other: Mapping[str, Any]) -> str:
    """Return the line above the differences from a reference; `other` is an entry of `against`."""
    name = other["name"] + "".join(f" --set {text}" for text in other["set"])
    name += " with zero-init" if other["zero_init"] else ""
    if not other["closest"]:
        name += f", {other['what']}" if other["what"] else ""
    if not other["aligned"]:
        return (
            f"Network of the zoo with the most ops in common: {name}." if other["closest"] else f"Compared with {name}:"
        )
    if other["closest"] and other["differences"]:
        return f"Closest zoo network: {name}. Differences:"
    if other["differences"]:
        return f"Compared with {name}:"
    zoo = " of the zoo" if other["closest"] else ", but for parameter names" if other["renamed"] else ""
    return f"Identical to {name}{zoo}."


def figures(costs: Mapping[str, int | None]) -> str:
    """Return the parameters and MACs of a difference."""
    parameters, macs = costs["parameters"], costs["macs"]
    if parameters is None or macs is None:
        return "no separate cost: this difference alone does not give a valid network"
    if parameters == macs == 0:
        return "no change in parameters and MACs"
    return f"{parameters:+,} parameters, {macs:+,} MACs"
