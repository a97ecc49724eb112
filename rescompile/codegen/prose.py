"""What a generated file says of itself in its docstrings, in words that no framework owns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rescompile.codegen.class_plan import Class, ClassPlan
from rescompile.codegen.layout import WIDTH
from rescompile.ir.network import LOGITS, Network


def head(network: Network) -> Iterator[str]:
    """The lines of the docstring of the file."""
    yield f"{prose(network.name)}, made by rescompile from its spec: edit that, or own this."
    yield ""
    if network.reference:
        yield from textwrap.wrap(prose(network.reference), WIDTH)
        yield ""
    yield f"spec sha256 {prose(network.sha256)}"
    if network.passes:
        yield from textwrap.wrap(prose(f"passes {', '.join(network.passes)}"), WIDTH)


def class_doc(of: Class, plan: ClassPlan, notes: Iterable[str]) -> list[str]:
    """What a class is, and the shapes that it maps: paragraphs; `notes` are more of them, for the network itself."""
    network, is_root = plan.network, of is plan.root
    words = prose(of.doc if not is_root else network.name)
    listed = _sentences(words or f"The part {of.sample.name} of {network.name}")
    if of.reference:
        listed.append(prose(of.reference))
    if not is_root:
        where = "" if of.count == 1 else ", the first of its uses"
        return [*listed, f"Maps {_shape(of.sample.input)} to {_shape(of.sample.output)}{where}."]
    outputs = ", ".join(f"{_shape(shape)} as {name}" for name, shape in network.outputs.items())
    if list(network.outputs) == [LOGITS] and not of.taps:
        outputs = _shape(network.outputs[LOGITS])
    return [*listed, f"Maps {_shape(network.input)} to {outputs}.", *notes]


def docstring(paragraphs: Sequence[str]) -> str:
    """Paragraphs as a docstring, wrapped for the body of a class."""
    first, *more = paragraphs
    wrapped = [textwrap.wrap(first, WIDTH - 8), *(textwrap.wrap(paragraph, WIDTH - 4) for paragraph in more)]
    text = "\n\n".join("\n".join(lines) for lines in wrapped)
    return f'"""{text}\n"""'


def prose(text: str) -> str:
    """Text of a user inside a docstring: printable, on one line, with nothing that could end the string."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(plain.replace("\\", "/").replace('"', "'").split())


def _shape(shape: Iterable[int]) -> str:
    return f"[batch, {', '.join(map(str, shape))}]"


def _sentences(text: str) -> list[str]:
    """The first sentence, with its full stop, and the rest."""
    first, *rest = re.split(r"(?<!\bal)\. (?=[A-Z])", text, maxsplit=1)
    return [part if part.endswith(".") else f"{part}." for part in (first, *rest)]
