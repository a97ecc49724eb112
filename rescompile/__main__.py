"""`python -m rescompile`, and the console script."""

import sys


def main() -> None:
    """Run the command line; an interrupt while its libraries are still being loaded is quiet too."""
    try:
        from rescompile import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
