"""Random valid specs as YAML text, from a seed: the input of the differential tests.

Each spec is valid by construction. Every step is generated together with its effect on the shape, by a few lines of its
own code, so the generator also predicts the outputs of each spec without the compiler. Maps are small and have few
channels.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Generated:
    """A spec with its expected figures: the shapes of its outputs, and the number of elements of its tensors.

    The number is None if blocks of the library, which the generator does not follow, have parameters too.
    """

    seed: int
    text: str
    outputs: dict[str, Shape]
    parameters: int | None


def generate(seed: int, values: bool = False, axes: int = 2) -> Generated:
    """Return the spec of a seed, always the same, with maps of one, two or three axes. With `values`, some of its
    values are kept and added to later ones of the same shape, and a step runs again."""
    return _Writer(seed, axes).spec(values)


# --- the effect of a step ---------------------------------------------------------------------------------------------


@dataclass
class Met:
    """The words, parts, outputs and counts collected on the way through the network."""

    words: set[str] = field(default_factory=set)  # of ops and blocks: only those may have defaults
    parts: dict[str, Shape] = field(default_factory=dict)  # names that can be features
    outputs: dict[str, Shape] = field(default_factory=dict)
    residuals: int = 0
    parameters: int = 0
    library: bool = False  # whether blocks of the library have parameters of their own


@dataclass(frozen=True)
class At:
    """A position in the network: its shape, and the names that expressions can use there."""

    shape: Shape
    met: Met = field(default_factory=Met)
    path: str = ""
    listed: bool = True  # whether names here can be features: not inside merges, sides and numbered lists
    counted: bool = True  # whether residuals here take part in the survival schedule
    computed: bool = True  # whether side branches here have outputs: not inside those that are not computed
    values: Mapping[str, Any] = field(default_factory=dict)

    def inside(self, **values: Any) -> At:
        """Return the same position in a branch."""
        return replace(self, listed=False, values={**self.values, **values})


Run = Callable[[At], Shape]


@dataclass(frozen=True)
class Step:
    """The text of a step, and its effect on the shape."""

    text: Any
    run: Run


@dataclass(frozen=True)
class Value:
    """The text of a value, and its meaning at a position."""

    text: Any
    meaning: Callable[[At], Any]


def value(text: Any, meaning: Any = None) -> Value:
    """Return a literal value, or an expression with its meaning: a constant or a function of the position."""
    if isinstance(text, Value):
        return text
    if callable(meaning):
        return Value(text, meaning)
    return Value(text, lambda at: text if meaning is None else meaning)


def chain(steps: Sequence[Step]) -> Run:
    """Return the effect of steps in sequence."""

    def run(at: At) -> Shape:
        for step in steps:
            at = replace(at, shape=step.run(at))
        return at.shape

    return run


def sized(size: Any, axes: int) -> tuple[int, ...]:
    """Return a number, or a list with one number per axis, as a tuple with one number per axis."""
    return tuple(size) if isinstance(size, list | tuple) else (size,) * axes


def slid(n: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil: bool = False) -> int:
    """Return the number of windows along one axis."""
    room = n + 2 * padding - dilation * (kernel - 1) - 1
    assert room >= 0
    assert stride <= n
    count = room // stride + 1
    return count + 1 if ceil and room % stride and count * stride < n + padding else count


def after_window(shape: Shape, a: Mapping[str, Any]) -> Shape:
    """Return the shape after a convolution or a pool with these attributes."""
    axes = len(shape) - 1
    kernel, dilation = sized(a["kernel"], axes), sized(a.get("dilation", 1), axes)
    stride = sized(a.get("stride", a["kernel"] if "channels" not in a else 1), axes)
    padding = a.get("padding", "same" if "channels" in a else 0)
    if padding == "same":
        assert all(k % 2 for k in kernel)
        padding = [(k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True)]
    sizes = zip(shape[1:], kernel, stride, sized(padding, axes), dilation, strict=True)
    after = [slid(*numbers, ceil=a.get("ceil", False)) for numbers in sizes]
    if "channels" in a:
        groups = a.get("groups", 1)
        assert shape[0] % groups == 0
        assert a["channels"] % groups == 0
    return a.get("channels", shape[0]), *after


def after_padding(shape: Shape, a: Mapping[str, Any]) -> Shape:
    assert a["channels"] >= shape[0]
    return a["channels"], *shape[1:]


def flat(shape: Shape, _: Mapping[str, Any]) -> Shape:
    return (math.prod(shape),)


#: The shape after each op; the other ops keep it.
AFTER: dict[str, Callable[[Shape, Mapping[str, Any]], Shape]] = {
    "conv": after_window,
    "maxpool": after_window,
    "avgpool": after_window,
    "linear": lambda shape, a: (a["features"],),
    "global_avgpool": lambda shape, a: (shape[0], *(1 for _ in shape[1:])),
    "adaptive_avgpool": lambda shape, a: (shape[0], *sized(a["size"], len(shape) - 1)),
    "flatten": flat,
    "subsample": lambda shape, a: after_window(shape, {"kernel": 1, "stride": a["stride"]}),
    "upsample": lambda shape, a: (
        shape[0],
        *(n * k for n, k in zip(shape[1:], sized(a["factor"], len(shape) - 1), strict=True)),
    ),
    "pad_channels": after_padding,
}
OWNERS = ("conv", "linear", "norm")
SIZES = ("kernel", "stride", "padding", "dilation", "factor", "size")


def owned(word: str, shape: Shape, a: Mapping[str, Any]) -> int:
    """Return the number of tensor elements of an op, including the running statistics and the counter of a norm."""
    match word:
        case "conv":
            filters = shape[0] // a.get("groups", 1) * math.prod(sized(a["kernel"], len(shape) - 1))
            return a["channels"] * (filters + a.get("bias", False))
        case "linear":
            return a["features"] * (shape[0] + a.get("bias", True))
        case "norm":
            return 2 * shape[0] if a.get("kind") == "group" else 4 * shape[0] + 1
    return 0


MAIN = {
    "linear": "features",
    "act": "kind",
    "adaptive_avgpool": "size",
    "dropout": "rate",
    "scale": "factor",
    "subsample": "stride",
    "upsample": "factor",
    "pad_channels": "channels",
}
ACTS = ("relu", "sigmoid", "tanh", "leaky_relu", "elu", "relu6", "silu", "gelu", "gelu_tanh", "hardswish")


@dataclass(frozen=True)
class Place:
    """The context in which steps are generated. Without a shape, they must fit any: the body of a block may be used on
    several."""

    shape: Shape | None
    vector: bool = False
    numbered: bool = False
    level: int = 0
    once: bool = True  # whether steps here are used only once, so that they may have outputs

    @property
    def deeper(self) -> Place:
        """The same place, one merge deeper."""
        return replace(self, level=self.level + 1)


@dataclass(frozen=True)
class Definition:
    """A block of the spec: its definition is in the spec, its effect is here."""

    word: str
    run: Run
    defaults: Mapping[str, Any]
    only_first: tuple[str, ...] = ()
    lets: Mapping[str, Callable[[At], Any]] = field(default_factory=dict)
    members: str = "{index}"
    inline: bool = False


# --- writing ----------------------------------------------------------------------------------------------------------


class _Writer:
    def __init__(self, seed: int, axes: int) -> None:
        self.seed, self.axes = seed, axes
        self.rng = random.Random(seed)
        self.count = 0
        self.parameters: dict[str, Any] = {}
        self.blocks: dict[str, Any] = {}
        self.own: dict[str, Definition] = {}
        self.defaults = self.some_defaults()

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def pick(self, *options: Any) -> Any:
        return self.rng.choice(options)

    def name(self, prefix: str = "n") -> str:
        """Return an unused name."""
        self.count += 1
        return f"{prefix}{self.count}"

    def reused(self, rows: list[Step], shape: Shape) -> list[Step]:
        """Return the rows with two values that are kept and used; the second may have the name of the first."""
        rng, means = random.Random(f"values {self.seed}"), random.Random(f"means {self.seed}")
        for name in ("first", rng.choice(["first", "second[3]"])):
            shapes, met = [shape], Met()
            for row in rows:
                shapes.append(row.run(At(shapes[-1], met)))
            ends = [(i, j) for i in range(len(shapes)) for j in range(i, len(shapes)) if shapes[i] == shapes[j]]
            start, end = rng.choice(ends)
            merge = {"merge": means.choice(["add", "mean"]), "branches": rng.sample(["identity", {"use": name}], 2)}
            text = rng.choice([{"parallel": merge}, [{"parallel": merge}, {"keep": name}], {"use": name}])
            rows = [*rows[:end], Step(text, lambda at: at.shape), *rows[end:]]
            rows.insert(start, Step({"keep": name}, lambda at: at.shape))
        return rows

    def repeated(self, rows: list[Step], first: Shape) -> list[Step]:
        """Return the rows with one more step that keeps the shape, and runs again on a map with as many channels."""
        rng = random.Random(f"again {self.seed}")
        shapes, met = [first], Met()
        for row in rows:
            shapes.append(row.run(At(shapes[-1], met)))
        maps = [at for at, shape in enumerate(shapes) if len(shape) > 1]
        start = rng.choice(maps) if maps else None
        if start is None:
            return rows
        channels = shapes[start][0]
        own = {
            "channels": channels,
            "kernel": rng.choice([1, 3]),
            "stride": 1,
            "padding": "same",
            "dilation": 1,
            "groups": 1,
        }
        conv = {"conv": {**own, "bias": rng.choice([True, False])}}
        step = rng.choice([conv, [conv, "tanh"], {"parallel": {"merge": "add", "branches": [{"inner": conv}, "tanh"]}}])
        again = rng.choice([at for at in maps if at >= start and shapes[at][0] == channels])
        rows = [*rows[:again], Step({"again": "shared"}, lambda at: at.shape), *rows[again:]]

        def once(at: At) -> Shape:
            at.met.parameters += owned("conv", at.shape, conv["conv"])
            return at.shape

        return [*rows[:start], Step({"shared": step}, once), *rows[start:]]

    def spec(self, values: bool = False) -> Generated:
        vector = self.chance(0.04)
        first: Shape = (self.pick(5, 8),) if vector else (3, self.rng.randint(8, 20), self.rng.randint(8, 17))
        if not vector:
            first = (3, *(8 + n % 3 if self.axes == 3 else n for n in self.on_axes(first[1:])))
        rows = self.network(first)
        if values:
            rows = self.repeated(self.reused(rows, first), first)
        met = Met()
        outputs = {"logits": chain(rows)(At(first, met))}
        for word in ("dropout", "scale"):  # defaults may give required attributes, and must be used
            if word in self.defaults and word not in met.words:
                rows.append(self.op(word, Place(None, numbered=True)))
                rows[-1].run(At(outputs["logits"], met))
        document: dict[str, Any] = {"rescompile": 1, "name": f"random_{self.seed}"}
        if self.chance(0.3):
            document |= {"reference": "seed: #1, 'quoted'", "family": "random", "notes": ["no paper"]}
        document["input"] = list(first)
        if self.chance(0.2) and first[0] == 3 and self.axes == 2:
            document["preprocess"] = {"mean": [0.5, 0, 0.25], "std": [1, 0.25, 0.5], "crop": 8}
        mentioned = {word for row in rows for word in re.findall(r"\w+", str(row.text))}
        if used := {name: number for name, number in self.parameters.items() if name in mentioned}:
            document["parameters"] = used
        if self.chance(0.3):
            document["init"] = self.pick("he_normal_fan_out", "he_normal_fan_in", "torch_default")
        if "unit" in self.own and self.chance(0.5):
            document["block"] = "unit"
            rows = [self.implicit(row) for row in rows]
        defaults = {word: given for word, given in self.defaults.items() if word in met.words}
        if defaults:
            document["defaults"] = {
                word: {key: item.text for key, item in given.items()} for word, given in defaults.items()
            }
        if self.blocks:
            document["blocks"] = self.blocks
        document["network"] = [row.text for row in rows]
        if met.residuals and self.chance(0.7):
            document["survival"] = self.survival(met.residuals)
        if "'merge': 'mean'" in str(document["network"]):
            document["drop_path"] = {"rate": 0.3, "columns": 0.5, "unit": "batch" if self.seed % 2 else "sample"}
        outputs |= met.outputs
        free = [part for part in sorted(met.parts) if part not in outputs]
        if free and self.chance(0.5):
            document["features"] = self.rng.sample(free, min(len(free), self.rng.randint(1, 3)))
            outputs |= {part: met.parts[part] for part in document["features"]}
        if self.chance(0.1):
            document["checkpoint"] = True
        return Generated(self.seed, written(document), outputs, None if met.library else met.parameters)

    def implicit(self, row: Step) -> Step:
        """Return a row without `block` if it uses the default block of the spec."""
        ((key, inner),) = row.text.items() if isinstance(row.text, dict) and len(row.text) == 1 else (("", None),)
        if isinstance(inner, dict) and inner.get("block") == "unit" and "depth" in inner:
            return Step({key: {k: v for k, v in inner.items() if k != "block"}}, row.run)
        return row

    def survival(self, count: int) -> dict[str, Any]:
        schedule = self.pick("linear", "linear_zero_based", "uniform", "each")
        facts: dict[str, Any] = {"unit": self.pick("batch", "sample"), "rescale": self.pick("test", "test", "train")}
        if schedule == "each":
            return {"schedule": {"each": [self.rng.randint(3, 10) / 10 for _ in range(count)]}, **facts}
        return {"schedule": schedule, "last": self.pick(0.5, 0.8, 0.25), **facts}

    def some_defaults(self) -> dict[str, dict[str, Value]]:
        """Return attributes for every use of some words; they are chosen first, since shapes depend on them."""
        options: dict[str, dict[str, Any]] = {
            "norm": {"eps": self.pick(0.001, 0.1), **self.pick({}, {"kind": "group", "groups": 1, "momentum": 0.2})},
            "act": {"kind": self.pick("leaky_relu", "tanh", "elu", "silu"), "slope": 0.2, "alpha": 0.7},
            "leaky_relu": {"slope": 0.3},
            "conv": {"bias": True, "bias_init": "torch_default"},
            "linear": {"bias": False, "init": "torch_default"},
            "maxpool": {"ceil": True},
            "avgpool": {"ceil": True, "count_pad": False},
            "dropout": {"rate": 0.4},
            "scale": {"factor": 0.75},
            "unit": {"eps": self.pick(0.2, {"first": 0.2, "rest": 0.02}), "factors": [0.25, 2]},
            "basic": {"shortcut": self.pick("projection_always", "avgpool_projection")},
            "preact_bottleneck": {"stride_at": 1},
        }
        chosen = {word: given for word, given in options.items() if self.chance(0.2)}
        return {
            word: {key: _first_rest(**item) if isinstance(item, dict) else value(item) for key, item in given.items()}
            for word, given in chosen.items()
        }

    # --- values ---

    def parameter(self, number: Any) -> str:
        """Return the name of a parameter of the network with this value."""
        for known, had in self.parameters.items():
            if had == number and type(had) is type(number):
                return known
        name = self.name("p")
        self.parameters[name] = number
        return name

    def number(self, n: int) -> Value:
        """Return an integer in one of the forms that a row may use."""
        if self.chance(0.75):
            return value(n)
        k = self.rng.randint(1, 6)
        p = self.parameter(k)
        options = [
            f"{p} + {n - k}" if n >= k else f"{p} - {k - n}",
            f"{n * k} / {p}",
            f"({n * k} + {p} - 1) // {p}",
            f"{n} if {p} > 0 and not {p} == 99 else 1",
            f"max({p} - 9, {n})",
            f"floor({n} + {p} / 10)",
            f"min({n}, {n + 1} * {p})",
            f"-{p} % {k} + {n}",
        ]
        if n % k == 0:
            options.append(f"{n // k} * {p}")
        if self.chance(0.3):
            entries = [self.rng.randint(1, 9), n, self.rng.randint(1, 9)]
            table = self.parameter(entries)
            options = [f"{table}[{entries.index(n)}]", f"length({table}) + {n - 3}" if n >= 3 else f"{table}[1]"]
        return value(self.pick(*options), n)

    def on_axes(self, pair: Sequence[Any]) -> list[Any]:
        """Return the numbers for height and width as numbers for each axis: depth and length have that of the height."""
        height, width = pair
        return {1: [height], 2: [height, width], 3: [height, height, width]}[self.axes]

    def size(self, height: int, width: int, spelled: bool) -> Value:
        """Return a number or [height, width]."""
        if height == width and self.chance(0.7):
            return self.number(height) if spelled else value(height)
        sides = [self.number(n) if spelled else value(n) for n in (height, width)]
        return value([side.text for side in sides], [height, width])

    def channels(self, place: Place, same: bool) -> Value:
        """Return output channels: those of the input if they must not change."""
        if same:
            return value("in_channels", lambda at: at.shape[0])
        options = [
            value("min(2 * in_channels, 10)", lambda at: min(2 * at.shape[0], 10)),
            value("max(in_channels // 2, 3)", lambda at: max(at.shape[0] // 2, 3)),
            value("in_channels + 1 if in_channels < 8 else 4", lambda at: at.shape[0] + 1 if at.shape[0] < 8 else 4),
        ]
        n = self.rng.randint(3, 10)
        literal = value(n) if place.shape is None else self.number(n)
        return self.pick(literal, literal, literal, *options)

    # --- ops ---

    def op(self, word: str, place: Place, when: Value | None = None, name: str | None = None, **given: Any) -> Step:
        """Return an op with attributes, with a name if it needs one."""
        values = {key: self.attribute(key, value(item)) for key, item in given.items()}

        def run(at: At) -> Shape:
            if when is not None and not when.meaning(at):
                return at.shape
            at.met.words.add(word)
            attributes = {**self.defaults.get(word, {}), **values}
            meant = {key: item.meaning(at) for key, item in attributes.items()}
            at.met.parameters += owned(word, at.shape, meant)
            return AFTER.get(word, lambda shape, a: shape)(at.shape, meant)

        attributes = {key: item.text for key, item in values.items()}
        main = MAIN.get(word)
        text: Any
        if when is not None:
            text = {word: {**attributes, "when": when.text}}
        elif not attributes:
            text = word
        elif (
            main is not None
            and list(attributes) == [main]
            and not isinstance(attributes[main], dict)
            and self.chance(0.7)
        ):
            text = {word: attributes[main]}
        else:
            text = {word: attributes}
        step = Step(text, run)
        if name is None and not place.numbered and (word in OWNERS or self.chance(0.2)):
            name = self.name()
        return step if name is None else self.named(name, step, part=when is None)

    def attribute(self, key: str, given: Value) -> Value:
        """Return the value of an attribute; a size with two axes is converted to the number of axes of the maps."""
        if key not in SIZES or not isinstance(given.text, list) or len(given.text) != 2:
            return given
        return value(self.on_axes(given.text), self.on_axes(given.meaning(At(()))))

    def named(self, name: str, step: Step, part: bool = True) -> Step:
        def run(at: At) -> Shape:
            full = _join(at.path, _filled(name, at))
            shape = step.run(replace(at, path=full))
            if part and at.listed:
                at.met.parts[full] = shape
            return shape

        return Step({name: step.text}, run)

    def norm(self, place: Place) -> Step:
        given: dict[str, Any] = {}
        if self.chance(0.5):
            given["eps"] = self.pick(0.01, 0.3, 1e-5)
        if self.chance(0.2):
            given |= {"kind": "batch", "momentum": 0.05, "scale_init": 0}
        elif self.chance(0.4):
            given |= {"kind": "group", "groups": self.groups(place)}
        return self.op("norm", place, **given)

    def groups(self, place: Place) -> Value:
        """Return a number of groups that divides any number of channels, and leaves several values per group even for a
        1x1 map."""
        options = [
            value(1),
            value("2 if in_channels % 4 == 0 else 1", lambda at: 2 if at.shape[0] % 4 == 0 else 1),
            value("in_channels // 3 if in_channels % 3 == 0 else 1", lambda at: at.shape[0] // 3 if at.shape[0] % 3 == 0 else 1),
        ]  # fmt: skip
        if place.shape is not None and min(place.shape[1:], default=1) > 1:
            options.append(value("in_channels", lambda at: at.shape[0]))
        return self.pick(*options)

    def act(self, place: Place) -> Step:
        match self.rng.randint(0, 6):
            case 0:
                return self.op("act", place)
            case 1:
                return self.op("act", place, kind=self.pick(*ACTS))
            case 2:
                return self.op("act", place, kind="leaky_relu", slope=self.pick(0.1, -0.2))
            case 3:
                return self.op("leaky_relu", place, slope=self.pick(0.2, 0.05))
            case 4:
                word, given = self.pick(("elu", {}), ("act", {"kind": "elu"}))
                return self.op(word, place, **given, **self.pick({}, {"alpha": self.pick(0.5, 0, 2)}))
            case _:
                return self.op(self.pick(*ACTS), place)

    def conv(self, place: Place, same: bool, channels: Value | None = None) -> Step:
        """Return a convolution that keeps the size of the map."""
        height, width = self.pick((1, 1), (3, 3), (3, 3), (5, 5), (1, 3), (5, 1))
        given: dict[str, Any] = {"kernel": self.size(height, width, place.shape is not None)}
        if max(height, width) > 1 and self.chance(0.3):
            given["dilation"] = self.size(self.rng.randint(1, 3), self.rng.randint(1, 2), place.shape is not None)
        dilation = sized(given["dilation"].meaning(At(())) if "dilation" in given else 1, 2)
        if self.chance(0.2):
            given["padding"] = self.size((height - 1) * dilation[0] // 2, (width - 1) * dilation[1] // 2, False)
        elif self.chance(0.2):
            given["padding"] = "same"
        if channels is not None:
            given["channels"] = channels
        elif self.chance(0.3):  # one or two filters per channel
            given["groups"] = value("in_channels", lambda at: at.shape[0])
            given["channels"] = self.channels(place, True)
            if not same and self.chance(0.5):
                given["channels"] = value("2 * in_channels", lambda at: 2 * at.shape[0])
        elif self.chance(0.3):
            given["groups"] = value("2 if in_channels % 2 == 0 else 1", lambda at: 1 + (at.shape[0] % 2 == 0))
            given["channels"] = self.channels(place, True) if same else value(self.pick(4, 6, 8))
        else:
            given["channels"] = self.channels(place, same)
        if self.chance(0.4):
            given["bias"] = self.pick(True, True, False)
        if self.chance(0.1):
            given |= {"bias": True, "bias_init": self.pick(0.5, "torch_default"), "init": "he_normal_fan_in"}
        return self.op("conv", place, **{key: given[key] for key in sorted(given)})

    def pool(self, place: Place) -> Step:
        """Return a pool that keeps the size of the map. PyTorch has no average pool with windows longer than a volume,
        even with padding."""
        word = self.pick("maxpool", "avgpool") if self.axes < 3 else "maxpool"
        height, width = self.pick((3, 3), (3, 1), (1, 3))
        given: dict[str, Any] = {"kernel": [height, width], "stride": 1, "padding": [height // 2, width // 2]}
        if height == width and self.chance(0.5):
            given |= {"kernel": height, "padding": height // 2}
        if self.chance(0.3):
            given["ceil"] = self.pick(True, False)  # makes no difference at stride 1
        if word == "avgpool" and self.chance(0.6):
            given["count_pad"] = self.pick(True, False)
        return self.op(word, place, **given)

    def small(self, place: Place) -> Step:
        """Return an op without parameters that keeps the shape."""
        match self.rng.randint(0, 3):
            case 0:
                return self.op("scale", place, **self.unless_default("scale", factor=self.pick(-0.5, 1.5, 0.17)))
            case 1:
                return self.op("dropout", place, **self.unless_default("dropout", rate=self.pick(0, 0.1, 0.5)))
            case 2:
                return self.op("identity", place)
            case _:
                return self.act(place)

    def unless_default(self, word: str, **given: Any) -> dict[str, Any]:
        return {} if word in self.defaults and self.chance(0.5) else given

    def shrinking(self, place: Place) -> Step:
        """Return a step that changes the size of a map of known size."""
        assert place.shape is not None
        _, *sizes = place.shape
        for _ in range(50):
            pools = ("maxpool", "maxpool", "avgpool", "avgpool", "avgpool", "subsample", "adaptive_avgpool", "upsample")
            word = self.pick("conv", "conv", *pools)
            given = self.window(place, word)
            step = self.op(word, place, **given)
            try:
                after = step.run(At(place.shape))
            except AssertionError:
                continue
            if min(after[1:]) >= min(2, *sizes) and max(after[1:]) <= (24 if self.axes < 3 else 10):
                return step
        return self.op("subsample", place, stride=1)

    def window(self, place: Place, word: str) -> dict[str, Any]:
        """Return attributes of an op with a window, which may not fit the map."""
        if word == "subsample":
            return {"stride": self.size(self.rng.randint(1, 3), self.rng.randint(1, 3), True)}
        if word == "upsample":
            kind = self.pick({}, {"kind": "nearest"}, {"kind": "bilinear"}, {"kind": "bilinear"})
            return {"factor": self.size(self.rng.randint(1, 3), self.rng.randint(1, 3), True), **kind}
        if word == "adaptive_avgpool":
            return {"size": self.size(self.rng.randint(2, 7), self.rng.randint(2, 7), True)}
        height, width = self.rng.randint(1 if word == "conv" else 2, 4), self.rng.randint(1, 4)
        if self.chance(0.5):
            width = height
        given: dict[str, Any] = {"kernel": self.size(height, width, True)}
        if self.chance(0.8):
            stride = self.rng.randint(1, 3) if word == "conv" else self.rng.randint(2, max(height, width))
            given["stride"] = self.size(stride, stride if self.chance(0.7) else self.rng.randint(1, 3), True)
        if word == "conv":
            given["channels"] = self.number(self.rng.randint(3, 10))
            if height % 2 == 0 or width % 2 == 0 or self.chance(0.5):
                given["padding"] = self.size(self.rng.randint(0, 2), self.rng.randint(0, 2), True)
            if self.chance(0.3):
                given["dilation"] = self.size(self.rng.randint(1, 2), self.rng.randint(1, 2), True)
            if self.chance(0.4):
                given["bias"] = True
            return given
        if self.chance(0.6) and not (word == "avgpool" and self.axes == 3):
            given["padding"] = self.size(self.rng.randint(0, height // 2), self.rng.randint(0, width // 2), True)
        if self.chance(0.7):
            given["ceil"] = self.pick(True, True, False)
        if word == "avgpool" and self.chance(0.5):
            given["count_pad"] = self.pick(True, False)
        return given

    # --- steps that keep the size of the map ---

    def several(self, place: Place, same: bool, least: int = 1, most: int = 3) -> list[Step]:
        steps: list[Step] = []
        for _ in range(self.rng.randint(least, most)):
            steps.append(self.keeping(place, same))
            place = self.past(place, steps[-1])
        return steps

    def past(self, place: Place, step: Step) -> Place:
        return place if place.shape is None else replace(place, shape=step.run(At(place.shape, listed=False)))

    def keeping(self, place: Place, same: bool) -> Step:
        """Return any step that keeps the size of the map, and with `same` the channels. All of them fit any map."""
        if place.vector:
            return self.on_vectors(place, same)
        options: list[Callable[[], Step]] = [
            *[lambda: self.conv(place, same)] * 5,
            *[lambda: self.norm(place)] * 4,
            *[lambda: self.act(place)] * 4,
            *[lambda: self.pool(place)] * 2,
            *[lambda: self.small(place)] * 2,
            *[lambda: self.sometimes(place)],
        ]
        if not same:
            wider = value("in_channels + 2", lambda at: at.shape[0] + 2)
            options.append(lambda: self.op("pad_channels", place, channels=wider))
        return self.pick(*options, *self.combined(place, same))()

    def on_vectors(self, place: Place, same: bool) -> Step:
        """Return any step for a vector, and with `same` one that keeps the number of features."""
        bias: dict[str, Any] = {} if self.chance(0.5) else {"bias": self.pick(True, False)}
        if bias == {"bias": True} and self.chance(0.5):
            bias |= {"bias_init": self.pick(-1.5, "torch_default"), "init": "he_normal_fan_in"}
        options: list[Callable[[], Step]] = [
            *[lambda: self.op("linear", place, features=self.channels(place, same), **bias)] * 4,
            *[lambda: self.norm(place)] * 2,
            *[lambda: self.act(place)] * 3,
            lambda: self.small(place),
            lambda: self.op("flatten", place),
        ]
        return self.pick(*options, *self.combined(place, same))()

    def combined(self, place: Place, same: bool) -> list[Callable[[], Step]]:
        """Return the constructors of steps that contain other steps."""
        options: list[Callable[[], Step]] = []
        if place.level < 2:
            options += [
                lambda: self.residual(place, same),
                lambda: self.residual(place, same),
                lambda: self.gated(place, same),
                lambda: self.parallel(place, "add"),
                lambda: self.parallel(place, "mul"),
                lambda: self.group(place, same),
                lambda: self.conditional(place, same),
                lambda: self.side(place),
            ]
            if not same:
                options += [lambda: self.parallel(place, "concat")] * 2
                options.append(lambda: self.split(place))
            if not place.vector:
                options.append(lambda: self.squeeze(place))
            if not place.numbered:
                options += [lambda: self.numbered(place, same), lambda: self.copies(place, same)]
                options.append(lambda: self.named(self.name(), self.residual(place, same)))
        return options

    def condition(self, place: Place) -> Value:
        if place.shape is None:
            return self.pick(
                value("in_channels > 5", lambda at: at.shape[0] > 5),
                value("not in_channels % 2 == 0", lambda at: at.shape[0] % 2 == 1),
                value(True),
            )
        k = self.rng.randint(1, 6)
        p = self.parameter(k)
        return self.pick(
            value(f"{p} >= {k}", True),
            value(f"{p} < {k} or {p} != {k}", False),
            value(f"in_channels <= {p}", lambda at: at.shape[0] <= k),
            value(self.parameter(True), True),
        )

    def sometimes(self, place: Place) -> Step:
        """Return an op with a condition."""
        condition = self.condition(place)
        if self.chance(0.5):
            return self.op("scale", place, when=condition, factor=-1.25)
        return self.op("norm", place, when=condition, eps=0.02)

    def conditional(self, place: Place, same: bool) -> Step:
        condition = self.condition(place)
        then = self.grouped(self.several(place.deeper, same, 1, 2))
        otherwise = self.grouped(self.several(place.deeper, same, 1, 2)) if self.chance(0.6) else None

        def run(at: At) -> Shape:
            if condition.meaning(at):
                return then.run(at)
            return at.shape if otherwise is None else otherwise.run(at)

        text = {"if": condition.text, "then": then.text}
        return Step(text if otherwise is None else {**text, "else": otherwise.text}, run)

    def grouped(self, steps: list[Step]) -> Step:
        """Return several steps as one."""
        return steps[0] if len(steps) == 1 and self.chance(0.5) else Step([step.text for step in steps], chain(steps))

    def group(self, place: Place, same: bool) -> Step:
        steps = self.several(place.deeper, same, 1, 3)
        return Step([step.text for step in steps], chain(steps))

    def numbered(self, place: Place, same: bool) -> Step:
        """Return a named list, whose steps have no names."""
        steps = self.several(replace(place.deeper, numbered=True), same, 1, 3)
        inner = Step([step.text for step in steps], lambda at: chain(steps)(replace(at, listed=False)))
        return self.named(self.name("list"), inner)

    def branches(self, place: Place, same: bool, count: int) -> list[Step]:
        return [self.grouped(self.several(place.deeper, same, 1, 3)) for _ in range(count)]

    def parallel(self, place: Place, merge: str) -> Step:
        branches = self.branches(place, merge != "concat", self.rng.randint(1 if self.chance(0.2) else 2, 3))
        if self.chance(0.4):
            branches[self.rng.randrange(len(branches))] = Step("identity", lambda at: at.shape)

        def run(at: At) -> Shape:
            shapes = [branch.run(at.inside()) for branch in branches]
            if merge == "concat":
                return sum(shape[0] for shape in shapes), *shapes[0][1:]
            assert len(set(shapes)) == 1
            return shapes[0]

        return Step({"parallel": {"merge": merge, "branches": [branch.text for branch in branches]}}, run)

    def split(self, place: Place) -> Step:
        """Return a layer, followed by branches that each get a part of its channels: different branches, or copies of
        one."""
        count, size = self.rng.randint(2, 4), self.rng.randint(3, 5)
        word, main, kernel = ("linear", "features", {}) if place.vector else ("conv", "channels", {"kernel": 1})
        first = self.op(word, place, **{main: count * size}, **kernel)
        shape = None if place.shape is None else (size, *place.shape[1:])
        inner = replace(place.deeper, shape=shape)
        merge = self.pick("concat", "add")
        copied = not place.numbered and self.chance(0.5)
        if copied:
            inner = replace(inner, once=False)
            branches = [self.grouped(self.several(inner, merge == "add", 1, 2))] * count
        else:
            branches = [self.grouped(self.several(inner, merge == "add", 1, 2)) for _ in range(count)]
            if self.chance(0.5):
                branches[self.rng.randrange(count)] = Step("identity", lambda at: at.shape)

        def run(at: At) -> Shape:
            part = (size, *at.shape[1:])
            shapes = [branch.run(replace(at.inside(copy=copy), shape=part)) for copy, branch in enumerate(branches)]
            return (sum(shape[0] for shape in shapes) if merge == "concat" else shapes[0][0], *shapes[0][1:])

        text: dict[str, Any] = {"merge": merge, "split": True}
        if copied:
            step = self.named(
                self.name(), Step({"parallel": {**text, "copies": count, "branch": branches[0].text}}, run)
            )
        else:
            step = Step({"parallel": {**text, "branches": [branch.text for branch in branches]}}, run)
        return Step([first.text, step.text], chain([first, step]))

    def hourglass(self, place: Place) -> Step:
        """Return a downsampled and upsampled map merged with the map itself: one level of a U-Net."""
        assert place.shape is not None
        factor = [self.pick(*(k for k in (1, 2, 3) if n % k == 0)) for n in place.shape[1:]]
        kind = self.pick("nearest", "bilinear")
        smaller = self.pick(
            self.op("avgpool", place, kernel=factor),
            self.op("conv", place, channels=self.number(4), kernel=factor, stride=factor, padding=0),
        )
        inside = self.several(replace(place.deeper, shape=None), False, 1, 2)
        larger = self.op("upsample", place, factor=factor, kind=kind)
        steps = [smaller, *inside, larger]
        merge = "concat" if self.chance(0.7) else "add"
        if merge == "add":
            steps.append(self.op("conv", place, channels=self.number(place.shape[0]), kernel=1))
        branches = [Step("identity", lambda at: at.shape), Step([step.text for step in steps], chain(steps))]

        def run(at: At) -> Shape:
            shapes = [branch.run(at.inside()) for branch in branches]
            assert len({shape[1:] for shape in shapes}) == 1
            return (sum(shape[0] for shape in shapes) if merge == "concat" else shapes[0][0], *shapes[0][1:])

        return Step({"parallel": {"merge": merge, "branches": [branch.text for branch in branches]}}, run)

    def squeeze(self, place: Place) -> Step:
        """Return squeeze and excitation: a full map times a 1x1 map."""
        pooled = replace(place, shape=None)
        width = value("in_channels", lambda at: at.shape[0])
        first = self.op("conv", place, channels=width, kernel=3)
        gate = [self.op("global_avgpool", place), self.op("conv", pooled, channels=width, kernel=1, bias=True)]
        gate.append(self.op("sigmoid", place))
        branches = [
            Step([step.text for step in gate], chain(gate)),
            self.pick(first, Step("identity", lambda at: at.shape)),
        ]
        if self.chance(0.5):
            branches.reverse()

        def run(at: At) -> Shape:
            return max(branch.run(at.inside()) for branch in branches)

        return Step({"parallel": {"merge": "mul", "branches": [branch.text for branch in branches]}}, run)

    def copies(self, place: Place, same: bool) -> Step:
        """Return separate copies of one branch, each in a scope of its own."""
        count = self.rng.randint(1, 3)
        merge = "add" if same else "concat"
        inner = replace(place.deeper, numbered=False, once=place.once and count == 1)
        if same:
            branch = self.several(inner, True, 1, 2)
        else:
            width = value("2 + copy", lambda at: 2 + at.values["copy"])
            word, main = ("linear", "features") if place.vector else ("conv", "channels")
            kernel = {} if place.vector else {"kernel": 3}
            branch = [self.op(word, inner, **{main: width}, **kernel), self.act(inner)]

        def run(at: At) -> Shape:
            shapes = [chain(branch)(at.inside(copy=copy)) for copy in range(count)]
            return (sum(shape[0] for shape in shapes), *shapes[0][1:]) if merge == "concat" else shapes[0]

        number = self.number(count) if place.shape is not None else value(count)
        text = {"merge": merge, "copies": number.text, "branch": [step.text for step in branch]}
        return self.named(self.name(), Step({"parallel": text}, run))

    # --- residuals and sides ---

    def outward(self, place: Place) -> Step:
        """Return a step of a shortcut or gate with as many output channels as the branch."""
        width = _variable("out_channels")
        if place.vector:
            return self.op("linear", place, features=width)
        return self.op("conv", place, channels=width, kernel=self.pick(1, 3), bias=self.chance(0.5))

    def residual(self, place: Place, same: bool) -> Step:
        """Return branch + identity, branch + shortcut, or a branch alone."""
        form = self.pick("identity", "shortcut", "shortcut", "none")
        branch = self.several(place.deeper, same or form == "identity", 1, 3)
        aside = replace(place.deeper, numbered=False)
        text: dict[str, Any] = {"branch": self.grouped(branch).text}
        shortcut: list[Step] = []
        if form == "shortcut":
            shortcut = [self.act(aside)] if self.chance(0.3) else []
            shortcut += [self.outward(aside), *([self.norm(aside)] if self.chance(0.5) else [])]
            text["shortcut"] = [step.text for step in shortcut]
        elif form == "none":
            text["shortcut"] = "none"
        elif self.chance(0.3):
            text["shortcut"] = "identity"
        return Step({"residual": text}, self.added(branch, shortcut, alone=form == "none"))

    def added(
        self, branch: list[Step], shortcut: list[Step], gate: list[Step] | None = None, alone: bool = False
    ) -> Run:
        def run(at: At) -> Shape:
            if alone:
                return chain(branch)(at)
            inner = at.inside()
            at.met.residuals += at.counted
            shape = chain(branch)(replace(inner, counted=False))
            inner = replace(inner, counted=False, values={**inner.values, "out_channels": shape[0]})
            for part in (shortcut, *([gate] if gate else [])):
                assert chain(part)(inner) == shape
            return shape

        return run

    def gated(self, place: Place, same: bool) -> Step:
        form = self.pick("identity", "shortcut")
        branch = self.several(place.deeper, same or form == "identity", 1, 2)
        aside = replace(place.deeper, numbered=False)
        gate = [
            self.outward(aside),
            self.op("sigmoid", aside) if self.chance(0.7) else self.op("act", aside, kind="sigmoid"),
        ]
        if self.chance(0.3):
            gate.append(self.op("dropout", aside, when=value(False), rate=0.5))
        shortcut = [self.outward(aside)] if form == "shortcut" else []
        text: dict[str, Any] = {"branch": self.grouped(branch).text, "gate": [step.text for step in gate]}
        if shortcut:
            text["shortcut"] = shortcut[0].text
        return Step({"residual": text}, self.added(branch, shortcut, gate))

    def side(self, place: Place) -> Step:
        """Return a side branch."""
        mode = self.pick("always", "always", "training", "never") if place.once else "never"
        name = None if place.numbered or self.chance(0.5) else self.name("aux")
        body = self.several(replace(place.deeper, numbered=name is not None), False, 1, 2)
        output = None if mode == "never" else self.name("out")
        inner = Step([step.text for step in body], chain(body))
        if len(body) == 1 and name is None and self.chance(0.5):
            inner = body[0]

        def run(at: At) -> Shape:
            computed = at.computed and mode == "always"
            shape = inner.run(replace(at, listed=False, counted=False, computed=computed))
            if computed:
                assert output is not None
                at.met.outputs[output] = shape
            return at.shape

        text = {"body": inner.text, **({"output": output} if output else {}), "mode": mode}
        step = Step({"side": text}, run)
        return step if name is None else self.named(name, step, part=False)

    # --- blocks of the spec's own ---

    def use(
        self,
        block: Definition,
        name: str | None,
        depth: int | None,
        given: Mapping[str, Value],
        members: str | None = None,
        when: Value | None = None,
    ) -> Step:
        """Return a block with arguments, once or several times."""

        def one(at: At, index: int | None) -> Shape:
            place: dict[str, Any] = {} if index is None else {"index": index, "depth": depth}
            caller = replace(at, values={**at.values, **place})
            if when is not None and not when.meaning(caller):
                return at.shape
            values = {"in_channels": at.shape[0], **place}
            defaults = self.defaults.get(block.word, {})
            for parameter, default in block.defaults.items():
                item = given.get(parameter) or defaults.get(parameter)
                if item is not None and parameter in block.only_first and index and not isinstance(item.text, dict):
                    item = None
                values[parameter] = (
                    value(default).meaning(replace(at, values=values)) if item is None else item.meaning(caller)
                )
            for let, meaning in block.lets.items():
                values[let] = meaning(replace(at, values=values))
            return block.run(replace(at, values=values))

        def run(at: At) -> Shape:
            at.met.words.add(block.word)
            if depth is None:
                return one(at, None)
            for index in range(depth):
                member = (
                    (members or block.members).replace("{index}", str(index)).replace("{index + 1}", str(index + 1))
                )
                spliced = name is None
                shape = one(at if spliced else replace(at, path=_join(at.path, member)), index)
                if at.listed and not spliced and (when is None):
                    at.met.parts[_join(at.path, member)] = shape
                at = replace(at, shape=shape)
            return at.shape

        text: dict[str, Any] = {"block": block.word}
        if depth is not None:
            text["depth"] = depth
        if members is not None:
            text["members"] = members
        if when is not None:
            text["when"] = when.text
        text |= {parameter: item.text for parameter, item in given.items()}
        step = Step(text, run)
        if name is None:
            return step
        if depth is None and self.chance(0.5):
            return Step({**text, "name": name}, self.named(name, step, part=when is None).run)
        return self.named(name, step, part=when is None or depth is not None)

    def define(self, word: str, make: Callable[[str], Definition]) -> Definition:
        if word not in self.own:
            self.own[word] = make(word)
        return self.own[word]

    def unit(self, word: str) -> Definition:
        """Define a residual unit with every type of parameter, with values per block or not."""
        inside = Place(None, once=False)
        v = _variable
        first = {
            "channels": v("inner"),
            "kernel": v("kernel"),
            "stride": v("stride if early else 1", lambda at: at.values["stride"] if at.values["early"] else 1),
            "groups": v("groups"),
            "bias": v("biased"),
        }
        second = {
            "channels": v("width"),
            "kernel": 3,
            "stride": v("1 if early else stride", lambda at: 1 if at.values["early"] else at.values["stride"]),
            "groups": v("groups"),
            "dilation": v("dilation"),
        }
        branch = [
            self.op("conv", inside, **first),
            self.op("norm", inside, eps=v("eps")),
            self.op("act", inside, kind=v("fn")),
            self.op("leaky_relu", inside, slope=v("eps * 2", lambda at: at.values["eps"] * 2)),
            self.op(
                "scale", inside, factor=v("factors[index % 2]", lambda at: at.values["factors"][at.values["index"] % 2])
            ),
            self.op("norm", inside, when=v("index > 0", lambda at: at.values["index"] > 0), eps=0.05),
            self.op("conv", inside, name="{fn}_{index}", **second),
        ]
        varied = self.pick({"bias": _first_rest(True, False), "kernel": 1}, {"kernel": _first_rest(3, 1)})
        branch.append(self.op("conv", inside, channels=v("width"), **varied))

        def shortcut(at: At) -> Shape:
            a, (channels, *sizes) = at.values, at.shape
            after = (a["width"], *(-(-n // a["stride"]) for n in sizes))
            word, changed = a["shortcut"], a["stride"] != 1 or channels != a["width"]
            at.met.library |= word != "none"
            if word in ("projection_always", "projection", "avgpool_projection") and (
                changed or word == "projection_always"
            ):
                at.met.words |= {"conv", "norm"}
            elif word == "bare_projection" and changed:
                at.met.words.add("conv")
            return after

        def run(at: At) -> Shape:
            return self.added(branch, [Step(None, shortcut)], alone=at.values["shortcut"] == "none")(at)

        residual = {
            "branch": [step.text for step in branch],
            "shortcut": {"block": "shortcut", "channels": "width", "stride": "stride"},
        }
        after = self.op("act", inside, kind=v("fn"))
        self.blocks[word] = {
            "description": "made at random",
            "stage": True,
            **({"members": "unit{index + 1}"} if self.chance(0.3) else {}),
            "parameters": {
                "width": "int",
                "stride": {"default": 1, "only": "first"},
                "kernel": self.pick({"default": 3, "type": "size"}, {"default": self.on_axes([3, 1]), "type": "size"}),
                "dilation": {"type": "size", "default": "2 if index > 0 else 1"},
                "groups": 1,
                "eps": 0.125,
                "early": False,
                "biased": "bool",
                "fn": {"default": "relu", "one_of": ["relu", "tanh", "leaky_relu"]},
                "factors": [0.5, -1.5],
                "shortcut": {"default": "projection", "type": "block"},
            },
            "let": {"half": "max(width // 2, 1)", "inner": "(half + groups - 1) // groups * groups"},
            "body": [{"residual": residual}, after.text],
        }
        text = self.blocks[word]
        return Definition(
            word,
            chain([Step(None, run), after]),
            {
                "width": None,
                "stride": 1,
                "kernel": text["parameters"]["kernel"]["default"],
                "dilation": value("", lambda at: 2 if at.values["index"] > 0 else 1),
                "groups": 1,
                "eps": 0.125,
                "early": False,
                "biased": None,
                "fn": "relu",
                "factors": value("", [0.5, -1.5]),
                "shortcut": "projection",
            },
            ("stride",),
            {
                "half": lambda at: max(at.values["width"] // 2, 1),
                "inner": lambda at: -(-at.values["half"] // at.values["groups"]) * at.values["groups"],
            },
            text.get("members", "{index}"),
        )

    def unit_row(self, place: Place) -> Step:
        assert place.shape is not None
        channels, *sizes = place.shape
        block = self.define("unit", self.unit)
        depth = self.rng.randint(1, 3)
        groups = 2 if channels % 2 == 0 and self.chance(0.5) else 1
        wide = [self.pick(4, 6, 8) for _ in range(depth)]
        steady = [wide[0]] * depth
        stride = self.pick(1, 2, 2, 3)
        if stride > min(sizes):
            stride = 1
        given: dict[str, Value] = {"biased": value(self.chance(0.5))}
        fits = ["projection", "projection_always", "bare_projection", "avgpool_projection", "none"]
        if self.chance(0.3) and depth > 1:
            wide, given["width"] = steady, self.number(steady[0])
        else:
            given["width"] = _each(wide)
        if self.chance(0.6):
            given["groups"] = value(groups)
        else:
            groups = 1
        if stride > 1:
            given["stride"] = self.number(stride)
        if self.chance(0.3):  # with `each`, other copies than the first may have a stride too
            strides = [stride, *([1] * (depth - 1))]
            if depth > 1 and min(sizes) >= 2 * stride:
                strides[1] = 2
            given["stride"] = _each(strides)
        elif self.chance(0.3):
            given["stride"] = _first_rest(stride, 1)
        if [channels, *wide] == sorted([channels, *wide]):
            fits += ["pad", "pad"]
            strided_once = not isinstance(given.get("stride", value(1)).text, dict)
            if strided_once and not any(n % stride for n in sizes):  # its pool rounds down
                fits.append("avgpool_pad")
        if self.chance(0.7):
            given["shortcut"] = value(self.pick(*fits))
            if depth > 1 and self.chance(0.3):
                given["shortcut"] = _first_rest("projection", given["shortcut"].text)
        if self.chance(0.4):
            given["early"] = value(True)
        if self.chance(0.4):
            given["kernel"] = value(self.pick(5, self.on_axes([1, 3]), self.on_axes([5, 3])))
        if self.chance(0.3):
            given["eps"] = _first_rest(0.25, 0.01)
        if self.chance(0.5):
            given["fn"] = _each([self.pick("relu", "tanh", "leaky_relu") for _ in range(depth)])
        if self.chance(0.3):
            given["factors"] = value(self.pick([2, 0.3], [-0.7, 1.1, 3]))
        if self.chance(0.2):
            given["dilation"] = value(self.pick(1, self.on_axes([2, 1])))
        members = self.pick(None, None, "part{index}") if depth > 1 else None
        when = value("index != 1", lambda at: at.values["index"] != 1) if depth == 3 and self.chance(0.3) else None
        if when is not None:
            given = {**given, "shortcut": value("projection")}
        return self.use(block, self.name("stage"), depth, given, members, when)

    def mixture(self, word: str) -> Definition:
        """Define a block of random steps that fit any map."""
        inside = Place(None, once=False)
        steps = self.several(inside, False, 2, 4)
        only = self.op("conv", inside, name="conv", channels=_variable("width"), kernel=3)  # named by its word
        steps.append(Step({"conv": {"channels": "width", "kernel": 3}}, only.run))
        condition = value("in_channels > 4", lambda at: at.values["in_channels"] > 4) if self.chance(0.5) else None
        self.blocks[word] = {
            "parameters": {"width": "in_channels"} if self.chance(0.5) else {"width": {"type": "int", "default": 5}},
            **({"when": condition.text} if condition else {}),
            "body": [step.text for step in steps],
        }
        inherited = self.blocks[word]["parameters"]["width"] == "in_channels"

        def run(at: At) -> Shape:
            return at.shape if condition is not None and not condition.meaning(at) else chain(steps)(at)

        return Definition(word, run, {"width": _variable("in_channels") if inherited else 5})

    def mixture_row(self, place: Place) -> Step:
        block = self.define("mixture", self.mixture)
        depth = self.pick(None, None, 1, 2)
        given = {"width": self.number(self.rng.randint(3, 6))} if self.chance(0.6) else {}
        condition = self.condition(place) if depth is None and self.chance(0.2) else None
        return self.use(block, None if place.numbered else self.name("mix"), depth, given, when=condition)

    def steady(self, word: str) -> Definition:
        """Define a block whose copies differ only in values per copy: nothing else in it depends on the copy."""
        inside = Place(None, once=False)
        first = self.op("conv", inside, channels=self.channels(inside, True), kernel=3, bias=_first_rest(True, False))
        second = self.op("norm", inside, eps=_each([0.3, 0.01]))
        steps = [first, second, *self.several(inside, True, 0, 2)]
        self.blocks[word] = {"body": [step.text for step in steps]}
        return Definition(word, chain(steps), {})

    def steady_row(self, place: Place) -> Step:
        return self.use(self.define("steady", self.steady), self.name("steady"), 2, {})

    def growing(self, word: str) -> Definition:
        """Define a dense layer, which concatenates its output and its input, in either order."""
        inside = Place(None, once=False)
        growth = _variable("growth")
        layer = [self.norm(inside), self.act(inside), self.op("conv", inside, channels=growth, kernel=3)]
        drop = value("rate > 0", lambda at: at.values["rate"] > 0)
        layer.append(self.op("dropout", inside, when=drop, rate=_variable("rate")))
        first = self.chance(0.5)
        branches: list[Any] = [[step.text for step in layer], "identity"]
        self.blocks[word] = {
            "members": "layer{index + 1}",
            "parameters": {"growth": "int", "rate": {"type": "real", "default": 0}},
            "body": [{"parallel": {"merge": "concat", "branches": branches if first else branches[::-1]}}],
        }

        def run(at: At) -> Shape:
            return at.shape[0] + chain(layer)(at.inside())[0], *at.shape[1:]

        return Definition(word, run, {"growth": None, "rate": 0}, members="layer{index + 1}")

    def growing_row(self, place: Place) -> Step:
        block = self.define("growing", self.growing)
        depth = self.rng.randint(2, 3)
        given = {"growth": self.pick(self.number(2), _each([self.rng.randint(1, 3) for _ in range(depth)]))}
        if self.chance(0.5):
            given["rate"] = value(0.2)
        return self.use(block, self.name("dense"), depth, given)

    def macro(self, word: str) -> Definition:
        """Define steps that become part of the surrounding scope; their names distinguish the copies."""
        inside = Place(None, once=False)
        count = self.name("c")
        conv = self.op("conv", inside, channels=_variable("width"), kernel=1, bias=True)
        body = {f"{count}_{{tag}}_{{index}}": next(iter(conv.text.values()))}
        norm = self.op("norm", inside)
        act = self.act(replace(inside, numbered=True))
        self.blocks[word] = {
            "inline": True,
            "parameters": {"width": "int", "tag": "int"},
            "body": [body, {f"{count}_{{tag}}_{{index}}_norm": next(iter(norm.text.values()))}, act.text],
        }
        unlisted = chain([conv, norm, act])
        return Definition(
            word, lambda at: unlisted(replace(at, listed=False)), {"width": None, "tag": None}, inline=True
        )

    def macro_row(self, place: Place) -> Step:
        block = self.define("macro", self.macro)
        self.count += 1
        given = {"width": self.number(self.rng.randint(3, 8)), "tag": value(self.count)}
        return self.use(block, None, self.rng.randint(1, 2), given)

    # --- blocks of the library ---

    def library(self, place: Place) -> Step:
        """Return a row that uses a block of the library."""
        assert place.shape is not None
        channels, *sizes = place.shape
        depth = self.rng.randint(1, 2)
        stride = 2 if min(sizes) >= 2 and self.chance(0.5) else 1
        after = tuple(-(-n // stride) for n in sizes)
        wide = self.pick(4, 8)
        word = self.pick(
            "basic", "bottleneck", "preact_bottleneck", "preact_bottleneck", "wrn_unit", "dense_layer", "highway", "transition", "inception",
            "basic_conv", "darknet_stage", "vgg_stage",
        )  # fmt: skip
        row: dict[str, Any] = {"block": word}
        repeated = {"depth": depth, "width": wide, **({"stride": stride} if stride > 1 else {})}
        words, residuals, shape = {"conv", "norm", "act"}, depth, (wide, *after)
        match word:
            case "basic":
                row |= repeated
                if channels <= wide and self.chance(0.5):
                    row["shortcut"] = "pad"
            case "bottleneck":
                row |= {**repeated, "expansion": 2, "cardinality": 2, "base_width": 32, "stride_at": self.pick(1, 2)}
                shape = (2 * wide, *after)
            case "preact_bottleneck":
                row |= {**repeated, "expansion": 2}
                if self.chance(0.5):
                    row["preact"] = self.pick(
                        {"first": "none", "rest": "branch"}, "both", {"first": "both", "rest": "branch"}
                    )
                shape = (2 * wide, *after)
            case "wrn_unit":
                wide = wide + 1 if wide == channels else wide  # its shortcut depends on the channels only
                row |= {**repeated, "width": wide, "kernels": self.pick([3, 3], [3, 1, 3], [1], [1, 3])}
                row |= {"dropout": 0.3} if self.chance(0.5) else {}
                shape = (wide, *after)
            case "dense_layer":
                row |= {"depth": depth, "growth": 2, "bottleneck": self.pick(0, 2), "dropout": self.pick(0, 0.2)}
                residuals, shape = 0, (channels + 2 * depth, *sizes)
            case "highway":
                row |= {"depth": depth, "bias_T": -1}
                words, shape = {"conv", "act", "sigmoid"}, place.shape
            case "transition":
                if min(sizes) < 2:
                    return self.keeping(place, False)
                theta = self.pick(0.5, 1)
                row |= {"theta": theta}
                residuals, words = 0, {"norm", "act", "conv", "avgpool"}
                kernel = {
                    "kernel": 2,
                    **{key: item.meaning(At(())) for key, item in self.defaults.get("avgpool", {}).items()},
                }
                shape = (int(theta * channels), *after_window(place.shape, kernel)[1:])
            case "inception":
                row |= {"widths": [2, 3, 4, 2, 3, 2]}
                residuals, words, shape = 0, {*words, "maxpool"}, (11, *sizes)
            case "basic_conv":
                row |= {"width": wide, "kernel": self.pick(3, self.on_axes([1, 5])), "stride": stride}
                residuals = 0
            case "darknet_stage":
                row |= {"width": 2 * wide, "units": depth}
                if min(sizes) < 2:
                    return self.keeping(place, False)
                shape = (2 * wide, *(-(-n // 2) for n in sizes))
            case "vgg_stage":
                if min(sizes) < 2:
                    return self.keeping(place, False)
                row |= {"width": wide, "convs": depth, "norm": self.chance(0.5)}
                words = {"conv", "act", "maxpool", *(["norm"] if row["norm"] else [])}
                residuals = 0
                kernel = {
                    "kernel": 2,
                    **{key: item.meaning(At(())) for key, item in self.defaults.get("maxpool", {}).items()},
                }
                shape = (wide, *after_window(place.shape, kernel)[1:])

        def run(at: At) -> Shape:
            at.met.words |= {*words, word}
            at.met.library = True
            at.met.residuals += residuals * at.counted
            return shape

        if word in ("darknet_stage", "vgg_stage"):  # macros whose steps have no names: a numbered list
            return self.named(self.name("list"), Step([row], run))
        name = self.name("stage")
        step = self.named(name, Step(row, run))
        return Step({**row, "name": name}, step.run) if "depth" not in row and self.chance(0.5) else step

    # --- the network ---

    def network(self, shape: Shape) -> list[Step]:
        rows: list[Step] = []

        def add(*steps: Step) -> None:
            nonlocal shape
            for step in steps:
                shape = step.run(At(shape, listed=False))
                rows.append(step)

        def here() -> Place:
            return Place(shape, vector=len(shape) == 1)

        if len(shape) > 1:
            add(*self.stem(here()))
            for _ in range(self.rng.randint(2, 4)):
                add(*self.stage(here()))
            if self.chance(0.75):
                add(*self.to_vector(here()))
        if len(shape) == 1:
            add(*self.several(here(), False, 0, 3))
            classes = self.number(self.rng.randint(2, 9))
            linear = self.op("linear", here(), name=self.pick("fc", "classifier"), features=classes)
            add(linear)
        elif self.chance(0.5):
            add(self.keeping(here(), False))
        return rows

    def stem(self, place: Place) -> list[Step]:
        match self.rng.randint(0, 3):
            case 0:
                return [self.library_macro("cifar_stem", place, {"width": 4}, (4, 1), {"conv", "norm", "act"})]
            case 1:
                assert place.shape is not None
                given = {"width": self.pick(4, 6)}
                word = self.pick("imagenet_stem", "deep_stem")
                return [self.library_macro(word, place, given, (given["width"], 4), {"conv", "norm", "act", "maxpool"})]
            case 2:
                return [self.conv(place, False, self.number(self.rng.randint(4, 8)))]
            case _:
                return [self.shrinking(place)] if min(place.shape or ()) > 9 else []

    def library_macro(
        self, word: str, place: Place, given: dict[str, Any], after: tuple[int, int], words: set[str]
    ) -> Step:
        """Return a stem of the library, which divides the size of the map by 1, or twice by 2."""
        channels, divided = after

        def run(at: At) -> Shape:
            at.met.words |= words
            at.met.library = True
            _, *sizes = at.shape
            if divided == 1:
                return channels, *sizes
            ceil = {key: item.meaning(at) for key, item in self.defaults.get("maxpool", {}).items()}
            halved = (channels, *(-(-n // 2) for n in sizes))
            return after_window(halved, {"kernel": 3, "stride": 2, "padding": 1, **ceil})

        return Step({"block": word, **given}, run)

    def stage(self, place: Place) -> list[Step]:
        assert place.shape is not None
        channels, *sizes = place.shape
        if channels > 24:
            return [self.op("conv", place, channels=self.number(6), kernel=1)]
        if max(sizes) > 12 and self.chance(0.7):
            return [self.shrinking(place)]
        match self.rng.randint(0, 10):
            case 0 | 1:
                return [self.unit_row(place)]
            case 9:
                return [self.hourglass(place)]
            case 2:
                return [self.pick(self.mixture_row, self.steady_row)(place)]
            case 3:
                return [self.pick(self.growing_row, self.macro_row)(place)]
            case 4 | 5:
                return [self.library(place)]
            case 6:
                first = self.shrinking(place)
                return [first, self.shrinking(self.past(place, first))]
            case 7:
                conv = self.conv(place, False)
                steps = [self.norm(replace(place, shape=None)), self.act(place)]
                if self.chance(0.4):
                    steps.reverse()
                return [conv, *([self.side(self.past(place, conv))] if self.chance(0.5) else []), *steps]
            case 8:
                inner = replace(place, numbered=True)
                steps = [self.mixture_row(inner), *self.several(replace(inner, shape=None), False, 1, 2)]
                run = chain(steps)
                listed = Step([step.text for step in steps], lambda at: run(replace(at, listed=False)))
                return [self.named(self.name("list"), listed)]
            case _:
                return self.several(place, False, 1, 2)

    def to_vector(self, place: Place) -> list[Step]:
        assert place.shape is not None
        if math.prod(place.shape) < 300 and self.chance(0.4):
            return [self.op("flatten", place)]
        pooled = self.op("global_avgpool", place)
        if self.chance(0.4):
            pooled = self.op(
                "adaptive_avgpool", place, size=self.size(self.rng.randint(1, 3), self.rng.randint(1, 4), True)
            )
        return [
            pooled,
            *([self.norm(replace(place, shape=None))] if self.chance(0.3) else []),
            self.op("flatten", place),
        ]


def _variable(text: str, meaning: Callable[[At], Any] | None = None) -> Value:
    """Return a name of the block as a value, or an expression over such names."""
    return Value(text, meaning or (lambda at: at.values[text]))


def _first_rest(first: Any, rest: Any) -> Value:
    return Value({"first": first, "rest": rest}, lambda at: rest if at.values["index"] else first)


def _each(values: list[Any]) -> Value:
    return Value({"each": values}, lambda at: values[at.values["index"]])


def _filled(template: str, at: At) -> str:
    """Return a name with its expressions filled in: names of the block, and `index + 1`."""
    one_more = {"index + 1": at.values["index"] + 1} if "index" in at.values else {}
    return re.sub(r"\{([^{}]*)\}", lambda found: str({**at.values, **one_more}[found[1]]), template)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def written(document: dict[str, Any]) -> str:
    """Return a document as YAML text."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """A dumper without anchors, which specs cannot contain."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
