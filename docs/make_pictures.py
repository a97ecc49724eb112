"""Write the pictures of the README and the pages to docs/pictures, each with `rescompile draw`.

Run `python docs/make_pictures.py` after a change to `rescompile draw` or a drawn spec; tests/docs/test_pictures.py fails until you do.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from typer.testing import CliRunner

from rescompile.cli import app

FOLDER = Path(__file__).parent / "pictures"

#: Each picture with the command that draws it, without -o.
COMMANDS: Mapping[str, str] = {
    "resnet50": "draw resnet50",
    "resnet50_macs": "draw resnet50 --depth rows --color macs",
    "resnet50_D_against_resnet50": "draw resnet50_D --against resnet50",
    "densenet121": "draw densenet121",
    "googlenet": "draw googlenet",
    "highway_mnist_fc_10": "draw highway_mnist_fc_10",
    "resnext50_32x4d_form_b": "draw resnext50_32x4d --form b",
    "resnet1001_cifar_ops": "draw resnet1001_cifar --depth ops",
    "stochastic_depth_110": "draw stochastic_depth_110",
}


def drawn(command: str) -> str:
    """Return the SVG that a command prints."""
    return CliRunner().invoke(app, [*shlex.split(command), "-o", "-"], catch_exceptions=False).stdout


def main() -> None:
    """Write every picture."""
    FOLDER.mkdir(exist_ok=True)
    for name, command in COMMANDS.items():
        (FOLDER / f"{name}.svg").write_text(drawn(command), "utf-8")


if __name__ == "__main__":
    main()
