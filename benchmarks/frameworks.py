"""Check the promises about generated sources of several frameworks: their speed, and the time to build and to compile them.

- forward of ResNet-50 in evaluation mode: our Flax source against the handwritten Flax ResNet-50 of the tests, both under
  jax.jit, with equal weights; our Keras source against keras.applications on the same backend; eager torch is shown;
- construction of the live model of a network of depth 1001 in each framework, in a separate process;
- `build` to each target that writes source, for every network of the zoo;
- tracing and compiling a training step of deep networks in Flax, block by block and in one scan per row (`--scan`).

Exit code: 0 if every measured promise is kept; 1 if one is missed; 4 if one is undecided or could not be measured
because a package is missing.

    taskset -c 1 python benchmarks/frameworks.py --cpu-time --json frameworks.json
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from compile import chosen, machine, say
from pairs import Clock, Row, Times, arguments, exact, interleave, report, timed, unmeasured

HERE = Path(__file__).resolve().parent
DEEP = "preact_resnet1001_cifar"
FORWARD, KERAS, MODEL, BUILD, COMPILE = (
    "resnet50 in Flax", "resnet50 in Keras", "live model of depth 1001", "build to", "compiling a training step in Flax",
)  # fmt: skip
#: Targets with the package that their live models need.
LIVE = {"torch": "torch", "flax": "flax", "keras": "keras", "mlx": "mlx"}
SOURCES = ("source", "flax", "keras", "mlx")
#: The depth of each row, and whether a scan runs it; compiling a loop of depth 1001 takes longer than the limit.
COMPILED = ((12, False), (12, True), (36, False), (36, True), (111, False), (111, True))
LIMIT = 900
CLASSES, BATCH, SIDE = 1000, 1, 224


def names() -> list[str]:
    """Return the names of all measurements in order."""
    return [
        FORWARD, KERAS, *(f"{MODEL}: {target}" for target in LIVE), *(f"{BUILD} {target}" for target in SOURCES),
        *(compiled_name(depth, scan) for depth, scan in COMPILED),
    ]  # fmt: skip


def compiled_name(depth: int, scan: bool) -> str:
    """Return the name of compiling a network with rows of this depth."""
    return f"{COMPILE}: depth {9 * depth + 2}, {'scan' if scan else 'loop'}"


# --- forward


def weights() -> dict[str, Any]:
    """Return random weights of resnet50 by torchvision's names, which are also those of the tree."""
    import rescompile

    return {name: value.numpy() for name, value in rescompile.build("resnet50", "torch").module.state_dict().items()}


def torch_forward(state: Mapping[str, Any], x: Any) -> Callable[[], Any]:
    """Return the forward pass of our module in eager torch."""
    import torch

    import rescompile

    module, given = rescompile.build("resnet50", "torch", weights=state).module, torch.from_numpy(x)

    def run() -> Any:
        with torch.inference_mode():
            return module(given).numpy()

    return run


def flax_contenders(x: Any) -> dict[str, Callable[[], Any]]:
    """Return the forward passes of ResNet-50 in Flax, generated and handwritten, and in torch."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    import rescompile

    sys.path.insert(0, str(HERE.parent / "tests" / "support"))
    by_hand = importlib.import_module("nnx_resnet50").ResNet50(nnx.Rngs(0))
    state = weights()
    by_hand.read(state)
    ours = rescompile.build("resnet50", "flax", weights=state).module
    given = jnp.asarray(np.moveaxis(x, 1, -1))

    def forward(model: Any) -> Callable[[], Any]:
        graph, variables = nnx.split(model)
        run = jax.jit(lambda variables, x: nnx.merge(graph, variables)(x))
        return lambda: np.asarray(run(variables, given))

    copy = nnx.merge(*nnx.split(ours))
    models = {"ours": ours, "by hand": by_hand, "copy of ours": copy}
    return {name: forward(model) for name, model in models.items()} | {"torch eager": torch_forward(state, x)}


def keras_contenders(x: Any) -> dict[str, Callable[[], Any]]:
    """Return the forward passes of ResNet-50 in Keras, ours and that of keras.applications, on the current backend. Ours is
    resnet50_v1, whose strides are in the same convolutions as in keras.applications."""
    import keras
    import numpy as np

    import rescompile

    peer = keras.applications.ResNet50(weights=None, classifier_activation=None)
    ours = rescompile.build("resnet50_v1", "keras").module
    copy = keras.models.clone_model(ours)
    given = keras.ops.convert_to_tensor(np.moveaxis(x, 1, -1))
    models = {"ours": ours, "keras.applications": peer, "copy of ours": copy}
    for model in models.values():
        model.compile(jit_compile="auto")
    return {
        name: (lambda model=model: keras.ops.convert_to_numpy(model.predict_on_batch(given)))
        for name, model in models.items()
    }


def forward(name: str, rounds: int, side: int, clock: Clock) -> tuple[Times, list[Row]]:
    """Time the forward pass of one framework's ResNet-50s; in Flax they have equal weights, so equal outputs."""
    import numpy as np

    x = np.random.default_rng(0).standard_normal((BATCH, 3, side, side), np.float32)
    contenders = flax_contenders(x) if name == FORWARD else keras_contenders(x)
    base = "by hand" if name == FORWARD else "keras.applications"
    if name == FORWARD:
        outputs = {each: run() for each, run in contenders.items()}
        scale = np.abs(outputs[base]).max()
        assert all(np.abs(value - outputs[base]).max() < 1e-4 * scale for value in outputs.values()), "outputs differ"
    times = interleave(contenders, rounds, name, clock)
    control = ("copy of ours", "ours")
    rows = [timed(f"{name}: forward of {base}'s", times, "ours", base, control, 1.0)]
    if "torch eager" in times:
        rows.append(timed(f"{name}: forward of eager torch's", times, "ours", "torch eager", control))
    return times, rows


