"""Weights of Keras: profiles are compared with the models of keras.applications, and Keras' file formats are read.

The models run on Keras' torch backend, as do those that `--target keras` writes. Both directions are verified by outputs:
random Keras weights in our network, and other weights of ours in the Keras model.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from ort import ran
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

os.environ.update(KERAS_BACKEND="torch", KERAS_TORCH_DEVICE="cpu")
pytest.importorskip("torch", reason="keras runs on it: pip install torch")
pytest.importorskip("onnxruntime", reason="runs our networks: pip install 'rescompile[run]'")
keras = pytest.importorskip("keras", reason="its models are the reference: pip install keras")

import h5py  # a dependency of keras
import peers
from keras.src.legacy.saving import legacy_h5_format  # writes as `model.save("x.h5")`, without the model

from rescompile import build, load
from rescompile.cli import app
from rescompile.weights import (
    Weights,
    profiles,
)
from rescompile.weights.checkpoints import read

Arrays = dict[str, peers.Array]
#: `make keras` compares the outputs of all models, which takes minutes; by default only the names of deep ones are.
FULL = "RESCOMPILE_KERAS" in os.environ


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in its own folder."""
    monkeypatch.chdir(tmp_path)


def weights(*arguments: str, code: int = 0) -> Result:
    """Run one of the weights commands and check its exit code."""
    result = CliRunner().invoke(app, ["weights", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


# --- profiles ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A model of keras.applications and its counterpart in the zoo."""

    theirs: str
    ours: str
    profile: str
    size: int = 64
    settings: tuple[str, ...] = ()

    @property
    def sets(self) -> list[str]:
        """Return the settings as command-line options."""
        return [word for setting in self.settings for word in ("--set", setting)]

    def make(self, dtype: str = "float32") -> Any:
        """Build the Keras model without the final softmax, with layers numbered as in a fresh process."""
        keras.utils.clear_session()
        keras.config.set_dtype_policy(dtype)
        try:
            shape = (self.size, self.size, 3)
            return getattr(keras.applications, self.theirs)(
                weights=None, input_shape=shape, classes=7, classifier_activation=None
            )
        finally:
            keras.config.set_dtype_policy("float32")


INCEPTION = ("AuxLogits=null", "defaults.avgpool.count_pad=false")
#: Models whose outputs are always compared; `test_a_linear_layer_on_maps` covers the special case of VGG.
COMPARED = [
    Model("ResNet50", "resnet50_v1", "keras_resnet"),
    Model("DenseNet121", "densenet121", "keras_densenet"),
    Model("InceptionV3", "inception_v3", "keras_inception_v3", 75, INCEPTION),
]
OTHERS = [
    Model("VGG19", "vgg19", "keras_vgg19", 224),
    Model("ResNet152", "resnet152_v1", "keras_resnet"),
    Model("DenseNet201", "densenet201", "keras_densenet"),
    Model("ResNet101", "resnet101_v1", "keras_resnet"),
    Model("DenseNet169", "densenet169", "keras_densenet"),
    Model("VGG16", "vgg16", "keras_vgg16", 224),  # half a gigabyte each way
]
DEEPEST = OTHERS[:2]


def values(model: Any) -> Arrays:
    """Return the tensors of a model by their names in Keras."""
    return {variable.path: variable.value.detach().numpy() for variable in model.weights}


def assign(model: Any, arrays: Mapping[str, peers.Array]) -> None:
    """Assign all tensors of a model; no others may be given."""
    assert {variable.path for variable in model.weights} == set(arrays)
    for variable in model.weights:
        variable.assign(arrays[variable.path])


def randomise(model: Any, size: int) -> None:
    """Randomise a model as `peers.randomised` does: scales of random sign, and shifted batch statistics."""
    random = np.random.default_rng(0)
    drawn: dict[str, Callable[[tuple[int, ...]], peers.Array]] = {
        "kernel": lambda s: random.standard_normal(s, np.float32) * np.float32((2 / np.prod(s[:-1])) ** 0.5),
        "gamma": lambda s: random.uniform(0.5, 1.5, s) * random.choice([-1, 1], s),
    }
    for variable in model.weights:
        word = variable.path.rpartition("/")[2]
        variable.assign(drawn.get(word, lambda s: random.uniform(-0.5, 0.5, s))(tuple(variable.shape)))
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if norms:
        for norm in norms:
            norm.momentum = 0.0  # use the statistics of this batch only
        model(random.standard_normal((4, size, size, 3), np.float32), training=True)
    for norm in norms:
        mean, variance = (v.value.detach().numpy().copy() for v in (norm.moving_mean, norm.moving_variance))
        norm.moving_mean.assign(mean + random.uniform(-0.3, 0.3, mean.shape) * np.sqrt(variance))
        norm.moving_variance.assign(variance * random.uniform(0.7, 1.4, mean.shape))


def moved(arrays: Arrays) -> Arrays:
    """Return weights with all values changed, scales and their signs included, so that they do not come from Keras."""
    random = np.random.default_rng(5)
    changed = {}
    for name, array in arrays.items():
        new = array
        if name.endswith("running_var") or array.ndim > 1:
            new = array * random.uniform(0.8, 1.25, array.shape)
        elif f"{name.rpartition('.')[0]}.running_mean" in arrays and name.endswith(".weight"):
            new = array * random.uniform(0.8, 1.25, array.shape) * random.choice([-1, 1], array.shape)
        elif array.ndim == 1:
            new = array + random.uniform(-0.1, 0.1, array.shape)
        changed[name] = new.astype(array.dtype)
    return changed


def compare(model: Model, theirs: Any, double: Any, arrays: Arrays) -> None:
    """Compare the outputs of our network as ONNX and as a Keras model with those of the Keras model, within the bound of `peers`;
    `double` is the Keras model in float64."""
    assign(double, values(theirs))
    x = np.random.default_rng(1).standard_normal((2, model.size, model.size, 3), np.float32)
    single, exact = (m(np.asarray(x, t), training=False).detach().numpy() for m, t in ((theirs, "f4"), (double, "f8")))
    assert exact.dtype == np.float64
    assert peers.telling(exact) > 0.001
    spec = load(model.ours, [f"input=[3, {model.size}, {model.size}]", "parameters.classes=7", *model.settings])
    found = ran(build(spec, "onnx", arrays).to_bytes(), {"input": x.transpose(0, 3, 1, 2).copy()})["logits"]
    assert peers.error(found, exact) <= peers.bound(single, exact)
    found = build(spec, "keras", arrays).module(x, training=False).detach().numpy()
    assert peers.error(found, exact) <= peers.bound(single, exact)


def test_every_profile_is_compared() -> None:
    """Every Keras profile is covered by a comparison."""
    assert {model.profile for model in COMPARED + OTHERS} == {name for name in profiles.files() if "keras" in name}


@pytest.mark.parametrize("model", DEEPEST, ids=lambda model: model.theirs)
@pytest.mark.slow
def test_names(model: Model) -> None:
    """A converted checkpoint has every variable of the Keras model by path and shape, and no others."""
    network = facts.network(model.ours, "parameters.classes=7", *model.settings)
    kinds = profiles.load(model.profile).to_theirs(Weights({}), network)[1]
    assert {name: shape for name, (_, shape) in kinds.items()} == {
        variable.path: tuple(variable.shape) for variable in model.make().weights
    }


@pytest.mark.parametrize("model", COMPARED + (OTHERS if FULL else []), ids=lambda model: model.theirs)
@pytest.mark.slow
def test_outputs(model: Model) -> None:
    """Weights converted in either direction give the same outputs in both models."""
    theirs = model.make()
    randomise(theirs, model.size)
    theirs.save_weights("theirs.weights.h5")
    arguments = ("theirs.weights.h5", model.ours, "--set", "parameters.classes=7", *model.sets, "--from", model.profile)
    weights("convert", *arguments, "-o", "ours.safetensors")
    arrays = load_file("ours.safetensors")
    double = model.make("float64")
    compare(model, theirs, double, arrays)
    arrays = moved(arrays)
    save_file(arrays, "other.safetensors")
    arguments = ("other.safetensors", model.ours, "--set", "parameters.classes=7", *model.sets, "--to", model.profile)
    weights("convert", *arguments, "-o", "back.safetensors")
    assign(theirs, load_file("back.safetensors"))
    compare(model, theirs, double, arrays)


def test_scales_that_keras_lacks_are_multiplied_into_weights() -> None:
    """Where norms of Keras have no scale, conversion multiplies ours into the weight of the convolution and the mean."""
    model = COMPARED[2]
    network = facts.network(model.ours, *model.settings)
    bn, conv = "Mixed_5b.branch1x1.bn", "Mixed_5b.branch1x1.conv"
    known = profiles.load(model.profile).names(network)
    assert f"{bn}.weight" not in known
    assert known[f"{conv}.weight"].scale == known[f"{bn}.running_mean"].scale == f"{bn}.weight"
    assert known[f"{bn}.bias"].scale is known[f"{bn}.running_var"].scale is None


@pytest.mark.slow
def test_a_linear_layer_on_maps() -> None:
    """Linear layers on feature maps are permuted between Keras' [height, width, channels] and torch's [channels,
    height, width]. The sums of these small integers are exact."""
    network = facts.network("vgg16")
    random = np.random.default_rng(0)
    weight = random.integers(-4, 5, (4096, 512 * 49), np.int8).astype(np.float32)
    arrays = Weights({"classifier.0.weight": lambda: weight})
    kernel = profiles.load("keras_vgg16").to_theirs(arrays, network)[0]["fc1/kernel"]
    maps = random.integers(-4, 5, (512, 7, 7), np.int8).astype(np.float32)
    assert np.array_equal(maps.transpose(1, 2, 0).reshape(-1) @ kernel, weight @ maps.reshape(-1))


def test_another_network_of_the_same_names() -> None:
    """resnet50, with the names and shapes of resnet50_v1 but other strides, is refused with the differing stride."""
    network = facts.network("resnet50")
    save_file({name: np.zeros(shape, np.float32) for name, shape in facts.shapes(network).items()}, "x.safetensors")
    stderr = weights(
        "convert", "x.safetensors", "resnet50", "--to", "keras_resnet", "-o", "y.safetensors", code=1
    ).stderr
    assert "E0704" in stderr
    assert "where the stride of 'layer2.0.conv2' is 1; in resnet50 it is 2" in stderr
    assert not Path("y.safetensors").exists()


@pytest.mark.parametrize("variance", [0.0, 1e-9, 1e-5, 1.0])
def test_epsilon(variance: float) -> None:
    """Variances are adjusted to the other library's eps, so the divisor of a norm is equal even for a dead channel."""
    theirs = profiles.load("keras_resnet")
    network = facts.network("resnet50_v1")
    arrays = {name: np.full(shape, variance, np.float32) for name, shape in facts.shapes(network).items()}
    converted = theirs.to_theirs(Weights({name: lambda a=a: a for name, a in arrays.items()}), network)[0]
    found = converted["conv1_bn/moving_variance"].astype(np.float64) + 1.001e-5
    np.testing.assert_allclose(found, np.float32(variance) + 1e-5, rtol=1e-6)
    same = facts.network("resnet50_v1", "defaults.norm.eps=1.001e-5")
    assert np.array_equal(
        theirs.to_theirs(Weights({name: lambda a=a: a for name, a in arrays.items()}), same)[0][
            "conv1_bn/moving_variance"
        ],
        arrays["bn1.running_var"],
    )


# --- files ------------------------------------------------------------------------------------------------------------


def small(dtype: str = "float32") -> Any:
    """Return a model with every kind of layer in the profiles, nested in another one as in transfer learning."""
    keras.utils.clear_session()
    layers, image = keras.layers, keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="first", dtype=dtype)(image)
    x = layers.BatchNormalization(name="norm", dtype=dtype)(x)
    x = layers.BatchNormalization(name="centred", scale=False, dtype=dtype)(x)
    base = keras.Model(image, layers.Conv2D(5, 1, use_bias=False, name="bare", dtype=dtype)(x), name="base")
    x = layers.GlobalAveragePooling2D()(base(base.input))
    model = keras.Model(base.input, layers.Dense(2, name="head", dtype=dtype)(x))
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random.standard_normal(tuple(variable.shape)))
    return model


