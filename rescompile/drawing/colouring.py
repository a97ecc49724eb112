"""What `--color` paints cards by: counts of the network itself, or values that a result file has for its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from rescompile.analysis.cost import cost
from rescompile.analysis.tree_table import count
from rescompile.drawing.cards import Looks
from rescompile.drawing.outline import Card, Outline, cards
from rescompile.drawing.palette import AGREES, FAULT, SCALE, WHITE_FROM
from rescompile.ir.network import Op, walk
from rescompile.records import record

#: The value of a card, or None where there is none for it.
Value: TypeAlias = Callable[[Card], float | None]


@record
class Metric:
    """A quantity of cards: its name in the legend, its value for a card, and how a value is written."""

    title: str
    value: Value
    text: Callable[[float], str]


def _sum(name: str) -> Value:
    return lambda card: float(sum(getattr(cost(node), name) for _, node in card.parts))


def _bytes(value: float) -> str:
    return f"{value / 2**20:.3g} MiB" if value >= 1 << 20 else f"{value / 2**10:.3g} KiB"


#: The quantities that need no result file.
COUNTS: Mapping[str, Metric] = {
    "macs": Metric("multiply-adds", _sum("macs"), lambda value: f"{count(int(value))} MACs"),
    "parameters": Metric("parameters", _sum("parameters"), lambda value: f"{count(int(value))} parameters"),
    "activations": Metric("activations in float32, one input", _sum("activations"), _bytes),
}


@record
class Painting:
    """How cards are painted: what the colours mean in a few words, the look of each card, and the samples of the legend, each some
    colours with the words behind them."""

    title: str
    looks: Callable[[Card], Looks]
    samples: tuple[tuple[tuple[str, ...], str], ...]


def by_amount(outline: Outline, metric: Metric) -> Painting:
    """Colours from 0 to the largest value of any card."""
    values = (metric.value(card) for card in cards(outline.rows))
    largest = max((value for value in values if value is not None), default=0.0)

    def looks(card: Card) -> Looks:
        value = metric.value(card)
        if value is None:
            return Looks()
        step = min(int(value / largest * len(SCALE)), len(SCALE) - 1) if largest > 0 else 0
        return Looks(metric.text(value), SCALE[step], "light-ink" if step >= WHITE_FROM else "dark-ink")

    return Painting(metric.title, looks, (((), "0"), (SCALE, metric.text(largest))))


def by_fault(outline: Outline, title: str, first: str | None) -> Painting:
    """Two colours: that of cards whose values agree with the reference, and that of the card with the part `first`, the first that
    does not. What follows it has none. Where all agree, `first` is None."""
    listed = list(cards(outline.rows))
    names = [{name for path, node in card.parts for name, _ in walk(node, path)} for card in listed]
    at = next((at for at, inside in enumerate(names) if first in inside), len(listed) - 1)
    end = len(listed) if first is None else at
    shown = {id(card): Looks("agrees", AGREES, "dark-ink") for card in listed[:end]}
    if first is not None:
        shown[id(listed[at])] = Looks(f"first difference: {first}", FAULT, "light-ink")
    samples = [((AGREES,), "agrees"), *([((FAULT,), f"first difference: {first}")] if first is not None else [])]
    return Painting(title, lambda card: shown.get(id(card), Looks()), tuple(samples))


def costs(card: Card) -> Looks:
    """Return the cost of a row in a line, where no colour is asked for."""
    if not card.is_row:
        return Looks()
    total = [cost(node) for _, node in card.parts]
    parameters, macs = sum(each.parameters for each in total), sum(each.macs for each in total)
    if not parameters and all(isinstance(node, Op) for _, node in card.parts):
        return Looks()
    return Looks(f"{count(parameters)} parameters" + (f" · {count(macs)} MACs" if macs else ""))