# --- child processes


def child(*words: str) -> list[float]:
    """Run one measurement in a child process and return the seconds that it prints. Raises RuntimeError if it fails."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", *words],
        capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return list(map(float, json.loads(done.stdout.splitlines()[-1])))


def make_live(target: str) -> list[float]:
    """Return the CPU seconds of building a live model of depth 1001, without imports."""
    importlib.import_module(LIVE[target])
    if target == "flax":
        import jax

        jax.numpy.zeros(1).block_until_ready()
    import rescompile

    rescompile.build("resnet20_cifar", target).module  # noqa: B018, imports what only builds import
    start = time.process_time()
    rescompile.build(DEEP, target).module  # noqa: B018
    return [time.process_time() - start]


def compile_step(depth: str, scan: str) -> list[float]:
    """Return the CPU seconds of tracing and lowering, and of compiling, a training step in Flax."""
    import jax.numpy as jnp
    from flax import nnx

    import rescompile

    spec = rescompile.load(DEEP, [f"layer{row}.depth={depth}" for row in (1, 2, 3)])
    model = rescompile.build(spec, "flax", scan=scan == "scan").module
    model.train()

    def loss(model: Any, x: Any) -> Any:
        return jnp.mean(model(x) ** 2)

    step = nnx.jit(nnx.value_and_grad(loss))
    start = time.process_time()
    lowered = step.lower(model, jnp.zeros((8, 32, 32, 3)))
    middle = time.process_time()
    lowered.compile()
    return [middle - start, time.process_time() - middle]


def builds(target: str, clock: Clock) -> Times:
    """Return the seconds to build each network of the zoo, from its spec to the text of the file."""
    import rescompile
    from rescompile.diagnostics.errors import Unavailable
    from rescompile.lang import library

    times: Times = {}
    rescompile.build("resnet20_cifar", target).to_bytes()  # imports
    for name in library.zoo():
        start = clock()
        try:
            rescompile.build(name, target, structure_only=True).to_bytes()
        except Unavailable:
            continue
        times[name] = [clock() - start]
    return times


# --- all


def measure(name: str, options: Any) -> Iterator[tuple[Times, list[Row]]]:
    """Yield the samples and rows of one measurement."""
    if name in (FORWARD, KERAS):
        yield forward(name, options.pairs, 64 if options.quick else SIDE, options.clock)
    elif name.startswith(MODEL):
        seconds = child("make_live", name.rpartition(" ")[2])
        yield {"CPU time": seconds}, [exact(f"{name}: CPU time", seconds[0], 10.0, "<=", " s")]
    elif name.startswith(BUILD):
        times = builds(name.rpartition(" ")[2], options.clock)
        slowest = max(times, key=lambda each: times[each][0])
        row = exact(f"{name}: slowest of {len(times)}, {slowest}", times[slowest][0], 1.0, "<=", " s")
        median = statistics.median(each[0] for each in times.values())
        yield {"all networks": [each[0] for each in times.values()]}, [row, exact(f"{name}: median", median, unit=" s")]
    else:
        depth, how = name.removeprefix(f"{COMPILE}: depth ").split(", ")
        seconds = child("compile_step", str((int(depth) - 2) // 9), how)
        yield {"tracing": seconds[:1], "compiling": seconds[1:]}, [exact(f"{name}: CPU time", sum(seconds), unit=" s")]


def main() -> int:
    """Measure, print both tables, write the JSON file, and return the exit code."""
    options = arguments(__doc__ or "", pairs=30)
    if options.child:
        function, *words = options.child
        print(json.dumps({"make_live": make_live, "compile_step": compile_step}[function](*words)))
        return 0
    os.environ.setdefault("KERAS_BACKEND", "jax")
    described = machine()
    samples: dict[str, Times] = {}
    rows: list[Row] = []
    wanted = chosen(names(), options.only)
    if options.quick:
        wanted = [name for name in wanted if not name.startswith(COMPILE)]
    for name in wanted:
        say(name)
        try:
            for times, found in measure(name, options):
                samples[name] = times
                rows += found
        except subprocess.TimeoutExpired:
            rows.append(unmeasured(name, f"above {LIMIT} s"))
        except Exception as error:  # a missing package or target
            rows.append(unmeasured(name, f"not measured: {str(error).splitlines()[0][:60]}"))
    return report(options, described, samples, rows)


if __name__ == "__main__":
    sys.exit(main())
