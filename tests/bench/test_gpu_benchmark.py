"""benchmarks/gpu.py keeps its results when a part fails, hangs or does not fit the time limit. The measurements need
a GPU; the code around them is tested here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rescompile.runtimes import RUNTIMES, find

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    """Import the benchmark with its folder on the path."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import gpu

        yield gpu
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_every_part_requests_existing_runtimes(gpu: ModuleType) -> None:
    """Each part requests existing runtimes and options of GPUs, and its `--quick` form those of CPUs."""
    wanted = list(gpu.parts(quick=False))
    assert len({part.name for part in wanted}) == len(wanted)
    for part in wanted:
        for each, device in ((part, "cuda"), (gpu.on_cpu(part), "cpu")):
            if each.runtime is None:
                continue
            assert each.runtime in RUNTIMES
            for text in each.words[each.words.index("--runtime") + 1].split(","):
                assert find(text)[0].device == device


def test_without_a_gpu_it_refuses(tmp_path: Path) -> None:
    """Without a GPU the benchmark exits with 4 and a reason, and writes no file."""
    if any(row.missing() is None for row in RUNTIMES.values() if row.device == "cuda"):
        pytest.skip("needs a machine without a GPU")
    words = [sys.executable, str(BENCHMARKS / "gpu.py"), "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.startswith("no GPU can be measured here: ort-cuda:")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_cut_off(gpu: ModuleType) -> None:
    """A part that exceeds its time is interrupted and recorded as cut off; a part that fails records the reason."""
    slow = gpu.run(gpu.Part("slow", None, ("bench", "resnet20_cifar", "--rounds", "100000"), 1), 1.0)
    assert slow["cut"]
    assert slow["code"] != 0
    assert slow["seconds"] < 1 + gpu.GRACE
    wrong = gpu.run(gpu.Part("wrong", None, ("verify", "no_such_network", "--json"), 60), 60.0)
    assert (wrong["cut"], wrong["code"]) == (False, 2)
    assert "no_such_network" in gpu.ending(wrong)


def test_finished_parts_are_kept(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written after every part; a second run repeats failed parts only and skips what cannot run."""
    ran: list[str] = []
    doctor = {
        "runtimes": [
            {"name": "ort-cuda", "works": True, "reason": None},
            {"name": "torch-cuda", "works": False, "reason": "no torch"},
        ]
    }

    def run(part: Any, seconds: float) -> dict[str, Any]:
        if ran:
            assert ran[-1] in json.loads(path.read_text())["parts"]
        ran.append(part.name)
        code = 4 if part.name == "bad" and ran.count("bad") == 1 else 0
        return {"command": [], "code": code, "cut": False, "seconds": 1.0, "output": doctor, "said": ["why"]}

    monkeypatch.setattr(gpu, "run", run)
    path = tmp_path / "gpu.json"
    wanted = [
        gpu.Part("doctor", None, ("doctor",), 9),
        gpu.Part("bad", "ort-cuda", ("verify",), 9),
        gpu.Part("without", "torch-cuda", ("verify",), 9),
        gpu.Part("good", "ort-cuda", ("verify",), 9),
    ]
    record: dict[str, Any] = {"parts": {}}
    gpu.measure(record, wanted, 10, path)
    assert ran == ["doctor", "bad", "good"]
    assert gpu.ending(record["parts"]["without"]) == "not run: no torch"
    again = json.loads(path.read_text())
    gpu.measure(again, wanted, 10, path)
    assert ran == ["doctor", "bad", "good", "bad"]
    gpu.measure(again, [gpu.Part("late", "ort-cuda", ("verify",), 9)], 0.1, path)
    assert ran[-1] == "bad"
    assert "6 s were left" in gpu.ending(again["parts"]["late"])
    assert "- late: not run" in gpu.table(json.loads(path.read_text()))


def test_an_interrupted_write_keeps_the_previous_file(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted write leaves the previous file unchanged."""
    path = tmp_path / "gpu.json"
    gpu.write(path, {"parts": 1})
    whole = Path.write_text

    def half(self: Path, text: str) -> int:
        whole(self, text[:5])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(KeyboardInterrupt):
        gpu.write(path, {"parts": 2})
    assert json.loads(path.read_text()) == {"parts": 1}


@pytest.mark.slow
def test_benchmarks_do_not_shadow_packages() -> None:
    """torch does not import a benchmark instead of a package, although a script's folder comes first on the path."""
    pytest.importorskip("torch", reason="imported by the benchmarks")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch, torch.cuda.graphs\n"
        "print([name for name, module in sys.modules.items() if (getattr(module, '__file__', '') or '').startswith(sys.argv[1])])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(BENCHMARKS)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_only_must_match_a_measurement() -> None:
    """`--only` with a word that matches no measurement exits with 2, since nothing would be measured."""
    pytest.importorskip("torch", reason="imported by the benchmarks")
    for name in ("train", "gpu"):
        done = subprocess.run(
            [sys.executable, BENCHMARKS / f"{name}.py", "--quick", "--only", "resnet5O"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2, (name, done.stderr)
        assert "resnet5O is in the name of none of: " in done.stderr
