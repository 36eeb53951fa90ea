"""Regressions whose labels are far from the size of a fresh head's outputs are trained in units of their spread.

With labels like prices a head would have to move by thousands at steps of the learning rate, and a squared error of
10⁹ would leave nothing of R_s. So outputs and labels are divided by the standard deviation s of the training labels
wherever a loss or a divergence is computed; a fresh head begins at their mean, its last weights times s; and the last
layer learns s times as fast, with its weight decay and the optimizer's ε divided by s. This is what training on
standardised labels comes to, step by step, but weights and outputs are in the labels' own units throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SMALLEST, LARGEST = 0.1, 10.0  # where labels are trained on as they are


@dataclass(frozen=True)
class Scale:
    """The mean of a task's training labels, and s; 0 and 1 where they are trained on as they are."""

    mean: float = 0.0
    size: float = 1.0


def scale_of(labels: npt.NDArray[np.float64], standardize: bool | None = None) -> Scale:
    """The scale of a regression's training labels.

    Args:
        labels: (N,); NaN where there is none.
        standardize: Whether they have one. When None, labels of usual size (s of at least `SMALLEST`, s and mean of at
            most `LARGEST`), such as similarities from 0 to 5, are trained on as they are. Labels that are all the same
            always are.
    """
    known = labels[~np.isnan(labels)]
    mean, size = float(known.mean()), float(known.std())
    constant = size <= 1e-9 * max(1e-9, float(np.abs(known).max()))
    usual = size >= SMALLEST and max(abs(mean), size) <= LARGEST
    if constant or (usual if standardize is None else not standardize):
        return Scale()
    return Scale(mean, size)
