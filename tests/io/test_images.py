"""Every source reads any region equal to the slice of the whole, and says plainly what is wrong."""

import pickle

import numpy as np
import pytest
import tifffile
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from spnb.io.open import open_source
from spnb.io.resident import resident
from spnb.io.sources import ArraySource, FileSource, Repeated, Source, SyntheticSource
from spnb.io.thumbnail import thumbnail
from spnb.io.tiff import TiffSource
from spnb.ir.region import Region

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (97, 131, 3), np.uint8)
GREY16 = RANDOM.integers(0, 2**16, (97, 131), np.uint16)
FIRST = np.moveaxis(RGB, -1, 0)[None] / np.float32(255)


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
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, reference[(batch, slice(None), *box)])

    check()
    np.testing.assert_array_equal(whole(source), reference)


# ---------------------------------------------------------------- arrays

ARRAYS = {
    "grey": (GREY16, GREY16[None, None] / np.float32(65535), 1),
    "channels last": (RGB, FIRST, 3),
    "channels first": (FIRST[0], FIRST, 3),
    "alpha dropped": (np.dstack([RGB, RGB[..., 0]]), FIRST, 3),
    "alpha kept": (np.dstack([RGB, RGB[..., :1]]), FIRST[:, [0, 1, 2, 0]], 4),
    "one channel last": (RGB[..., :1], FIRST[:, :1], 1),
    "batch": (np.concatenate([FIRST, 1 - FIRST]), np.concatenate([FIRST, 1 - FIRST]), 3),
    "grey to three": (GREY16, np.repeat(GREY16[None, None] / np.float32(65535), 3, 1), 3),
    "bool": (GREY16 > 30000, (GREY16 > 30000)[None, None].astype(np.float32), 1),
    "signed": (GREY16.astype(np.int32) - 99, GREY16[None, None].astype(np.float32) - 99, 1),
    "big endian": (GREY16.astype(">u2"), GREY16[None, None] / np.float32(65535), 1),
    "signal": (GREY16[0], GREY16[None, None, 0] / np.float32(65535), 1),
    "volume": (FIRST.reshape(1, 3, 1, 97, 131), FIRST.reshape(1, 3, 1, 97, 131), 3),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_array_and_npy(kind, tmp_path):
    array, reference, channels = ARRAYS[kind]
    reads_like(open_source(array, channels=channels), reference)
    np.save(tmp_path / "a.npy", array)
    source = open_source(tmp_path / "a.npy", channels=channels)
    assert source.name == "a.npy"
    reads_like(source, reference)
    assert len(pickle.dumps(source)) < 1000
    if array.dtype.isnative:  # a zarr's chunks are little
        zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(16,) * array.ndim)
        source = open_source(tmp_path / "a.zarr", channels=channels)
        reads_like(source, reference)
        assert len(pickle.dumps(source)) < 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensor(dtype):
    tensor = torch.rand(2, 3, 9, 11, dtype=dtype, requires_grad=True)
    reads_like(open_source(tensor), tensor.detach().float().numpy())
    reads_like(ArraySource(tensor), tensor.detach().float().numpy())


def test_size_settles_what_the_axes_are():
    volume = np.float32(RANDOM.random((3, 8, 3)))
    assert open_source(volume, size=(3, 8, 3), channels=1).shape == (1, 1, 3, 8, 3)
    assert open_source(volume, size=(8, 3)).shape == (1, 3, 8, 3)
    assert open_source(volume, size=(3, 8)).shape == (1, 3, 3, 8)
    reads_like(open_source(volume, size=(8, 3)), volume[None])
    assert open_source(np.zeros((2, 50)), size=(50,), channels=2).shape == (1, 2, 50)


def test_zarr_groups_and_what_is_none(tmp_path):
    group = zarr.open_group(tmp_path / "pyramid.zarr", mode="w")
    group.create_array("level0", data=RGB)
    with pytest.raises(ValueError, match=r"group of arrays \(level0\): name one"):
        open_source(tmp_path / "pyramid.zarr")
    reads_like(open_source(tmp_path / "pyramid.zarr" / "level0"), FIRST)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        open_source(tmp_path / "empty")


def test_fortran_order_npy(tmp_path):
    np.save(tmp_path / "f.npy", np.asfortranarray(GREY16))
    reads_like(open_source(tmp_path / "f.npy", channels=1), GREY16[None, None] / np.float32(65535))


