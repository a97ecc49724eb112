"""Checkpoints: reading every format, reporting what does not fit, and changing only what options ask for."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import facts
import numpy as np
import pytest
from checkpoint_files import CONV, LAST, drawn, same, saved, spec, weights
from command_line import invoke
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.testing import Result

from rescompile import build
from rescompile.analysis.heads import heads
from rescompile.diagnostics.errors import UsageError
from rescompile.elaboration import elaborate
from rescompile.files import checksum
from rescompile.lang.load import load
from rescompile.weights import Array, adaptation, draw, profiles, transfer
from rescompile.weights.checkpoints import WeightsFile, read
from rescompile.weights.profiles import Rule
from rescompile.weights.tensors import Tensor

pytestmark = pytest.mark.usefixtures("own_folder")


# --- output files -----------------------------------------------------------------------------------------------------


def test_the_output_file() -> None:
    """The output is a safetensors file with `format`, network and generator in its metadata, and counts as ours."""
    network, path = facts.network("resnet20_cifar"), Path("out.safetensors")
    arrays = dict(draw(network, 3))
    save_file(arrays, "in.safetensors")
    weights("convert", "in.safetensors", "resnet20_cifar", "-o", path)
    assert same(load_file(path), arrays)
    with safe_open(path, "np") as file:
        recorded = file.metadata()
    assert recorded["format"] == "pt"
    assert (recorded["network"], recorded["sha256"]) == (network.name, network.sha256)
    assert checksum.state(path) == "ours"
    start = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    assert start % 8 == 0


def test_only_own_files_of_the_same_kind_are_overwritten() -> None:
    """A rebuilt file has the same bytes; the input file, and a file of another command, are not overwritten."""
    path, out = spec(), Path("out.safetensors")
    save_file(drawn(path), "in.safetensors")
    weights("convert", "in.safetensors", path, "-o", out)
    first = out.read_bytes()
    weights("convert", "in.safetensors", path, "-o", out)
    assert out.read_bytes() == first
    assert "E1001" in weights("convert", out, path, "-o", "in.safetensors", code=5).stderr
    assert "E1001" in invoke("schema", "-o", out).stderr


def test_a_file_of_another_program_is_not_overwritten() -> None:
    """A file without the generator in its metadata is only overwritten with --force."""
    path, out = spec(), Path("out.safetensors")
    save_file(drawn(path), "in.safetensors")
    weights("convert", "in.safetensors", path, "-o", out)
    save_file(load_file(out), out)
    content = out.read_bytes()
    assert checksum.state(out) == "foreign"
    assert "was not written by rescompile" in weights("convert", "in.safetensors", path, "-o", out, code=5).stderr
    assert out.read_bytes() == content
    weights("convert", "in.safetensors", path, "-o", out, "--force")
    assert checksum.state(out) == "ours"


@pytest.mark.parametrize("name", ["out.pth", "out", "out.onnx", "-"])
def test_the_output_needs_the_suffix_of_safetensors(name: str) -> None:
    """An output path must end in .safetensors, because readers recognise the format by its suffix."""
    path = spec()
    save_file(drawn(path), "in.safetensors")
    assert "E0802" in weights("convert", "in.safetensors", path, "-o", name, code=2).stderr


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_inspect_lists_names_shapes_and_types() -> None:
    """`weights inspect` lists names, shapes and data types as stored in the file."""
    save_file({"a": np.zeros((2, 3), np.float16), "b.c": np.zeros((), np.int64)}, "x.safetensors")
    lines = weights("inspect", "x.safetensors").stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["a", "b.c"]
    assert "[2, 3]" in lines[0]
    assert lines[0].endswith("F16")
    assert lines[1].endswith("I64")
    listed = json.loads(weights("inspect", "x.safetensors", "--json").stdout)["tensors"]
    assert listed == [{"name": "a", "shape": [2, 3], "dtype": "F16"}, {"name": "b.c", "shape": [], "dtype": "I64"}]


def test_inspect_lists_every_mismatch() -> None:
    """`weights inspect` with a spec lists every mismatch in one of four categories and exits with 1."""
    path = spec(network=[{"conv1": CONV}, {"bn1": "norm"}, {"conv2": CONV}, *LAST])
    arrays = drawn(path)
    arrays["conv1.weight"] = arrays["conv1.weight"][:, :1].copy()
    arrays["other"] = arrays.pop("bn1.bias")
    arrays["fc.weight"] = arrays["fc.weight"].astype(np.float64)
    del arrays["bn1.num_batches_tracked"]  # a counter may be missing
    save_file(arrays, "x.safetensors")
    found = json.loads(weights("inspect", "x.safetensors", path, "--json", code=1).stdout)
    rows = {(row["name"], row["status"]): (row["found"], row["wanted"]) for row in found["misfits"]}
    assert rows == {
        ("conv1.weight", "differs"): ([4, 1, 3, 3], [4, 3, 3, 3]),
        ("bn1.bias", "missing"): (None, [4]),
        ("other", "unexpected"): ([4], None),
        ("fc.weight", "other type"): ([10, 4], [10, 4]),
    }
    assert found["fits"] is False
    stderr = weights("inspect", "x.safetensors", path, code=1).stderr
    assert "1 differ, 1 missing, 1 unexpected, 1 with another type" in stderr
    assert "other type  fc.weight  [10, 4] with type F64" in stderr


def test_inspect_of_what_fits() -> None:
    """If a checkpoint fits, `weights inspect` prints one line and exits with 0."""
    path = spec()
    save_file(drawn(path), "x.safetensors")
    assert weights("inspect", "x.safetensors", path).stdout == "x.safetensors fits tiny: 3 tensors\n"
    assert json.loads(weights("inspect", "x.safetensors", path, "--json").stdout)["fits"] is True


def test_options_that_take_a_spec() -> None:
    """Options that need a spec are refused without one."""
    save_file(drawn(spec()), "x.safetensors")
    assert "apply only with a SPEC" in weights("inspect", "x.safetensors", "--from", "timm_vgg", code=2).stderr


# --- torch checkpoints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".PTH"])
def test_a_state_dict(suffix: str) -> None:
    """A plain state dict is read without a note."""
    path = spec()
    result = weights("convert", saved(drawn(path), f"x{suffix}"), path, "-o", "y.safetensors")
    assert same(load_file("y.safetensors"), drawn(path))
    assert result.stderr.splitlines()[0] == "kept     3 tensors"


def test_the_old_format_of_torch() -> None:
    """The legacy format of torch, from before version 1.6, is read."""
    path = spec()
    weights("convert", saved(drawn(path), _use_new_zipfile_serialization=False), path, "-o", "y.safetensors")
    assert same(load_file("y.safetensors"), drawn(path))


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "anything"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_wrappers_are_removed_with_notes(wrapper: str, prefix: str) -> None:
    """Wrapper entries and prefixes are removed with a note for each, and ignored entries are listed."""
    path = spec()
    arrays = {prefix + name: array for name, array in drawn(path).items()}
    state = {"state": {0: {"momentum": np.ones(3)}}, "param_groups": []}
    file = saved({"epoch": 3, wrapper: arrays, "optimizer": state}, "x.pth")
    result = weights("convert", file, path, "-o", "y.safetensors")
    assert same(load_file("y.safetensors"), drawn(path))
    assert f"x.pth: reading the entry '{wrapper}'; ignored: epoch, optimizer" in result.stderr
    for part in filter(None, prefix.split(".")):
        assert f"removed '{part}.' of" in result.stderr
    assert result.stderr.count("from all 3 keys") == prefix.count(".")


def test_prefixes_of_the_network_are_kept() -> None:
    """A prefix such as `module.` that belongs to the network's own names is kept."""
    path = spec(network=[{"module": [{"conv1": CONV}, {"pool": LAST[0]}, {"flat": LAST[1]}, LAST[2]]}])
    assert all(name.startswith("module.") for name in drawn(path))
    result = weights("inspect", saved(drawn(path)), path)
    assert "removed" not in result.stderr


