"""What `open_source` resizes, and what it refuses with the reason."""

import numpy as np
import pytest
import tifffile
import torch
from image_regions import FIRST, RGB, whole
from PIL import Image

from spnb.io.open import open_source
from spnb.io.sources import SyntheticSource


@pytest.mark.parametrize("size", [(48, 64), (200, 131), (97, 1)])
def test_resize(size):
    gradient = np.repeat(np.linspace(0, 1, 97, dtype=np.float32)[:, None], 131, 1)
    source = open_source(gradient, size=size, resize=True)
    assert source.shape == (1, 3, *size)
    values = whole(source)
    assert values.min() >= 0
    assert values.max() <= 1
    expected = np.clip((np.arange(size[0]) + 0.5) / size[0] * 97 / 96 - 0.5 / 96, 0, 1)
    np.testing.assert_allclose(values[0, 0, :, 0], expected, atol=0.01)
    constant = open_source(np.ones((2, 3, 20, 30), np.uint8), size=(7, 50), resize=True)
    np.testing.assert_allclose(whole(constant), 1 / 255, atol=1e-6)


def test_resize_is_antialiased_in_any_number_of_axes():
    checks = np.indices((64, 64)).sum(0) % 2 * 1.0
    smaller = open_source(checks, size=(16, 16), resize=True)
    np.testing.assert_allclose(whole(smaller), 0.5, atol=0.03)
    volume = open_source(np.zeros((4, 8, 8)), size=(2, 3, 4), channels=1, resize=True)
    assert volume.shape == (1, 1, 2, 3, 4)
    signal = whole(open_source(np.arange(100.0), size=(10,), channels=1, resize=True))
    np.testing.assert_allclose(signal[0, 0], np.arange(4.5, 100, 10), atol=1)


def test_another_size_is_told_or_refused():
    source = open_source(np.zeros((20, 30)), size=(10, 15), resize=True)
    assert source.name == "array resized from 20x30"
    with pytest.raises(ValueError, match=r"array is 20x30, but 10x15 is planned: plan with"):
        open_source(np.zeros((20, 30)), size=(10, 15), resize=False)


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (None, {}, "a synthetic image needs a size"),
        ("nowhere/a.png", {}, "there is no image file nowhere/a.png"),
        ("retin", {}, "did you mean retina"),
        ("qqqqq", {}, "they are astronaut"),
        ("skin", {}, "the sample skin is not a file inside scikit-image"),
        (".", {}, "is a folder"),
        ([1, 2], {}, "cannot open a list"),
        (RGB, {"channels": 1}, r"\(97, 131, 3\): neither its first axis nor its last may be the 1"),
        (RGB[:3], {}, r"\(3, 131, 3\): both its first axis and its last may be the 3 channels"),
        (
            RGB[None],
            {},
            r"\(1, 97, 131, 3\) has 97 channels.* last: give image\.transpose\(0, 3, 1, 2\)",
        ),
        (RGB[None, None], {"size": (8, 8)}, "array is 97x131x3, but 8x8 is asked for"),
        (FIRST, {"channels": 4}, "has 3 channels, but 4 are asked for"),
        (
            np.zeros((2, 3, 8, 8)),
            {"batch_size": 5},
            "array holds 2 images, but the batch size is 5",
        ),
        (np.zeros((0, 3)), {}, r"array is empty: its shape is \(1, 1, 0, 3\)"),
        (np.zeros((8, 8), complex), {}, "complex128: an image holds real numbers"),
        (np.zeros(()), {}, "cannot open a float64"),
        (torch.ones(1, 3, 8, 8, device="meta"), {}, "a tensor on the device meta"),
        (torch.ones(1, 3, 8, 8).to_sparse(), {}, "a tensor of the layout torch.sparse_coo"),
        (np.zeros((1, 2, 3, 4, 5, 6)), {}, r"not \(batch, channels, 1 to 3 spatial\)"),
        (SyntheticSource((1, 3, 8, 8)), {"size": (9, 8)}, "synthetic is 8x8, but 9x8 is asked for"),
        (np.zeros((8, 8)), {"size": (8,)}, "neither its first axis nor its last"),
        ("astronaut", {"size": (8, 8, 8)}, "astronaut is 512x512, but 8x8x8 is asked for"),
    ],
)
def test_refusals(image, options, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        open_source(image, **options)
    assert "\n" not in str(caught.value)


def test_empty_and_complex_files(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 3, 0, 8)))
    with pytest.raises(ValueError, match=r"is empty|cannot read"):
        open_source(tmp_path / "a.npy")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.complex64))
    with pytest.raises(ValueError, match="complex64: an image holds real numbers"):
        open_source(tmp_path / "a.tif")


def test_archives_are_refused_with_a_way_out(tmp_path):
    np.savez(tmp_path / "a.npz", RGB)
    with pytest.raises(ValueError, match=r"a\.npz: it is an archive: .* save an array of an \.npz"):
        open_source(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", ["npy", "png", "jpg", "tif", "xyz"])
@pytest.mark.parametrize("content", [b"", b"not an image at all"])
def test_unreadable_files(suffix, content, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"cannot read .*a\.{suffix}: ") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["npy", "png", "jpg", "tif"])
def test_truncated_files(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, RGB)
    elif suffix == "tif":
        tifffile.imwrite(path, RGB, photometric="rgb", compression="zlib", rowsperstrip=10)
    else:
        Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cannot read .*a\."):
        whole(open_source(path))


def test_files_read_by_region_are_not_resized(tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", RGB, photometric="rgb")
    np.save(tmp_path / "scan.npy", RGB)
    for name in ("scan.tif", "scan.npy"):
        with pytest.raises(
            ValueError, match=f"{name} is 97x131, but 64x64 is asked for: give image_size='97x131'"
        ):
            open_source(tmp_path / name, size=(64, 64))


def test_opening_engines_import_little():
    """Reading an array or noise must not pull in the image libraries: engines start faster."""
    import subprocess
    import sys

    code = "import sys, spnb.io.open; print([m for m in ('skimage', 'PIL', 'tifffile', 'mpi4py',"
    code += " 'ipyparallel', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
