"""Checkpoints as training programs write them: other suffixes, wrappers, prefixes and additional tensors."""

from __future__ import annotations

import argparse
import collections
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import facts
import numpy as np
import pytest
import typer
from checkpoint_files import CONV, LAST, drawn, same, saved, spec, tiny, weights
from command_line import invoke
from safetensors.numpy import load_file, save_file

from rescompile import build
from rescompile.cli import app
from rescompile.weights import Array, checkpoints, draw
from rescompile.weights.checkpoints import WeightsFile

pytestmark = pytest.mark.usefixtures("own_folder")

ENDS = [{"pool": LAST[0]}, {"flat": LAST[1]}, LAST[2]]
NETWORK = [{"conv1": CONV}, {"bn1": "norm"}, {"layer1": {"block": "basic", "depth": 2, "width": 4}}, *ENDS]


def net(name: str = "tiny", **changes: Any) -> str:
    """Write the spec of a small network with a norm and a stage, and return its path."""
    return spec(name, **{"network": NETWORK, **changes})


def under(prefix: str, arrays: dict[str, Array]) -> dict[str, Array]:
    """Return arrays with a prefix added to their names."""
    return {prefix + name: array for name, array in arrays.items()}


def fits(file: str, *options: str, path: str | None = None) -> str:
    """Convert a file, assert that its tensors are those of seed 1, and return the messages."""
    path = path or net()
    stderr = weights("convert", file, path, "-o", "y.safetensors", "--force", *options).stderr
    assert same(load_file("y.safetensors"), drawn(path, 1)), stderr
    return stderr


# --- recognition by content -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending", [".th", ".pyth", ".pkl", "", ".model", ".h5", ".safetensors", ".zip", ".onnx", ".PTH.tar"]
)
@pytest.mark.parametrize("kind", ["zip", "pickles", "safetensors", "npz", "h5"])
def test_formats_are_recognised_by_content(kind: str, ending: str) -> None:
    """Every format is recognised by its content, whatever the suffix."""
    arrays, file = drawn(net(), 1), Path(f"x{ending}")
    if kind in ("zip", "pickles"):
        saved(arrays, str(file), _use_new_zipfile_serialization=kind == "zip")
    elif kind == "safetensors":
        save_file(arrays, file)
    elif kind == "npz":
        with file.open("wb") as open_file:
            np.savez_compressed(open_file, **arrays)  # type: ignore[arg-type]
    else:
        h5py = pytest.importorskip("h5py", reason="writes the file: pip install 'rescompile[keras]'")
        with h5py.File(file, "w") as root:
            root.create_dataset("layers/a/vars/0", data=np.ones(2, np.float32))
        assert "a/0" in weights("inspect", file).stdout or "kernel" in weights("inspect", file).stdout
        return
    fits(str(file))


def test_types_of_arrays_in_npz_files() -> None:
    """In .npz files float16 is widened, bool is kept and arrays of objects are ignored."""
    np.savez("x.npz", a=np.ones(2, np.float16), b=np.ones(2, bool), c=np.array([{}], dtype=object))
    tensors = checkpoints.read("x.npz").tensors
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {"a": "F16", "b": "bool"}
    assert tensors["a"].make().dtype == np.float32


