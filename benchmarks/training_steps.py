"""Train one network in PyTorch, Flax, Keras and MLX: the same initial weights, the same batches, plain SGD in float32.

All are compared with PyTorch in float64: by the loss at each step, and after the last step by the logits of another batch in
evaluation mode, which depend on all parameters and running statistics. Training amplifies rounding errors, so the effect of
rounding is measured too: the row `rounding` is the largest difference of PyTorch in float32 when the images change by one unit
in the last place. A framework passes if its differences are at most three times as large.

    python benchmarks/training_steps.py [SPEC] [--steps 20] [--batch 8] [--rate 0.005]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
from numpy.typing import NDArray

import rescompile
from rescompile.ir.network import Network
from rescompile.weights import draw

Array = NDArray[Any]


@dataclass(frozen=True)
class Task:
    """The input of every framework: images with channels first, labels, a batch for evaluation, and the learning rate."""

    network: Network
    images: Array
    labels: Array
    held_out: Array
    rate: float

    def model(self, target: str, **options: Any) -> Any:
        """Return the live model of a target with the weights of seed 0."""
        return rescompile.build(self.network, target, dict(draw(self.network)), **options).module

    def nudged(self, seed: int) -> Task:
        """Return the task with each pixel changed by one unit in the last place, up or down at random."""
        signs = np.random.default_rng(seed).choice([-np.inf, np.inf], self.images.shape).astype(np.float32)
        return replace(self, images=np.nextafter(self.images, signs))


@dataclass(frozen=True)
class Run:
    """The loss of each step, and the logits after the last one."""

    losses: list[float]
    logits: Array


def by_torch(task: Task, double: bool = False) -> Run:
    """Train in PyTorch, in float32 or in float64."""
    import torch

    torch.set_num_threads(1)  # fixes the order of sums
    dtype = torch.float64 if double else torch.float32
    model = task.model("torch").to(dtype).train()
    optimizer = torch.optim.SGD(model.parameters(), task.rate)
    losses = []
    for x, y in zip(task.images, task.labels, strict=True):
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x).to(dtype)), torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return Run(losses, model.eval()(torch.from_numpy(task.held_out).to(dtype)).numpy())


def by_flax(task: Task) -> Run:
    """Train in Flax NNX with a jitted step."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    model = task.model("flax", running_variance="unbiased")
    model.train()

    @nnx.jit
    def step(model: Any, x: Any, y: Any) -> Any:
        def loss(model: Any) -> Any:
            return -jnp.take_along_axis(jax.nn.log_softmax(model(x)), y[:, None], 1).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        moved = jax.tree.map(lambda weight, slope: weight - task.rate * slope, nnx.state(model, nnx.Param), gradients)
        nnx.update(model, moved)
        return value

    batches = zip(_last(task.images), task.labels, strict=True)
    losses = [float(step(model, jnp.asarray(x), jnp.asarray(y))) for x, y in batches]
    model.eval()
    return Run(losses, np.asarray(model(jnp.asarray(_last(task.held_out)))))


def by_keras(task: Task) -> Run:
    """Train in Keras, on the backend of KERAS_BACKEND, with the optimizer and loss of Keras."""
    model = task.model("keras", running_variance="unbiased")
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(task.rate), loss)
    losses = []
    for x, y in zip(_last(task.images), task.labels, strict=True):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(x, y)))
    return Run(losses, np.asarray(model.predict_on_batch(_last(task.held_out))))


def by_mlx(task: Task) -> Run:
    """Train in MLX on the CPU."""
    import mlx.core as mx
    from mlx import nn, optimizers

    mx.set_default_device(mx.cpu)
    model = task.model("mlx").train()
    optimizer = optimizers.SGD(task.rate)
    step = nn.value_and_grad(model, lambda x, y: nn.losses.cross_entropy(model(x), y, reduction="mean"))
    losses = []
    for x, y in zip(_last(task.images), task.labels, strict=True):
        value, gradients = step(mx.array(x), mx.array(y))
        optimizer.update(model, gradients)
        mx.eval(model.parameters())
        losses.append(value.item())
    return Run(losses, np.array(model.eval()(mx.array(_last(task.held_out)))))


FRAMEWORKS: dict[str, Callable[[Task], Run]] = {"PyTorch": by_torch, "Flax": by_flax, "Keras": by_keras, "MLX": by_mlx}
#: The number of changed copies of the images, and the allowed multiple of the differences that they cause.
NUDGES, TIMES = 4, 3


@dataclass(frozen=True)
class Row:
    """The last loss of a framework, the largest relative difference of a loss from that of PyTorch in float64, and the root mean
    square difference of the logits relative to their root mean square."""

    name: str
    loss: float
    losses: float
    logits: float


def rows(task: Task) -> Iterator[Row]:
    """Yield the row of rounding errors, and then one row for each framework."""
    exact = by_torch(task, double=True)

    def row(name: str, run: Run) -> Row:
        losses = max(abs(one - other) / other for one, other in zip(run.losses, exact.losses, strict=True))
        logits = np.sqrt(((run.logits - exact.logits) ** 2).mean() / (exact.logits**2).mean())
        return Row(name, run.losses[-1], losses, float(logits))

    spread = [row("rounding", by_torch(task.nudged(seed))) for seed in range(NUDGES)]
    yield Row("rounding", exact.losses[-1], max(each.losses for each in spread), max(each.logits for each in spread))
    for name, train in FRAMEWORKS.items():
        yield row(name, train(task))


def task(spec: str = "resnet20_cifar", steps: int = 20, batch: int = 8, rate: float = 0.005) -> Task:
    """Return a task of random images and labels for a network of the zoo."""
    network = rescompile.elaborate(rescompile.load(spec))
    generator = np.random.default_rng(0)
    images = generator.standard_normal((steps, batch, *network.input)).astype(np.float32)
    labels = generator.integers(0, network.outputs["logits"][0], (steps, batch))
    held_out = generator.standard_normal((batch, *network.input)).astype(np.float32)
    return Task(network, images, labels, held_out, rate)


def _last(x: Array) -> Array:
    """Return images with channels last."""
    return np.ascontiguousarray(np.moveaxis(x, -3, -1))


def main() -> int:
    """Print the table. Return 1 if a framework differs by more than TIMES the row of rounding errors, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", default="resnet20_cifar")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.005)
    print("| | last loss | losses | logits |")
    print("|---|---|---|---|")
    results = []
    for row in rows(task(**vars(parser.parse_args()))):
        results.append(row)
        print(f"| {row.name} | {row.loss:.6f} | {row.losses:.1e} | {row.logits:.1e} |", flush=True)
    rounding, *frameworks = results
    return int(any(row.losses > TIMES * rounding.losses or row.logits > TIMES * rounding.logits for row in frameworks))


if __name__ == "__main__":
    sys.exit(main())
