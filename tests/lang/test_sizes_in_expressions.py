"""`height` and `width` in expressions are the size of the current map, unless a name of the spec shadows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rescompile import build, elaborate, load
from rescompile.diagnostics.errors import SpecError, UsageError
from rescompile.ir import ops
from rescompile.ir.network import Network, Op, walk

HEAD = "rescompile: 1\nname: a\ninput: [4, 12, 16]\n"


def network(text: str, folder: Path, *settings: str) -> Network:
    """Return the network of a spec."""
    (folder / "spec.yaml").write_text(HEAD + text, "utf-8")
    return elaborate(load(folder / "spec.yaml", settings))


def factors(found: Network) -> list[ops.Size]:
    """Return the upsampling factors of a network, which the specs here compute from sizes."""
    return [
        node.kind.factor for _, node in walk(found.root) if isinstance(node, Op) and isinstance(node.kind, ops.Upsample)
    ]


#: By case: a spec and its upsampling factors.
SPECS: dict[str, tuple[str, list[ops.Size]]] = {
    "row": ("network: [upsample: height, maxpool: {kernel: 12}, x: {upsample: [width // 16, height]}]", [(12, 12), (1, 12)]),
    "condition": ("network: [{if: height < width, then: {upsample: 2}}, {upsample: {factor: 3, when: height == 12}}]", [(2, 2)]),
    "defaults": ("defaults: {upsample: {factor: height / 6}}\nnetwork: [upsample: {}, x: {upsample: {}}]", [(2, 2), (4, 4)]),
    "block": (
        "blocks: {b: {parameters: {n: height - 1, m: int}, let: {k: [n, height]}, members: 'm{height}',"
        " body: [maxpool: {kernel: 4}, upsample: {factor: k}, x: {upsample: [height // 3, m]}]}}\n"
        "network: [b: {block: b, depth: width // 16, m: width}]", [(11, 12), (11, 16)],
    ),
    "only on the way taken": ("network: [flatten, {if: in_channels == 1, then: {upsample: height}}]", []),
    "hidden by a parameter": (
        "parameters: {height: 5, width: 6}\nblocks: {b: {parameters: {width: 3}, let: {height: width}, body: [upsample: [height, width]]}}\n"
        "network: [b: {block: b, width: height}, upsample: [height, width]]", [(5, 5), (5, 6)],
    ),
    "hidden beside a size that is not": (
        "blocks: {b: {parameters: {width: 3}, body: [upsample: {factor: [1, width + height - height], when: width < height}]}}\n"
        "network: [b: {block: b}]", [(1, 3)],
    ),
    "hidden by words": (
        "blocks: {b: {parameters: {axis: {one_of: [height, width]}}, body: [upsample: '2 if axis == height else 3']},"
        " c: {parameters: {block_: {default: height, type: block}}, body: [x: {block: block_}]}, height: {body: [upsample: 4]}}\n"
        "network: [b: {block: b, axis: height}, d: {block: b, axis: width}, c: {block: c}, e: {block: c, block_: height}]",
        [(2, 2), (3, 3), (4, 4), (4, 4)],
    ),
    "hidden in a default": ("parameters: {width: 6}\ndefaults: {upsample: {factor: [width, height]}}\nnetwork: [upsample: {}]", [(6, 12)]),
}  # fmt: skip


@pytest.mark.parametrize("case", SPECS)
def test_values(case: str, tmp_path: Path) -> None:
    """Sizes are those of the map at the expression; in defaults and lets, those at the step or block."""
    text, expected = SPECS[case]
    assert factors(network(text, tmp_path)) == expected


def test_sizes_follow_the_input(tmp_path: Path) -> None:
    """Sizes follow `--set input`, and the hash differs."""
    text = "network: [global_avgpool, upsample: [2, 2]]\nblocks: {b: {let: {h: height}, body: [global_avgpool, {upsample: h}]}}"
    text = text.replace("network: [global_avgpool, upsample: [2, 2]]", "network: [b: {block: b}]")
    small, large = network(text, tmp_path), network(text, tmp_path, "input=[4, 20, 8]")
    assert (factors(small), factors(large)) == ([(12, 12)], [(20, 20)])
    assert small.sha256 != large.sha256


@pytest.mark.parametrize(
    ("text", "code", "column"),
    [
        ("parameters: {k: height}\nnetwork: [upsample: k]", "E0302", "4:17"),
        ("network: [flatten, linear: 2 * width]", "E0303", "4:28"),
        ("network: [b: {block: b}]\nblocks: {b: {body: [flatten, linear: width]}}", "E0303", "4:11"),
        ("network: ['x{hieght}': norm]", "E0302", "4:14"),
    ],
)
def test_refused(text: str, code: str, column: str, tmp_path: Path) -> None:
    """Sizes are refused on vectors, and in the network's parameters, which are evaluated outside any map."""
    with pytest.raises(SpecError) as caught:
        network(text, tmp_path)
    (problem,) = caught.value.diagnostics
    assert (problem.code, str(problem.place).split("spec.yaml:")[1]) == (code, column)


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("network: [norm, x: {upsample: [height // 12, 1]}]", ["height"]),
        ("network: [norm, {if: width > 8, then: relu}]", ["width"]),
        ("network: [x: {block: b, depth: 2}]\nblocks: {b: {let: {w: width // height}, body: [upsample: w]}}", ["height", "width"]),
        ("network: ['n{height}': norm]", ["height"]),
        ("defaults: {scale: {factor: 1 / width}}\nnetwork: [scale: {}]", ["width"]),
        ("parameters: {height: 2}\nnetwork: [upsample: height]", []),
    ],
)  # fmt: skip
def test_dynamic_sizes(text: str, fixed: list[str], tmp_path: Path) -> None:
    """An axis from which a value was computed cannot be dynamic, and the error has its location; the other axis can."""
    made = network(text, tmp_path)
    for axis in ("height", "width"):
        if axis not in fixed:
            assert build(made, "onnx", dynamic=axis)
            continue
        with pytest.raises(UsageError) as caught:
            build(made, "onnx", dynamic=axis)
        (problem,) = caught.value.diagnostics
        assert problem.code == "E0809"
        assert f"computes values from '{axis}'" in problem.message
        assert "spec.yaml:" in problem.notes[0]


def test_round(tmp_path: Path) -> None:
    """`round` rounds halves to even, and a parameter may still be called `round`."""
    values = {
        "round(2.5)": 2,
        "round(3.5)": 4,
        "round(2.51)": 3,
        "round(7)": 7,
        "3 + round(-0.5)": 3,
        "round(round / 2)": 2,
    }
    rows = ", ".join(f"{{scale: '{text}'}}" for text in values)
    found = network(f"parameters: {{round: 5}}\nnetwork: [{rows}]", tmp_path)
    kinds = [node.kind for _, node in walk(found.root) if isinstance(node, Op)]
    assert [kind.factor for kind in kinds if isinstance(kind, ops.Scale)] == list(values.values())