def test_several_sets_of_tensors() -> None:
    """A file with several state dicts is refused with their names; `--entry` selects one."""
    path = spec()
    file = saved({"state_dict": drawn(path), "ema": drawn(path, 1)})
    stderr = weights("inspect", file, path, code=2).stderr
    assert "E0803" in stderr
    assert "'state_dict', 'ema'" in stderr
    weights("convert", file, path, "--entry", "ema", "-o", "y.safetensors")
    assert same(load_file("y.safetensors"), drawn(path, 1))
    assert "under 'emma'" in weights("inspect", file, path, "--entry", "emma", code=2).stderr


def test_values_that_are_not_tensors_are_ignored() -> None:
    """Values of a checkpoint that are not tensors are ignored with a note."""
    path = spec()
    result = weights("inspect", saved({**drawn(path), "epoch": 3}), path)
    assert "ignored, since they are not tensors: epoch (int)" in result.stderr


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_narrow_floats_are_widened(kind: str, suffix: str) -> None:
    """float16 and bfloat16 tensors are widened to float32, which is exact, with a note."""
    torch = pytest.importorskip("torch", reason="numpy has no bfloat16: pip install torch")
    from safetensors.torch import save_file as save

    path, file = spec(), f"x{suffix}"
    narrow = {name: torch.from_numpy(array).to(getattr(torch, kind)) for name, array in drawn(path).items()}
    (torch.save if suffix == ".pth" else save)(narrow, file)
    result = weights("convert", file, path, "-o", "y.safetensors")
    assert same(load_file("y.safetensors"), {name: tensor.float().numpy() for name, tensor in narrow.items()})
    assert f"widened  3 tensors from {'BF16' if kind == 'bfloat16' else 'F16'} to float32" in result.stderr