@pytest.mark.parametrize(
    ("content", "what", "help"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer", "git lfs pull"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><html><body>Quota exceeded</body></html>", "a web page", "download"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page or XML", "download"),
        (b"", "empty", "download"),
        (b"{\"weight_map\": {}}", "JSON", ""),
        (b"hello world", "text", ""),
        (b"\xff" * 100, "not a weights file", ""),
        (b"\x1f\x8b\x08\x00\x00", "compressed", "unpack"),
        (b"x" * 257 + b"ustar\x0000" + b"\0" * 240, "a tar archive", "unpack"),
        (b"\x93NUMPY\x01\x00", "one array of NumPy", "numpy.savez"),
        (b"\x08\x0a\x12\x0arescompile", "an ONNX model", "state dict"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".pth", ".safetensors", ""])
def test_other_files_are_identified(content: bytes, what: str, help: str, ending: str) -> None:
    """A file that is not a checkpoint is identified by its content, with help."""
    Path(f"x{ending}").write_bytes(content)
    for command in (("weights", "inspect", f"x{ending}"), ("build", net(), "-t", "onnx", "--weights", f"x{ending}")):
        result = invoke(*command)
        assert result.exit_code == 2
        assert f"error[E0803]: x{ending} is {what}" in result.stderr or f"looks like {what}" in result.stderr
        assert help in result.stderr


# --- entries and prefixes ---------------------------------------------------------------------------------------------

PREFIXES = ["model.", "net.", "backbone.", "encoder_q.", "module.encoder_q.", "_orig_mod.", "_orig_mod.model.", "module.module.",
            "student.backbone.net.", "_fsdp_wrapped_module.", "model.module."]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_common_prefix_is_removed(prefix: str) -> None:
    """A common prefix of the keys is removed with a note."""
    stderr = fits(saved({"state_dict": under(prefix, drawn(net(), 1)), "epoch": 3}))
    assert "removed" in stderr
    assert "reading the entry 'state_dict'" in stderr


def test_a_wrapper_inside_the_names() -> None:
    """A wrapper within the keys, such as `features.module.0` of DataParallel, is removed."""
    network = [{"features": [{"conv1": CONV}, {"bn1": "norm"}]}, *LAST]
    path = net(network=network)
    names = {name.replace("features.", "features.module."): array for name, array in drawn(path, 1).items()}
    assert "removed 'module.' of DataParallel from 6 of 8 keys" in fits(saved(names), path=path)


def test_a_prefix_of_the_network_is_kept() -> None:
    """A prefix that belongs to the network's own names is kept."""
    path = net(network=[{"model": [{"conv1": CONV}, {"bn1": "norm"}, *ENDS]}])
    assert "removed" not in fits(saved(drawn(path, 1)), path=path)


def test_a_head_beside_a_backbone() -> None:
    """A classifier with another prefix than the backbone is used if it is the only candidate."""
    arrays = drawn(net(), 1)
    body = {name: array for name, array in arrays.items() if not name.startswith("fc.")}
    head = {name: array for name, array in arrays.items() if name.startswith("fc.")}
    stderr = fits(saved({**under("backbone.", body), **under("head.", head)}))
    assert "removed the prefix 'head.' from 2 of" in stderr
    fits(saved({**body, **under("head.", head)}))
    two = {**body, **under("head1.", head), **under("head2.", head)}
    assert "2 missing" in weights("inspect", saved(two), net(), code=1).stderr, "one of two heads was chosen"


BESIDE = {
    "n_averaged": np.array(9),
    "criterion.weight": np.ones(10, np.float32),
    "projector.0.weight": np.ones((4, 4), np.float32),
}


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_tensors_beside_a_whole_network(prefix: str) -> None:
    """Additional tensors next to a complete network are ignored and named."""
    stderr = fits(saved({**BESIDE, **under(prefix, drawn(net(), 1))}))
    assert all(name.partition(".")[0] in stderr for name in BESIDE)


def test_tensors_of_another_network_are_unexpected() -> None:
    """Tensors of one more block or stage are an error, because they belong to another network."""
    arrays = drawn(net(), 1)
    for name in ("layer1.2.conv1.weight", "layer2.0.conv1.weight", "fc.scale", "conv2.weight"):
        stderr = weights("inspect", saved({**arrays, name: np.ones(3)}), net(), code=1).stderr
        assert f"unexpected  {name}" in stderr


def test_two_networks_need_a_choice() -> None:
    """Two networks in one file are refused with both prefixes, and `--prefix` or `--entry` selects one."""
    both = {**under("encoder_q.", drawn(net(), 1)), **under("encoder_k.", drawn(net(), 2))}
    stderr = weights("inspect", saved(both), net(), code=2).stderr
    assert "under 'encoder_k.' and 'encoder_q.'" in stderr
    assert "--prefix" in stderr
    assert "encoder_k" in fits(saved(both), "--prefix", "encoder_q")
    assert "did you mean 'encoder_q'?" in weights("inspect", saved(both), net(), "--prefix", "encoder", code=2).stderr
    fits(saved({"generator": {"up.weight": np.ones(3)}, "discriminator": drawn(net(), 1), "accuracy": np.array(1.5)}))
    fits(saved({"checkpoint": {"ema": drawn(net(), 2), "model": drawn(net(), 1)}}), "--entry", "checkpoint.model")


def test_a_number_beside_the_state_dict() -> None:
    """A scalar tensor next to the state dict, as in PyTorch's ImageNet example, is ignored."""
    file = saved(
        {"epoch": 90, "arch": "tiny", "state_dict": under("module.", drawn(net(), 1)), "best_acc1": np.array(69.7)}
    )
    assert "ignored: epoch, arch, best_acc1" in fits(file)


def test_every_command_that_takes_weights_takes_entry_and_prefix() -> None:
    """Every command that takes weights has `--entry` and `--prefix`."""
    options = {
        name: {option for p in command.params for option in (*p.opts, p.metavar)} for name, command in commands(app)
    }
    taking = {
        name
        for name, words in options.items()
        if "--weights" in words or (name.startswith("weights ") and "FILE" in words)
    }
    assert taking == {"build", "run", "verify", "paths", "weights inspect", "weights convert", "weights transfer"}
    assert all({"--entry", "--prefix"} <= options[name] for name in taking)


def commands(app: typer.Typer) -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its name."""
    todo = [("", typer.main.get_command(app))]
    for name, group in todo:
        context = click.Context(group)
        for word in group.list_commands(context) if hasattr(group, "list_commands") else ():
            command = group.get_command(context, word)  # type: ignore[attr-defined]
            todo.append((f"{name} {word}".strip(), command))
            yield todo[-1]


def test_entry_and_prefix_with_other_commands() -> None:
    """`build`, `run`, `verify` and Python accept an entry and a prefix, which are refused without weights."""
    path = net()
    file = saved({"a": under("q.", drawn(path, 1)), "b": under("q.", drawn(path, 2))})
    select = ("--weights", file, "--entry", "a", "--prefix", "q")
    wanted = build(path, "onnx", drawn(path, 1)).to_bytes()
    assert invoke("build", path, "-t", "onnx", "-o", "a.onnx", *select).exit_code == 0
    assert Path("a.onnx").read_bytes() == wanted
    with pytest.warns(UserWarning, match="the entry 'a'"):
        assert build(path, "onnx", WeightsFile(file, "a", "q.")).to_bytes() == wanted
    assert "PASSED" in invoke("verify", path, "--targets", "onnx", *select).stdout
    assert invoke("run", path, *select, "--repeats", "1").exit_code == 0
    result = invoke("build", path, "-t", "onnx", "--prefix", "q")
    assert (result.exit_code, result.stderr) == (2, "error[E0802]: --prefix needs --weights FILE\n")


# --- other objects, and tensors of every type -------------------------------------------------------------------------


class Config(dict):  # type: ignore[type-arg]
    """A dict subclass, as libraries define for configurations."""


@pytest.mark.parametrize("new", [True, False])
def test_objects_beside_tensors_are_left_out(new: bool) -> None:
    """Arguments, NumPy scalars and other objects next to the tensors are ignored."""
    best = np.float64(1.5)
    beside = {
        "args": argparse.Namespace(lr=0.1),
        "best": best,
        "counter": collections.Counter("ab"),
        "cfg": Config(a=1),
        "f": np.dot,
    }
    stderr = fits(saved({"model": drawn(net(), 1), **beside}, _use_new_zipfile_serialization=new))
    assert "reading the entry 'model'; ignored: args, best, counter, cfg, f" in stderr


def test_a_whole_module() -> None:
    """The tensors of a pickled module are read without importing or instantiating its class."""
    pytest.importorskip("torch", reason="builds the module: pip install 'rescompile[torch]'")
    path = net()
    module = build(path, "torch", drawn(path, 1)).module  # type: ignore[attr-defined]
    for content in (module, {"ema": None, "model": module}):
        file = saved(content)
        Path(file).write_bytes(Path(file).read_bytes().replace(b"rescompile", b"rescompelt"))
        fits(file)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_of_numpy_in_a_pickle(protocol: int) -> None:
    """Pickled dictionaries of NumPy arrays, as in some model zoos, are read."""
    arrays = {name: np.array(array, order="F") for name, array in drawn(net(), 1).items()}
    Path("x.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}, protocol=protocol))
    fits("x.pkl")


@pytest.mark.parametrize("new", [True, False])
def test_views_and_shared_storages_as_torch_reads_them(new: bool) -> None:
    """Views, shared storages and all types give the values that torch gives."""
    torch = pytest.importorskip("torch", reason="the reference for torch files: pip install 'rescompile[torch]'")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "base": base, "turned": base.t(), "part": base[1:, 2::2], "row": base[2].expand(3, 6), "one": base[0, 1], "none": base[:0],
        "half": base.half()[1:], "short": base.bfloat16(), "int": base.long()[:, 3], "bool": base > 3, "wide": base.double(),
        "parameter": torch.nn.Parameter(base[3]), "byte": base.byte(),
    }  # fmt: skip
    torch.save(tensors, "x.pth", _use_new_zipfile_serialization=new)
    found = checkpoints.read("x.pth").tensors
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        wide = tensor.detach().float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.detach()
        assert found[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(found[name].make(), wide.numpy(), strict=True)


def test_torch_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch checkpoint is read without torch."""
    file = saved({"model": drawn(net(), 1)})
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    fits(file)


# --- suggestions for checkpoints that do not fit ----------------------------------------------------------------------


def test_help_for_another_number_of_classes() -> None:
    """If only the number of classes differs, the help is the setting with which the file fits."""
    file = saved(under("module.", drawn(net(parameters={"classes": 3}), 1)))
    for command in (("build", net(), "-t", "onnx", "--weights", file), ("weights", "inspect", file, net())):
        assert "help: use --set parameters.classes=3" in invoke(*command).stderr
    stderr = weights("convert", file, net(), "-o", "y.safetensors", code=1).stderr
    assert "use --classes new or --classes keep, or use --set parameters.classes=3" in stderr
    assert weights("inspect", file, net(), "--set", "parameters.classes=3").exit_code == 0
    stderr = weights("transfer", file, net(), net("new"), "-o", "y.safetensors", code=1).stderr
    assert "help: use a spec of tiny with set: {parameters.classes: 3}" in stderr, "--set would apply to the new spec"


@pytest.mark.parametrize("more", [{}, {"n_averaged": np.array(3)}])
@pytest.mark.parametrize("prefix", ["", "module.", "model.encoder."])
@pytest.mark.parametrize(
    ("name", "setting"), [("resnet20_cifar", ""), ("resnet20_cifar", "parameters.classes=7"), ("vgg11", "")]
)
@pytest.mark.slow_for("vgg11")
def test_a_checkpoint_of_another_network_is_identified(
    name: str, setting: str, prefix: str, more: dict[str, Array]
) -> None:
    """A checkpoint of another zoo network is identified by names and shapes, with any prefix or number of classes."""
    shapes = facts.shapes(facts.network(name, *filter(None, [setting])))
    file = saved({**more, **{prefix + key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}})
    stderr = weights("inspect", file, "resnet50", code=1).stderr
    (help,) = (line for line in stderr.splitlines() if "these tensors fit" in line)
    assert name in help
    assert ("with --set parameters.classes=7" in stderr) is bool(setting)


def test_a_new_classifier_for_a_file_without_one() -> None:
    """`--classes new` initialises a classifier that the file lacks; without the option, the help names it."""
    path = net()
    body = {name: array for name, array in drawn(path, 1).items() if not name.startswith("fc.")}
    for beside in ({}, {"head.0.weight": np.ones((2, 2))}):
        file = saved({**body, **beside})
        stderr = weights("convert", file, path, "--classes", "new", "--seed", "5", "-o", "y.safetensors").stderr
        assert "new      fc.weight  not in the file" in stderr
        new = {name: array for name, array in drawn(path, 5).items() if name.startswith("fc.")}
        assert same(load_file("y.safetensors"), {**body, **new})
    assert "--classes new makes a new one" in invoke("build", path, "-t", "onnx", "--weights", saved(body)).stderr
    assert "help: use --classes new" in weights("convert", saved(body), path, "-o", "z.safetensors", code=1).stderr


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_may_be_missing(name: str) -> None:
    """Weights of auxiliary heads may be missing, because inference does not use them; a partial head is an error."""
    network = facts.network(name)
    arrays = dict(draw(network, 1))
    body = {key: array for key, array in arrays.items() if not key.lower().startswith("aux")}
    assert len(body) < len(arrays)
    save_file(body, "x.safetensors")
    notes: list[str] = []
    found = checkpoints.load("x.safetensors", network, notes.append)
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[key], array) for key, array in body.items())
    assert "inference does not read them" in notes[-1]
    assert "AuxLogits" in notes[-1] or "aux1 and aux2" in notes[-1]
    some = next(key for key in arrays if key not in body)
    save_file({**body, some: arrays[some]}, "x.safetensors")
    assert "missing" in weights("inspect", "x.safetensors", name, code=1).stderr


