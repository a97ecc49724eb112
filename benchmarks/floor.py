"""A lower bound for `rescompile build`: the least that a Python process can do to write N random weights to a file.

It imports the libraries that the compiler uses, draws N float32 standard normals with SFC64 on one thread and
writes their bytes once, without fsync. Whatever `rescompile build` takes beyond this is the cost of compiling.
The promises of compile.py are relative to this script, so it must not change.

    python benchmarks/floor.py N FILE
"""

import sys

import numpy
import onnx  # noqa: F401
import pydantic  # noqa: F401
import typer  # noqa: F401
import yaml  # noqa: F401


def main(count: int, path: str) -> None:
    """Draw `count` normals and write them to `path`."""
    values = numpy.random.Generator(numpy.random.SFC64(0)).standard_normal(count, dtype=numpy.float32)
    with open(path, "wb") as file:
        file.write(values.data)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[1].isdecimal():
        sys.exit("usage: floor.py N FILE")
    main(int(sys.argv[1]), sys.argv[2])