def test_the_input_is_overwritten_only_with_force() -> None:
    """The input file is overwritten only with `--force`, even if rescompile wrote it, because it may be the only copy."""
    path = spec()
    save_file(drawn(path, 1), "new.safetensors")
    weights("convert", "new.safetensors", path, "-o", "x.safetensors")
    wider = [path, "--set", "parameters.classes=12", "--classes", "new"]
    for command in (["convert", "x.safetensors", *wider], ["transfer", "x.safetensors", path, *wider]):
        assert "E1001" in weights(*command, "-o", "./x.safetensors", code=5).stderr
        assert same(load_file("x.safetensors"), drawn(path, 1))
    weights("convert", "x.safetensors", *wider, "-o", "x.safetensors", "--force")
    assert load_file("x.safetensors")["fc.weight"].shape == (12, 4)


@pytest.mark.parametrize("kind", ["int8", "complex64", "float8_e4m3fn", "sparse", "meta"])
@pytest.mark.parametrize("name", ["fc.weight", "bn1.num_batches_tracked"])
def test_unsupported_types_are_reported(kind: str, name: str) -> None:
    """Tensors of an unsupported type are reported with the type in the file."""
    torch = pytest.importorskip("torch", reason="creates the tensors: pip install 'rescompile[torch]'")
    path = spec(network=[{"conv1": CONV}, {"bn1": "norm"}, *LAST])
    tensors = {key: torch.from_numpy(array) for key, array in drawn(path).items()}
    value = tensors[name]
    tensors[name] = {
        "sparse": value.float().to_sparse, "meta": lambda: value.to("meta"),
    }.get(kind, lambda: value.to(getattr(torch, kind)))()  # fmt: skip
    torch.save(tensors, "x.pth")
    if (kind, name[:2]) == ("int8", "bn"):
        weights("inspect", "x.pth", path)
        return
    for command in (["inspect", "x.pth", path], ["convert", "x.pth", path, "-o", "y.safetensors"]):
        stderr = weights(*command, code=1).stderr
        assert "does not fit" in stderr
        assert ": 1 with another type" in stderr
        word = {"int8": "I8", "sparse": "torch.sparse_coo"}.get(kind, kind)
        assert re.search(
            rf"other type  {re.escape(name)}  \[.*\] with type (torch\.)?{re.escape(word)}$", stderr, re.MULTILINE
        )
    assert kind in weights("inspect", "x.pth").stdout or word in weights("inspect", "x.pth").stdout


def test_float64_is_not_narrowed() -> None:
    """float64 weights are refused rather than narrowed silently."""
    path = spec()
    wide = {name: array.astype(np.float64) for name, array in drawn(path).items()}
    assert "3 with another type" in weights("convert", saved(wide), path, "-o", "y.safetensors", code=1).stderr
    assert not Path("y.safetensors").exists()


