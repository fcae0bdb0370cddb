"""A number that stands for nodata is read as NaN, by any rank and in any format."""

import numpy as np
import pytest
import tifffile
import torch
import zarr
from torch import nn

import spnb
from spnb.errors import OptionError
from spnb.io.nodata import mask_of, masked
from spnb.io.open import open_source
from spnb.io.sources import SyntheticSource
from spnb.io.thumbnail import thumbnail
from spnb.ir.region import Region
from spnb.viewer.layer import Layer

SIZE = (24, 32)
RNG = np.random.default_rng(0)


def scene(dtype=np.float32, number=-9999, channels=1):
    """An image of which a corner is nodata."""
    kind = np.dtype(dtype)
    high = np.iinfo(kind).max if kind.kind in "ui" else 100
    pixels = RNG.integers(1, high, (channels, *SIZE)).astype(kind)
    pixels[:, :5, :7] = number
    return pixels


def whole(source):
    return source.read(Region.whole((1, *SIZE)))


def with_tag(path, pixels, number, **options):
    extra = [(42113, 2, 0, str(number), True)]
    tifffile.imwrite(path, pixels, extratags=extra, photometric="minisblack", **options)
    return path


def session(channels=1, net=None, **options):
    torch.manual_seed(0)
    net = net or nn.Conv2d(channels, 2, 3, padding=1)
    given = {"image_size": SIZE, "batch_size": 1, "split_size": 1, "num_spatial_parts": 4}
    return spnb.InProcess(spnb.plan(spnb.Job(net, **given | options)))


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        (np.float32, -9999),
        (np.float32, -3.4028234663852886e38),
        (np.float64, 0.1),
        (np.int16, -32768),
        (np.uint8, 0),
        (np.uint8, 255),
        (np.uint16, 65535),
        (np.int32, -(2**31)),
    ],
)
@pytest.mark.parametrize("kind", ["array", "npy", "tif", "zarr", "sliced"])
def test_the_number_is_nan_and_no_other(tmp_path, kind, dtype, number):
    pixels, path = scene(dtype, number), tmp_path / f"a.{kind}"
    image = path
    if kind == "array":
        image = pixels
    elif kind == "npy":
        np.save(path, pixels)
    elif kind == "tif":
        tifffile.imwrite(path, pixels, photometric="minisblack")
    elif kind == "zarr":
        zarr.save_array(str(path), pixels)
    else:
        image = zarr.array(pixels)
    source = open_source(image, channels=1)
    found, plain = whole(masked(source, number)), whole(source)
    expected = np.where(pixels == dtype(number), np.float32(np.nan), plain[0])
    assert np.isnan(expected).sum() >= 35
    assert np.array_equal(found[0], expected, equal_nan=True)


def test_colours_are_nodata_where_all_channels_are():
    pixels = scene(np.uint8, 0, 3)
    pixels[0, 20, 20] = 0  # a dark red, no nodata
    found = whole(masked(open_source(pixels), 0))[0]
    assert np.isnan(found[:, :5, :7]).all() and np.isnan(found).sum() == 3 * 35
    bands = scene(np.float32, -9999, 3)
    bands[0, 20, 20] = -9999  # a band without data there
    found = whole(masked(open_source(bands), -9999))[0]
    assert np.isnan(found).sum() == 3 * 35 + 1


def test_a_number_that_the_image_does_not_hold():
    with pytest.raises(ValueError, match="nodata is -1, but array holds whole numbers from 0 to 2"):
        masked(open_source(scene(np.uint8, 0)), -1)
    with pytest.raises(ValueError, match="synthetic is no array and no file"):
        masked(SyntheticSource((1, 1, 8, 8)), 3)
    with pytest.raises(OptionError, match="nodata is 'tag': give a number, 'file' or None"):
        session().infer(scene(), nodata="tag")


def test_the_network_gives_nan_where_it_looks_at_nodata(tmp_path):
    net = session()
    result = net.infer(scene(), nodata=-9999, preprocess=(0, 10))
    check = result.check()
    assert check.passed and check.nan_count == 2 * 6 * 8  # the corner, and what a 3×3 sees of it
    assert torch.isnan(result.output[0, :, :6, :8]).all()
    path = result.save(tmp_path / "out.tif")
    with tifffile.TiffFile(path) as tif:
        assert all(page.tags[42113].value == "nan" for page in tif.pages)
    assert not torch.isnan(net.infer(scene(), nodata=None).output).any()


def test_the_number_of_the_file(tmp_path, capsys):
    path, net = with_tag(tmp_path / "scene.tif", scene(), -9999), session()
    result = net.infer(path)
    assert torch.isnan(result.output).any() and mask_of(result.source) is not None
    said = "scene.tif: its number for nodata, -9999, is read as NaN; nodata=None"
    assert said in capsys.readouterr().out
    assert not torch.isnan(net.infer(path, nodata=None).output).any()
    assert said not in capsys.readouterr().out
    (mapped,) = net.map([path])
    assert torch.equal(torch.isnan(mapped.output), torch.isnan(result.output))
    # A number that the type does not have is none of any pixel.
    odd = with_tag(tmp_path / "odd.tif", scene(np.uint8, 0), -9999)
    assert not torch.isnan(net.infer(odd).output).any()


def test_pictures_show_the_rest(tmp_path):
    pixels = scene()
    source = masked(open_source(pixels, channels=1), -9999)
    picture = thumbnail(source)
    assert np.isfinite(picture).all() and np.all(picture[:5, :7] == 0)
    rest = pixels[0][pixels[0] != -9999]
    expected = (pixels[0] - rest.min()) / (rest.max() - rest.min())
    assert np.allclose(picture[10:, 10:, 0], expected[10:, 10:], atol=1e-6)
    running = session()
    layer = Layer.of_image(running.infer(pixels, nodata=-9999).source)
    running.stop()
    assert layer.span == (rest.min(), rest.max())
