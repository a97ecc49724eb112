"""A network whose output shows which branches drop-path kept, and a check of frequencies against probabilities."""

from __future__ import annotations

import numpy as np

#: A network whose output is the product of the factors on its path. By the expansion rule of fractal networks it has three
#: columns: 2 3 7 11, 5 13 and 17.
FACTORS = """
rescompile: 1
name: factors
input: [1]
network:
  - keep: start
  - scale: 2
  - first: {parallel: {merge: mean, branches: [{scale: 3}, [{use: start}, {scale: 5}]]}}
  - keep: middle
  - scale: 7
  - second: {parallel: {merge: mean, branches: [{scale: 11}, [{use: middle}, {scale: 13}], [{use: start}, {scale: 17}]]}}
"""
#: The output if a merge keeps the branch of one column only.
COLUMN_PRODUCTS = (2 * 3 * 7 * 11, 5 * 13, 17)
#: The number of samples of which frequencies are taken.
SAMPLES = 20_000


def is_near(frequency: float, probability: float, count: int = SAMPLES) -> bool:
    """Return whether a frequency is within five standard errors of its probability."""
    return bool(abs(frequency - probability) <= 5 * np.sqrt(probability * (1 - probability) / count))
