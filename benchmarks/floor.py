"""The floor under `rescompile build`: the least that a Python process can do and still leave N random weights in a file.

It imports the libraries that the compiler is made of, draws N float32 standard normals with SFC64 on one thread and
writes their bytes once, without fsync. There is no spec, no tree and no graph: what `rescompile build` takes beyond
this is what compiling costs. This script is a fixed yardstick: changing it changes the promises of compile.py.

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
