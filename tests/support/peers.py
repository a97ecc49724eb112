"""Reference outputs of models of torchvision and timm, with random weights under which every bug shows, and error
bounds.

Import this module before torchvision: it declares torchvision's own operators, whose library may not load.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rescompile.bench import torchvision_operators

Array = NDArray[Any]

torchvision_operators.declare()


def randomised(model: nn.Module, size: tuple[int, ...], seed: int = 0, positive: str = "") -> nn.Module:
    """Return the model in evaluation mode with random weights under which every bug shows, and no activation overflows
    or vanishes.

    Fresh norms are the identity and hide one that is missing or swapped, and positive scales hide a max-pool on the
    wrong side of a norm and its relu; so scales have random signs. The running statistics come from a forward pass on
    `size` (batch included), which keeps a network of any depth in range, and are then perturbed, so that they differ
    from all defaults. Only the norm called `positive` has no negative scales. Every parameter is drawn, so the model
    may be uninitialised.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "init_non_persistent_buffers"):  # constants of timm's, such as the filter of a blur
            module.init_non_persistent_buffers()
    norms = [
        module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    ]

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    def others() -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the parameters of other modules than convolutions, linear layers and batch norms: layer norms, scales,
        gains."""
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                usual = isinstance(
                    module, nn.Conv2d | nn.Conv3d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
                ) and name in (
                    "weight",
                    "bias",
                )
                if not usual:
                    yield name, parameter

    with torch.no_grad():
        for norm in norms:
            norm.num_batches_tracked.zero_()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(uniform(module.bias, -0.5, 0.5))
        for norm in norms:
            signs = torch.randint(0, 2, norm.weight.shape, generator=generator) * 2 - 1
            norm.weight.copy_(signs * uniform(norm.weight, 0.5, 1.5))
            norm.bias.copy_(uniform(norm.bias, -0.5, 0.5))
            norm.running_mean.copy_(uniform(norm.bias, -0.5, 0.5))  # of those that a forward pass does not meet
            norm.running_var.copy_(uniform(norm.bias, 0.5, 1.5))
        for name, parameter in others():
            signs = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            drawn = uniform(parameter, -0.5, 0.5) if name == "bias" else signs * uniform(parameter, 0.5, 1.5)
            parameter.copy_(drawn)
        if positive:
            model.get_submodule(positive).weight.abs_()
        model.eval()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0  # the statistics of this one batch
            norm.train()
        model(torch.randn(size, generator=generator))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.running_mean += uniform(norm.bias, -0.3, 0.3) * norm.running_var.sqrt()
            norm.running_var *= uniform(norm.bias, 0.7, 1.4)
    return model.eval()


def arrays(model: nn.Module) -> dict[str, Array]:
    """Return the `state_dict` as numpy arrays, without copies."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def outputs(model: nn.Module, x: Array) -> tuple[Array, Array]:
    """Return the outputs of the model in float32 and in float64, for the same weights and input."""
    with torch.no_grad():
        single = model(torch.from_numpy(x)).numpy()
        double = copy.deepcopy(model).double()(torch.from_numpy(x).double()).numpy()
    return single, double


def joined(found: Mapping[str, Array]) -> Array:
    """Return the outputs of our network in the form of a peer: a single one as it is, several flattened and
    concatenated in the order of their names."""
    if len(found) == 1:
        return next(iter(found.values()))
    return np.concatenate([found[name].reshape(len(found[name]), -1) for name in sorted(found)], axis=1)


def error(found: Array, reference: Array) -> float:
    """Return the relative root mean square error. Element-wise relative errors mean nothing for elements near zero."""
    assert found.shape == reference.shape, f"{found.shape} is not {reference.shape}"
    assert np.isfinite(reference).all()
    difference = np.asarray(found, np.float64) - reference
    return float(np.sqrt(np.mean(difference**2) / np.mean(reference**2)))


def bound(single: Array, double: Array) -> float:
    """Return the largest allowed error against float64: three times that of the peer in float32, and at least 2e-7.

    An absolute bound would depend on the weights, and so prove nothing.
    """
    return max(3 * error(single, double), 2e-7)


def telling(double: Array) -> float:
    """Return how much the outputs of a batch differ between inputs, relative to their size. Near 0, the outputs hardly
    depend on the input (vanished activations, large biases), and a comparison would prove little."""
    return float(np.sqrt(np.mean(double.var(axis=0)) / np.mean(double**2)))
