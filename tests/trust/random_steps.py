"""Random steps of the language, for bodies of blocks and for rows: any op, any merge, any combinator, anywhere.

Steps are drawn from the forms in docs/language.md, with values that fit most shapes. The second reading (`reading.py`)
decides whether a step fits; a step that does not is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from places import ACTS, INITS, SIZES, WIDTHS, Place


class StepAuthor:
    """A random author of steps. `blocks` maps the blocks that a step may use to functions that draw a use; `outputs`
    counts the names of side outputs; `axes` is the number of axes of maps."""

    def __init__(self, random: Random, axes: int = 2) -> None:
        self.random, self.axes = random, axes
        self.outputs = 0

    def chance(self, share: float) -> bool:
        """Return True with this probability."""
        return self.random.random() < share

    def pick(self, *choices: Any) -> Any:
        """Return one of some values."""
        return self.random.choice(choices)

    def name(self, stem: str, place: Place) -> str:
        """Return a new name in a scope."""
        place.given[0] += 1
        return f"{stem}{place.given[0]}" + ("_{index}" if place.template else "")

    def called(self, stem: str, step: Any, place: Place) -> Any:
        """Return a step with a name, or without one where steps are numbered."""
        return step if place.numbered else {self.name(stem, place): step}

    # --- values -------------------------------------------------------------------------------------------------------

    def width(self, place: Place) -> Any:
        """Return a number of channels: an integer, a name, or an expression."""
        literal = self.random.choice(WIDTHS)
        if not place.ints or self.chance(0.35):
            return self.pick(
                literal, literal, literal, "in_channels", "in_channels // 2 + 1", f"min(in_channels, {literal}) + 1"
            )
        name = self.random.choice(place.ints)
        forms = [name, name, f"{name} + {literal}", f"max({name}, in_channels)", f"{name} if in_channels > 4 else {literal}",
                 f"floor(1.5 * {name})", f"({name} + 3) // 2", f"2 * {name} / 2", f"{name} % 3 + 1", f"floor({name} / 2) + 1",
                 f"2 ** ({name} % 5)", f"round({name} ** 0.5) + 1"]  # fmt: skip
        if place.copies:
            forms += [f"{name} + index", f"{name} + depth - index", f"{literal} if index == 0 else {name}"]
        return self.random.choice(forms)

    def condition(self, place: Place) -> Any:
        """Return a condition."""
        forms: list[Any] = [
            "in_channels > 3",
            "in_channels % 2 == 0 and in_channels != 6",
            "not in_channels == 4",
            True,
            False,
        ]
        forms += [*place.bools, *(f"{name} > 3 or {name} < in_channels" for name in place.ints)]
        forms += [*(f"not {name}" for name in place.bools)]
        if place.copies:
            forms += ["index > 0", "index == 0", "index + 1 < depth", "index % 2 == 1"]
        if place.is_map:
            forms += SIZES.get(self.axes, ())
        return self.random.choice(forms)

    def varied(self, value: Callable[[], Any], place: Place) -> Any:
        """Return a value, or one for the first copy and one for the others."""
        if place.copies and self.chance(0.15):
            return {"first": value(), "rest": value()}
        return value()

    def size(self, *choices: int) -> Any:
        """Return a size: a number, or one per axis."""
        return (
            self.random.choice(choices) if self.chance(0.6) else [self.random.choice(choices) for _ in range(self.axes)]
        )

    def last(self, size: int) -> list[int]:
        """Return a size that is 1 on all axes but the last."""
        return [1] * (self.axes - 1) + [size]

    # --- ops that keep the shape --------------------------------------------------------------------------------------

    def act(self, place: Place) -> Any:
        """Return an activation in one of its forms."""
        kind = self.random.choice(ACTS)
        more: dict[str, Any] = {}
        if kind == "leaky_relu":
            more["slope"] = self.varied(lambda: self.pick(0.2, 0.01, -0.3, 1e-3), place)
        if kind == "elu":
            more["alpha"] = self.varied(lambda: self.pick(0.5, 1.5, 1.0, 2), place)
        if kind == "prelu":  # it owns its slopes, so it needs a name
            more |= {"per": self.pick("channel", "one"), "slope_init": self.pick(0.25, 0.5)}
            return self.called("prelu", self.pick({"prelu": more}, {"act": {"kind": "prelu", **more}}), place)
        if self.chance(0.2):
            more["when"] = self.condition(place)
        forms: list[Any] = [
            {kind: more} if more else kind,
            {"act": {"kind": kind, **more}},
            {"act": kind} if not more else "act",
        ]
        return self.random.choice(forms)

    def norm(self, place: Place) -> Any:
        """Return a norm of any kind."""
        own: dict[str, Any] = {}
        if self.chance(0.25):
            own = {"kind": "group", "groups": self.pick(1, 1, "in_channels", "2 if in_channels % 2 == 0 else 1")}
        elif self.chance(0.2):
            own = {"kind": self.pick("instance", "layer")}
        elif self.chance(0.3):
            own["momentum"] = self.pick(0.2, 0.05, 0.1)
        if self.chance(0.4):
            own["eps"] = self.varied(lambda: self.pick(1e-3, 0.1, 1e-5, 0.5), place)
        if self.chance(0.2):
            own["scale_init"] = self.pick(0, 1, 0.5, 2.0)
        return self.called("bn", {"norm": own} if own else "norm", place)

    def simple(self, place: Place) -> Any:
        """Return an op that keeps the shape of any input."""
        draw = self.random.random()
        if draw < 0.4:
            return self.act(place)
        if draw < 0.7:
            return self.norm(place)
        if draw < 0.8:
            return {"dropout": self.pick(0.1, 0.5, {"rate": 0.3, "when": self.condition(place)})}
        if draw < 0.95:
            return {"scale": self.pick(0.5, -1, 1.5, {"factor": self.varied(lambda: self.pick(2, 0.7), place)})}
        return self.rearranged(place)

    def rearranged(self, place: Place) -> Any:
        """Return an op that combines the channels of each position, or learns their scale and shift."""
        groups = self.pick("in_channels", "2 if in_channels % 2 == 0 else 1")
        own = self.pick({}, {"per": "one"}, {"shift": False, "scale_init": 0.5}, {"scale": False})
        steps: list[Any] = ["identity", "softmax", {"softmax": {"ranges": 2, "when": "in_channels % 2 == 0"}}]
        steps.append(self.called("affine", {"affine": own} if own else "affine", place))
        if place.is_map:
            steps += [{"shuffle": groups}, {"lrn": {"size": self.pick(1, 3, 5), "alpha": 0.5, "k": 2}}]
        return self.random.choice(steps)

    # --- layers -------------------------------------------------------------------------------------------------------

    def layer(self, place: Place, width: Any = None, stride: Any = None) -> Any:
        """Return a convolution that changes the size of a map only by `stride`, or a linear layer for a vector."""
        own: dict[str, Any] = {}
        width = self.width(place) if width is None else width
        if self.chance(0.4):
            own["bias"] = self.varied(lambda: self.pick(True, True, False), place)
        if own.get("bias") is True and self.chance(0.3):
            own["bias_init"] = self.pick(0.5, -1, "torch_default")
        if self.chance(0.1):
            own["init"] = self.random.choice(INITS)
        if self.chance(0.1):
            own["init_scale"] = self.pick(0.5, "2 ** -0.5", "in_channels ** -0.5")
        if not place.is_map:
            plain = not own and self.chance(0.5)
            return self.called("fc", {"linear": width if plain else {"features": width, **own}}, place)
        own |= {"channels": width, "kernel": self.size(1, 3, 3, 5) if self.chance(0.9) else self.last(7)}
        if stride is not None:
            own["stride"] = stride
        if own["kernel"] not in (1, self.last(1)) and self.chance(0.08):
            own |= self.pick({"weights": "standardised", "eps": 0.01}, {"weights": "scaled", "gamma": 1.5})
        if self.chance(0.2):
            own["dilation"] = self.size(1, 2, 3)
        if self.chance(0.2):
            own["groups"] = self.pick("in_channels", "2 if in_channels % 2 == 0 else 1")
            own["channels"] = self.pick(
                "in_channels", "in_channels", "2 * in_channels" if self.chance(0.3) else "in_channels"
            )
            if width != "in_channels" and stride is not None:
                return self.called("conv", {"conv": {**own, "channels": width, "groups": 1}}, place)
        return self.called("conv", {"conv": own}, place)

    def resizing(self, place: Place) -> Any:
        """Return an op that changes the size of a map."""
        kernel = self.size(2, 3, 2, 4)
        pool = {"kernel": kernel, "stride": self.size(1, 2, 2, 3), "padding": self.size(0, 1)}
        for key in ("stride", "padding", "ceil", "count_pad"):
            if self.chance(0.3):
                pool.pop(key, None)
                if key == "ceil":
                    pool[key] = True
        if self.chance(0.5):
            return {"maxpool": pool}
        if self.chance(0.4):
            if self.axes == 3:  # torch has no average pool with windows longer than a volume without padding
                pool.pop("padding", None)
            return {"avgpool": {**pool, **({"count_pad": False} if self.chance(0.5) else {})}}
        steps = [
            {"subsample": self.size(1, 2, 2)},
            {"upsample": self.pick(2, self.last(2))},
            {"upsample": {"factor": self.size(1, 2, 3), "kind": "bilinear"}},
            {
                "pad_channels": self.pick(
                    "in_channels + 1", "in_channels * 2", f"in_channels + {self.random.choice(WIDTHS)}"
                )
            },
            {"adaptive_avgpool": self.size(1, 2, 3, 4)},
            {
                "border": {
                    "before": self.size(0, 1, 2),
                    "after": self.size(0, 1),
                    "kind": self.pick("zeros", "reflect", "replicate"),
                }
            },
            {"border": {"before": self.size(0, -1), "after": self.size(1, 0, -1)}},
            {"depth_to_space": "2 if in_channels % 4 == 0 else 1"},
            [{"upsample": 2}, {"space_to_depth": 2}],
            self.called("up", {"conv_transpose": self.transposed(place)}, place),
            self.called("sum", {"weighted_sum": self.weighted(place)}, place),
        ]
        conv = {
            "conv": {
                "channels": self.width(place),
                "kernel": kernel,
                "padding": self.size(0, 1, 2),
                "stride": self.size(1, 2),
            }
        }
        return self.random.choice([*steps, self.called("conv", conv, place)])

    def transposed(self, place: Place) -> dict[str, Any]:
        """Return the attributes of a transposed convolution."""
        own: dict[str, Any] = {"channels": self.width(place), "kernel": self.size(1, 2, 3), "stride": self.size(2, 3)}
        more = {
            "padding": self.size(0, 1),
            "output_padding": self.size(0, 1),
            "dilation": self.size(1, 2),
            "bias": True,
        }
        own |= {key: value for key, value in more.items() if self.chance(0.4)}
        return own

    def weighted(self, place: Place) -> dict[str, Any]:
        """Return the attributes of a weighted sum."""
        ranges = self.varied(lambda: self.pick("2 if in_channels % 2 == 0 else 1", "in_channels", 1), place)
        return {"ranges": ranges, **self.pick({}, {"kind": "softmax"}, {"kind": "fast", "eps": 0.5})}

    # --- merges -------------------------------------------------------------------------------------------------------

    def branch(self, place: Place, width: Any, stride: Any = None) -> list[Any]:
        """Return steps with this number of output channels, which change the size only by `stride`."""
        inner = place.deeper()
        steps = [self.simple(inner) for _ in range(self.pick(0, 0, 1))]
        if self.chance(0.4):
            steps += [self.layer(inner), *(self.simple(inner) for _ in range(self.pick(0, 1, 2)))]
        if self.chance(0.1) and place.is_map:
            steps.append({"maxpool": {"kernel": 3, "stride": 1, "padding": 1}})
        if place.depth > 1 and self.chance(0.15):
            steps.append(self.merge(inner))
        if place.depth > 1 and self.chance(0.1) and not place.numbered:
            steps.append(self.side(inner))
        steps.append(self.layer(inner, width, stride))
        return steps + [self.simple(inner) for _ in range(self.pick(0, 0, 1))]

    def residual(self, place: Place, width: Any = None, stride: Any = None) -> Any:
        """Return a residual with the identity, a shortcut, no shortcut, or a gate."""
        keeps = width is None and self.chance(0.5)
        same = (
            {"if": "in_channels > 0", "then": [self.simple(place.deeper()) for _ in range(2)]}
            if self.chance(0.2)
            else None
        )
        width = width or ("in_channels" if keeps else self.width(place))
        parts: dict[str, Any] = {"branch": self.branch(place, width, stride)}
        if keeps:
            parts["branch"] = same or [self.simple(place.deeper()), self.layer(place.deeper(), "in_channels")]
            if self.chance(0.3):
                parts["shortcut"] = self.pick([self.simple(place.deeper(numbered=False))], "identity", "none")
        elif place.is_map:
            words = ("projection", "projection_always", "bare_projection", "avgpool_projection")
            projection = {
                "block": self.random.choice(words),
                "channels": "out_channels",
                **({"stride": stride} if stride else {}),
            }
            if self.chance(0.3) and not place.numbered:
                layer = {"conv": {"channels": "out_channels", "kernel": 1, **({"stride": stride} if stride else {})}}
                projection = [{self.name("short", place): layer}]
            parts["shortcut"] = projection
        else:
            layer = {"linear": "out_channels"}
            parts["shortcut"] = [layer if place.numbered else {self.name("short", place): layer}]
        if self.chance(0.25) and parts.get("shortcut") != "none":
            bounded = self.layer(place.deeper(numbered=False), "out_channels", stride)
            parts["gate"] = (
                [bounded, "sigmoid"] if self.chance(0.8) else [bounded, {"act": "sigmoid"}, {"dropout": 0.1}]
            )
        step = {"residual": parts}
        return {self.name("res", place): step} if self.chance(0.2) and not place.numbered else step

    def parallel(self, place: Place) -> Any:
        """Return parallel branches, copies of one branch, or branches of parts of the channels."""
        merge, inner = self.pick("add", "concat", "concat", "mul"), place.deeper()
        body: dict[str, Any] = {"merge": merge}
        if self.chance(0.25) and not place.numbered:
            body["split"] = self.chance(0.5)
            body["copies"] = self.pick(2, 3, 1, "2 if in_channels % 2 == 0 else 1")
            width = self.pick("in_channels", 3, "copy + 2" if merge == "concat" else 4)
            body["branch"] = [*self.branch(place.scope(), width), {"scale": self.pick(0.5, "copy + 1")}]
            return {self.name("paths", place): {"parallel": body}}
        width = self.width(place)
        if self.chance(0.2):
            count = self.pick(2, 2, 3)
            sizes = [
                1,
                *[2] * (count - 2),
                self.pick(2 * count - 1 - 2 * (count - 2), f"in_channels - {2 * count - 3}"),
            ]
            split = self.pick(True, sizes)
            body |= {"split": split, "branches": [self.branch(place, width) for _ in range(count)]}
            return [self.layer(place, 2 * count), {"parallel": body}]
        if merge == "mul" and place.is_map and self.chance(0.6):
            squeeze = ["global_avgpool", self.layer(inner, "in_channels"), self.pick("sigmoid", "tanh")]
            if self.chance(0.3):
                vector = inner.deeper(is_map=False)
                unflatten: Any = "unflatten" if self.axes == 2 else {"unflatten": {"rank": self.axes}}
                squeeze = [
                    "global_maxpool",
                    "flatten",
                    self.layer(vector, "in_channels"),
                    "sigmoid",
                    unflatten,
                ]
            if self.chance(0.3):
                conv = {"conv": {"channels": 1, "kernel": self.size(1, 3)}}
                squeeze = [{"reduce": self.pick("mean", "max")}, self.called("conv", conv, inner), "hardsigmoid"]
            body["branches"] = self.pick([squeeze, "identity"], ["identity", squeeze])
        elif merge == "concat":
            branches: list[Any] = [self.branch(place, self.width(place)) for _ in range(self.pick(1, 2, 3))]
            body["branches"] = self.random.sample(
                [*branches, self.pick("identity", [], self.simple(inner))], len(branches) + 1
            )
        else:
            body["branches"] = [self.branch(place, width) for _ in range(self.pick(1, 2, 2, 3))]
        step = {"parallel": body}
        return {self.name("mix", place): step} if self.chance(0.2) and not place.numbered else step

    def merge(self, place: Place) -> Any:
        """Return the name of a merge."""
        return self.residual(place) if self.chance(0.5) else self.parallel(place)

    # --- the other combinators ----------------------------------------------------------------------------------------

    def side(self, place: Place) -> Any:
        """Return a side branch of any mode; in repeated blocks only one without an output is valid."""
        mode = "never" if place.copies or place.template else self.pick("training", "always", "never")
        inner = place.deeper(numbered=False)
        body: Any = [self.layer(inner), self.simple(inner)]
        if place.is_map and self.chance(0.5):
            body = [self.simple(inner), "global_avgpool", "flatten", self.layer(inner.deeper(is_map=False), 5)]
        if self.chance(0.2):
            body = [self.merge(inner)] if place.depth > 0 else body
        own: dict[str, Any] = {"body": body, "mode": mode}
        if mode != "never":
            self.outputs += 1
            own["output"] = f"out{self.outputs}"
        if self.chance(0.4) and not place.numbered:
            numbered = self.chance(0.5)
            deep = place.scope(numbered=numbered)
            own["body"] = [self.layer(deep), self.simple(deep)]
            return {self.name("aux", place): {"side": own}} if numbered else {"side": {**own, "body": body}}
        return {"side": own}

    def step(self, place: Place) -> Any:
        """Return a step of any form; a list stands for several steps."""
        draw, inner = self.random.random(), place.deeper()
        if draw < 0.25 or place.depth <= 0:
            return self.simple(place) if self.chance(0.5) else self.layer(place)
        if draw < 0.45:
            return [self.layer(place), *([self.norm(place)] if self.chance(0.6) else []), self.act(place)]
        if draw < 0.60:
            return self.residual(place)
        if draw < 0.75:
            return self.parallel(place)
        if draw < 0.82:
            return self.side(place)
        if draw < 0.90:
            then, other = [self.step(inner)], [self.step(inner)]
            return {"if": self.condition(place), "then": then, **({"else": other} if self.chance(0.6) else {})}
        if draw < 0.95 and place.is_map:
            return self.resizing(place)
        if place.numbered:
            return self.simple(place)
        deep = place.scope(numbered=True)
        middle = self.merge(deep) if self.chance(0.4) else self.simple(deep)
        return {self.name("list", place): self.flat([self.layer(deep), middle, self.step(deep.deeper(depth=0))])}

    def flat(self, steps: Sequence[Any]) -> list[Any]:
        """Return the steps, with most nested lists expanded."""
        return [inner for step in steps for inner in (step if isinstance(step, list) and self.chance(0.8) else [step])]
