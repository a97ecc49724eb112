"""PyTorch source: one standalone file that imports only torch, with one class per kind of block.

This module only declares the target, so that the options of `build` are known without imports; `torch.source_file`
writes the file.
"""

from __future__ import annotations

from rescompile.backend import lazily

from ._options import DYNAMIC, STYLE

SUFFIX = ".py"
OPTIONS = (STYLE, DYNAMIC)
EVALUATION_REQUIRES = {"torch": "pip install 'rescompile[torch]'"}
IGNORES_WEIGHTS = "the source initialises its own weights; load yours into the module with load_state_dict"
FILLS_ZEROS = "but the source initialises its own weights"

__getattr__ = lazily("rescompile.backends.torch.source_file")
