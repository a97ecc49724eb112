"""rescompile: a framework-agnostic spec compiler for residual-family networks.

spec = rescompile.load("densenet121")            # a zoo name, or a path such as "specs/my.yaml"
network = rescompile.elaborate(spec)             # the tree, with shapes
rescompile.build(spec, "onnx").write("densenet121.onnx")
"""

from __future__ import annotations

from rescompile.building import build
from rescompile.elaboration import elaborate
from rescompile.loading import load
from rescompile.version import __version__

__all__ = ["__version__", "build", "elaborate", "load"]
