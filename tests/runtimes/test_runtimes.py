"""Runtimes meet the request or refuse it: correct outputs, execution provider, node placement and precision.

GPU behaviour is tested with a stand-in for ONNX Runtime that reports what a machine with a working or lost GPU
reports.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rescompile
from rescompile import backend
from rescompile.diagnostics.errors import Unavailable, UsageError
from rescompile.ir.interpreter import interpret
from rescompile.ir.network import LOGITS, Network
from rescompile.ir.precision import PRECISIONS
from rescompile.runtimes import RUNTIMES, Job, check_precision, child_process, device, find, jobs, ort_session, roofline
from rescompile.runtimes import onnxruntime as ort_runtime
from rescompile.runtimes import openvino as openvino_runtime
from rescompile.weights import Array, Weights, draw
from rescompile.weights.batch_statistics import calibrated

TORCH = pytest.importorskip("torch", reason="torch is one of the runtimes and the reference")
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture(scope="module")
def small() -> tuple[Network, Weights]:
    """Return a small network of the zoo with calibrated weights."""
    network = rescompile.elaborate(rescompile.load("resnet20_cifar"))
    return network, calibrated(network, draw(network))


@pytest.fixture(scope="module")
def job(small: tuple[Network, Weights], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Job]:
    """Return a factory of jobs for the small network."""
    network, weights = small
    torch: Any = backend.load("torch")
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx = backend.load("onnx")
    onnx.emit(network, weights, **backend.checked(onnx, "onnx", {})).write(path)
    x = np.random.default_rng(0).standard_normal((2, *network.input), np.float32)

    def make(precision: str = "fp32", threads: int | None = None, model: Path | None = path) -> Job:
        return Job("small", model, lambda: torch.make(network, weights).eval(), x, precision, threads)

    return make


def exact(small: tuple[Network, Weights], x: Array) -> Array:
    """Return the logits of the interpreter in float64."""
    logits: Array = interpret(*small, x)[LOGITS]
    return logits


def off(given: Array, wanted: Array) -> float:
    """Return the relative error."""
    return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_is_consistent() -> None:
    """The runtime table is consistent: names, model formats, devices and precisions are valid."""
    assert list(RUNTIMES) == [
        "ort-cpu",
        "ort-cuda",
        "ort-tensorrt",
        "openvino",
        "torch-cpu",
        "torch-cuda",
        "jax-cpu",
        "jax-cuda",
        "keras",
        "mlx",
    ]
    for name, row in RUNTIMES.items():
        assert row.name == name
        assert row.takes in ("onnx", "torch", "flax", "keras", "mlx")
        assert row.device == ("cuda" if name.endswith(("cuda", "tensorrt")) else "cpu")
        assert set(row.precisions) <= set(PRECISIONS)
        assert ("tf32" in row.precisions) == (row.device == "cuda")
        assert f"rescompile[{row.extra}]" in row.how()


def test_options_follow_the_name() -> None:
    """`name:option=value:flag` is parsed, and an unknown name gets the nearest match as help."""
    row, options = find(" torch-cpu:threads=1:compile ")
    assert row.name == "torch-cpu"
    assert options == {"threads": 1, "compile": "default"}
    with pytest.raises(Unavailable, match="there is no runtime 'ort-cup'") as caught:
        find("ort-cup")
    assert caught.value.diagnostics[0].help == "did you mean 'ort-cpu'?"
    with pytest.raises(UsageError, match="no option 'trheads'"):
        find("ort-cpu:trheads=1")
    with pytest.raises(UsageError, match="twice"):
        find("ort-cpu:threads=1:threads=2")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ort-cpu", {"threads": "0"}, "threads must be an integer from 1 to 65535"),
        ("ort-cpu", {"threads": "two"}, "threads must be an integer from 1 to 65535"),
        ("torch-cpu", {"compile": "fast"}, "compile must be default, reduce-overhead or max-autotune, not 'fast'"),
        ("torch-cpu", {"channels_last": "0"}, "channels_last must be true or false, not '0'"),
        ("torch-cpu", {"graph": True}, "torch-cpu has no option 'graph'"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, str], message: str, job: Callable[..., Job]) -> None:
    """Invalid options are refused before anything is loaded."""
    with pytest.raises(UsageError, match=message):
        RUNTIMES[name].prepare(job(), options)


def test_a_job_needs_the_model_and_precision_of_its_runtime(job: Callable[..., Job]) -> None:
    """A job without the required model, or with a precision that the runtime lacks, is refused."""
    with pytest.raises(UsageError, match="ort-cpu needs an ONNX file"):
        RUNTIMES["ort-cpu"].prepare(job(model=None), {})
    with pytest.raises(Unavailable, match="ort-cpu does not support bf16"):
        RUNTIMES["ort-cpu"].prepare(job("bf16"), {})


# --- on the CPU -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["ort-cpu", "ort-cpu:threads=1", "torch-cpu", "torch-cpu:channels_last:threads=1"])
def test_float32_is_float32(text: str, job: Callable[..., Job], small: tuple[Network, Weights]) -> None:
    """Outputs in fp32 are within float32 rounding of float64, and the facts record provider, placement and options."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is one of the runtimes")
    row, options = find(text)
    prepared = row.prepare(job(), options)
    prepared.run()
    outputs = prepared.outputs()
    assert set(outputs) == {LOGITS}
    assert outputs[LOGITS].dtype == np.float32
    assert off(outputs[LOGITS], exact(small, job().input)) < 2e-6
    assert prepared.build_seconds > 0 < prepared.first_seconds
    facts = prepared.facts
    assert facts["precision"] == "fp32"
    assert facts["tf32"] is False
    assert facts["options"] == options
    assert json.loads(json.dumps(facts)) == facts
    if row.takes == "onnx":
        assert facts["requested"] == facts["obtained"] == CPU
        assert list(facts["placement"]) == [CPU]
        assert facts["multiplied"] == {"float": 20}  # 19 convolutions and the classifier
    if "threads" in options:
        assert facts["threads"] == 1
    prepared.close()


