"""Random documents: specs that use the whole language, drawn row by row.

This generator is independent of `support/generator.py`. It draws the forms of the language and not shapes, so that
blocks, rows and values occur in unforeseen combinations. `reading.py` reads each document; a row that does not fit is
drawn again, so that nearly all documents are valid, and those that rescompile rejects are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Any

import yaml
from drawn_documents import Drawn
from lines import joins, outermost
from op_rules import Misfit
from places import INITS, Place
from random_changes import changes
from random_steps import StepAuthor
from reading import Reading, read

#: The limits on MACs and ops of a small network, and of one with hundreds of blocks.
SMALL, LARGE = (400_000, 400), (8_000_000, 12_000)
TRIES = 12
#: Seeds from here on give networks of 100 to 1,000 blocks.
BIG = 1_000_000


class DocumentAuthor(StepAuthor):
    """A random author of a document."""

    def __init__(self, seed: int, blocks: int = 0) -> None:
        self.other = Random(f"other axes {seed}")
        super().__init__(Random(seed), self.other.choice((1, 2, 2, 2, 2, 3)))
        self.seed, self.copies = seed, blocks
        self.document: dict[str, Any] = {"rescompile": 1, "name": f"net{seed}", "input": self.shape()}
        self.most = LARGE if blocks else SMALL
        self.vector = len(self.document["input"]) == 1
        self.document |= {"parameters": {}, "blocks": {}, "network": []}
        for name, value in (("k", self.pick(2, 3, 4, 7)), ("classes", self.pick(1, 5, 10)), ("wide", "2 * k + 1")):
            if self.chance(0.7 if name != "wide" else 0.4) and ("k" in self.document["parameters"] or name != "wide"):
                self.document["parameters"][name] = value
        self.place = Place(ints=tuple(n for n in self.document["parameters"] if n != "classes"), depth=3)

    def shape(self) -> list[int]:
        """Return the input shape: odd sizes, not square, rarely a vector."""
        if self.chance(0.1):
            return [self.pick(1, 5, 8, 31, 33)]
        most = 6 if self.copies else 13
        channels, height, width = (
            self.pick(1, 2, 3, 3, 4, 7),
            self.random.randint(4, most),
            self.random.randint(4, most),
        )
        sizes = {1: [height + width], 2: [height, width], 3: [self.other.randint(1, 5), min(height, 7), min(width, 7)]}
        return [channels, *sizes[self.axes]]

    def draw(self) -> Drawn:
        """Return a valid document."""
        reading = self.read()
        rows = self.pick(2, 3, 4, 5) if not self.copies else self.pick(2, 3)
        while len(self.document["network"]) < rows:
            reading = self.grown(reading)
        rest = [self.defaults, self.extras, self.survival, self.features]
        if self.chance(0.6):
            rest.insert(0, self.head)
        for change in rest:
            if self.copies and change == self.survival:
                reading = self.deepened(reading)
            reading = self.tried(change, reading)
        for change in changes(self.seed, large=self.copies > 0):
            reading = self.tried(lambda _, change=change: change(self.document), reading)
        self.drop_path(reading, Random(f"drops {self.seed}"))
        self.trim(reading)
        return Drawn(self.seed, self.document, self.read())

    def read(self) -> Reading:
        """Return the reading of the document so far. Raises Misfit if it is invalid or too large."""
        reading = read(self.document, self.most[1])
        if reading.macs > self.most[0]:
            raise Misfit("too many multiply-adds")
        return reading

    def tried(self, change: Any, reading: Reading) -> Reading:
        """Return the document after a change if it is still valid, and unchanged otherwise."""
        for _ in range(TRIES):
            before, names = _copied(self.document), self.place.given[0]
            try:
                change(reading)
                return self.read()
            except Misfit:
                self.document, self.place.given[0] = before, names
        return reading

    def grown(self, reading: Reading) -> Reading:
        """Return the document with one more row."""
        self.place.is_map = len(reading.shape or self.document["input"]) > 1
        rows = len(self.document["network"])
        reading = self.tried(self.row, reading)
        if len(self.document["network"]) == rows:
            self.document["network"].append(self.act(self.place))
            reading = self.read()
        return reading

    def row(self, reading: Reading) -> None:
        """Return a row: a new block, an existing block, a block of the library, or any steps."""
        draw, rows = self.random.random(), self.document["network"]
        if self.copies or draw < 0.45:
            word = f"unit{len(self.document['blocks'])}"
            self.document["blocks"][word] = self.block(self.place.is_map)
            rows.append(self.use(word))
        elif draw < 0.55 and self.document["blocks"]:
            rows.append(self.use(self.random.choice(sorted(self.document["blocks"]))))
        elif draw < 0.7:
            rows.append(self.library_row())
        elif draw < 0.82 and self.place.is_map:
            rows.append(self.resizing(self.place))
        else:
            rows.extend(self.flat([self.step(self.place)]))

    # --- blocks -------------------------------------------------------------------------------------------------------

    def block(self, is_map: bool) -> dict[str, Any]:
        """Define a new block and return its name."""
        parameters: dict[str, Any] = {
            "width": self.pick("int", "int", 4, {"default": "in_channels"}, {"type": "int", "default": 6})
        }
        optional = {
            "stride": {"default": 1, "only": "first", **self.pick({}, {"type": "size"})},
            "extra": self.pick(2, {"default": "width + 1"}, {"type": "int", "default": 3, "only": "first"}),
            "flag": self.pick(True, False, "bool", {"default": "index == 0"}),
            "sizes": self.pick([1, 3], "list"),
            "order": {"default": self.pick("early", "late"), "one_of": ["early", "late"]},
            "shortcut": {"default": self.pick("projection", "pad", "projection_always"), "type": "block"},
            "slope": self.pick(0.1, "real", {"default": 0.3, "type": "real"}),
        }
        parameters |= {name: value for name, value in optional.items() if self.chance(0.4)}
        inline = self.chance(0.15)
        needs_copies = "index" in str(parameters)
        block: dict[str, Any] = {"parameters": parameters}
        place = Place(
            ints=tuple(n for n in ("width", "extra") if n in parameters), bools=("flag",) * ("flag" in parameters),
            copies=needs_copies or (not inline and self.chance(0.5)), template=inline, is_map=is_map, depth=2,
        )  # fmt: skip
        if self.chance(0.4):
            block["let"] = {"inner": self.pick("width * 2", "max(1, width // 2)", "in_channels + width", "width + 1")}
            if self.chance(0.3):
                block["let"]["half"] = "inner // 2 + 1"
            place.ints += tuple(block["let"])
        block |= {"inline": True} if inline else self.pick({}, {}, {"stage": True}, {"members": "part{index + 1}"})
        if self.chance(0.1):
            block["when"] = self.condition(place)
        block["body"] = self.body(parameters, place)
        return block

    def body(self, parameters: dict[str, Any], place: Place) -> list[Any]:
        """Return the steps of a block, which use all of its parameters."""
        stride = "stride" if "stride" in parameters and place.is_map else None
        steps: list[Any] = []
        if "order" in parameters:
            steps.append({"if": "order == early", "then": [self.norm(place), self.act(place)]})
        residual = {"residual": {"branch": self.branch(place, "width", stride)}}
        if "shortcut" in parameters and place.is_map:
            residual["residual"]["shortcut"] = {"block": "shortcut", "channels": "width", "stride": stride or 1}
            if self.chance(0.2):
                gate = self.layer(place, "out_channels", stride)
                residual["residual"]["gate"] = [gate, "sigmoid"]
            steps.append(residual)
        elif self.chance(0.4):
            steps.append(self.residual(place, "width", stride))
        else:
            steps += self.flat([self.step(place)])
            steps += [self.layer(place, "width", stride)] if stride or self.chance(0.5) else []
        if "sizes" in parameters and place.is_map:
            conv = {"channels": "width", "kernel": "sizes[length(sizes) - 1]", "bias": "sizes[0] == 1"}
            steps.append(self.called("conv", {"conv": conv}, place))
        if "inner" in place.ints and self.chance(0.5):  # used after the convolutions that change the channels
            steps.append(self.layer(place, "inner"))
        if "slope" in parameters:
            steps.append({"leaky_relu": {"slope": "slope"}})
        if "order" in parameters:
            steps.append({"act": {"when": "order == late"}})
        return steps + ([self.step(place)] if self.chance(0.2) else [])

    def argument(self, name: str, block: dict[str, Any], depth: int | None) -> Any:
        """Return an argument of a row: for all copies, for each, or for the first and the others."""
        values = {
            "width": lambda: self.width(self.place) if depth is None or self.chance(0.7) else self.random.choice((4, 6, 7)),
            "stride": lambda: self.stride(block, self.pick(1, 2, 2) if self.chance(0.8) else 2), "extra": lambda: self.pick(1, 2, 5),
            "flag": lambda: self.pick(True, False), "sizes": lambda: self.pick([3], [1, 3], [3, 1, 5]),
            "order": lambda: self.pick("early", "late"), "slope": lambda: self.pick(0.2, 0.5, -0.1),
            "shortcut": lambda: self.pick("projection", "pad", "avgpool_pad", "none", "identity", "projection_always"),
        }  # fmt: skip
        value = values[name]
        if depth is not None and name != "sizes" and self.chance(0.3):
            if self.chance(0.5):
                return {"first": value(), "rest": value()}
            return {"each": [value() for _ in range(depth)]} if depth < 9 else value()
        return value()

    def stride(self, block: dict[str, Any], size: int) -> Any:
        """Return a stride: a number, or one per axis if the parameter is a size that is not passed to a block of the
        library."""
        takes_sizes = block["parameters"]["stride"].get("type") == "size" and not _gives_a_block_its_stride(
            block["body"]
        )
        if self.axes == 1 or not takes_sizes or self.other.random() < 0.4:
            return size
        return [self.other.choice((1, size)) for _ in range(self.axes)]

    def use(self, word: str) -> Any:
        """Return a row that uses a block of this document."""
        block = self.document["blocks"][word]
        depth = self.pick(1, 2, 2, 3, 4) if self.chance(0.7) or block.get("stage") or "index" in str(block) else None
        if self.copies:
            depth = 3
        own: dict[str, Any] = {"block": word} if depth is None else {"block": word, "depth": depth}
        for name, definition in block["parameters"].items():
            required = definition in ("int", "bool", "list", "real", "size")
            if required or self.chance(0.5):
                own[name] = self.argument(name, block, depth)
        if depth is not None and self.chance(0.15):
            own["members"] = self.pick("m{index}", "copy_{index + 1}", "n{depth - index}")
        if self.chance(0.1):
            own["when"] = self.pick("index != 1", "index < depth") if depth else self.condition(self.place)
        if block.get("inline") and depth is not None and "members" not in own and self.chance(0.6):
            return own
        if depth is not None and "block" not in self.document and self.chance(0.2):
            self.document["block"] = word
        if self.document.get("block") == word and depth is not None:
            del own["block"]
        return {self.name("row", self.place): own}

    def library_row(self) -> Any:
        """Return a row that uses a block of the library."""
        depth, width = self.pick(1, 2, 3), self.pick(2, 4, 6, 8)
        if not self.place.is_map:
            return {self.name("high", self.place): {"block": "highway_fc", "depth": depth}}
        shortcut = {"shortcut": self.pick("pad", "projection", "projection_always", "none")} if self.chance(0.3) else {}
        uses: list[dict[str, Any]] = [
            {"block": "basic", "width": width, "stride": self.pick(1, 2), **shortcut},
            {
                "block": "bottleneck",
                "width": 4,
                "base_width": 32,
                "cardinality": 2,
                "stride": self.pick(1, 2),
                "expansion": 2,
                **shortcut,
            },
            {"block": "preact_basic", "width": width, "stride": self.pick(1, 2)},
            {"block": "preact_bottleneck", "width": 3, "expansion": 2, "stride": {"first": self.pick(1, 2), "rest": 1}},
            {"block": "dense_layer", "growth": self.pick(2, 3), "bottleneck": self.pick(0, 1, 2)},
            {"block": "exclusive_gate_basic", "width": width},
            {"block": "highway"},
            {"block": "conv_norm_act", "width": width, "stride": self.pick(1, 2)},
        ]
        return {self.name("layer", self.place): {**self.random.choice(uses), "depth": depth}}

    def deepened(self, reading: Reading) -> Reading:
        """Return the document with its rows repeated until it has hundreds of blocks."""
        named = (row for step in self.document["network"] if isinstance(step, dict) for row in step.values())
        rows = [row for row in named if isinstance(row, dict) and "depth" in row]
        for at, row in enumerate(rows):
            share = self.copies // len(rows) + (self.copies % len(rows) if not at else 0)
            for depth in (share, share * 2 // 3, share // 2, share // 3, share // 5):
                before, row["depth"] = row["depth"], max(depth, 3)
                for key, value in row.items():
                    if isinstance(value, dict) and "each" in value:
                        row[key] = {"each": [value["each"][n % len(value["each"])] for n in range(row["depth"])]}
                try:
                    reading = self.read()
                    break
                except Misfit:
                    row["depth"] = before
                    for key, value in row.items():
                        if isinstance(value, dict) and "each" in value:
                            row[key] = {"each": value["each"][:before]}
        return reading

    # --- the rest of a spec -------------------------------------------------------------------------------------------

    def head(self, reading: Reading) -> None:
        """Return the last rows."""
        classes = "classes" if "classes" in self.document["parameters"] else self.pick(1, 3, 10)
        if len(reading.shape) == 1:
            self.document["network"].append({"fc": {"linear": classes}})
            return
        heads: list[list[Any]] = [
            [{"block": "classifier", "classes": classes}],
            [{"block": "conv_classifier", "classes": classes}],
            [{"block": "norm_classifier", "classes": classes}],
            ["flatten", {"head": [{"linear": self.pick(6, 31)}, "relu", {"dropout": 0.5}, {"linear": classes}]}],
            [
                {"adaptive_avgpool": self.size(1, 2)},
                "flatten",
                {"fc": {"linear": {"features": classes, "bias": False}}},
            ],
            [{"name": "conv", "block": "basic_conv", "width": classes, "kernel": 1}],
        ]
        self.document["network"] += self.random.choice(heads)

    def defaults(self, reading: Reading) -> None:
        """Add defaults for ops and blocks that the network uses."""
        text = yaml.safe_dump(self.document["network"]) + yaml.safe_dump(self.document["blocks"])
        choices: dict[str, Any] = {
            "norm": {"eps": self.pick(1e-3, 0.2), **({"momentum": 0.3} if self.chance(0.3) else {})},
            "act": self.pick({"kind": "leaky_relu", "slope": 0.2}, {"kind": "silu"}, {"slope": 0.3}),
            "conv": self.pick({"bias": True}, {"init": "he_normal_fan_in"}, {"bias": {"first": True, "rest": False}}),
            "maxpool": {"ceil": True}, "elu": {"alpha": 0.3}, "leaky_relu": {"slope": 0.4}, "linear": {"bias_init": 0.5},
            "basic": {"shortcut": "pad"}, "dense_layer": {"dropout": 0.2},
        }  # fmt: skip
        said = set(re.findall(r"\w+", text))
        found = {word: own for word, own in choices.items() if word in said and self.chance(0.3)}
        blocks = {word: block for word, block in self.document["blocks"].items() if self.chance(0.3)}
        names = {word: self.random.choice(sorted(block["parameters"])) for word, block in blocks.items()}
        found |= {word: {names[word]: self.argument(names[word], block, None)} for word, block in blocks.items()}
        if "conv" in found and "first" in str(found["conv"]) and "depth" not in text:
            del found["conv"]
        self.document["defaults"] = found

    def survival(self, reading: Reading) -> None:
        """Add stochastic depth."""
        count = len([*outermost(reading.line)])
        if not count or self.chance(0.5):
            return
        own: dict[str, Any] = {
            "schedule": self.pick("linear", "linear_zero_based", "uniform"),
            "last": self.pick(0.5, 0.8, 1, 0.3),
        }
        if self.chance(0.3) and count < 50:
            own = {"schedule": {"each": [self.pick(1, 0.9, 0.5) for _ in range(count)]}}
        self.document["survival"] = {**own, "unit": self.pick("batch", "sample"), "rescale": self.pick("test", "train")}

    def drop_path(self, reading: Reading, random: Random) -> None:
        """Add drop-path if branches are averaged."""
        averaged = any(join.merge == "mean" and len(join.branches) > 1 for join in joins(reading.line))
        if averaged and random.random() < 0.8:
            rate, columns = random.choice([(0, 0.5), (0, 1), (0.15, 0), (0.15, 1), (0.6, 0.5)])
            unit = random.choice(["batch", "sample"])
            self.document["drop_path"] = {"rate": rate, "columns": columns, "unit": unit}

    def features(self, reading: Reading) -> None:
        """Add some parts as feature outputs."""
        names = sorted(reading.parts)
        if names and self.chance(0.3):
            self.document["features"] = self.random.sample(names, min(len(names), self.pick(1, 2, 3)))

    def extras(self, reading: Reading) -> None:
        """Add what does not change the outputs, and the expected figures."""
        if self.chance(0.2):
            self.document["init"] = self.random.choice(INITS)
        if self.chance(0.1):
            self.document["checkpoint"] = True
        if self.chance(0.2):
            self.document |= {"description": "drawn at random", "notes": ["no. 1", "no: 2"]}

    def trim(self, reading: Reading) -> None:
        """Remove unused parts that would be errors, and add required ones."""
        reading, document = self.read(), self.document
        document["defaults"] = {word: own for word, own in document.get("defaults", {}).items() if word in reading.used}
        for name in reversed([*document["parameters"]]):
            rest = {k: v for k, v in document["parameters"].items() if k != name}
            if not re.search(rf"\b{name}\b", " ".join(_texts([rest, document["network"], document["defaults"]]))):
                document["parameters"] = rest
        self.document["expect"] = {
            "parameters": reading.parameters,
            "macs": reading.macs,
            "output": list(reading.shape),
        }
        for key in ("parameters", "blocks", "defaults"):
            if not self.document.get(key, True):
                del self.document[key]


def _gives_a_block_its_stride(value: Any) -> bool:
    """Return whether a body contains a block with a stride."""
    if isinstance(value, dict):
        return {"block", "stride"} <= value.keys() or any(map(_gives_a_block_its_stride, value.values()))
    return isinstance(value, list) and any(map(_gives_a_block_its_stride, value))


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts among values; the words before them, such as the `k` of `lrn`, are not read as expressions."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def drawn(seed: int) -> Drawn:
    """Return the document of a seed; seeds from BIG on give hundreds of blocks."""
    if seed < BIG:
        return DocumentAuthor(seed).draw()
    for attempt in range(9):
        blocks = Random(seed).randint(100, 1000)
        document = DocumentAuthor(seed + attempt * BIG, blocks).draw()
        if copies(document.document) >= 100:
            break
    return Drawn(seed, document.document, document.reading)


def copies(document: dict[str, Any]) -> int:
    """Return the number of block copies in the rows of a document."""
    named = (row for step in document["network"] if isinstance(step, dict) for row in step.values())
    return sum(row["depth"] for row in named if isinstance(row, dict) and "depth" in row)
