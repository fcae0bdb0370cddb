"""Sources: noise of any size, one image as a batch, and files that ranks can read."""

import pickle
import tracemalloc

import numpy as np
import pytest
import tifffile
import torch
from image_regions import FIRST, RGB, reads_like, whole

from spnb.io.open import open_source
from spnb.io.readers.tiff import TiffSource
from spnb.io.resident import ResidentSources
from spnb.io.sources import ArraySource, FileSource, Repeated, SyntheticSource
from spnb.io.tensors import read_tensor
from spnb.ir.axes import Axes
from spnb.ir.region import Region
from spnb.runtime.halo_tile import channels_last


@pytest.mark.parametrize("shape", [(2, 3, 97, 131), (1, 2, 1001), (1, 1, 7, 9, 11)])
def test_synthetic_regions(shape):
    source = SyntheticSource(shape, seed=3)
    reads_like(source, whole(source))
    assert not np.array_equal(whole(source), whole(SyntheticSource(shape, seed=4)))


def test_synthetic_is_uniform_noise():
    values = whole(SyntheticSource((1, 3, 500, 401)))
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 2e-3
    assert abs(values.std() - 12**-0.5) < 2e-3
    counts = np.histogram(values, 64, (0, 1))[0]
    assert abs(counts / counts.mean() - 1).max() < 0.1
    other = whole(SyntheticSource((1, 3, 500, 401), seed=1))
    pairs = [(values[..., lag:], values[..., :-lag]) for lag in (1, 2, 64)]
    pairs += [(values[:, :, 1:], values[:, :, :-1]), (values[:, 0], values[:, 1]), (values, other)]
    for a, b in pairs:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01


def test_synthetic_of_a_huge_image():
    source = open_source(None, size=(65536, 65536))
    tile = Region(((0, 1), (65500, 65536), (65500, 65536)))
    values = source.read(tile)
    assert len(np.unique(values)) > 0.99 * values.size
    part = Region(((0, 1), (65530, 65536), (65510, 65511)))
    np.testing.assert_array_equal(source.read(part), values[:, :, 30:, 10:11])
    assert len(pickle.dumps(source)) < 200


def test_one_image_is_a_batch_without_copies():
    source = open_source(RGB, batch_size=8)
    assert isinstance(source, Repeated)
    reads_like(source, np.repeat(FIRST, 8, 0), examples=5)
    assert len(pickle.dumps(source)) < RGB.size + 1000
    assert open_source(source, batch_size=8) is source
    plain = SyntheticSource((2, 3, 8, 8))
    assert open_source(plain) is plain


def test_resident(tmp_path):
    folder = tmp_path / "new"
    sources = ResidentSources(folder)
    source = sources.resident(open_source(RGB, batch_size=8))
    assert len(pickle.dumps(source)) < 1000
    assert sum(file.stat().st_size for file in folder.iterdir()) < RGB.size + 1000
    reads_like(source, np.repeat(FIRST, 8, 0), examples=5)
    retina = sources.resident(open_source("retina"))
    assert isinstance(retina, FileSource)
    assert retina.name == "retina"
    for kept in (SyntheticSource((1, 3, 8, 8)), retina):
        assert sources.resident(kept) is kept


@pytest.mark.parametrize("spans", [((0, 1), (0, 98), (0, 4)), ((0, 2), (0, 4), (0, 4)), ((0, 1),)])
def test_regions_outside_are_refused(spans, tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", RGB, photometric="rgb")
    sources = [ArraySource(FIRST), SyntheticSource(FIRST.shape), TiffSource(tmp_path / "scan.tif")]
    for source in [*sources, Repeated(ArraySource(FIRST[:, :1]), 1, 3)]:
        with pytest.raises(ValueError):
            source.read(Region(spans))


def test_names_and_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("here.npy", FIRST)
    source = FileSource("here.npy")
    monkeypatch.chdir("/")
    assert source.name == "here.npy"
    reads_like(source, FIRST, examples=3)


@pytest.mark.parametrize("kind", ["bytes", "planes", "file", "file of planes", "synthetic"])
def test_an_image_is_read_into_the_memory_that_a_rank_keeps(kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 700, 900, 3), np.uint8)
    first = np.moveaxis(pixels, -1, 1)
    if kind.startswith("file"):
        np.save(tmp_path / "a.npy", (first if "planes" in kind else pixels[0]).astype(np.float64))
        source = open_source(tmp_path / "a.npy", channels=3)
    elif kind == "synthetic":
        source = SyntheticSource(first.shape)
    else:
        source = ArraySource(np.ascontiguousarray(first) if kind == "planes" else first)
    all_of_it = Region.whole((1, *first.shape[2:]))
    source.read(Region(((0, 1), (0, 9), (0, 9))))  # what is made once
    tracemalloc.start()
    found = read_tensor(source, all_of_it, torch.float32)
    kept = channels_last(found, Axes.image(first.shape))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept.data_ptr() == found.data_ptr()
    # Mapped files are not traced; numpy counts what it allocates.  Synthetic numbers need hashes.
    assert most < found.nbytes * 1.1 + (2**22 if kind == "synthetic" else 0)
    if kind != "synthetic":
        wanted = torch.from_numpy(pixels).movedim(-1, 1).float()
        assert torch.equal(kept, wanted if kind.startswith("file") else wanted / 255)
