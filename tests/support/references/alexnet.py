"""AlexNet as published (Krizhevsky et al. 2012), on one device: groups where the two GPUs did not exchange their maps."""

from __future__ import annotations

from torch import nn


def lrn() -> nn.LocalResponseNorm:
    """The response normalisation of section 3.3; torch divides alpha by the number of channels."""
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


def net(classes: int = 1000) -> nn.Module:
    """The eight layers of section 3.5."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), lrn(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), lrn(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    classifier = nn.Sequential(
        *(nn.Flatten(), nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, classes)),
    )
    whole = nn.Sequential()
    whole.add_module("features", features)
    whole.add_module("classifier", classifier)
    return whole