def test_safetensors_need_no_torch() -> None:
    """Commands on safetensors files do not import torch."""
    path = spec()
    save_file(drawn(path), "x.safetensors")
    code = "import sys; from rescompile.cli import app; app(sys.argv[1:], standalone_mode=False); print('torch' in sys.modules)"
    line = [sys.executable, "-c", code, "weights", "convert", "x.safetensors", path, "-o", "y.safetensors"]
    assert subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout == "False\n"


def test_build_reports_what_it_read() -> None:
    """`build --weights` reads the same files by the same rules; in Python, notes are warnings."""
    path = spec()
    file = saved({"model": {f"module.{name}": array for name, array in drawn(path, 7).items()}})
    result = invoke("build", path, "-t", "onnx", "--weights", file, "-o", "a.onnx")
    assert result.exit_code == 0
    assert "reading the entry 'model'" in result.stderr
    with pytest.warns(UserWarning, match="the entry 'model'"), pytest.warns(UserWarning, match="removed 'module.'"):
        again = build(path, "onnx", file).to_bytes()
    assert Path("a.onnx").read_bytes() == again == build(path, "onnx", drawn(path, 7)).to_bytes()


def test_safetensors_have_no_entries() -> None:
    """An entry is refused for a safetensors file, which has one set of tensors."""
    save_file(drawn(spec()), "x.safetensors")
    with pytest.raises(UsageError, match="has no state dict under 'ema'"):
        read(WeightsFile("x.safetensors", entry="ema"))


# --- adapting ---------------------------------------------------------------------------------------------------------


def converted(*options: str, new: str, code: int = 0) -> tuple[dict[str, Array], Result]:
    """Convert the weights of the small spec for another one, and return the arrays and the result of the command."""
    save_file(drawn(spec("old"), 1), "x.safetensors")
    result = weights("convert", "x.safetensors", new, "-o", "y.safetensors", *options, code=code)
    return (load_file("y.safetensors") if code == 0 else {}), result


@pytest.mark.parametrize(("channels", "way"), [(1, "sum"), (1, "repeat"), (2, "repeat"), (4, "repeat"), (7, "repeat")])
def test_input_channels_as_timm_does(channels: int, way: str) -> None:
    """Input channels are adapted as by timm, which sums for one channel and repeats for more."""
    pytest.importorskip("torch")
    import peers  # noqa: F401  # before torchvision, which timm imports
    import torch

    pytest.importorskip("timm", reason="the peer: pip install --no-deps timm")
    from timm.models import adapt_input_conv

    found, result = converted("--in-channels", way, new=spec("new", input=[channels, 8, 8]))
    old = drawn("./old.yaml", 1)
    if (channels == 1) == (way == "sum"):
        wanted = adapt_input_conv(channels, torch.from_numpy(old["conv1.weight"].copy())).numpy()
    else:  # timm does not repeat to one channel; here the first of three channels is scaled by three
        wanted = old["conv1.weight"][:, :1] * np.float32(3)
    np.testing.assert_allclose(found.pop("conv1.weight"), wanted, rtol=1e-6)
    del old["conv1.weight"]
    assert same(found, old)
    how = "summed" if way == "sum" else f"repeated to {channels}"
    assert f"adapted  conv1.weight  3 input channels {how}" in result.stderr


def test_split_images_have_no_convolution_to_adapt() -> None:
    """If the channels of the image are split, no convolution can be adapted to another number of channels."""
    text = "rescompile: 1\nname: split\ninput: [3, 8, 8]\nnetwork:\n  - c: {conv: {channels: 3, kernel: 3}}\n"
    branches = "{parallel: {merge: concat, split: true, copies: 3, branch: {conv: {channels: 2, kernel: 3}}}}"
    for row, expected in (("", ["c"]), (f"  - paths: {branches}\n", [])):
        head, first = text.split("network:\n")
        Path("split.yaml").write_text(f"{head}network:\n{row}{first}")
        assert [name for name, _ in adaptation.entries(elaborate(load("split.yaml")))] == expected


def test_channels_are_summed_to_one_only() -> None:
    """`--in-channels sum` is refused for two channels, for which it is undefined."""
    _, result = converted("--in-channels", "sum", new=spec("new", input=[2, 8, 8]), code=1)
    assert "help: use --in-channels repeat" in result.stderr


