"""Thumbnails of sources: every so many pixels, never the whole."""

import numpy as np
from image_regions import FIRST, GREY16, whole

from spnb.io.open import open_source
from spnb.io.sources import ArraySource, SyntheticSource
from spnb.io.thumbnail import thumbnail


def test_thumbnail():
    np.testing.assert_array_equal(thumbnail(ArraySource(FIRST)), np.moveaxis(FIRST[0], 0, -1))
    assert thumbnail(ArraySource(FIRST), max_side=131).shape == (97, 131, 3)
    assert thumbnail(ArraySource(FIRST), max_side=130).shape == (49, 66, 3)
    assert thumbnail(SyntheticSource((1, 1, 5000))).shape == (1, 1000, 3)
    volume = SyntheticSource((2, 3, 5, 6, 7))
    np.testing.assert_array_equal(thumbnail(volume), np.moveaxis(whole(volume)[0, :, 2], 0, -1))
    for values in (FIRST * 300 - 20, np.full((1, 1, 4, 4), 7.0)):
        picture = thumbnail(ArraySource(values))
        assert picture.min() == 0
        assert picture.max() <= 1
    assert thumbnail(open_source(GREY16, batch_size=2)).shape == (97, 131, 3)


def test_thumbnail_of_a_huge_image_reads_little():
    picture = thumbnail(SyntheticSource((1, 3, 16384, 16384)), max_side=64)
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 0.2
