"""An op of a spec -> an Op of the tree: its attributes evaluated and typed, its shape inferred."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rescompile.diagnostics.errors import ShapeError, one_of
from rescompile.elaboration.context import Context
from rescompile.elaboration.site import Built, Problem, Site, Value
from rescompile.ir import ops
from rescompile.ir.expressions import ExpressionError, parse
from rescompile.ir.network import Op


class OpBuilder:
    """Builds the leaves of the tree."""

    def __init__(self, context: Context) -> None:
        self.context, self.spec, self.report = context, context.spec, context.report
        self.evaluator, self.namer = context.evaluator, context.namer

    def build(self, word: str, given: Mapping[str, Any], site: Site, when: Any = None) -> Built:
        """Return the node of an op with these attributes."""
        self.context.used.add(word)
        self.context.grow(site)
        self.context.build(site)
        kind, fixed = ops.WORDS[word]
        subject, facts, copy = site.name or word, ops.attributes(word), site.frame.copy
        values: dict[str, Value] = dict(fixed)
        for attribute, raw, where in self._written(word, given, site, copy):
            what = f"{subject}.{attribute}"
            raw, where = self.evaluator.for_copy(raw, where, copy, what)
            value = self.evaluator.evaluate(raw, where, facts[attribute].words)
            fit = (lambda: self._nearest_fit(given, site)) if attribute == "channels" else lambda: None
            values[attribute] = self.evaluator.typed(value, facts[attribute], what, where, raw, site.shape, fit)
        idle = self._idle(word, given, values, site)
        try:
            used = {name: value for name, value in values.items() if name not in idle}
            made = kind(**(ops.default_sizes(word, ops.rank(site.shape)) | used))
            output = made.output(site.shape)
        except ShapeError as error:
            raise self._misfit(error, word, subject, given, site) from None
        owned = made.parameters(site.shape)
        self.context.parameters += sum(parameter.size for parameter in owned)
        name = site.name or self.namer.automatic(word, site, owns=bool(owned))
        hints, origin = self.context.hints(site.path, given, facts, site.frame), self.context.origin(site.path)
        return [Op(name, made, site.shape, output, hints, origin, None if when is None else str(when))], output

    def _written(
        self, word: str, given: Mapping[str, Any], site: Site, copy: Mapping[str, int]
    ) -> Iterator[tuple[str, Any, Site]]:
        """Yield each attribute with its value as written and where: in the step, else in the spec's defaults, else its
        `init`."""
        defaults = self.spec.defaults.get(word, {})
        for name in ops.attributes(word):
            if name in given:
                yield name, given[name], site.at(name)
            elif name in defaults:
                yield name, defaults[name], self.context.defaults(word, name, site, copy)
            elif name == "init" and self.spec.init is not None:
                yield name, self.spec.init, site.within(self.context.top, ("init",))

    def _idle(self, word: str, given: Mapping[str, Any], values: Mapping[str, Value], site: Site) -> set[str]:
        """Return the attributes that have no effect given the others; defaults may set them, since they apply to all
        steps of a word. Raises a problem if the step itself sets one."""
        op, facts = ops.WORDS[word][0], ops.attributes(word)
        kind = values.get(op.chooser, getattr(op, op.chooser, None))
        idle = {name for name, attribute in facts.items() if attribute.only and kind not in attribute.only}
        for name in given:
            needed, by, help = facts[name].needs, op.chooser, None
            if name in idle:
                which = f"of kind {kind}" if op.chooser == "kind" else f"with {kind} {op.chooser}"
                why = f" on {word} {which}; it applies only to {one_of(facts[name].only)}"
            elif needed and not values.get(needed, getattr(op, needed)):
                by, help = needed, f"write '{needed}: true'"
                why = f", because this {word} has no {needed}"
            elif name == "init_scale" and values.get("init") == 0:
                by, help = "init", "remove 'init_scale', or set 'init' to another number or to a rule"
                why = f", because all weights of this {word} are initially 0"
            else:
                continue
            message = f"'{name}' has no effect{why}"
            raise self.report.blamed("E0402", message, site.at(name), help, given.get(by), key=True)
        return idle

    def _misfit(self, error: ShapeError, word: str, subject: str, given: Mapping[str, Any], site: Site) -> Problem:
        """Return the problem of an op whose input or attributes are invalid."""
        name, message = error.attribute, f"{subject} {error.message}"
        if name and name not in given and name in self.spec.defaults.get(word, {}):
            return self.report.problem(error.code, message, ("defaults", word, name), error.help)
        groups_of_channels = error.code == "E0203" and name == "channels"
        help = (self._nearest_fit(given, site) if groups_of_channels else None) or error.help
        by_shape = not groups_of_channels and error.code != "E0205"
        where, raw = (site.at(name), given[name]) if name is not None and name in given else (site, None)
        return self.report.blamed(error.code, message, where, help, raw, by_shape)

    def _nearest_fit(self, given: Mapping[str, Any], site: Site) -> str | None:
        """Return help like `the nearest widths that fit are 320 and 336`: the user's argument, changed until channels
        are integers that the groups divide."""
        frame = site.frame
        name = next((name for name in self.report.roots(given.get("channels"), frame) if name in frame.given), None)
        value = frame.values[name] if name is not None else None
        if name is None or isinstance(value, bool) or not isinstance(value, int):
            return None

        def fits(candidate: int) -> bool:
            values = frame.values | {name: candidate, "in_channels": site.shape[0]}

            def number(raw: Any) -> Value:
                return parse(raw).evaluate(values, frame.words) if isinstance(raw, str) else raw

            try:
                for let, raw in (frame.block.let if frame.block else {}).items():
                    values[let] = number(raw)
                channels, groups = number(given["channels"]), number(given.get("groups", 1))
                return isinstance(channels, int) and channels > 0 and channels % groups == 0
            except (ExpressionError, TypeError, ZeroDivisionError):
                return False

        lower = next((n for n in range(value - 1, max(value - 1024, 0), -1) if fits(n)), None)
        upper = next((n for n in range(value + 1, value + 1024) if fits(n)), None)
        near = [str(n) for n in (lower, upper) if n is not None]
        if len(near) == 2:
            return f"the nearest {name}s that fit are {near[0]} and {near[1]}"
        return f"the nearest {name} that fits is {near[0]}" if near else None