# ---------------------------------------------------------------- files

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
    reads_like(open_source(path), FIRST)
    tifffile.imwrite(path, GREY16 > 30000, photometric="minisblack")
    reads_like(open_source(path, channels=1), (GREY16 > 30000)[None, None].astype(np.float32))
    Image.fromarray(GREY16 > 30000).save(path)
    reads_like(open_source(path, channels=1), (GREY16 > 30000)[None, None].astype(np.float32))
    tifffile.imwrite(path, np.float32(bands), photometric="minisblack", metadata=None)
    for channels in (3, 5):
        with pytest.raises(ValueError, match=f"5 grey pages, but {channels} channels"):
            open_source(path, channels=channels)
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


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *((mode, "png") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        *((mode, "jpg") for mode in ("RGB", "L", "CMYK")),
        *(("RGB", suffix) for suffix in ("bmp", "webp", "JPEG")),
    ],
)
def test_pillow_formats(mode, suffix, tmp_path):
    image = Image.fromarray(RGB)
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as saved:
        pixels = np.asarray(saved.convert("RGB"))
    source = open_source(str(tmp_path / f"a.{suffix}"))
    assert source.name == f"a.{suffix}"
    reads_like(source, np.moveaxis(pixels, -1, 0)[None] / np.float32(255), examples=5)


@pytest.mark.parametrize("suffix", ["png", "pgm"])
def test_sixteen_bits(suffix, tmp_path):
    Image.fromarray(GREY16).save(tmp_path / f"a.{suffix}")
    reads_like(
        open_source(tmp_path / f"a.{suffix}", channels=1), GREY16[None, None] / np.float32(65535)
    )


def test_samples():
    assert open_source("retina").shape == (1, 3, 1411, 1411)
    assert open_source("retina").name == "retina"
    assert open_source("astronaut", batch_size=4).shape == (4, 3, 512, 512)
    assert open_source("camera", channels=1).shape == (1, 1, 512, 512)
    for name in ("coffee", "hubble_deep_field", "immunohistochemistry", "logo", "cat"):
        assert open_source(name).shape[:2] == (1, 3)


# ---------------------------------------------------------------- synthetic


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


# ---------------------------------------------------------------- batch, size, host, picture


def test_one_image_is_a_batch_without_copies():
    source = open_source(RGB, batch_size=8)
    assert isinstance(source, Repeated)
    reads_like(source, np.repeat(FIRST, 8, 0), examples=5)
    assert len(pickle.dumps(source)) < RGB.size + 1000
    assert open_source(source, batch_size=8) is source
    plain = SyntheticSource((2, 3, 8, 8))
    assert open_source(plain) is plain


@pytest.mark.parametrize("size", [(48, 64), (200, 131), (97, 1)])
def test_resize(size):
    gradient = np.repeat(np.linspace(0, 1, 97, dtype=np.float32)[:, None], 131, 1)
    source = open_source(gradient, size=size)
    assert source.shape == (1, 3, *size)
    values = whole(source)
    assert values.min() >= 0
    assert values.max() <= 1
    expected = np.clip((np.arange(size[0]) + 0.5) / size[0] * 97 / 96 - 0.5 / 96, 0, 1)
    np.testing.assert_allclose(values[0, 0, :, 0], expected, atol=0.01)
    constant = open_source(np.ones((2, 3, 20, 30), np.uint8), size=(7, 50))
    np.testing.assert_allclose(whole(constant), 1 / 255, atol=1e-6)


def test_resize_is_antialiased_in_any_number_of_axes():
    checks = np.indices((64, 64)).sum(0) % 2 * 1.0
    np.testing.assert_allclose(whole(open_source(checks, size=(16, 16))), 0.5, atol=0.03)
    assert open_source(np.zeros((4, 8, 8)), size=(2, 3, 4), channels=1).shape == (1, 1, 2, 3, 4)
    signal = whole(open_source(np.arange(100.0), size=(10,), channels=1))
    np.testing.assert_allclose(signal[0, 0], np.arange(4.5, 100, 10), atol=1)


def test_another_size_is_told_or_refused():
    source = open_source(np.zeros((20, 30)), size=(10, 15))
    assert source.name == "array resized from 20x30"
    with pytest.raises(ValueError, match=r"array is 20x30, but 10x15 is planned: plan with"):
        open_source(np.zeros((20, 30)), size=(10, 15), resize=False)


def test_resident(tmp_path):
    folder = tmp_path / "new"
    source = resident(open_source(RGB, batch_size=8), folder)
    assert len(pickle.dumps(source)) < 1000
    assert sum(file.stat().st_size for file in folder.iterdir()) < RGB.size + 1000
    reads_like(source, np.repeat(FIRST, 8, 0), examples=5)
    retina = resident(open_source("retina"), folder)
    assert isinstance(retina, FileSource)
    assert retina.name == "retina"
    for kept in (SyntheticSource((1, 3, 8, 8)), retina):
        assert resident(kept, folder) is kept


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


# ---------------------------------------------------------------- what is refused


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
            ValueError, match=f"{name} is 97x131, but 64x64 is asked for: ask for 97"
        ):
            open_source(tmp_path / name, size=(64, 64))


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


def test_opening_engines_import_little():
    """Reading an array or noise must not pull in the image libraries: engines start faster."""
    import subprocess
    import sys

    code = "import sys, spnb.io.open; print([m for m in ('skimage', 'PIL', 'tifffile', 'mpi4py',"
    code += " 'ipyparallel', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
