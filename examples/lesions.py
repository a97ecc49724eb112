"""Reproduce the lesion study of Veit et al. 2016, sections 4.1 to 4.3, on the digits that come with scikit-learn.

A ResNet of 26 layers (digits_resnet.yaml) and the same layers without shortcuts (digits_plain.yaml) are trained on the CPU.
Then parts of the trained networks are removed or reordered, and the test error is measured again:

1. without a single residual block, or a single layer of the plain network that keeps the shape of its input;
2. without several of them, chosen at random;
3. with residual blocks of equal shapes swapped at random within their stage.

Every measured network is actually built, with the passes `drop` and `swap`. The study is repeated with several seeds; each
seed determines the weights, the order of the training examples, and the lesions. The test digits are the same for all seeds.

    pip install 'rescompile[examples]'
    python examples/lesions.py --json docs/lesions.json --figure docs/lesions.svg

takes less than ten minutes. `--again` skips the measurement and draws the figure from the JSON file. `--save FOLDER` writes the
weights of the first seed and the test digits, for `rescompile paths --gradients`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import rescompile
from rescompile.ir.network import Network
from rescompile.passes.drop import droppable

FOLDER = Path(__file__).parent
RESNET, PLAIN = "digits_resnet", "digits_plain"
#: Number of test digits (of 1797), which are the same for every seed.
TEST = 597
BATCH, RATE, MOMENTUM, DECAY = 64, 0.1, 0.9, 5e-4
#: Student's t for a two-sided 95% interval, indexed by the number of seeds minus two.
STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Weights = dict[str, np.ndarray[Any, Any]]
Digits = tuple[Tensor, Tensor, Tensor, Tensor]


def digits() -> Digits:
    """Return images [1, 8, 8] between -1 and 1 and their classes, for training and for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1
    classes = torch.tensor(bunch.target)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    train, test = order[TEST:], order[:TEST]
    return images[train], classes[train], images[test], classes[test]


def module(network: Network, weights: Weights | None = None, seed: int = 0, **lesion: str) -> nn.Module:
    """Build the network as a module, with initialised weights, or with those of the whole network and a lesion."""
    built: Any = rescompile.build(network, "torch", weights, seed=seed, **lesion)
    found: nn.Module = built.module
    return found


