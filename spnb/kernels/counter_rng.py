"""Random numbers by position: each tile computes its own, independently of other tiles."""

from __future__ import annotations

import numpy as np


def mixed(counter: np.ndarray) -> np.ndarray:
    """The SplitMix64 hash of each counter (Steele, Lea and Flood, 2014).

    Parameters
    ----------
    counter
        Unsigned 64-bit integers, of any shape; different counters give different hashes.

    Returns
    -------
    numpy.ndarray
        64 random bits for each counter, of the same shape.

    Examples
    --------
    >>> mixed(np.array([0, 1], np.uint64)) >> np.uint64(40)
    array([       0, 14819496], dtype=uint64)
    """
    z = counter * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    return z ^ (z >> np.uint64(31))