@pytest.mark.parametrize("classes", [4, 13])
def test_classes(classes: int) -> None:
    """`--classes new` gives the rows of `build --seed`; `--classes keep` keeps the rows of the shared classes."""
    new = spec("new", parameters={"classes": classes})
    old, fresh, both = drawn(spec("old"), 1), drawn(new, 5), min(classes, 10)
    found, result = converted("--classes", "new", "--seed", "5", new=new)
    assert same(found, {"conv1.weight": old["conv1.weight"], **{n: fresh[n] for n in ("fc.weight", "fc.bias")}})
    assert f"new      fc.weight  10 classes before, {classes} now" in result.stderr
    found, result = converted("--classes", "keep", "--seed", "5", new=new)
    for name in ("fc.weight", "fc.bias"):
        assert np.array_equal(found[name], np.concatenate([old[name][:both], fresh[name][both:]]))
    more = ", the other 3 new" if classes > 10 else ""
    assert f"adapted  fc.weight  the first {both} of 10 classes{more}\n" in result.stderr


def test_classes_of_an_auxiliary_head() -> None:
    """Classifiers of auxiliary heads are adapted to another number of classes too."""
    network = facts.network("googlenet", "parameters.classes=7")
    assert [path for path, _ in heads(network)] == ["fc", "aux1.fc2", "aux2.fc2"]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("resnet50", ["conv1"]),
        ("densenet121", ["features.conv0"]),
        ("vgg16", ["features.0"]),
        ("preact_resnet110_cifar", ["conv1"]),
        ("inception_v3", ["Conv2d_1a_3x3.conv"]),
    ],
)
def test_the_first_convolutions(name: str, first: list[str]) -> None:
    """The convolutions that are adapted to other input channels are those that see the image."""
    assert [path for path, _ in adaptation.entries(facts.network(name))] == first


def test_nothing_is_adapted_without_an_option() -> None:
    """A difference in classes or input channels is an error that names the option for it."""
    for changes, option in (
        ({"parameters": {"classes": 4}}, "--classes new or --classes keep"),
        ({"input": [1, 8, 8]}, "--in-channels sum or --in-channels repeat"),
    ):
        _, result = converted(new=spec("new", **changes), code=1)
        assert f"help: use {option}" in result.stderr
        assert not Path("y.safetensors").exists()


def test_an_option_that_does_nothing_is_refused() -> None:
    """An adaptation option without effect is an error."""
    for option, word, what in (("--classes", "new", "classes"), ("--in-channels", "repeat", "input channels")):
        _, result = converted(option, word, new=spec("new"), code=2)
        reason = f"the checkpoint does not differ from new in its number of {what} alone"
        assert f"{option} {word} does not apply: {reason}" in result.stderr


def test_classes_are_kept_only_where_nothing_else_differs() -> None:
    """`--classes keep` is refused if the classifier differs in its input features too."""
    _, result = converted(
        "--classes", "keep", new=spec("new", network=[{"conv1": {"conv": {"channels": 5, "kernel": 3}}}, *LAST]), code=2
    )
    assert "--classes keep does not apply" in result.stderr or "E0702" in result.stderr


# --- transfer ---------------------------------------------------------------------------------------------------------


def sources(old: str, new: str, *settings: str) -> dict[str, str]:
    """Return the corresponding names in the new network and in the old one."""
    return transfer.pairs(elaborate(load(old)), elaborate(load(new, settings)))[0]


