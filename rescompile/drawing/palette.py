"""The colours of a picture, by light and dark background.

Hues are those of Okabe and Ito 2008, which people with any colour vision tell apart; none of them carries a meaning that shape
or text does not. Scales run from light to dark in one hue (the blues of ColorBrewer), so they survive printing in grey.
"""

from __future__ import annotations

from rescompile.records import record

BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"


@record
class Paint:
    """How a class of shapes is painted; a text has its `fill`."""

    fill: str = "none"
    stroke: str = "none"
    width: float = 1.0
    dash: tuple[float, ...] = ()


#: Every class of shapes, on a light background.
LIGHT: dict[str, Paint] = {
    "page": Paint("#ffffff"),
    "panel": Paint("#f5f7fa", "#e1e6ec"),
    "frame": Paint("#ffffff", "#c3ccd6"),
    "card": Paint("#ffffff", "#b4bfca"),
    "chip": Paint("#eef1f5", "#d3dae2"),
    "ground": Paint("#ffffff"),
    "end": Paint("#ffffff", "#7d8a97", 1.0, (4, 3)),
    "weighted": Paint(BLUE),
    "resizing": Paint(ORANGE),
    "pointwise": Paint("#9aa5b1"),
    "value": Paint(GREEN),
    "line": Paint("none", "#66727f", 1.3),
    "head": Paint("#66727f"),
    "skip": Paint("none", VERMILION, 1.8),
    "skip-head": Paint(VERMILION),
    "gate": Paint("none", PURPLE, 1.8),
    "gate-head": Paint(PURPLE),
    "side": Paint("none", "#66727f", 1.3, (4, 3)),
    "merge": Paint("#ffffff", "#3b4753", 1.4),
    "badge": Paint("#33414e"),
    "mark": Paint("#b34700"),
    "differs": Paint("none", VERMILION, 2.2),
    "only": Paint("none", PURPLE, 2.2, (6, 3)),
    "ink": Paint("#1d2731"),
    "muted": Paint("#56626e"),
    "badge-ink": Paint("#ffffff"),
    "dark-ink": Paint("#10202f"),
    "light-ink": Paint("#ffffff"),
}
#: Those that differ on a dark background.
DARK: dict[str, Paint] = {
    "page": Paint("#12171d"),
    "panel": Paint("#191f27", "#2b343f"),
    "frame": Paint("#161c23", "#414d5a"),
    "card": Paint("#222a34", "#5a6876"),
    "chip": Paint("#2a333e", "#4a5663"),
    "ground": Paint("#222a34"),
    "end": Paint("#12171d", "#93a0ad", 1.0, (4, 3)),
    "weighted": Paint("#56B4E9"),
    "pointwise": Paint("#7d8a97"),
    "line": Paint("none", "#9aa7b4", 1.3),
    "head": Paint("#9aa7b4"),
    "skip": Paint("none", "#ff8a3d", 1.8),
    "skip-head": Paint("#ff8a3d"),
    "gate": Paint("none", "#e59bc4", 1.8),
    "gate-head": Paint("#e59bc4"),
    "side": Paint("none", "#9aa7b4", 1.3, (4, 3)),
    "merge": Paint("#222a34", "#d4dce4", 1.4),
    "badge": Paint("#c9d3dd"),
    "mark": Paint("#ff8a3d"),
    "differs": Paint("none", "#ff8a3d", 2.2),
    "only": Paint("none", "#e59bc4", 2.2, (6, 3)),
    "ink": Paint("#eef2f6"),
    "muted": Paint("#a9b5c1"),
    "badge-ink": Paint("#12171d"),
}
#: The steps of a scale from low to high, and from which on text is white.
SCALE = ("#eff3ff", "#c6dbef", "#9ecae1", "#6baed6", "#2171b5", "#084594")
WHITE_FROM = 4
#: What agrees with a reference, and the first that does not.
AGREES, FAULT = "#c6dbef", "#b34700"
