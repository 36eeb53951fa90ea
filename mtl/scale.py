"""Scaling of regressions whose labels differ in magnitude from a fresh head's outputs.

With labels such as prices, a head would have to move by thousands in steps of the size of the learning rate, and a
squared error of 10⁹ would swamp R_s. Outputs and labels are therefore divided by the standard deviation s of the
training labels wherever a loss or divergence is computed; a fresh head's last layer is multiplied by s and its bias
shifted by the labels' mean; and the last layer's gradient is multiplied by s before it is clipped, its learning rate is
multiplied by s, and its weight decay divided by s. Every step is thus that of training on standardised labels, but
weights and outputs are in the labels' own units throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SMALLEST, LARGEST = 0.1, 10.0  # magnitudes of labels that are not scaled
FAR = 10.0  # standard deviations from 0 to a mean that a head without bias does not reach


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation (s, `size`) of a task's training labels; 0 and 1 if they are not scaled."""

    mean: float = 0.0
    size: float = 1.0

    @property
    def is_far(self) -> bool:
        """Whether a head cannot learn labels with this mean unless it starts there."""
        return abs(self.mean) > FAR * self.size


def scale_of(labels: npt.NDArray[np.float64], standardize: bool | None = None) -> Scale:
    """Scale of a regression's training labels.

    Args:
        labels: (N,); NaN where unlabelled.
        standardize: Whether to scale. If None, labels of usual magnitude (s of at least `SMALLEST`, s and |mean| of at
            most `LARGEST`), such as similarities from 0 to 5, are not scaled. Constant labels never are.
    """
    known = labels[~np.isnan(labels)]
    mean, size = float(known.mean()), float(known.std())
    constant = size <= 1e-9 * max(1e-9, float(np.abs(known).max()))
    usual = size >= SMALLEST and max(abs(mean), size) <= LARGEST
    if constant or (usual if standardize is None else not standardize):
        return Scale()
    return Scale(mean, size)
