"""`python -m rescompile`, and the console script."""

import gc
import sys


def main() -> None:
    """Run the command line; an interrupt while its libraries are still being loaded is quiet too."""
    gc.disable()  # a command is short and makes no cycles to speak of; collecting took a twentieth of its time
    try:
        from rescompile import cli
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        cli.main()
    finally:
        gc.freeze()  # the interpreter collects once more as it ends, whatever was said: a tenth of the time, for nothing


if __name__ == "__main__":
    main()
