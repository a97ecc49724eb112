"""`python -m rescompile`, and the console script."""

import gc
import os
import sys


def main() -> None:
    """Run the command line; an interrupt while its libraries are imported is quiet too."""
    # No plugin is needed here, and pydantic looks for them in the metadata of every installed package: 2% of `validate`.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    gc.disable()  # a command is short and makes few cycles: collecting took 5% of its time
    try:
        from rescompile import cli
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        cli.main()
    finally:
        gc.freeze()  # the interpreter collects at exit all the same, which took 10% of the time


if __name__ == "__main__":
    main()
