"""The HTML of a report: its templates filled, with the style and the script inside. Nothing is loaded, and only this script runs.

Every text passes `escaped`, which leaves no character that HTML gives a meaning to; what is HTML already comes from the drawing, the
charts and the highlighting, which escape their texts themselves. The policy of the page names the script by its hash, so even a text
that became an element could neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from rescompile.analysis import path_views
from rescompile.analysis.conventions import GROUPS
from rescompile.analysis.tree_table import count, survival
from rescompile.bench.report import caveats, ms
from rescompile.drawing.palette import DARK, LIGHT
from rescompile.drawing.svg import escaped, rules, svg
from rescompile.files.checksum import GENERATOR
from rescompile.ir.ops.op import size_text
from rescompile.report import charts, highlighting
from rescompile.report.comparison import Overview, outputs, points
from rescompile.report.facts import Report
from rescompile.report.layers import MOST, counts_by_word
from rescompile.report.picture import markup

if TYPE_CHECKING:
    from jinja2 import Environment

#: The parts of the page's script, which share one scope.
SCRIPTS = ("page.js", "picture.js", "details.js", "search.js")


def network_page(report: Report) -> str:
    """Return the page of one network."""
    return _page("network", {"report": report, "title": report.network.name, "data": report.data})


def comparison_page(overview: Overview) -> str:
    """Return the page of several networks."""
    first, *others = (entry.network.name for entry in overview.entries)
    title = f"{first} and {others[0]}" if len(others) == 1 else f"{first} and {len(others)} other networks"
    return _page("comparison", {"overview": overview, "title": title, "data": {}})


def _page(template: str, facts: Mapping[str, Any]) -> str:
    script = '"use strict";\n(() => {\n' + "".join(map(_file, SCRIPTS)) + "})();\n"
    return (
        _environment()
        .get_template(f"{template}.html.jinja")
        .render(
            {
                "generator": GENERATOR, "style": _file("page.css"), "palette": _palette(), "script": script,
                "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(), **facts,
            }
        )
    )  # fmt: skip


def _file(name: str) -> str:
    return resources.files("rescompile.report").joinpath(name).read_text(encoding="utf-8")


def _palette() -> str:
    """Return the colours of drawings: light ones, and dark ones by the reader's preference and by the switch."""
    dark, switched = rules(DARK, ":root:not([data-theme=light]) "), rules(DARK, ":root[data-theme=dark] ")
    return "".join(
        [*rules(LIGHT), "@media screen and (prefers-color-scheme:dark){", *dark, "}@media screen{", *switched, "}"]
    )


@cache
def _environment() -> Environment:
    """Return the templates, in which every value is escaped unless it is markup of ours."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def safe(value: Any) -> Any:
        return Markup(escaped(value)) if isinstance(value, str) and not isinstance(value, Markup) else value

    def html(function: Callable[..., str]) -> Callable[..., Markup]:
        return lambda *args, **kwargs: Markup(function(*args, **kwargs))

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, loader=FunctionLoader(_file), finalize=safe
    )  # fmt: skip
    environment.filters.update(
        count=count, shape=size_text, milliseconds=ms, bytes=_bytes, percent=_percent, number=lambda n: f"{n:,}",
        path_count=path_views.count, embedded=html(_embedded), drawing=html(svg), picture=html(markup),
        yaml=html(highlighting.yaml), python=html(highlighting.python), raw=html(str), error=_error,
    )  # fmt: skip
    environment.globals.update(
        groups=GROUPS, most_layers=MOST, words=counts_by_word, survival=survival, outputs=outputs, points=points, caveats=caveats,
        steps=html(charts.steps), area=html(charts.area), spans=html(charts.spans), scatter=html(charts.scatter), Span=charts.Span,
    )  # fmt: skip
    return environment


def _embedded(data: Any) -> str:
    """Data as JSON for a script element, which no text in it can end."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _bytes(size: int) -> str:
    """`9.19 MiB`"""
    for unit, step in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= step:
            return f"{size / step:.3g} {unit}"
    return f"{size} B"


def _percent(share: float) -> str:
    """`4.3%`; never rounded to nothing."""
    return "<0.1%" if 0 < share < 0.001 else f"{share:.1%}"


def _error(value: float) -> str:
    """`1.2e-07`, or words for what is not finite."""
    return f"{value:.1e}" if value < float("inf") else "not finite"