def trained(network: Network, data: Digits, epochs: int, seed: int) -> Weights:
    """Return the weights after SGD with a learning rate that decays to zero, on images shifted by up to one pixel."""
    images, classes, _, _ = data
    model = module(network, seed=seed).train()
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for at in range(len(images) // BATCH):
            chosen = order[at * BATCH : (at + 1) * BATCH]
            down, right = torch.randint(0, 3, (2,), generator=generator).tolist()
            moved = nn.functional.pad(images[chosen], (1, 1, 1, 1), value=-1)[:, :, down : down + 8, right : right + 8]
            loss = nn.functional.cross_entropy(model(moved), classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def error(network: Network, weights: Weights, data: Digits, **lesion: str) -> float:
    """Return the fraction of test digits that the network misclassifies, with or without a lesion."""
    _, _, images, classes = data
    with torch.no_grad():
        found = module(network, weights, **lesion)(images).argmax(1)
    return float((found != classes).float().mean())


def lesions(network: Network, weights: Weights, data: Digits, draws: int, seed: int) -> dict[str, Any]:
    """Return the test errors of one trained network without some of its parts."""
    generator = random.Random(seed)
    parts = droppable(network)
    single = {part: error(network, weights, data, drop=part) for part in parts}
    several = {}
    for count in range(1, len(parts) // 2 + 1):
        chosen = [generator.sample(parts, count) for _ in range(draws)]
        several[count] = [error(network, weights, data, drop=",".join(names)) for names in chosen]
    return {"whole": error(network, weights, data), "without": single, "without_several": several}


def reordered(network: Network, weights: Weights, data: Digits, draws: int, seed: int) -> list[dict[str, float]]:
    """Return test errors with reordered blocks, each with Kendall's tau between the new and the trained order."""
    generator = random.Random(seed)
    stages: dict[str, list[str]] = {}
    for block in droppable(network):
        stage, _, index = block.rpartition(".")
        if index != "0" or stage == "layer1":  # the first block of the others changes the shape
            stages.setdefault(stage, []).append(block)
    found = []
    for draw in range(draws):
        swaps = []
        where = {block: at for blocks in stages.values() for at, block in enumerate(blocks)}
        for _ in range(1 + draw * 8 // draws):
            first, second = generator.sample(stages[generator.choice(list(stages))], 2)
            swaps += [first, second]
            where[first], where[second] = where[second], where[first]
        pairs = [pair for blocks in stages.values() for pair in combinations(blocks, 2)]
        kept = sum(where[one] < where[other] for one, other in pairs)
        # blocks of different stages keep their order
        apart = sum(len(a) * len(b) for a, b in combinations(stages.values(), 2))
        tau = 1 - 2 * (len(pairs) - kept) / (len(pairs) + apart)
        found.append({"tau": tau, "error": error(network, weights, data, swap=",".join(swaps))})
    return found


def study(seeds: int, epochs: int, draws: int, say: Callable[[str], None], save: Path | None = None) -> dict[str, Any]:
    """Train and measure once for each seed, and return all results."""
    data = digits()
    networks = {name: rescompile.elaborate(rescompile.load(FOLDER / f"{name}.yaml")) for name in (RESNET, PLAIN)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in networks}
    for seed in range(seeds):
        for name, network in networks.items():
            started = time.perf_counter()
            weights = trained(network, data, epochs, seed)
            run = {"seed": seed, **lesions(network, weights, data, draws, seed)}
            if name == RESNET:
                run["reordered"] = reordered(network, weights, data, 4 * draws, seed)
            runs[name].append(run)
            worst = max(run["without"].values())
            say(f"{name}, seed {seed}: error {run['whole']:.1%}, {worst:.1%} without the most important part "
                f"({time.perf_counter() - started:.0f} s)")  # fmt: skip
            if save is not None and seed == 0:
                _save(save, name, weights, data)
    versions = {"rescompile": rescompile.__version__, "torch": torch.__version__, "numpy": np.__version__}
    settings = {"seeds": seeds, "epochs": epochs, "draws": draws, "train": len(data[0]), "test": len(data[2])}
    return {"settings": settings, "versions": versions, "runs": runs}


def _save(folder: Path, name: str, weights: Weights, data: Digits) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / f"{name}.safetensors")
    np.save(folder / "images.npy", data[2].numpy())
    np.save(folder / "classes.npy", data[3].numpy())


# --- report -----------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and the half-width of its 95% interval, which is NaN for a single seed."""
    if len(values) < 2:
        return statistics.mean(values), float("nan")
    t = STUDENT[min(len(values) - 2, len(STUDENT) - 1)]
    return statistics.mean(values), t * statistics.stdev(values) / len(values) ** 0.5


def over_seeds(runs: Sequence[dict[str, Any]], key: str) -> dict[str, tuple[float, float]]:
    """Return for each lesion the mean error over seeds and its interval; the draws of one seed count as one value."""
    found = {}
    for lesion in runs[0][key]:
        values = [run[key][lesion] for run in runs]
        found[str(lesion)] = interval(
            [statistics.mean(value) if isinstance(value, list) else value for value in values]
        )
    return found


def summary(results: dict[str, Any]) -> Iterator[str]:
    """Yield the results of the study as a few lines of text."""
    for name, runs in results["runs"].items():
        whole, half = interval([run["whole"] for run in runs])
        known = f" +- {half:.1%}, over {len(runs)} seeds" if len(runs) > 1 else ", with one seed"
        yield f"{name}: error {whole:.1%}{known}"
        single = over_seeds(runs, "without")
        best, worst = (pick(single, key=lambda part: single[part][0]) for pick in (min, max))
        middle = statistics.median(mean for mean, _ in single.values())
        yield (
            f"  without one of {len(single)}: {single[best][0]:.1%} ({best}) to {single[worst][0]:.1%} ({worst}), "
            f"median {middle:.1%}"
        )
        several = over_seeds(runs, "without_several")
        yield "  without several: " + ", ".join(f"{count}: {several[count][0]:.1%}" for count in several)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the three figures of the paper side by side."""
    import matplotlib
    from matplotlib.figure import Figure

    labels = {RESNET: ("ResNet", "#d1603d"), PLAIN: ("plain network", "#5b7c99")}
    with matplotlib.rc_context({"svg.hashsalt": "lesions", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10.5, 3.4), layout="constrained")
        one, several, order = figure.subplots(1, 3, sharey=True)
        for name, (label, colour) in labels.items():
            runs = results["runs"][name]
            whole = statistics.mean(run["whole"] for run in runs)
            single = list(over_seeds(runs, "without").values())
            places = [(at + 0.5) / len(single) for at in range(len(single))]
            style = {"fmt": "o-", "markersize": 3, "linewidth": 1, "elinewidth": 1, "color": colour, "label": label}
            one.errorbar(places, [mean for mean, _ in single], [half for _, half in single], **style)
            one.axhline(whole, color=colour, linewidth=0.8, linestyle=":")
            some = over_seeds(runs, "without_several")
            counts, bars = [int(count) for count in some], list(some.values())
            several.errorbar(counts, [mean for mean, _ in bars], [half for _, half in bars], **style)
        points = [point for run in results["runs"][RESNET] for point in run["reordered"]]
        order.plot(
            [p["tau"] for p in points],
            [p["error"] for p in points],
            "o",
            markersize=3,
            alpha=0.5,
            color=labels[RESNET][1],
        )
        order.invert_xaxis()
        one.set(
            title="one left out", xlabel="position of the block or layer, from input to output", ylabel="test error"
        )
        several.set(title="several left out at random", xlabel="number of blocks or layers left out")
        order.set(title="ResNet, blocks reordered", xlabel="Kendall's tau with the trained order")
        for plot in (one, several, order):
            plot.set_ylim(-0.02, 1)
            plot.spines[["top", "right"]].set_visible(False)
        one.set_xticks([])
        one.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--draws", type=int, default=5, help="random lesions of each size per seed")
    parser.add_argument("--json", type=Path, help="write the results to this file; with --again, read them from it")
    parser.add_argument("--figure", type=Path, help="draw the results as .svg or .png (requires matplotlib)")
    parser.add_argument(
        "--save", type=Path, metavar="FOLDER", help="save the weights of the first seed and the test digits"
    )
    parser.add_argument("--again", action="store_true", help="skip the measurement and use the results in --json")
    options = parser.parse_args(arguments)
    if min(options.seeds, options.epochs, options.draws) < 1:
        parser.error("there must be at least one seed, one epoch and one draw")
    if options.again and options.json is None:
        parser.error("--again needs the --json file of an earlier run")
    if options.again:
        results = json.loads(options.json.read_text("utf-8"))
    else:
        results = study(
            options.seeds, options.epochs, options.draws, lambda line: print(line, file=sys.stderr), options.save
        )
        if options.json is not None:
            options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    for line in summary(results):
        print(line)
    if options.figure is not None:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
