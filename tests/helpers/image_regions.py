"""Images, and a check that a source reads any region of them as the slice of the whole."""

import pickle

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spnb.io.sources import Source
from spnb.ir.region import Region

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (97, 131, 3), np.uint8)
GREY16 = RANDOM.integers(0, 2**16, (97, 131), np.uint16)
FIRST = np.moveaxis(RGB, -1, 0)[None] / np.float32(255)
SECOND = np.moveaxis(255 - RGB, -1, 0)[None] / np.float32(255)


def whole(source):
    return source.read(Region.whole((source.shape[0], *source.shape[2:])))


@st.composite
def regions(draw, shape):
    spans = []
    for n in (shape[0], *shape[2:]):
        start = draw(st.integers(0, n - 1))
        spans.append((start, draw(st.integers(start, n))))
    return Region(tuple(spans))


def reads_like(source, reference, examples=15):
    """The source reads any region as the reference's slice, and so does its pickled twin."""
    assert isinstance(source, Source)
    assert source.shape == reference.shape
    twin = pickle.loads(pickle.dumps(source))

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(regions(source.shape))
    def check(region):
        read = twin.read(region)
        batch, *box = region.slices_in(Region.whole((source.shape[0], *source.shape[2:])))
        assert read.dtype == np.float32
        as_ranks_need_it = np.moveaxis(read, 1, -1) if read.ndim > 3 else read
        assert as_ranks_need_it.flags.c_contiguous
        np.testing.assert_array_equal(read, reference[(batch, slice(None), *box)])

    check()
    np.testing.assert_array_equal(whole(source), reference)
