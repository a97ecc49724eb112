"""Random mutations of the specs of the zoo and of the block library: typos, and broken or hostile input.

Each must be accepted, or rejected by a documented error, within a second and 150 MB.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import rescompile
from rescompile.ir import names, ops
from rescompile.lang import library
from rescompile.lang.spec.spec import Spec

TOKEN = re.compile(r"\n|[ \t]+|[A-Za-z0-9_.]+|.", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
EXTREMES = (
    "0", "-1", "1", "2", "7", "31", "33", "255", "4097", "65537", "299999", "300001", "16777217", "2147483648", "9223372036854775808", "9" * 30,
    "0.1", "0.5", "2.0", "-0.0", "1e-320", "1e12", "1e308", "1e400", ".inf", ".nan", "0x10", "010", "1_0", "", "~", "true", "[]", "{}", "[1, 2]",
)  # fmt: skip
VOCABULARY = (
    *ops.WORDS, *names.RESERVED, *names.BUILTINS, *Spec.model_fields, "none", "null", "add", "concat", "mul", "same", "true", "branch",
    "branches", "shortcut", "gate", "body", "copies", "merge", "split", "mode", "output", "only", "one_of", "default", "type", "int", "size",
    "let", "inline", "stage", "width", "stride", "channels", "kernel", "groups", "floor", "length",
)  # fmt: skip
SYNTAX = (
    *"[]{}:,-&*!|>'\"%@`#?~\t", "- ", ": ", "\n", "\n  ", "\n    - ", "&a ", "*a", "<<: ", "!!int ", "!!python/object/apply:os.system ",
    "---\n", "...\n", "%YAML 1.1\n", "? ", "| ", ">-\n", "#",
)  # fmt: skip
CHARACTERS = (
    "\0", "\x07", "\x1b[31m", "\x7f", "\x85", "\xa0", "\xad", "\u2028", "\u202e", "\u200b", "\ufeff", "\ufffe", "–", "—", "−", "×", "：", "，", "“", "’",
    "８", "ｒ", "é", "e\u0301", "İ", "ß", "ﬁ", "ª", "😀", "\U0010ffff",
)  # fmt: skip
EXPRESSIONS = (
    "1 / 0", "1 // 0 if 1 < 2 else 3", "((((((1))))))", "not not true", "in_channels * 0.5", "in_channels / 3", "width[0]", "[1, 2][0]", "floor(1e12)",
    "length(kernels)", "min()", "max([])", "9999999 * 9999999", "depth - index", "a b", "1 +", "in_channels == none", "-" * 40 + "1", "(" * 40, "1" * 301,
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """The text of a spec, and the settings of its command line."""

    text: str
    settings: tuple[str, ...]


def mutant(seed: int) -> Mutant:
    """Return the case of a seed, always the same."""
    rng = random.Random(seed)
    word = rng.choice(sorted(_sources()))
    text = _sources()[word]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        text = rng.choice(MUTATIONS)(rng, text) or "x"
    if (base := _users().get(word)) is not None:  # a block is tested in a network that uses it
        body = "".join(f"    {line}\n" for line in text.splitlines())
        text = f"rescompile: 1\nname: mutant\nextends: {base}\nblocks:\n  {word[1:]}:\n{body}"
    settings = (f"{rng.choice(PATHS)}={rng.choice((*EXTREMES, *VOCABULARY))}",) if rng.random() < 0.1 else ()
    return Mutant(text, settings)


PATHS = (
    "parameters.classes",
    "layer1",
    "layer1.depth",
    "input",
    "defaults.conv.bias",
    "defaults.norm.eps",
    "survival",
    "features",
    "network",
    "x.y",
    "",
)


@cache
def _sources() -> dict[str, str]:
    """Return the texts: networks by name, blocks by `@name`."""
    zoo = {name: path.read_text(encoding="utf-8") for name, path in library.zoo().items()}
    return zoo | {f"@{name}": library.blocks()[name[1:]].read_text(encoding="utf-8") for name in _users()}


@cache
def _users() -> dict[str, str]:
    """Return a network for each block that the zoo uses."""
    return {
        f"@{word}": name
        for name in sorted(library.zoo(), reverse=True)
        for word in {*rescompile.load(name).blocks} & {*library.blocks()}
    }


def parts(rng: random.Random, text: str) -> list[str]:
    """Return the lines of a text, or its tokens."""
    return text.splitlines(keepends=True) if rng.random() < 0.3 else TOKEN.findall(text)


def _delete(rng: random.Random, text: str) -> str:
    pieces = parts(rng, text)
    del pieces[rng.randrange(len(pieces))]
    return "".join(pieces)


def _repeat(rng: random.Random, text: str) -> str:
    pieces = parts(rng, text)
    start = rng.randrange(len(pieces))
    pieces[rng.randrange(len(pieces)) : 0] = pieces[start : start + rng.choice((1, 1, 5, 50))] * rng.choice(
        (1, 1, 2, 100)
    )
    return "".join(pieces)


def _swap(rng: random.Random, text: str) -> str:
    pieces = parts(rng, text)
    one, other = rng.randrange(len(pieces)), rng.randrange(len(pieces))
    pieces[one], pieces[other] = pieces[other], pieces[one]
    return "".join(pieces)


def _splice(rng: random.Random, text: str) -> str:
    """Insert lines of another text among those of this one."""
    lines, other = text.splitlines(keepends=True), rng.choice([*_sources().values()]).splitlines(keepends=True)
    start, at = rng.randrange(len(other)), rng.randrange(len(lines) + 1)
    return "".join([*lines[:at], *other[start : start + rng.randint(1, 6)], *lines[at:]])


def _indent(rng: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    lines[at] = rng.choice((" " + lines[at], "  " + lines[at], "\t" + lines[at], lines[at].lstrip()))
    return "".join(lines)


def _replace(choose: Callable[[random.Random], str], pattern: re.Pattern[str]) -> Callable[[random.Random, str], str]:
    """Return a mutation that replaces one match of a pattern."""

    def mutate(rng: random.Random, text: str) -> str:
        found = list(pattern.finditer(text))
        if not found:
            return text
        match = rng.choice(found)
        return text[: match.start()] + choose(rng) + text[match.end() :]

    return mutate


def _insert(choose: Callable[[random.Random], str]) -> Callable[[random.Random, str], str]:
    def mutate(rng: random.Random, text: str) -> str:
        at = rng.randrange(len(text) + 1)
        return text[:at] + choose(rng) + text[at:]

    return mutate


def _nest(rng: random.Random, text: str) -> str:
    """Put a token inside many brackets, some of which may not be closed."""
    opened, closed = rng.choice(
        (("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", ""), ("(", ")"), ("[&a ", "]"), ("- - ", ""))
    )
    pieces, deep = TOKEN.findall(text), rng.choice((1, 3, 30, 45, 60, 1000, 20_000))
    at = rng.randrange(len(pieces))
    pieces[at] = opened * deep + pieces[at] + closed * rng.choice((deep, deep, deep - 1, 0))
    return "".join(pieces)


_WORDS = re.compile(r"[A-Za-z_]\w*")
_VALUES = re.compile(r"(?<=: )[^\s,{}\[\]]+")
MUTATIONS: tuple[Callable[[random.Random, str], str], ...] = (
    _delete,
    _repeat,
    _swap,
    _splice,
    _indent,
    _nest,
    _replace(lambda rng: rng.choice(EXTREMES), NUMBER),
    _replace(lambda rng: rng.choice(EXTREMES), _VALUES),
    _replace(lambda rng: rng.choice(VOCABULARY), _WORDS),
    _replace(lambda rng: rng.choice(EXPRESSIONS), _VALUES),
    _replace(lambda rng: rng.choice(CHARACTERS), re.compile(".", re.DOTALL)),
    _insert(lambda rng: rng.choice(SYNTAX)),
    _insert(lambda rng: rng.choice(CHARACTERS)),
    lambda rng, text: text[: rng.randrange(len(text) + 1)],
)