def test_bfloat16_is_bfloat16(job: Callable[..., Job], small: tuple[Network, Weights]) -> None:
    """bfloat16 outputs are near float64, but not as near as float32 would be."""
    prepared = RUNTIMES["torch-cpu"].prepare(job("bf16"), {})
    assert 1e-4 < off(prepared.outputs()[LOGITS], exact(small, job().input)) < 5e-2


def test_torch_settings_are_restored(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run uses the job's thread count and restores torch's afterwards, even if the run fails."""
    before = TORCH.get_num_threads()
    seen = []
    prepared: Any = RUNTIMES["torch-cpu"].prepare(job(threads=before + 1), {})
    right = prepared._module
    prepared._module = lambda x: (seen.append(TORCH.get_num_threads()), right(x))[1]
    prepared.run()
    assert seen == [before + 1]
    prepared._module = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        prepared.run()
    assert TORCH.get_num_threads() == before


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_set_and_restored(tf32: bool) -> None:
    """Both TF32 flags are set inside the context and restored afterwards."""
    from rescompile.runtimes.torch import settings

    matmul, cudnn = TORCH.backends.cuda.matmul, TORCH.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    with settings(TORCH, True, tf32, None):
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (tf32, tf32)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == before


def test_a_compiler_that_fails_is_unavailable(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch.compile that fails in its first run, as without a C++ compiler, makes the runtime unavailable."""

    def compiled(module: Any, **options: Any) -> Any:
        assert options == {"mode": "max-autotune", "dynamic": False}

        def run(x: Any) -> Any:
            raise RuntimeError("no C++ compiler\nat all")

        return run

    monkeypatch.setattr(TORCH, "compile", compiled)
    with pytest.raises(Unavailable, match=r"torch-cpu cannot run small: no C\+\+ compiler$"):
        RUNTIMES["torch-cpu"].prepare(job(), {"compile": "max-autotune"})


def test_insufficient_memory_is_unavailable(job: Callable[..., Job]) -> None:
    """Running out of memory while a module moves to its device makes the runtime unavailable."""

    class Large(TORCH.nn.Module):  # type: ignore[misc, name-defined]
        def to(self, **_: Any) -> Any:
            raise RuntimeError("CUDA out of memory")

    with pytest.raises(Unavailable, match="torch-cpu cannot run large: CUDA out of memory"):
        RUNTIMES["torch-cpu"].prepare(Job("large", None, Large, job().input), {})


def test_outputs_of_replayed_graphs_are_copied(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are copied: torch's CUDA graphs share memory, which one tensor shared by two modules imitates."""
    shared = TORCH.zeros(1)

    def module(value: float) -> Any:
        return TORCH.nn.Module().eval(), lambda x: shared.fill_(value)

    def prepared(value: float) -> Any:
        empty, run = module(value)
        monkeypatch.setattr(TORCH, "compile", lambda *_, **__: run)
        result: Any = RUNTIMES["torch-cpu"].prepare(
            Job("a", None, lambda: empty, job().input), {"compile": "reduce-overhead"}
        )
        result._replays = True  # as CUDA graphs do
        return result

    first, second = prepared(1.0), prepared(2.0)
    assert second.outputs()[LOGITS] == 2
    assert first.outputs()[LOGITS] == 1


@pytest.mark.slow
def test_every_module_of_a_class_is_compiled() -> None:
    """All modules of a class are compiled; by default torch stops after eight and silently runs others eagerly."""
    from torch._dynamo.utils import counters

    class Scaled(TORCH.nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.linear = TORCH.nn.Linear(size, 2)

        def forward(self, x: Any) -> Any:
            return self.linear(x)

    before = counters["stats"]["unique_graphs"]
    for size in range(1, 11):
        x = np.ones((1, size), np.float32)
        with closing(
            RUNTIMES["torch-cpu"].prepare(
                Job("scaled", None, lambda size=size: Scaled(size), x), {"compile": "default"}
            )
        ):
            pass
    assert counters["stats"]["unique_graphs"] - before == 10


def test_int8_must_multiply_int8(job: Callable[..., Job], tmp_path: Path) -> None:
    """A float file is refused as int8, and an int8 file from ONNX Runtime's quantizer as fp32."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="quantises the int8 file")
    pytest.importorskip("onnx", reason="needed by the quantiser")
    with pytest.raises(Unavailable, match=r"int8 was requested, but .* in other types: 20 as float"):
        RUNTIMES["ort-cpu"].prepare(job("int8"), {})
    x = job().input
    batches = iter([{"input": x}])
    quantization.quantize_static(
        job().model, tmp_path / "int8.onnx", SimpleNamespace(get_next=lambda: next(batches, None))
    )
    facts = RUNTIMES["ort-cpu"].prepare(job("int8", model=tmp_path / "int8.onnx"), {}).facts
    assert sum(facts["multiplied"].values()) == 20
    assert sum(facts["multiplied"].get(kind, 0) for kind in ("int8", "uint8")) >= 10
    with pytest.raises(Unavailable, match="fp32 was requested"):
        RUNTIMES["ort-cpu"].prepare(job("fp32", model=tmp_path / "int8.onnx"), {})


def test_openvino(job: Callable[..., Job], small: tuple[Network, Weights]) -> None:
    """OpenVINO's float32 outputs are within rounding of float64, and bfloat16 is used where the CPU supports it."""
    pytest.importorskip("openvino", reason="an optional runtime: pip install 'rescompile[openvino]'")
    row = RUNTIMES["openvino"]
    prepared = row.prepare(job(threads=1), {})
    assert off(prepared.outputs()[LOGITS], exact(small, job().input)) < 2e-6
    assert prepared.facts["multiplied"] == {"f32": 20}
    assert prepared.facts["threads"] == 1
    if "BF16" in prepared.facts["native"]:
        other = row.prepare(job("bf16"), {})
        assert 1e-4 < off(other.outputs()[LOGITS], exact(small, job().input)) < 5e-2
        assert other.facts["multiplied"] == {"bf16": 20}
    with pytest.raises(UsageError, match="cannot be loaded by OpenVINO"):
        row.prepare(job(model=Path(__file__)), {})


def test_openvino_profiles_exclude_the_first_run(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Durations of single runs are recovered from OpenVINO's running means, without the first run, which creates kernels."""
    runs = {"fc": [5000, 10, 12, 8, 10, 10], "never": [0] * 6}
    done: list[int] = []

    def reported() -> list[Any]:
        return [
            SimpleNamespace(node_name=name, real_time=timedelta(microseconds=sum(times[: len(done)]) / len(done)))
            for name, times in runs.items()
        ]

    request = SimpleNamespace(
        infer=lambda: done.append(1), set_input_tensor=lambda tensor: None, get_profiling_info=reported
    )
    empty = SimpleNamespace(get_ops=list)
    model = SimpleNamespace(reshape=lambda shape: None, get_ops=list)
    compiled = SimpleNamespace(get_runtime_model=lambda: empty, create_infer_request=lambda: request)
    core = SimpleNamespace(read_model=lambda path: model, compile_model=lambda *_: compiled)
    fake = SimpleNamespace(Core=lambda: core, Tensor=lambda array, shared_memory: array)
    monkeypatch.setitem(sys.modules, "openvino", fake)
    assert RUNTIMES["openvino"].profile(job(threads=1), {}, 5) == [("fc", pytest.approx(10e-6, abs=1e-6))]


def node(kind: str, precision: str, names: str = "") -> Any:
    """Return a node of OpenVINO's compiled model that replaces the ops with these names."""
    facts = {
        "layerType": kind, "runtimePrecision": precision, "primitiveType": f"jit_{precision}", "originalLayersNames": names,
    }  # fmt: skip
    return SimpleNamespace(
        get_rt_info=lambda: {key: SimpleNamespace(astype=lambda _, v=value: v) for key, value in facts.items()}
    )


def test_openvino_precision_is_that_of_its_nodes(job: Callable[..., Job]) -> None:
    """The precision that OpenVINO's nodes report decides, because CPUs without bfloat16 silently use float32."""
    nodes = [node("Convolution", "f32"), node("FullyConnected", "f32"), node("Reorder", "bf16")]
    counted = openvino_runtime.counted(nodes, "runtimePrecision", {"fc1", "fc2"})
    assert counted == {"f32": 2}
    fused = [*nodes, node("Subgraph", "bf16", "fc1,act,fc2"), node("Subgraph", "bf16", "mul,add")]
    assert openvino_runtime.counted(fused, "runtimePrecision", {"fc1", "fc2"}) == {"f32": 2, "bf16": 1}

    def check(precision: str, multiplied: Mapping[str, int]) -> None:
        check_precision("OpenVINO", job(precision), multiplied, openvino_runtime._TYPES[precision])

    check("fp32", counted)
    with pytest.raises(Unavailable, match=r"bf16 was requested, but OpenVINO .* in other types: 2 as f32"):
        check("bf16", counted)
    check("int8", {"u8": 3, "f32": 1})
    with pytest.raises(Unavailable, match="int8 was requested"):
        check("int8", {"f32": 4})


# --- libraries that crash their process -------------------------------------------------------------------------------

#: A stand-in for OpenVINO; its last line runs when a network is prepared.
FATAL = """
import os, signal
__version__ = "0"
class Core:
    available_devices = ["CPU"]
    def get_property(self, *key):
        {}
"""


@pytest.fixture
def fatal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that replaces OpenVINO by a stand-in, in this process and in child processes."""

    def put(what: str) -> None:
        (tmp_path / "openvino.py").write_text(FATAL.format(what))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "openvino", raising=False)

    return put


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("name", "help"), [("SIGSEGV", "a bug in openvino"), ("SIGABRT", "a bug in openvino"), ("SIGKILL", "memory")]
)
def test_a_crashed_child_process_is_unavailable(
    name: str, help: str, fatal: Callable[[str], None], job: Callable[..., Job]
) -> None:
    """A runtime that crashes its child process raises Unavailable with the name of the signal."""
    fatal(f"os.kill(os.getpid(), signal.{name})")
    with pytest.raises(
        Unavailable, match=rf"openvino crashed its process \({name}\) while it ran small in fp32"
    ) as caught:
        RUNTIMES["openvino"].prepare(job(), {})
    assert help in (caught.value.diagnostics[0].help or "")


@pytest.mark.parametrize(
    "what", ["raise ValueError('error of the library')", "os._exit(3) if os.getpid() != {} else 1 / 0"]
)
def test_an_exception_of_a_library_is_raised_here(
    what: str, fatal: Callable[[str], None], job: Callable[..., Job]
) -> None:
    """If the child process was not killed by a signal, the library's own exception is raised in this process."""
    fatal(what.format(os.getpid()))
    with pytest.raises((ValueError, ZeroDivisionError)):
        RUNTIMES["openvino"].prepare(job(), {})


def test_crash_causes() -> None:
    """Signals are reported by name, unknown ones by number; ordinary exit codes are not crashes."""
    assert [child_process.crash_cause(code) for code in (0, 1, 4, 130)] == [None] * 4
    if os.name != "nt":
        assert child_process.crash_cause(-11) == "SIGSEGV"
        assert child_process.crash_cause(-99) == "signal 99"


# --- a GPU, imitated by a stand-in for ONNX Runtime -------------------------------------------------------------------


class Fake:
    """A stand-in for ONNX Runtime on a machine with a GPU. With `lost`, sessions fall back to the CPU without an
    error; `nodes` are the nodes in its profiles."""

    __version__ = "1.0"

    def __init__(self, nodes: list[dict[str, Any]], lost: bool = False, fails: str = "") -> None:
        self.nodes, self.lost, self.fails = nodes, lost, fails
        self.sessions: list[dict[str, Any]] = []
        self.bound: list[tuple[str, str]] = []
        self.OrtValue = SimpleNamespace(
            ortvalue_from_numpy=lambda x, device, index: self._value(x),
            ortvalue_from_shape_and_type=lambda shape, kind, device, index: self._value(np.zeros(shape, kind)),
        )

    def _value(self, array: Array) -> Any:
        self._step("memory")
        return SimpleNamespace(numpy=lambda: array)

    def _step(self, name: str) -> None:
        if name == self.fails:
            raise RuntimeError(f"CUDA failure 2: {name}\nand where")

    def get_available_providers(self) -> list[str]:
        return [TENSORRT, CUDA, CPU]

    def SessionOptions(self) -> Any:  # noqa: N802
        return SimpleNamespace(add_session_config_entry=lambda key, value: None)

    def InferenceSession(self, path: str, options: Any, providers: list[Any]) -> Any:  # noqa: N802
        (name, given), *_ = providers
        self._step("session")
        profiles = getattr(options, "enable_profiling", False)
        self.sessions.append({"provider": name, "options": given, "profiles": profiles})
        outputs = [SimpleNamespace(name="logits", shape=["batch", 10], type="tensor(float)")]

        def written() -> str:
            path = Path(f"{options.profile_file_prefix}.json")
            events = [{"cat": "Node", "name": "layer1_kernel_time", "dur": 5, "args": node} for node in self.nodes]
            path.write_text(json.dumps([{"cat": "Session"}, *events]))
            return str(path)

        binding = SimpleNamespace(
            bind_ortvalue_input=lambda name, value: self.bound.append((name, "input")),
            bind_ortvalue_output=lambda name, value: self.bound.append((name, "fixed")),
            bind_output=lambda name, device: self.bound.append((name, device)),
            synchronize_outputs=lambda: self.bound.append(("", "synchronized")),
            get_outputs=lambda: [self._value(np.zeros((2, 10), np.float32))],
        )
        return SimpleNamespace(
            get_providers=lambda: [CPU] if self.lost else [name, CPU],
            get_inputs=lambda: [SimpleNamespace(name="input", type="tensor(float)")],
            get_outputs=lambda: outputs,
            disable_fallback=lambda: None,
            io_binding=lambda: binding,
            run_with_iobinding=lambda binding: None,
            run=lambda names, feeds: self._step("profile"),
            end_profiling=written,
        )


def ran(op: str, provider: str, given: str = "float", output: str = "float") -> dict[str, Any]:
    """Return a node as it appears in a profile."""
    return {
        "op_name": op, "provider": provider, "input_type_shape": [{given: [1]}], "output_type_shape": [{output: [1]}],
    }  # fmt: skip


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Fake]:
    """Return a function that installs the stand-in for ONNX Runtime and pretends that there is a GPU."""

    def put(nodes: list[dict[str, Any]], lost: bool = False, fails: str = "") -> Fake:
        fake = Fake(nodes, lost, fails)
        monkeypatch.setattr(ort_runtime, "library", lambda: fake)
        monkeypatch.setattr(ort_session, "has_gpu", lambda: True)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
        return fake

    return put


GOOD = [ran("Conv", CUDA), ran("Gemm", CUDA), ran("Shape", CPU, output="int64")]


def test_a_session_that_lost_its_gpu_is_refused(faked: Callable[..., Fake], job: Callable[..., Job]) -> None:
    """A session that silently fell back to the CPU is refused, so that no figure comes from it."""
    faked(GOOD, lost=True)
    with pytest.raises(Unavailable, match=f"{CUDA} was requested, but ONNX Runtime uses {CPU}") as caught:
        RUNTIMES["ort-cuda"].prepare(job(), {})
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("step", ["session", "memory", "profile"])
def test_a_failure_on_a_gpu_is_unavailable(step: str, faked: Callable[..., Fake], job: Callable[..., Job]) -> None:
    """A failure to create a session, allocate memory or profile makes only this runtime unavailable."""
    faked(GOOD, fails=step)
    with pytest.raises(Unavailable, match=rf"ort-cuda cannot run small: .*CUDA failure 2: {step}$"):
        RUNTIMES["ort-cuda"].prepare(job(), {"graph": True} if step == "session" else {})


def test_gpu_nodes_are_profiled_with_blocking_launches(
    faked: Callable[..., Fake], job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU nodes are profiled in a child process with CUDA_LAUNCH_BLOCKING=1; otherwise times would be those of launches."""
    fake = faked(GOOD)
    calls: list[Any] = []

    def child(command: list[str], **options: Any) -> Any:
        asked = json.loads(command[-1])
        calls.append((asked, options["env"]["CUDA_LAUNCH_BLOCKING"], np.load(asked[3])))
        return SimpleNamespace(returncode=0, stdout='a line of a library\n[["layer1", 0.5]]\n', stderr="")

    monkeypatch.delenv("CUDA_LAUNCH_BLOCKING", raising=False)
    monkeypatch.setattr(child_process.subprocess, "run", child)
    assert RUNTIMES["ort-cuda"].profile(job("tf32"), {"nhwc": True}, 3) == [("layer1", 0.5)]
    ((asked, blocking, x),) = calls
    assert blocking == "1"
    assert (asked[0], *asked[4:]) == ("ort-cuda", "tf32", job().threads, {"nhwc": True}, 3)
    assert np.array_equal(x, job().input)
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    assert RUNTIMES["ort-cuda"].profile(job(), {}, 1)[0][0] == "layer1"
    assert [each["profiles"] for each in fake.sessions] == [True]
    with pytest.raises(Unavailable, match="TensorRT runs small as one node"):
        RUNTIMES["ort-tensorrt"].profile(job("tf32"), {})


def test_a_child_profiles(job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The profiling child process works (here on the CPU), and its failure is reported. It imports from this
    process's path and not from the working folder."""
    pytest.importorskip("onnxruntime", reason="runs in the child process")
    (tmp_path / "numpy.py").write_text("raise ImportError('not the library')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    found = child_process.profile(RUNTIMES["ort-cpu"], job(), {"threads": "1"}, 2, {})
    wanted = RUNTIMES["ort-cpu"].profile(job(), {"threads": "1"}, 2)
    assert len(found) == len(wanted)
    assert found[0][0] == wanted[0][0]
    assert all(seconds >= 0 for _, seconds in found)
    with pytest.raises(Unavailable, match=r"ort-cpu cannot profile small: .*none\.onnx does not exist"):
        child_process.profile(RUNTIMES["ort-cpu"], job(model=Path("none.onnx")), {}, 2, {})


@pytest.mark.parametrize("name", ["ort-cuda", "ort-tensorrt"])
def test_nodes_elsewhere_are_refused(name: str, faked: Callable[..., Fake], job: Callable[..., Job]) -> None:
    """A session is refused if one of its nodes computes on the CPU, or if its profile has no nodes."""
    provider = CUDA if name == "ort-cuda" else TENSORRT
    faked([ran("Conv", provider), ran("Resize", CPU)])
    with pytest.raises(Unavailable, match="nodes of small ran elsewhere: Resize"):
        RUNTIMES[name].prepare(job("tf32"), {})
    faked([])
    with pytest.raises(Unavailable, match="has no nodes"):
        RUNTIMES[name].prepare(job("tf32"), {})


def test_shape_computations_may_run_on_the_cpu(faked: Callable[..., Fake], job: Callable[..., Job]) -> None:
    """Shape computations may run on the CPU; they count in the placement and do not cause a refusal."""
    faked(GOOD)
    facts = RUNTIMES["ort-cuda"].prepare(job(), {}).facts
    assert facts["placement"] == {CUDA: 2, CPU: 1}
    assert facts["obtained"] == CUDA


def test_options_of_the_cuda_provider(faked: Callable[..., Fake], job: Callable[..., Job]) -> None:
    """The CUDA provider gets every option: fp32 without TF32, CUDA graphs with fixed buffers, plain profiles."""
    fake = faked(GOOD)
    RUNTIMES["ort-cuda"].prepare(job(), {"graph": True, "nhwc": True, "search": "heuristic"})
    timed, profiled = fake.sessions
    assert timed["options"] == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "enable_cuda_graph": "1",
        "prefer_nhwc": "1",
        "use_tf32": "0",
    }
    assert not timed["profiles"]
    assert profiled == {"provider": CUDA, "options": {**timed["options"], "enable_cuda_graph": "0"}, "profiles": True}
    assert fake.bound == [("input", "input"), ("logits", "fixed"), ("", "synchronized")]
    fake = faked(GOOD)
    assert RUNTIMES["ort-cuda"].prepare(job("tf32"), {}).facts["tf32"] is True
    assert fake.sessions[0]["options"]["use_tf32"] == "1"
    assert fake.sessions[0]["options"]["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert fake.bound[1] == ("logits", "cuda")


def test_fp16_must_multiply_fp16(faked: Callable[..., Fake], job: Callable[..., Job]) -> None:
    """fp16 requires that all convolutions and matrix products run in float16; casts are allowed."""
    faked([ran("Conv", CUDA, "float16"), ran("Gemm", CUDA, "float")])
    with pytest.raises(Unavailable, match=r"fp16 was requested, but .* in other types: 1 as float$"):
        RUNTIMES["ort-cuda"].prepare(job("fp16"), {})
    faked([ran("NhwcConv", CUDA, "float16"), ran("Gemm", CUDA, "float16"), ran("Cast", CUDA)])
    assert RUNTIMES["ort-cuda"].prepare(job("fp16"), {}).facts["multiplied"] == {"float16": 2}


@pytest.mark.parametrize(
    ("name", "precision", "override", "fine"),
    [
        ("ort-tensorrt", "fp32", None, False),
        ("ort-tensorrt", "fp32", "0", True),
        ("ort-tensorrt", "tf32", None, True),
        ("ort-tensorrt", "tf32", "0", False),
        ("ort-cuda", "fp32", None, True),
        ("ort-cuda", "fp32", "1", False),
        ("ort-cuda", "tf32", "0", False),
    ],
)
def test_the_environment_decides_about_tf32(
    name: str, precision: str, override: str | None, fine: bool, faked: Callable[..., Fake], job: Callable[..., Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """NVIDIA_TF32_OVERRIDE is respected; TensorRT's provider has no TF32 option, so fp32 requires override 0."""
    faked([ran("Conv", CUDA if name == "ort-cuda" else TENSORRT)])
    if override is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    if fine:
        assert RUNTIMES[name].prepare(job(precision), {}).facts["tf32"] is (precision == "tf32")
    else:
        with pytest.raises(Unavailable, match="TF32"):
            RUNTIMES[name].prepare(job(precision), {})


def test_engines_are_cached_by_content(faked: Callable[..., Fake], job: Callable[..., Job], tmp_path: Path) -> None:
    """TensorRT engines contain weights, so the cache distinguishes files, external data and precisions."""
    fake = faked([ran("TRTKernel", TENSORRT)])
    model = tmp_path / "a.onnx"
    folders = []
    for text, data, precision in (
        ("1", "", "tf32"),
        ("2", "", "tf32"),
        ("2", "3", "tf32"),
        ("2", "3", "fp16"),
        ("1", "", "tf32"),
    ):
        model.write_text(text)
        (tmp_path / "a.onnx.data").write_text(data)
        RUNTIMES["ort-tensorrt"].prepare(job(precision, model=model), {})
        options = fake.sessions[-1]["options"]
        assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
        folders.append(options["trt_engine_cache_path"])
        assert Path(folders[-1]).is_dir()
        assert Path(options["trt_timing_cache_path"]) == tmp_path / "cache" / "rescompile" / "tensorrt"
    assert len(set(folders[:4])) == 4
    assert folders[4] == folders[0]


def test_cuda_runtimes_are_missing_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, CUDA runtimes are reported as missing, with the reason and what they need."""
    pytest.importorskip("onnxruntime", reason="lists its execution providers")
    monkeypatch.setattr(ort_session, "has_gpu", lambda: False)
    for name in ("ort-cuda", "ort-tensorrt"):
        assert "Provider" in (RUNTIMES[name].missing() or "")
        assert "NVIDIA GPU" in RUNTIMES[name].how()
    monkeypatch.setattr(TORCH.cuda, "is_available", lambda: False)
    assert RUNTIMES["torch-cuda"].missing() is not None
    with pytest.raises(Unavailable, match="torch-cuda cannot run here"):
        RUNTIMES["torch-cuda"].prepare(Job("a", None, lambda: None, np.zeros((1, 3, 8, 8), np.float32)), {})


# --- the machine ------------------------------------------------------------------------------------------------------


def test_the_machine_is_described_without_names() -> None:
    """The description of the machine contains no host name, user name or path."""
    facts = {**device.describe(), **device.state()}
    text = json.dumps(facts)
    assert facts["processor"]["usable"] >= 1
    assert facts["processor"]["name"]
    assert facts["libraries"]["numpy"] == np.__version__
    assert str(Path.home()) not in text
    assert len(platform.node()) < 4 or platform.node() not in text
    assert len(getpass.getuser()) < 4 or f'"{getpass.getuser()}"' not in text


def test_gpus_are_read_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi gives one row per GPU; a missing tool or unexpected output gives none."""
    fields = ("name", "driver_version", "memory.total", "compute_cap")
    for printed, rows in (
        ("NVIDIA H200, 570.1, 143771 MiB, 9.0\n" * 2, [("NVIDIA H200", "570.1", "143771 MiB", "9.0")] * 2),
        (None, []),
        ("NVIDIA-SMI has failed\n", []),
    ):
        monkeypatch.setattr(device, "_output", lambda *command, printed=printed: printed)
        assert device._smi(fields) == [dict(zip(fields, row, strict=True)) for row in rows]


# --- the roofline -----------------------------------------------------------------------------------------------------

HAND = """\
rescompile: 1
name: hand
input: [2, 4, 4]
network:
  - stem: {conv: {channels: 4, kernel: 3}}
  - bn: norm
  - relu
  - residual:
      branch:
        - conv1: {conv: {channels: 8, kernel: 1}}
        - conv2: {conv: {channels: 4, kernel: 1}}
  - pool: {maxpool: {kernel: 2, stride: 2}}
  - parallel:
      merge: concat
      branches:
        - identity
        - - conv3: {conv: {channels: 4, kernel: 1}}
  - global_avgpool
  - flatten
  - fc: {linear: 10}
"""


def hand(tmp_path: Path) -> Network:
    """Return a network whose limit can be computed by hand."""
    path = tmp_path / "hand.yaml"
    path.write_text(HAND)
    return rescompile.elaborate(rescompile.load(path))


def test_layers_by_hand(tmp_path: Path) -> None:
    """The roofline counts the values moved and multiply-adds of each layer as computed by hand."""
    found = {layer.name.rpartition(".")[2]: layer for layer in roofline.layers(hand(tmp_path))}
    counted = {name: (layer.maps, layer.weights, layer.macs) for name, layer in found.items()}
    assert counted == {
        "stem": (2 * 16 + 4 * 16, 4 * 2 * 9, 4 * 2 * 9 * 16),
        "conv1": (4 * 16 + 8 * 16, 8 * 4, 8 * 4 * 16),
        "conv2": (8 * 16 + 4 * 16 + 4 * 16, 4 * 8, 4 * 8 * 16),  # including the shortcut, which the addition reads
        "pool": (4 * 16 + 4 * 4, 0, 0),
        "conv3": (4 * 4 + 4 * 4, 4 * 4, 4 * 4 * 4),  # the producers write directly into the concatenation
        "global_avgpool": (8 * 4 + 8, 0, 0),
        "fc": (8 + 10, 8 * 10 + 10, 80),
    }


def test_limit_by_hand(tmp_path: Path) -> None:
    """Each layer takes the longer of its memory and compute times, and a batch shares the weights."""
    network = hand(tmp_path)
    bandwidth, rate, batch = 1000.0, 8000.0, 3
    roof = roofline.Roofline("bf16", {1 << 20: bandwidth}, rate)
    found = roofline.limit(network, batch, roof)
    assert found is not None
    wanted = 0.0
    for layer in roofline.layers(network):
        memory = 2 * (batch * layer.maps + layer.weights) / bandwidth
        compute = 2 * batch * layer.macs / rate
        wanted += max(memory, compute)
        assert found.bounds[layer.name] == ("compute" if compute > memory else "memory")
    assert set(found.bounds.values()) == {"compute", "memory"}
    assert math.isclose(found.seconds, wanted)
    stem = next(seconds for name, seconds in found.layers.items() if name.endswith("stem"))
    assert math.isclose(stem, max(2 * (3 * 96 + 72) / 1000, 2 * 3 * 1152 / 8000))


def test_published_limits() -> None:
    """Limits for an H200 (790 TFLOP/s, 4.3 TB/s, bf16, batch 256) are within 2% of independently derived figures."""
    roof = roofline.Roofline("bf16", {1 << 30: 4.3e12}, 790e12)
    for name, images in {"resnet50": 60_200, "resnext50_32x4d": 55_100, "densenet121": 84_500}.items():
        found = roofline.limit(rescompile.elaborate(rescompile.load(name)), 256, roof)
        assert found is not None
        assert math.isclose(256 / found.seconds, images, rel_tol=0.02)


def test_bandwidth_of_copies_at_least_as_large() -> None:
    """A layer is compared with the fastest copy at least as large; small copies show the cost of a launch."""
    roof = roofline.Roofline("fp32", {1: 5.0, 4: 9.0, 16: 3.0}, 1.0)
    assert [roof.bandwidth(size) for size in (0.5, 1, 2, 5, 16, 99)] == [9, 9, 9, 3, 3, 3]


def test_a_machine_is_measured(small: tuple[Network, Weights], monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured rates are finite; a precision without a measured product has no limit."""
    monkeypatch.setattr(roofline, "_COPIES", {"cpu": (1 << 20, 4 << 20)})
    monkeypatch.setattr(roofline, "_SIDE", {"cpu": 512})
    roof = roofline.measure("cpu", "fp32", threads=1)
    assert roof.product is not None
    assert all(0 < rate < 1e16 for rate in (roof.product, *roof.copies.values()))
    found = roofline.limit(small[0], 1, roof)
    assert found is not None
    assert 0 < found.seconds < 1
    none = roofline.measure("cpu", "int8", threads=1)
    assert none.product is None
    assert roofline.limit(small[0], 1, none) is None


def test_a_gpu_that_torch_does_not_see_has_no_limit(
    small: tuple[Network, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that ONNX Runtime uses but torch does not see has no roofline; rows then lack a fraction of the limit."""
    monkeypatch.setattr(TORCH.cuda, "is_available", lambda: False)
    roof = roofline.measure("cuda", "fp16")
    assert roof.product is None
    assert roofline.limit(small[0], 1, roof) is None


def test_a_module_may_return_a_mapping(job: Callable[..., Job]) -> None:
    """A module that returns a mapping keeps the names of its outputs."""

    class Two(TORCH.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Mapping[str, Any]:
            return {"logits": x.mean((2, 3)), "maps": 2 * x}

    x = job().input
    outputs = RUNTIMES["torch-cpu"].prepare(Job("two", None, Two, x), {}).outputs()
    assert list(outputs) == ["logits", "maps"]
    assert np.array_equal(outputs["maps"], 2 * x)


@pytest.mark.parametrize(("precision", "kind"), [("fp32", 1), ("tf32", 1), ("fp16", 10)])
def test_a_job_has_the_file_of_its_precision(
    precision: str, kind: int, small: tuple[Network, Weights], tmp_path: Path
) -> None:
    """The job's file has the precision's data type and the input's batch size; torch runtimes get a module instead."""
    onnx = pytest.importorskip("onnx", reason="reads the file")
    x = np.zeros((3, *small[0].input), np.float32)
    cuda = jobs.job(RUNTIMES["ort-cuda"], *small, x, precision, tmp_path)
    graph = onnx.load(cuda.model).graph
    assert kind in {tensor.data_type for tensor in graph.initializer} <= {kind, 7}
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert cuda.module is None
    other = jobs.job(RUNTIMES["torch-cuda"], *small, x, precision, tmp_path)
    assert other.model is None
    assert other.module is not None
    assert other.module() is not other.module()
