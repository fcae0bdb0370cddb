"""TIFF files in every layout read any region as the slice of the whole."""

import pickle

import numpy as np
import pytest
import tifffile
from image_regions import FIRST, GREY16, RGB, SECOND, reads_like, whole
from PIL import Image

from spnb.io.open import open_source
from spnb.io.readers.tiff import TiffSource
from spnb.io.thumbnail import thumbnail
from spnb.ir.region import Region

TIFFS = {
    "one strip": {},
    "strips": {"rowsperstrip": 10},
    "big endian": {"byteorder": ">"},
    "tiles": {"tile": (32, 48)},
    "zlib": {"compression": "zlib"},
    "zlib strips": {"compression": "zlib", "rowsperstrip": 10},
    "zlib tiles": {"compression": "zlib", "tile": (32, 48), "predictor": True},
    "bigtiff": {"bigtiff": True, "compression": "zlib", "tile": (16, 16)},
}


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", TIFFS)
def test_tiff_rgb(kind, planar, tmp_path):
    path, options = tmp_path / "scan.tif", TIFFS[kind]
    if planar:
        options = options | {"planarconfig": "separate"}
    tifffile.imwrite(path, np.moveaxis(RGB, -1, 0) if planar else RGB, photometric="rgb", **options)
    source = open_source(path)
    assert isinstance(source, TiffSource)
    assert len(pickle.dumps(source)) < 1000
    reads_like(source, FIRST)
    assert thumbnail(source, 50).shape == (33, 44, 3)
    np.testing.assert_array_equal(thumbnail(source, 50), np.moveaxis(FIRST[0, :, ::3, ::3], 0, -1))


@pytest.mark.parametrize("kind", TIFFS)
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_tiff_grey(kind, dtype, tmp_path):
    path = tmp_path / "scan.tiff"
    options = {**TIFFS[kind], "predictor": dtype == np.uint16 and "zlib" in kind}
    tifffile.imwrite(path, GREY16.astype(dtype), photometric="minisblack", **options)
    reference = GREY16[None, None] / np.float32(65535 if dtype == np.uint16 else 1)
    reads_like(open_source(path, channels=1), reference)
    assert open_source(path, batch_size=2).shape == (2, 3, 97, 131)
    reads_like(open_source(path, batch_size=2), np.tile(reference, (2, 3, 1, 1)), examples=5)


def test_tiff_alpha_channels_pages_and_sparse_tiles(tmp_path):
    path = tmp_path / "scan.tif"
    rgba = np.dstack([RGB, RGB[..., 0]])
    tifffile.imwrite(path, rgba, photometric="rgb", tile=(32, 32), compression="zlib")
    reads_like(open_source(path), FIRST)
    bands = np.moveaxis(np.dstack([RGB, RGB[..., :2]]), -1, 0)
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="separate")
    reads_like(open_source(path, channels=5), FIRST[:, [0, 1, 2, 0, 1]])
    tifffile.imwrite(path, np.stack([RGB, 255 - RGB]), photometric="rgb")
    reads_like(open_source(path), np.concatenate([FIRST, SECOND]))
    tifffile.imwrite(path, GREY16 > 30000, photometric="minisblack")
    reads_like(open_source(path, channels=1), (GREY16 > 30000)[None, None].astype(np.float32))
    Image.fromarray(GREY16 > 30000).save(path)
    reads_like(open_source(path, channels=1), (GREY16 > 30000)[None, None].astype(np.float32))
    tifffile.imwrite(path, np.float32(bands), photometric="minisblack", metadata=None)
    with pytest.raises(ValueError, match="5 grey pages, but 3 channels"):
        open_source(path, channels=3)
    reads_like(open_source(path, channels=5), np.float32(bands)[None])
    with pytest.raises(ValueError, match=r"array of shape .* has 1 channels, but 5 are asked for"):
        open_source(GREY16, channels=5)
    sparse = RGB.copy()
    sparse[:64] = 0
    tifffile.imwrite(
        path, sparse, photometric="rgb", tile=(32, 32), compression="zlib", contiguous=False
    )
    reads_like(open_source(path), np.moveaxis(sparse, -1, 0)[None] / np.float32(255))


def test_compressed_tiff_decodes_only_what_the_region_meets(tmp_path, monkeypatch):
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(16, 16), compression="zlib")
    source, decoded = TiffSource(path), []
    decode = tifffile.TiffPage.decode

    def counting(page):
        function = decode.func(page) if hasattr(decode, "func") else decode.fget(page)
        return lambda data, index, **kw: decoded.append(index) or function(data, index, **kw)

    monkeypatch.setattr(tifffile.TiffPage, "decode", property(counting))
    source.read(Region(((0, 1), (20, 33), (16, 17))))
    assert decoded == [10, 19]  # nine tiles across: rows 1 and 2 of column 1


@pytest.mark.parametrize("codec", ["tiff_lzw", "jpeg", "group4", "palette"])
def test_tiff_that_only_pillow_decodes(codec, tmp_path):
    """With imagecodecs installed some of these are read by region: the values are the same."""
    image, path = Image.fromarray(RGB), tmp_path / "scan.tif"
    image = {"group4": image.convert("1"), "palette": image.quantize(16)}.get(codec, image)
    image.save(path, compression=None if codec == "palette" else codec)
    with Image.open(path) as saved:
        pixels = np.asarray(saved.convert("RGB"))
    expected = np.moveaxis(pixels, -1, 0)[None] / np.float32(255)
    np.testing.assert_allclose(whole(open_source(path)), expected, atol=0.02)
