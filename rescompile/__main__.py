"""`python -m rescompile`."""

from rescompile.cli import main

main()
