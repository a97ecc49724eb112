"""Random specs with hostile text in every place where a user may write text.

Each case has a counterpart, `harmless()`: the same document with harmless words. Names must not affect what a generated
file does, so the source of both must have the same structure.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Typical injections: ends of strings and lines, code, and names that Python, torch or the file itself defines.
STRINGS = (
    '"""', "'''", '"', "'", "\\", '\\"""', "\\\n", "\n", "\r", "\r\n", "\t", "\f", "\v", "\0", "\x1b[31m", "\x85", "\u2028", "\u2029",
    "\ufeff", "\u202e", "\u200b", "é", "ｅｖａｌ", "𝐞𝐱𝐞𝐜", "ﬁ", "ª", "😀", "\ud7ff", "{x}", "{__import__('os')}", "{{", "}}", "%s", "$(id)",
    "`id`", "#", "# type: ignore", "# noqa", ";", ":", ",", ")", "(", "]", "..", "/", "../../x", " ", "", "-", "--force", "0x10",
    'a"""\nimport os\nos.system("id")\n"""', "a\nimport os", "a'''+__import__('os').system('id')+'''", "a; import os", "a # b",
    "__import__('os').system('id')", "eval('1')", "exec('1')", "open('/etc/passwd')", "lambda: 0", "[x for x in y]", "1 if x else 2",
    "x := 1", "().__class__", "f(x)", "*x", "**x", "@x", "import os", "print", "exit",
)  # fmt: skip
WORDS = (
    "eval", "exec", "open", "compile", "print", "getattr", "super", "len", "int", "range", "isinstance", "max", "min", "type", "object",
    "__import__", "__class__", "__init__", "__call__", "_x", "_", "__", "self", "cls", "x", "y", "z", "u", "outputs", "logits", "input",
    "torch", "nn", "F", "Tensor", "OrderedDict", "Callable", "Iterator", "contextmanager", "nullcontext", "checkpoint", "recomputed",
    "drop_samples", "initialise", "stage", "index", "depth", "module", "layer", "name", "names", "in_channels", "out_channels", "position",
    "survival", "training", "forward", "apply", "append", "add_module", "class", "def", "return", "None", "True", "False", "match", "case",
    "await", "lambda", "import", "if", "else", "scale", "Scale", "Subsample", "PadChannels", "Module", "Sequential", "Conv2d", "Unit", "unit",
    "Unit_stage", "unit_stage", "float", "bool", "str", "tuple", "dict", "list", "x" * 63, "x" * 65, "A", "a",
)  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """A place for text of the user: a harmless word, and whether only a name is valid there."""

    harmless: str
    name: bool


SLOTS = {
    "network": Slot("peace", True),
    "file": Slot("file", True),
    "reference": Slot("somebody", False),
    "description": Slot("something", False),
    "block": Slot("unit", True),
    "doc": Slot("a block", False),
    "paper": Slot("a paper", False),
    "argument": Slot("reduction", True),
    "real": Slot("slope", True),
    "let": Slot("inner", True),
    "number": Slot("classes", True),
    "expression": Slot("width * 2", False),
    "condition": Slot("width > 2", False),
    "word": Slot("relu", True),
    "step": Slot("conv1", True),
    "second": Slot("conv2", True),
    "list": Slot("listed", True),
    "member": Slot("part", True),
    "row": Slot("layer1", True),
    "output": Slot("out", False),
    "side": Slot("aux", True),
    "head": Slot("fc", True),
}


def document(word: dict[str, str]) -> dict[str, Any]:
    """Return a small spec with a place for every word."""
    block = {
        "description": word["doc"],
        "reference": word["paper"],
        "parameters": {
            "width": "int",
            word["argument"]: {"default": 2},
            word["real"]: {"default": 0.5},
            "fn": {"default": word["word"], "one_of": [word["word"], "tanh"]},
        },
        "let": {word["let"]: word["expression"]},
        "body": [
            {
                "residual": {
                    "branch": [
                        {word["step"]: {"conv": {"channels": word["let"], "kernel": 3, "groups": word["argument"]}}},
                        {"act": {"kind": "fn"}},
                        {word["second"]: {"conv": {"channels": "width", "kernel": 3, "when": word["condition"]}}},
                        {"leaky_relu": {"slope": word["real"]}},
                        {"n": {"conv": {"channels": "width", "kernel": 1}}},
                    ],
                    "shortcut": {"block": "projection", "channels": "width", "stride": 1},
                }
            },
            {word["list"]: [{"scale": word["real"]}, "norm"]},
        ],
    }
    return {
        "rescompile": 1,
        "name": word["network"],
        "reference": word["reference"],
        "description": word["description"],
        "input": [4, 8, 8],
        "parameters": {word["number"]: 4},
        "blocks": {word["block"]: block},
        "network": [
            {word["row"]: {"block": word["block"], "depth": 2, "width": 4, "members": word["member"] + "{index}"}},
            {"more": {"block": word["block"], "depth": 2, "width": 6, word["argument"]: 1, word["real"]: 0.25}},
            {word["side"]: {"side": {"body": ["global_avgpool"], "output": word["output"], "mode": "always"}}},
            {word["head"]: {"conv": {"channels": word["number"], "kernel": 1}}},
        ],
        "survival": {"schedule": "linear", "last": 0.5, "unit": "batch", "rescale": "test"},
        "features": ["more"],
    }


@dataclass(frozen=True)
class Hostile:
    """A spec, and the hostile words by place."""

    seed: int
    document: dict[str, Any]
    words: dict[str, str]


def hostile(seed: int) -> Hostile:
    """Return the case of a seed, always the same."""
    rng = random.Random(seed)
    peace = {place: slot.harmless for place, slot in SLOTS.items()}
    places = rng.sample(sorted(SLOTS), rng.choice((1, 1, 1, 2, 3)))
    attack = {place: _word(rng, SLOTS[place]) for place in places}
    return Hostile(seed, document({**peace, **attack}), attack)


def _word(rng: random.Random, slot: Slot) -> str:
    makers: list[Callable[[], str]] = [
        lambda: rng.choice(STRINGS),
        lambda: "".join(rng.choice(STRINGS) for _ in range(rng.randint(2, 4))),
        lambda: slot.harmless + rng.choice(STRINGS),
        lambda: rng.choice(STRINGS) + slot.harmless,
        lambda: rng.choice(WORDS),
        lambda: rng.choice(WORDS),
    ]
    return rng.choice(makers + ([makers[-1]] * 4 if slot.name else []))()


def harmless() -> dict[str, Any]:
    """Return the document with harmless words."""
    return copy.deepcopy(document({place: slot.harmless for place, slot in SLOTS.items()}))
