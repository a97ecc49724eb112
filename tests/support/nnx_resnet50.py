"""ResNet-50 in Flax NNX, written by hand from the paper with torchvision's choices: a reference for generated source.

He et al. 2015, table 1, with the bottlenecks of figure 5 right. As in torchvision, the 3x3 convolution has the stride,
padding is symmetric, and the projection is a 1x1 convolution with a norm. Weights are loaded by torchvision's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

DEPTHS = (3, 4, 6, 3)


class ConvNorm(nnx.Module):
    """A convolution without bias, followed by batch normalisation."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> None:
        border = (size - 1) // 2
        self.conv = nnx.Conv(
            inputs, outputs, (size, size), strides=(stride, stride), padding=((border, border), (border, border)),
            use_bias=False, rngs=rngs,
        )  # fmt: skip
        self.norm = nnx.BatchNorm(outputs, use_running_average=True, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))

    def read(self, state: Mapping[str, Any], conv: str, norm: str) -> None:
        """Load the tensors from a state dict."""
        self.conv.kernel.set_value(jnp.asarray(np.transpose(state[f"{conv}.weight"], (2, 3, 1, 0))))
        for variable, name in (
            (self.norm.scale, "weight"), (self.norm.bias, "bias"),
            (self.norm.mean, "running_mean"), (self.norm.var, "running_var"),
        ):  # fmt: skip
            variable.set_value(jnp.asarray(state[f"{norm}.{name}"]))


class Residual(nnx.Module):
    """A bottleneck of 1x1, 3x3 and 1x1 convolutions, with the identity or a projection as shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, rngs: nnx.Rngs) -> None:
        self.reduce = ConvNorm(inputs, width, 1, 1, rngs)
        self.spatial = ConvNorm(width, width, 3, stride, rngs)
        self.expand = ConvNorm(width, 4 * width, 1, 1, rngs)
        self.project = nnx.data(ConvNorm(inputs, 4 * width, 1, stride, rngs) if inputs != 4 * width else None)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.reduce(x))
        y = jax.nn.relu(self.spatial(y))
        shortcut = x if self.project is None else self.project(x)
        return jax.nn.relu(self.expand(y) + shortcut)

    def read(self, state: Mapping[str, Any], scope: str) -> None:
        """Load the tensors from a state dict."""
        for number, part in enumerate((self.reduce, self.spatial, self.expand), 1):
            part.read(state, f"{scope}.conv{number}", f"{scope}.bn{number}")
        if self.project is not None:
            self.project.read(state, f"{scope}.downsample.0", f"{scope}.downsample.1")


class ResNet50(nnx.Module):
    """The network for images with channels last, in evaluation mode."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = ConvNorm(3, 64, 7, 2, rngs)
        blocks, channels = [], 64
        for row, depth in enumerate(DEPTHS):
            for number in range(depth):
                blocks.append(Residual(channels, 64 << row, 2 if row and not number else 1, rngs))
                channels = 4 * (64 << row)
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(channels, 1000, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.stem(x))
        x = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        )
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))

    def read(self, state: Mapping[str, Any]) -> None:
        """Load the tensors from a state dict with torchvision's names."""
        self.stem.read(state, "conv1", "bn1")
        scopes = (f"layer{row}.{number}" for row, depth in enumerate(DEPTHS, 1) for number in range(depth))
        for block, scope in zip(self.blocks, scopes, strict=True):
            block.read(state, scope)
        self.head.kernel.set_value(jnp.asarray(np.transpose(state["fc.weight"])))
        self.head.bias.set_value(jnp.asarray(state["fc.bias"]))
