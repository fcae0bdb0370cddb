"""Slides: a TIFF is known by its content, and its tiles are decoded one by one."""

import sys
import tracemalloc

import numpy as np
import pytest
import tifffile

from spnb.io.open import open_source
from spnb.io.readers import slides
from spnb.io.readers.decoding import decoded_at_once, decoding_text
from spnb.io.readers.slides import SlideSource
from spnb.io.readers.tiff import TiffSource
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


APERIO = "Aperio Image Library v1\n2560x2064 [0,0 2560x2064] (256x256) JPEG/RGB Q=95|AppMag = 20"


def pyramid(pixels, path, kind):
    """Write a pyramid of three levels; return its levels."""
    levels = [pixels, pixels[:-1:2, ::2], pixels[:-3:4, 1::4]]
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib", "metadata": None}
    with tifffile.TiffWriter(path) as tif:
        for k, level in enumerate(levels):
            if kind == "Aperio":
                tif.write(level, description=APERIO, **options)
            elif kind == "Aperio with a thumbnail":
                tif.write(level, description=APERIO, **options)
                if not k:
                    tif.write(levels[2], photometric="rgb", metadata=None)
            elif kind == "pages":
                tif.write(level, subfiletype=int(k > 0), **options)
            else:
                more = {"subfiletype": 1} if k else {"subifds": 2}
                tif.write(level, **options, **more)
    return levels


PYRAMIDS = ["Aperio", "Aperio with a thumbnail", "pages", "pages in a page"]


def whole(level):
    return Region.whole((1, *level.shape[:2]))


def as_read(level):
    return np.moveaxis(level, -1, 0)[None] / np.float32(255)


@pytest.mark.parametrize("kind", PYRAMIDS)
def test_a_level_of_a_pyramid(slide, kind):
    pixels, folder = slide
    path = folder / f"{kind}.svs"
    for number, level in enumerate(pyramid(pixels, path, kind)):
        source = open_source(f"{path}@{number}", size=level.shape[:2])
        assert source.name == f"{kind}.svs@{number}"
        assert np.array_equal(source.read(whole(level)), as_read(level))
        part = Region(((0, 1), (100, 237), (33, 300)))
        assert np.array_equal(source.read(part), as_read(level[100:237, 33:300]))
        assert decoded_at_once(source) == 256 * 256 * 3
    with pytest.raises(ValueError, match=r"there is no level 3: .* has levels 0 to 2"):
        open_source(f"{path}@3")


def test_a_file_whose_name_has_an_at_sign(slide, tmp_path):
    named, level = tmp_path / "a.tif@1", COARSE
    tifffile.imwrite(named, level, photometric="rgb")
    assert np.array_equal(open_source(named).read(whole(level)), as_read(level))
    np.save(tmp_path / "b.npy", np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"b.npy@1: only slides and TIFFs have levels"):
        open_source(tmp_path / "b.npy@1")


@pytest.mark.parametrize("kind", PYRAMIDS[:3])
def test_openslide_reads_the_same_levels(slide, kind, monkeypatch):
    pytest.importorskip("openslide", reason="pip install -r requirements.txt")
    pixels, folder = slide
    path = folder / f"openslide {kind}.tif"
    levels = pyramid(pixels, path, kind)
    for number, level in enumerate(levels):
        source = SlideSource(str(path), level=number)
        found = source.read(whole(level))
        # A level is not exactly half as large: then OpenSlide weighs neighbours.
        assert np.abs(found - as_read(level)).max() < (0.1 if number else 1e-6)
        part = Region(((0, 1), (100, 237), (33, 300)))
        assert np.array_equal(source.read(part), found[:, :, 100:237, 33:300])
    assert source.read(Region(((0, 0), (0, 9), (0, 9)))).shape == (0, 3, 9, 9)


def test_overlapping_tiles_are_put_together_by_openslide_only(slide, monkeypatch):
    path = slide[1] / "a.bif"
    note = "<xmp><iScan>Ventana</iScan></xmp>"
    extra = [(700, 1, len(note), note.encode(), True)]
    options = {"photometric": "rgb", "tile": (64, 64), "software": "Ventana", "metadata": None}
    tifffile.imwrite(path, COARSE, extratags=extra, **options)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_bif
    monkeypatch.setitem(sys.modules, "openslide", None)
    slides._opened_at.cache_clear()
    (other := path.with_suffix(".mrxs")).write_bytes(b"no slide")
    for name in (path, other):
        with pytest.raises(ValueError, match="needs the package openslide: pip install openslide"):
            open_source(name)