def released(model: Any, path: str) -> None:
    """Write a file with one group per layer, as keras.applications distributes them."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def oldest(model: Any, path: str) -> None:
    """Write the VGG format of 2016: a variable is named by its layer, a word of that time and `:0`, without a path."""
    words = {"kernel": "W_1", "bias": "b_1", "gamma": "gamma_1", "beta": "beta_1"}
    words |= {"moving_mean": "running_mean_1", "moving_variance": "running_std_1"}
    flat: dict[str, list[tuple[str, peers.Array]]] = {}
    for name, array in values(model).items():
        layer, _, word = name.rpartition("/")
        flat.setdefault(layer, []).append((f"{layer}_{words[word]}:0", array))
    with h5py.File(path, "w") as file:
        half = len(flat) // 2  # long lists are split
        file.attrs["layer_names0"], file.attrs["layer_names1"] = list(flat)[:half], list(flat)[half:]
        for layer, tensors in flat.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name, _ in tensors]
            for name, array in tensors:
                group[name] = array


WRITERS: dict[str, Callable[[Any, str], None]] = {
    "x.weights.h5": lambda model, path: model.save_weights(path),
    "model.h5": lambda model, path: model.save(path),
    "released.h5": released,
    "oldest.hdf5": oldest,
}


@pytest.mark.parametrize("path", WRITERS)
@pytest.mark.slow_for("x.weights.h5", "oldest.hdf5", "model.h5")
def test_files(path: str) -> None:
    """Each Keras format gives the variables with the paths and values of the model."""
    model = small()
    WRITERS[path](model, path)
    found = {name: tensor.make() for name, tensor in read(path).tensors.items()}
    wanted = values(model)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_the_state_of_an_optimizer_is_ignored() -> None:
    """The state of an optimizer is ignored with a note."""
    model = small()
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save_weights("x.weights.h5")
    checkpoint = read("x.weights.h5")
    assert set(checkpoint.tensors) == set(values(model))
    assert checkpoint.notes == ("x.weights.h5: ignored: optimizer",)


def test_narrow_floats() -> None:
    """float16 is widened, which is exact; bfloat16, which HDF5 lacks, is refused by name."""
    model = small("float16")
    model.save_weights("x.weights.h5")
    tensor = read("x.weights.h5").tensors["head/kernel"]
    assert (tensor.dtype, tensor.make().dtype) == ("F16", np.float32)
    small("bfloat16").save_weights("y.weights.h5")
    assert "has dtype bfloat16" in weights("inspect", "y.weights.h5", code=2).stderr


def external(group: Any) -> None:
    """Link to a tensor in another file."""
    del group["0"]
    group["0"] = h5py.ExternalLink("/etc/passwd", "/")


def soft(group: Any) -> None:
    """Link to another path."""
    del group["0"]
    group["0"] = h5py.SoftLink("/")


def raw(group: Any) -> None:
    """Store the values in another file."""
    del group["0"]
    Path("secret").write_bytes(bytes(1000))
    group.create_dataset("0", (2,), "f4", external=[("secret", 0, 8)])


def virtual(group: Any) -> None:
    """Gather the values from other files."""
    del group["0"]
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2,))
    group.create_virtual_dataset("0", layout)


def packed(group: Any) -> None:
    """Store a compression bomb: a gigabyte of zeros in a few bytes."""
    del group["0"]
    group.create_dataset("0", (2**28,), "f4", chunks=(2**20,), compression="gzip")


def empty(group: Any) -> None:
    """Declare a terabyte that is never written."""
    del group["0"]
    group.create_dataset("0", (2**38,), "f4")


def text(group: Any) -> None:
    """Store text instead of numbers."""
    del group["0"]
    group["0"] = "words"


def circle(group: Any) -> None:
    """Make a group contain itself."""
    group.file["layers/again"] = group.file["layers"]


def twins(group: Any) -> None:
    """Add a second layer with the same name."""
    group.file.copy(group.parent, "layers/copy")


def unnumbered(group: Any) -> None:
    """Add a variable whose name is not a number."""
    group["x"] = group["0"]


def nothing(group: Any) -> None:
    """Remove all layers."""
    del group.file["layers"]


@pytest.mark.parametrize(
    "change", [external, soft, raw, virtual, packed, empty, text, circle, twins, unnumbered, nothing]
)
@pytest.mark.slow
def test_structures_that_keras_does_not_write_are_refused(change: Callable[[Any], None]) -> None:
    """HDF5 structures that Keras does not write are refused in one line, before any value is read."""
    small().save_weights("x.weights.h5")
    with h5py.File("x.weights.h5", "a") as file:
        change(file["layers/dense/vars"])
    stderr = weights("inspect", "x.weights.h5", code=2).stderr
    assert stderr.startswith("error[E0803]: x.weights.h5 is not a Keras weights file: ")
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"no tensors", "is text"),
        (b"\x89HDF\r\n\x1a\n" + b"\xff" * 100, "is not a Keras weights file"),
    ],
    ids=["empty", "text", "head"],
)
def test_not_hdf5(content: bytes, what: str) -> None:
    """A file that is not HDF5 is refused in one line, with help."""
    Path("x.h5").write_bytes(content)
    stderr = weights("inspect", "x.h5", code=2).stderr
    assert stderr.startswith(f"error[E0803]: x.h5 {what}")
    assert len(stderr.splitlines()) <= 2


def test_a_truncated_file_is_refused() -> None:
    """A truncated file is refused when it is opened."""
    small().save_weights("x.weights.h5")
    content = Path("x.weights.h5").read_bytes()
    Path("x.weights.h5").write_bytes(content[: len(content) // 2])
    assert "E0803" in weights("inspect", "x.weights.h5", code=2).stderr


def test_without_h5py(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without h5py, a Keras file gives exit code 4 and the command that installs the package."""
    Path("x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    monkeypatch.setitem(sys.modules, "h5py", None)
    stderr = weights("inspect", "x.h5", code=4).stderr
    assert "E0902" in stderr
    assert "pip install 'rescompile[keras]'" in stderr