def rows(*kinds: str) -> list[Any]:
    """Return rows of numbered convolutions; each letter has another kernel size."""
    kernel = {"a": 1, "b": 3, "c": 5}
    return [{"body": [{"conv": {"channels": 3, "kernel": kernel[kind]}} for kind in kinds]}, *LAST]


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ("abb", "abb", {0: 0, 1: 1, 2: 2}),
        ("abb", "abbb", {0: 0, 1: 1, 2: 2}),
        ("abb", "ab", {0: 0, 1: 1}),
        ("abb", "acbb", {0: 0, 2: 1, 3: 2}),  # an insertion renumbers the parts after it
        ("acbb", "abb", {0: 0, 1: 2, 2: 3}),  # so does a deletion
        ("ab", "bab", {1: 0, 2: 1}),
        ("abc", "cab", {1: 0, 2: 1}),
    ],
)
def test_numbered_parts_are_matched_by_structure(before: str, after: str, wanted: dict[int, int]) -> None:
    """Numbered parts are matched by structure, so blocks after an inserted one keep their weights."""
    old = spec("old", network=rows(*before))
    new = spec("new", network=rows(*after))
    found = {n: s for n, s in sources(old, new).items() if n.startswith("body.") and "bias" not in n}
    assert found == {f"body.{a}.weight": f"body.{b}.weight" for a, b in wanted.items()}


def test_transfer_to_a_deeper_network() -> None:
    """In a transfer to a deeper network all weights are kept, and each tensor is reported exactly once."""
    arrays = dict(draw(facts.network("resnet18"), 1))
    save_file(arrays, "x.safetensors")
    result = weights(
        "transfer", "x.safetensors", "resnet18", "resnet34", "-o", "y.safetensors", "--seed", "4", "--json"
    )
    found, fresh = load_file("y.safetensors"), dict(draw(facts.network("resnet34"), 4))
    assert same(found, {name: arrays.get(name, fresh[name]) for name in fresh})
    report = json.loads(result.stdout)
    names = {status: [row["name"] for row in report[status]] for status in adaptation.STATUSES}
    assert sorted(name for some in names.values() for name in some) == sorted(fresh)
    assert (sorted(names["kept"]), report["left"], names["adapted"]) == (sorted(arrays), [], [])


def test_transfer_to_a_shallower_network() -> None:
    """In a transfer to a shallower network the report lists the unused tensors."""
    arrays = dict(draw(facts.network("resnet34"), 1))
    save_file(arrays, "x.safetensors")
    result = weights("transfer", "x.safetensors", "resnet34", "resnet18", "-o", "y.safetensors")
    assert same(load_file("y.safetensors"), {name: arrays[name] for name in facts.shapes(facts.network("resnet18"))})
    assert "unused   layer3.5.*  12 tensors" in result.stderr


def test_a_renamed_row() -> None:
    """A renamed part is matched by its block and shapes, and the new name is reported."""
    old = spec("old", network=[{"one": {"block": "basic", "depth": 2, "width": 8}}, *LAST])
    new = spec("new", network=[{"two": {"block": "basic", "depth": 2, "width": 8}}, *LAST])
    save_file(drawn(old, 1), "x.safetensors")
    result = weights("transfer", "x.safetensors", old, new, "-o", "y.safetensors")
    moved = {name.replace("one.", "two."): array for name, array in drawn(old, 1).items()}
    assert same(load_file("y.safetensors"), moved)
    assert f"kept     two.*  from one.*, {len(moved) - 2} tensors" in result.stderr


def test_an_edited_block() -> None:
    """In an edited block, ops with equal names, types and shapes keep their weights, and the edit is reported."""
    old = spec("old", network=[{"body": {"block": "basic", "depth": 2, "width": 8}}, *LAST])
    new = spec("new", network=[{"body": {"block": "preact_basic", "depth": 2, "width": 8}}, *LAST])
    save_file(drawn(old, 1), "x.safetensors")
    result = weights("transfer", "x.safetensors", old, new, "-o", "y.safetensors", "--seed", "2")
    assert "changed  basic to preact_basic in 2 places" in result.stderr
    found, before, fresh = load_file("y.safetensors"), drawn(old, 1), drawn(new, 2)
    shapes = {name: array.shape for name, array in before.items()}
    for name, array in found.items():
        kept = shapes.get(name) == array.shape
        assert np.array_equal(array, before[name] if kept else fresh[name]), name
    assert np.array_equal(found["body.1.conv2.weight"], before["body.1.conv2.weight"])


