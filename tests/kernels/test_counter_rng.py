"""Random numbers by position."""

import numpy as np

from spnb.kernels.counter_rng import mixed


def test_the_hash_is_splitmix64():
    """The first numbers that its authors' program gives for the seed 0."""
    found = mixed(np.array([1, 2, 3], np.uint64)).tolist()
    assert found == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
