"""Slides: a TIFF is known by its content, and its tiles are decoded one by one."""

import tracemalloc

import numpy as np
import pytest
import tifffile

from spnb.io.decoding import decoded_at_once, decoding_text
from spnb.io.open import open_source
from spnb.io.tiff import TiffSource
from spnb.ir.region import Region

RANDOM = np.random.default_rng(7)
COARSE = RANDOM.integers(0, 256, (129, 160, 3), np.uint8)
SIDE = 256
REGION = Region(((0, 1), (700, 700 + SIDE), (1000, 1000 + SIDE)))


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A picture of 2064×2560 pixels in memory, and the folder of its files."""
    return np.kron(COARSE, np.ones((16, 16, 1), np.uint8)), tmp_path_factory.mktemp("slides")


@pytest.mark.slow(but_each=4)
@pytest.mark.long
@pytest.mark.parametrize("suffix", ["tif", "svs", "scn", "img", ""])
@pytest.mark.parametrize("compression", ["jpeg", "zlib", "jpeg2000", "webp", None])
def test_a_region_of_a_slide_takes_the_memory_of_the_region(slide, suffix, compression):
    pixels, folder = slide
    path = folder / f"{compression}.{suffix}"
    options = {"compression": compression, "compressionargs": {"level": 90}}
    if compression in (None, "zlib"):
        options.pop("compressionargs")
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), **options)
    rows, columns = (slice(*span) for span in REGION.spans[1:])
    expected = np.moveaxis(tifffile.imread(path)[rows, columns], -1, 0)[None] / np.float32(255)
    source = open_source(path)
    assert isinstance(source, TiffSource)
    source.read(REGION)  # what is imported is counted once
    tracemalloc.start()
    found = open_source(path).read(REGION)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found, expected)
    assert peak < 2 << 20  # float32 takes 0.75 MiB, the whole slide 15 MiB as bytes
    assert decoded_at_once(source) == 256 * 256 * 3


@pytest.mark.long
def test_colours_of_a_jpeg_are_those_of_its_photometric(slide):
    pixels, folder = slide
    for colours in ("rgb", "ycbcr"):
        path, options = folder / f"{colours}.svs", {"level": 95}
        if colours == "rgb":
            options["outcolorspace"] = "rgb"
        tifffile.imwrite(
            path,
            pixels,
            photometric="rgb",
            tile=(256, 256),
            compression="jpeg",
            compressionargs=options,
        )
        with tifffile.TiffFile(path) as tif:
            assert tif.pages[0].photometric.name.lower() == colours
        expected = np.moveaxis(tifffile.imread(path), -1, 0)[None] / np.float32(255)
        found = open_source(path).read(Region.whole((1, *pixels.shape[:2])))
        assert np.array_equal(found, expected)
        assert np.abs(found - np.moveaxis(pixels, -1, 0) / np.float32(255)).mean() < 0.05


def test_a_plan_says_what_is_decoded_at_once(slide):
    pixels, folder = slide
    tifffile.imwrite(
        folder / "a.svs", pixels, photometric="rgb", tile=(256, 256), compression="zlib"
    )
    tifffile.imwrite(
        folder / "whole.tif",
        pixels,
        photometric="rgb",
        rowsperstrip=len(pixels),
        compression="zlib",
    )
    tiles, strip = (decoding_text(open_source(folder / name)) for name in ("a.svs", "whole.tif"))
    assert tiles == "a.svs is read by region; 192.0 KiB are decoded at once"
    assert strip == "whole.tif is read by region; 15.1 MiB are decoded at once"
    assert decoding_text(open_source("retina")) == "retina is decoded whole: 5.7 MiB"
    assert decoding_text(open_source(None, size=(8, 8))) == "synthetic is read by region"
