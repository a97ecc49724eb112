"""Random specs through every target and law: a sample of what `make trust` runs by the thousand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import examine
import facts
import pytest
import yaml
from cases import Case, Fault, case
from drawn_documents import Drawn
from elaboration_facts import difference
from examine import examined
from lines import Rerun, joins, leaves, outermost, parts, taps_of
from op_rules import ACTS, ATTRIBUTES
from random_document import BIG, drawn
from reading import read
from shrinking import shrunk

from rescompile.diagnostics.errors import SpecError

SMALL = [pytest.param(seed, marks=[pytest.mark.slow] if seed >= 8 else []) for seed in range(130)]
#: Large networks: two plain ones; one whose float32 outputs are noise, since norms amplify rounding; one that underflows.
LARGE = [pytest.param(BIG + at, marks=pytest.mark.slow) for at in (0, 1, 9, 23)]


@pytest.mark.parametrize("seed", [*SMALL, *LARGE])
def test_random_spec(seed: int, tmp_path: Path) -> None:
    """Every target and every law accepts the network of the seed."""
    assert examined(drawn(seed), tmp_path).faults == []


def test_most_specs_are_valid(tmp_path: Path) -> None:
    """Nearly all documents are valid, and a seed always gives the same document."""
    refused = 0
    for seed in range(200, 250):
        document = drawn(seed)
        assert seed > 202 or drawn(seed).text == document.text
        try:
            case(document, tmp_path)
        except SpecError:
            refused += 1
    assert refused < 5


@pytest.mark.parametrize("name", facts.zoo())
@pytest.mark.sampled(one_in=3)
def test_second_reading_of_the_zoo(name: str) -> None:
    """The second reading of every network of the zoo equals its elaboration."""
    network = facts.network(name)
    assert difference(read(yaml.load(network.text, facts.LOADER)), network) is None


#: Documents that once revealed bugs.
FOUND = {
    "the condition of a block, per copy": """
input: [4, 5, 6]
blocks:
  unit: {when: index > 0, body: [conv1: {conv: {channels: 4, kernel: 3}}, relu]}
network:
  - row: {block: unit, depth: 3}
""",
    "a block inside itself, with values of its own at each level": """
input: [3, 8, 12]
blocks:
  level:
    parameters: {width: int, below: int}
    body:
      - conv1: {conv: {channels: width, kernel: 3}}
      - keep: fine
      - if: below > 0
        then: [{maxpool: {kernel: 2}}, inner: {block: level, width: 2 * width, below: below - 1}, {upsample: 2}]
      - parallel: {merge: concat, branches: [{use: fine}, identity]}
      - conv2: {conv: {channels: width, kernel: 3}}
      - norm
network:
  - outer: {block: level, width: 3, below: 2}
""",
    "copies with names of their own that keep values, of which only those of one row are used": """
input: [3, 5, 6]
blocks:
  unit:
    members: part{index + 1}
    values: [s]
    body: [{name: conv, block: conv_norm_act, width: in_channels}, keep: "s[index]"]
network:
  - row1: {block: unit, depth: 2}
  - parallel: {merge: add, branches: [identity, {use: "s[0]"}]}
  - row2: {block: unit, depth: 1}
""",
    "a parameter with the name of a size, beside another size": """
input: [4, 5, 7]
blocks:
  unit: {parameters: {width: 4}, body: [relu: {when: width % 2 == 0 and height > 1}, conv1: {conv: {channels: width, kernel: 3}}]}
network:
  - row: {block: unit}
""",
    "a grouped convolution that runs again, and one that does not": """
input: [4, 5, 6]
network:
  - recur: [{conv: {channels: 4, kernel: 3, groups: 2}}, {norm: {}}, relu]
  - parallel: {merge: mean, branches: [identity, {again: recur}]}
  - conv1: {conv: {channels: 8, kernel: 1}}
  - relu
  - conv2: {conv: {channels: 8, kernel: 3, groups: 4}}
  - conv3: {conv: {channels: 3, kernel: 1}}
""",
    "norms behind each other, each of which makes more of the rounding before it": """
input: [4, 7, 12]
blocks:
  unit: {body: [bn1: {norm: {kind: instance, eps: 0.001}}, gelu]}
network:
  - row: {block: unit, depth: 4}
""",
    "ranges of other sizes that are averaged, with drop-path": """
input: [4, 5, 6]
network:
  - parallel:
      merge: mean
      split: [1, 3]
      branches: [[conv1: {conv: {channels: 3, kernel: 3}}], [conv2: {conv: {channels: 3, kernel: 1}}]]
drop_path: {rate: 0.6, columns: 0.5, unit: batch}
""",
    "an output inside what is never computed": """
input: [4, 5, 6]
network:
  - side:
      mode: never
      body: [conv1: {conv: {channels: 4, kernel: 3}}, side: {mode: always, output: out, body: [conv2: {conv: {channels: 2, kernel: 1}}]}]
  - conv3: {conv: {channels: 4, kernel: 3}}
""",
    "a block twice inside itself": """
