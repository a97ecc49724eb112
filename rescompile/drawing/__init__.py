"""Pictures of networks.

    outline     what a picture shows: cards, merges, side branches, frames, panels
    structure   which parts are drawn as one
    boxes, layout, cards, merges    the outline with coordinates
    page        a network on one page: rows, panels, heading, legend
    colouring   the values that cards are painted by
    beside      two networks side by side
    scene       shapes with coordinates, which every format prints
    font, palette                   widths of text, colours
    svg, html, raster               printers of scenes
    graph, mermaid, dot             printers of outlines

The room sees the tree, its analyses and the words of `explain`; it knows no framework and no file format of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rescompile.drawing.beside import beside
from rescompile.drawing.colouring import COUNTS, Metric, Painting, by_amount, by_fault
from rescompile.drawing.dot import dot
from rescompile.drawing.graph import graph
from rescompile.drawing.html import html
from rescompile.drawing.mermaid import mermaid
from rescompile.drawing.outline import Depth, Outline, outline
from rescompile.drawing.page import page
from rescompile.drawing.raster import raster
from rescompile.drawing.scene import Scene
from rescompile.drawing.svg import svg
from rescompile.ir.network import Network
from rescompile.records import record

__all__ = [
    "COUNTS", "FORMATS", "Depth", "Metric", "Outline", "Painting", "Picture", "Scene", "by_amount", "by_fault", "outline", "picture",
]  # fmt: skip


@record
class Picture:
    """What is drawn: the outline of a network, its painting, and the network that it is put beside."""

    outline: Outline
    painting: Painting | None = None
    against: Outline | None = None

    @property
    def scene(self) -> Scene:
        """The picture with coordinates."""
        return page(self.outline, self.painting) if self.against is None else beside(self.against, self.outline)


def picture(network: Network, depth: Depth = "blocks") -> Picture:
    """Return the picture of a network, opened to a depth. Raises UsageError where it has more parts than a picture can show."""
    return Picture(outline(network, depth))


#: The bytes of a picture by the ending of its file. Those of graphs show neither paintings nor two networks.
FORMATS: Mapping[str, Callable[[Picture], bytes]] = {
    ".svg": lambda picture: svg(picture.scene).encode(),
    ".html": lambda picture: html(picture.scene).encode(),
    ".png": lambda picture: raster(picture.scene, "png"),
    ".pdf": lambda picture: raster(picture.scene, "pdf"),
    ".mmd": lambda picture: mermaid(graph(picture.outline)).encode(),
    ".dot": lambda picture: dot(graph(picture.outline)).encode(),
}
#: Formats without coordinates, whose readers lay them out.
GRAPHS = (".mmd", ".dot")