def test_another_shape_is_new_or_adapted_on_request() -> None:
    """A tensor of another shape is initialised anew, or adapted on request, and reported with both shapes."""
    network = [{"conv1": CONV}, {"bn1": "norm"}, *LAST]
    old, new = spec("old", network=network), spec("new", network=network, parameters={"classes": 4}, input=[1, 8, 8])
    save_file(drawn(old, 1), "x.safetensors")
    result = weights("transfer", "x.safetensors", old, new, "-o", "y.safetensors", "--seed", "3")
    assert "new      fc.weight  [10, 4] before, [4, 4] now" in result.stderr
    assert same(load_file("y.safetensors"), drawn(new, 3))
    adapt = ("--classes", "keep", "--in-channels", "sum")
    result = weights("transfer", "x.safetensors", old, new, "-o", "y.safetensors", *adapt)
    assert np.array_equal(load_file("y.safetensors")["fc.weight"], drawn(old, 1)["fc.weight"][:4])
    assert "adapted  conv1.weight  3 input channels summed" in result.stderr


def test_settings_apply_to_the_new_spec() -> None:
    """`transfer --set` applies to the new spec."""
    save_file(dict(draw(facts.network("resnet18"), 1)), "x.safetensors")
    done = ("transfer", "x.safetensors", "resnet18", "resnet18", "--set", "layer3.depth=3", "-o", "y.safetensors")
    assert "new      layer3.2.*  12 tensors" in weights(*done).stderr


def test_the_weights_must_fit_the_old_spec() -> None:
    """The weights must fit the old spec; otherwise the error names the network that they fit."""
    save_file(dict(draw(facts.network("resnet34"))), "x.safetensors")
    stderr = weights("transfer", "x.safetensors", "resnet18", "resnet34", "-o", "y.safetensors", code=1).stderr
    assert "does not fit resnet18" in stderr
    assert "it fits resnet34" in stderr


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (("inspect", "resnet18", "x.pth"), "inspect x.pth resnet18"),
        (("convert", "resnet18", "a b.h5", "-o", "y.safetensors"), "convert 'a b.h5' resnet18"),
        (("transfer", "resnet18", "./e.yaml", "x.pth", "-o", "y.safetensors"), "transfer x.pth resnet18 ./e.yaml"),
        (("transfer", "resnet18", "x.pth", "resnet34", "-o", "y.safetensors"), "transfer x.pth resnet18 resnet34"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_the_weights_come_first(given: tuple[str, ...], ordered: str) -> None:
    """If the weights are not the first argument, the help is the command in the right order."""
    stderr = weights(*given, code=2).stderr.splitlines()
    assert stderr[0].endswith("contains weights and must be the first argument")
    assert stderr[1] == f"   help: use rescompile weights {ordered}"


@pytest.mark.parametrize(
    ("name", "what", "use"),
    [
        ("model.onnx", "an ONNX model", "rescompile extract"),
        ("model.pt2", "a torch.export program", "torch.export.load"),
        ("model.PY", "Python source", "--target onnx"),
        ("model.keras", "a Keras model", "save_weights"),
        ("model.yaml", "a spec", "rescompile build"),
    ],
)
def test_a_file_that_is_not_a_checkpoint(name: str, what: str, use: str) -> None:
    """A file of another type is identified by its suffix, whether or not it exists."""
    for arguments in (("weights", "inspect", name), ("build", "resnet18", "-t", "onnx", "--weights", name)):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error[E0801]: {name} has the suffix of {what}, but weights must be")
        assert use in result.stderr.splitlines()[1]


@pytest.mark.parametrize(
    "name", ["resnet50", "densenet121", "googlenet", "darknet53", "highway_b_cifar10_19", "vgg11_bn"]
)
def test_transfer_to_the_same_network(name: str) -> None:
    """In a transfer to the same network every tensor corresponds to itself."""
    network = facts.network(name)
    found, changed = transfer.pairs(network, network)
    assert found == {name: name for name in facts.shapes(network)}
    assert not changed


# --- profiles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours", "name", "wanted"),
    [
        ("a.*", "b.*", "b.weight", "a.weight"),
        ("a.*", "b.*", "b.", None),
        ("a.*", "b.*", "c.b.weight", None),
        ("s.{b}.*", "layer{b+1}.*", "layer3.0.bias", "s.2.0.bias"),
        ("s.{b}.*", "layer{b+1}.*", "layer0.bias", None),
        ("s.{b}.*", "layer{b+1}.*", "layer03.bias", None),
        ("s.{b<2}.x", "n.{3b+6}.x", "n.6.x", "s.0.x"),
        ("s.{b<2}.x", "n.{3b+6}.x", "n.9.x", "s.1.x"),
        ("s.{b<2}.x", "n.{3b+6}.x", "n.12.x", None),
        ("s.{b<2}.x", "n.{3b+6}.x", "n.7.x", None),
        ("{a}.{b}", "{b}.{a}", "1.2", "2.1"),
        ("{a}", "{a}.{a+1}", "1.2", "1"),
        ("{a}", "{a}.{a+1}", "1.3", None),
        ("a", "b.c", "bxc", None),
    ],
)
def test_rules(theirs: str, ours: str, name: str, wanted: str | None) -> None:
    """Rules of naming profiles match and rename as documented in rescompile.weights.profiles."""
    assert Rule(theirs, ours).renamed(name) == wanted


