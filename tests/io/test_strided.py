"""Every n-th pixel is that of the whole image, and only the pieces with such pixels are read."""

import numpy as np
import pytest
import tifffile
import zarr

from spnb.io.open import open_source
from spnb.io.readers.zarr_source import ZarrSource
from spnb.io.sources import Repeated
from spnb.io.strided import piece_of, strided

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)


def stored(kind, folder):
    """The pixels as a file or an array of a kind."""
    if kind == "npy":
        np.save(folder / "a.npy", PIXELS)
        return folder / "a.npy"
    if kind == "tiles":
        tifffile.imwrite(folder / "a.tif", PIXELS, tile=(64, 48), compression="zlib")
        return folder / "a.tif"
    if kind == "strips":
        tifffile.imwrite(folder / "a.tif", PIXELS, rowsperstrip=20, compression="zlib")
        return folder / "a.tif"
    chunks = (32, 80, 3)
    if kind == "slices":
        return zarr.create_array({}, data=PIXELS, chunks=chunks)
    zarr.create_array(str(folder / "a.zarr"), data=PIXELS, chunks=chunks)
    return folder / "a.zarr"


@pytest.mark.parametrize(
    ("kind", "piece"),
    [
        ("npy", (1, 0)),
        ("tiles", (64, 48)),
        ("strips", (20, 500)),
        ("zarr", (32, 80)),
        ("slices", (32, 80)),
    ],
)
@pytest.mark.parametrize("steps", [(1, 1), (4, 4), (50, 90)])
def test_it_is_a_slice_of_the_whole_image(kind, piece, steps, tmp_path):
    source = open_source(stored(kind, tmp_path), batch_size=2)
    assert isinstance(source, Repeated)
    assert piece_of(source) == piece
    found = strided(source, ((10, 290), (7, 499)), steps)
    wanted = np.moveaxis(PIXELS[10 : 290 : steps[0], 7 : 499 : steps[1]], -1, 0)
    assert found.exact
    np.testing.assert_allclose(found.pixels, wanted / np.float32(255), rtol=1e-6)


def test_of_too_many_pieces_an_even_choice_is_read(tmp_path, monkeypatch):
    source = open_source(stored("zarr", tmp_path))
    read = []
    own = ZarrSource.read

    def counted(self, region):
        read.append(region)
        return own(self, region)

    monkeypatch.setattr(ZarrSource, "read", counted)
    found = strided(source, ((0, 300), (0, 500)), (4, 4), most=20)
    assert len(read) == 5 * 3  # of 10 × 7 chunks, every second of each axis
    assert not found.exact
    assert found.pixels.shape == (3, 75, 125)
    kept = np.moveaxis(PIXELS[32:64:4, 80:160:4], -1, 0) / np.float32(255)
    np.testing.assert_allclose(found.pixels[:, 8:16, 20:40], kept, rtol=1e-6)
    assert strided(source, ((0, 300), (0, 500)), (4, 4), most=70).exact
