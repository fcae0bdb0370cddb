"""Property tests of whole plans: their settings, and how a network is split at random."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from spnb.ir.tiling import Tiling

RANDOM_NETWORKS = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
    ],
)
"""Many networks are refused by the planner, and one example may take a second."""


def few_and_many(many):
    """Run a test with a third of so many `examples`, and in the slow part with all of them."""
    in_slow = pytest.param(many, marks=pytest.mark.slow)
    return pytest.mark.parametrize("examples", [max(4, many // 3), in_slow])


@st.composite
def splits(draw, axes):
    """Grids of one or two tiled stages and an untiled one."""
    grids = [
        (1, *(draw(st.integers(1, 3)) for _ in range(axes))) for _ in range(draw(st.integers(1, 2)))
    ]
    untiled = (draw(st.sampled_from([1, 1, 2])), *(1,) * axes)
    return [Tiling.even(grid) for grid in [*grids, untiled]]