@pytest.mark.parametrize("profile", profiles.files())
def test_a_profile_for_other_networks(profile: str) -> None:
    """A profile for other networks is refused, and nothing is written."""
    save_file(drawn(spec(network=[{"begin": CONV}, *LAST])), "x.safetensors")
    stderr = weights("convert", "x.safetensors", "./tiny.yaml", "--to", profile, "-o", "y.safetensors", code=1).stderr
    named = profile == "keras_inception_v3"  # its convolutions are named by numbers
    why = "(it is for keras.applications' InceptionV3), but tiny has no such part"
    why = why if named else "does not map 'begin.weight' of tiny; it is for "
    assert f"error[E0704]: profile {profile} " in stderr
    assert why in stderr
    assert not Path("y.safetensors").exists()


def test_an_unknown_profile() -> None:
    """An unknown profile is refused with the nearest match as help."""
    save_file(drawn(spec()), "x.safetensors")
    stderr = weights("inspect", "x.safetensors", "./tiny.yaml", "--from", "timm_vvg", code=2).stderr
    assert "did you mean 'timm_vgg'?" in stderr


def test_to_a_profile_and_back() -> None:
    """Converting to a profile and back restores the weights, and the help of `inspect` names the profile that fits."""
    network = facts.network("mobilenet_v1")
    arrays = dict(draw(network, 1))
    save_file(arrays, "x.safetensors")
    weights("convert", "x.safetensors", "mobilenet_v1", "--to", "timm_mobilenetv1", "-o", "theirs.safetensors")
    assert "blocks.4.1.conv_pw.weight" in load_file("theirs.safetensors")
    stderr = weights("inspect", "theirs.safetensors", "mobilenet_v1", code=1).stderr
    assert "help: the keys follow the naming profile timm_mobilenetv1" in stderr
    back = ("convert", "theirs.safetensors", "mobilenet_v1", "--from", "timm_mobilenetv1", "-o", "ours.safetensors")
    assert "ReLU6" in weights(*back).stderr, "the other difference is reported"
    assert same(load_file("ours.safetensors"), arrays)


def test_reshaped_for_the_library() -> None:
    """Weights are reshaped where a library uses a convolution for a linear layer or the reverse, for any classes."""
    shapes = {name: known.shape for name, known in profiles.load("timm_vgg").names(facts.network("vgg11")).items()}
    assert shapes["classifier.0.weight"] == (4096, 512, 7, 7)
    assert shapes["classifier.0.bias"] == (4096,)
    shapes = {
        name: known.shape for name, known in profiles.load("timm_darknet53").names(facts.network("darknet53")).items()
    }
    assert shapes["layers.76.conv.weight"] == (1000, 1024)
    theirs = {"head.fc.weight": Tensor.of(np.ones((7, 1024), np.float32))}
    ours = profiles.load("timm_darknet53").to_ours(theirs, facts.network("darknet53"))
    assert ours["layers.76.conv.weight"].shape == ours["layers.76.conv.weight"].make().shape == (7, 1024, 1, 1)


def test_names_without_a_rule_are_not_used() -> None:
    """A tensor without a rule in the profile is not used for a tensor of the network with the same name."""
    network = facts.network("mobilenet_v1")
    stray = {"fc.weight": Tensor.of(np.ones((1000, 1024), np.float32))}
    assert "fc.weight" not in profiles.load("timm_mobilenetv1").to_ours(stray, network)