# --- transfer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scopes", [["model"], ["model", "net"]])
def test_the_same_network_in_another_scope(scopes: list[str]) -> None:
    """A transfer between a network and the same network inside a named scope keeps all tensors, in both directions."""
    inner: Any = NETWORK
    for name in reversed(scopes):
        inner = [{name: inner}]
    plain, wrapped = net("plain"), net("wrapped", network=inner)
    for old, new in ((plain, wrapped), (wrapped, plain)):
        stderr = weights("transfer", saved(drawn(old, 1)), old, new, "-o", "y.safetensors", "--force").stderr
        assert [*load_file("y.safetensors")] == [*drawn(new)]
        found = load_file("y.safetensors")
        wanted = drawn(old, 1)
        head = f"{'.'.join(scopes)}."
        assert all(np.array_equal(found[n], wanted.get(n.removeprefix(head), wanted.get(head + n))) for n in found)
        assert f"{len(found)} tensors" in stderr
        assert "new" not in stderr.split("tensors")[0]


def test_a_transfer_of_nothing_is_an_error() -> None:
    """A transfer that would keep no tensor is an error."""
    new = net(
        "new",
        network=[{"begin": {"conv": {"channels": 5, "kernel": 1}}}, LAST[0], LAST[1], {"end": {"linear": 3}}],
        parameters={},
    )
    stderr = weights("transfer", saved(drawn(net(), 1)), net(), new, "-o", "y.safetensors", code=1).stderr
    assert "error[E0702]: nothing to transfer" in stderr
    assert not Path("y.safetensors").exists()
    assert tiny(new).name == "new"