input: [4, 5, 6]
blocks:
  fractal:
    parameters: {columns: int}
    when: columns > 0
    body:
      - parallel:
          merge: add
          branches:
            - [{name: conv, block: conv_norm_act, width: in_channels}]
            - if: columns > 1
              then: [{name: first, block: fractal, columns: columns - 1}, {name: second, block: fractal, columns: columns - 1}]
network:
  - f: {block: fractal, columns: 3}
""",
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name: str, tmp_path: Path) -> None:
    """Documents that once revealed bugs pass all checks."""
    document = {"rescompile": 1, "name": "found", **yaml.safe_load(FOUND[name])}
    assert examined(Drawn(0, document, read(document)), tmp_path).faults == []


# --- the generator ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_specs_reach_the_whole_language() -> None:
    """Random documents use every op, activation, merge, side branch, schedule, form of a value and form of a block."""
    found: set[str] = set()
    for seed in range(400):
        document = drawn(seed)
        found |= set(reached(document))
    assert found >= REACHED, sorted(REACHED - found)


def reached(drawn: Drawn) -> Iterator[str]:
    """Yield the features of the language that a document uses with an effect."""
    document, line = drawn.document, drawn.reading.line
    for leaf in leaves(line):
        yield leaf.made.attributes["kind"] if leaf.word in ("act", "norm", "upsample") else leaf.word
        yield f"{leaf.word} of a vector" if len(leaf.input) == 1 else f"width {leaf.made.output[0]}"
        if leaf.word == "conv" and leaf.made.attributes["groups"] > 1:
            yield "groups"
        if leaf.word == "conv":
            yield f"conv on {len(leaf.input) - 1} axes"
            yield f"weights {leaf.made.attributes['weights']}"
        if leaf.word == "conv" and max(leaf.made.attributes["dilation"]) > 1:
            yield "dilation"
    for join in joins(line):
        yield f"{join.merge}{' residual' if join.residual else ''}{' split' if join.split else ''}"
        yield "split by sizes" if isinstance(join.split, tuple) else ""
        yield f"survival {join.survival[1]} {join.survival[2]}" if join.survival else ""
    yield from (f"side {tap.mode}" for tap in taps_of(line))
    yield from ("again" for part in parts(line) if isinstance(part, Rerun))
    if drops := document.get("drop_path"):
        yield f"drop-path {drops['unit']}"
    survival = document.get("survival", {})
    schedule = survival.get("schedule")
    yield f"{'each' if isinstance(schedule, dict) else schedule} of {'one' if len([*outermost(line)]) == 1 else 'many'}"
    text = str(document)
    yield from (word for word in WRITTEN if word in text)
    yield "vector" if len(document["input"]) == 1 else "map"


#: Forms of the language, by text that occurs in documents with them.
WRITTEN = (
    "'each'", "'first'", "'rest'", "'only'", "'one_of'", "'members'", "'inline'", "'stage'", "'let'", "'when'", "'if'", "'else'",
    "'copies'", "'features'", "'defaults'", "'init'", "'checkpoint'", "'shortcut': 'none'", "'shortcut': 'pad'",
    "'type': 'size'", "'type': 'block'", "'list'", "'real'", "'bool'", "out_channels", "in_channels", "index", "depth", "copy",
    "floor(", "max(", "min(", "length(", " and ", " or ", "not ", " if ", "//", "%", " ** ", "{index", "'scale_init'", "'init_scale'", "'momentum'",
)  # fmt: skip
REACHED = frozenset([
    *WRITTEN, *ACTS, "batch", "group", "nearest", "bilinear", *(word for word in ATTRIBUTES if word not in ("act", "norm", "upsample")),
    "mean", "shake", "again", "conv on 1 axes", "conv on 2 axes", "conv on 3 axes", "linear of a vector", "norm of a vector", "act of a vector", "groups", "dilation", "width 1", "width 7", "width 31", "width 32",
    "width 33", "add", "add residual", "gate residual", "concat", "mul", "add split", "concat split", "mul split", "split by sizes",
    "weights plain", "weights standardised", "weights scaled",
    *(f"survival {unit} {rescale}" for unit in ("batch", "sample") for rescale in ("test", "train")), "side training", "side always",
    "drop-path batch", "drop-path sample",
    "side never", "each of many", "linear of many", "linear_zero_based of many", "uniform of many", "linear of one",
    "linear_zero_based of one", "vector", "map",
])  # fmt: skip


def test_a_failing_spec_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrinking removes the parts that a failure does not need."""

    def conv(case: Case) -> None:
        if any(leaf.word == "conv" for leaf in leaves(case.drawn.reading.line)):
            raise Fault("conv", "there is one")

    monkeypatch.setattr(examine, "CHECKS", (conv,))
    document = next(d for d in map(drawn, range(20)) if any(leaf.word == "conv" for leaf in leaves(d.reading.line)))
    smallest = shrunk(document, "conv")
    assert len(smallest.text) < len(document.text) / 2
    assert len(smallest.document["network"]) == 1
