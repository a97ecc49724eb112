"""A step is refused if it gives an attribute that another one leaves without effect."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from rescompile import elaborate
from rescompile.diagnostics.errors import Source, SpecError
from rescompile.ir import ops
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import parameters
from rescompile.lang.canonical import dump
from rescompile.lang.load import load_text

#: Other attributes of a step of each op, chosen so that no attribute is without effect for another reason.
BESIDE: dict[str, dict[str, Any]] = {
    "conv": {"channels": 8, "kernel": 3},
    "conv_transpose": {"channels": 8, "kernel": 3, "stride": 3},
    "linear": {"features": 4},
    "maxpool": {"kernel": 3, "padding": 1},
    "avgpool": {"kernel": 3, "padding": 1},
    "adaptive_avgpool": {"size": 3},
    "subsample": {"stride": 2},
    "upsample": {"factor": 2},
    "pad_channels": {"channels": 16},
    "reduce": {"by": "max"},
    "border": {"before": 1, "after": 1},
    "shuffle": {"groups": 2},
    "unflatten": {"to": "rows"},
    "part": {"number": 0, "of": 2},
    "depth_to_space": {"size": 2},
    "space_to_depth": {"size": 2},
    "weighted_sum": {"ranges": 4},
    "dropout": {"rate": 0.5},
    "scale": {"factor": 2},
}
#: Attributes that affect only training.
IN_TRAINING = {"momentum", "rate"}


#: Different values of an attribute of each type, in addition to its words.
VALUES: dict[str, list[Any]] = {"bool": [False, True], "word": [], "real": [0.25, 0.5], "int": [2, 4], "size": [1, 2]}


def choices(facts: ops.Attribute) -> list[Any]:
    """Return the values of an attribute that could leave another one without effect. Limits such as a size of 1 are excluded."""
    number = {"bool": [False, True], "real": [0] if facts.words else []}
    return [*facts.words, *number.get(facts.type, [])]


def effect(word: str, given: dict[str, Any]) -> tuple[Any, ...] | None:
    """Return the parameters, output shapes and outputs of an op with random weights, or None if the step is refused."""
    shape = [12] if word in ("linear", "unflatten") else [8, 6, 6]
    spec = {"rescompile": 1, "name": "net", "input": shape, "network": [{"step": {word: given}}]}
    try:
        network = elaborate(load_text(Source("net.yaml", dump(spec))))
    except SpecError:
        return None
    random = np.random.default_rng(0)
    weights = {name: random.random(parameter.shape) for name, parameter in parameters(network)}
    output = interpret(network, weights, random.standard_normal((2, *network.input)))["logits"]
    return [parameter for _, parameter in parameters(network)], network.outputs, output.tobytes()


def void(word: str) -> Iterator[tuple[str, Any, str]]:
    """Yield an attribute, its value, and another attribute that is accepted beside it but has no effect."""
    facts = ops.attributes(word)
    for switch, other in permutations(facts, 2):
        if other in IN_TRAINING:
            continue
        for value in choices(facts[switch]):
            step = {**BESIDE.get(word, {}), switch: value}
            tried = (effect(word, {**step, other: each}) for each in [*facts[other].words, *VALUES[facts[other].type]])
            effects = [found for found in tried if found is not None]
            if len(effects) > 1 and all(found == effects[0] for found in effects):
                yield switch, value, other


@pytest.mark.parametrize("word", [kind.word for kind in ops.KINDS])
def test_attributes_without_effect_are_refused(word: str) -> None:
    assert list(void(word)) == []
