"""A picture as a page: the SVG between a head and an end, with nothing from outside."""

from __future__ import annotations

from rescompile.drawing.palette import DARK, LIGHT
from rescompile.drawing.scene import Scene
from rescompile.drawing.svg import escaped, svg
from rescompile.files.checksum import GENERATOR

_PAGE = """<!doctype html>
<!-- {generator} -->
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ margin: 0; background: {light}; }}
svg {{ display: block; margin: 0 auto; max-width: 100%; height: auto; }}
@media (prefers-color-scheme: dark) {{ body {{ background: {dark}; }} }}
</style>
</head>
<body>
{picture}</body>
</html>
"""


def html(scene: Scene) -> str:
    """Return the page of a picture."""
    return _PAGE.format(
        generator=GENERATOR,
        title=escaped(scene.title),
        light=LIGHT["page"].fill,
        dark=DARK["page"].fill,
        picture=svg(scene),
    )
