"""`show`: prints the tree of a network as a table."""

from __future__ import annotations

from typing import Annotated

import typer

from rescompile.cli.command import command
from rescompile.cli.options import FeaturesOption, FormatOption, JsonOption, Passes, SetOption, SpecArgument
from rescompile.cli.reporting import columns, print_json
from rescompile.cli.specs import elaborated


@command
def show(
    spec: SpecArgument,
    depth: Annotated[
        int, typer.Option(min=1, help="Levels of the tree to print: 1 rows, 2 blocks, 3 steps of blocks, ...")
    ] = 1,
    set: SetOption = None,
    features: FeaturesOption = None,
    as_json: JsonOption = False,
    format: FormatOption = "text",
    *,
    passes: Passes,
) -> None:
    """Show the shapes, parameters and MACs of each part of a network."""
    from rescompile.analysis import tree_table
    from rescompile.passes import apply

    _, network = elaborated(spec, set, features)
    network, _ = apply(network, None, passes)
    if as_json:
        print_json(tree_table.data(network, depth))
        return
    print(tree_table.summary(network))
    print()
    print(tree_table.table(network, depth, columns()))
