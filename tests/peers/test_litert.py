"""Generated Keras source on TensorFlow, and exported to LiteRT by the program of docs/frameworks.md, compared with the
interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import facts
import numpy as np
import pytest

import rescompile
from rescompile.runtimes.accuracy import Reference
from rescompile.weights.batch_statistics import trial

pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.skipif(find_spec("tensorflow") is None, reason="exports to LiteRT: pip install tensorflow-cpu"),
]
PAGE = (Path(__file__).parents[2] / "docs" / "frameworks.md").read_text("utf-8")
PROGRAM = PAGE.partition("```python file: to_litert.py\n")[2].partition("```")[0]
#: Run a model in Keras and its file in LiteRT, without the delegates that would replace operators.
RUN = """
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
import json, sys
from importlib import import_module
import numpy, tensorflow
name, x = sys.argv[1], numpy.load("x.npy")
source = import_module(f"{name}_keras")
model = getattr(source, name)()
source.load(model, f"{name}_keras.safetensors")
resolver = tensorflow.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
lite = tensorflow.lite.Interpreter(f"{name}.tflite", experimental_op_resolver_type=resolver)
(given,), (result,) = lite.get_input_details(), lite.get_output_details()
lite.resize_tensor_input(given["index"], x.shape)
lite.allocate_tensors()
lite.set_tensor(given["index"], x)
lite.invoke()
numpy.savez("outputs.npz", keras=model.predict(x, verbose=0), lite=lite.get_tensor(result["index"]))
json.dump([op["op_name"] for op in lite._get_ops_details()], open("ops.json", "w"))
"""


def run(folder: Path, *arguments: str) -> None:
    """Run Python in a folder; a failure shows its standard error."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=quiet, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "convolutions"), [("resnet20_cifar", 19), ("resnet50", 53), ("mobilenetv2_100", 52)])
def test_litert(name: str, convolutions: int, tmp_path: Path) -> None:
    """Outputs of Keras and LiteRT are within the bound of `verify`, and the file has the convolutions of the network
    and no transpose."""
    network = facts.network(name)
    weights = trial(network)
    x = np.random.default_rng(0).standard_normal((2, *network.input)).astype(np.float32)
    rescompile.build(network, "keras", weights).write(tmp_path / f"{name}_keras.py")
    (tmp_path / "to_litert.py").write_text(PROGRAM, encoding="utf-8")
    np.save(tmp_path / "x.npy", np.ascontiguousarray(np.moveaxis(x, 1, -1)))
    run(tmp_path, "to_litert.py", name)
    run(tmp_path, "-c", RUN, name)
    reference = Reference(network, weights, x)
    with np.load(tmp_path / "outputs.npz") as outputs:
        for output in outputs.values():
            error = reference.error({"logits": output})
            assert error <= reference.bound("fp32", error=error)
    ops = json.loads((tmp_path / "ops.json").read_text("utf-8"))
    assert ops.count("CONV_2D") == convolutions
    assert "TRANSPOSE" not in ops
