"""Stacks of pages, volumes and arrays of many axes become what a network takes, or are refused."""

import numpy as np
import pytest
import tifffile
import zarr

from spnb.io.open import open_source
from spnb.io.readers.tiff import TiffSource
from spnb.ir.region import Region

RANDOM = np.random.default_rng(5)


def whole(source):
    return source.read(Region.whole((source.shape[0], *source.shape[2:])))


def stack(*shape, dtype=np.uint16):
    return RANDOM.integers(0, np.iinfo(dtype).max, shape, dtype)


def scaled(array):
    return array / np.float32(np.iinfo(array.dtype).max)


def read_in_parts(source, expected):
    """The source reads the whole, and an odd part of it, as the expected array."""
    assert source.shape == expected.shape
    assert np.array_equal(whole(source), expected)
    spans = [(n // 3, n - n // 4) for n in (source.shape[0], *source.shape[2:])]
    part = tuple(slice(*span) for span in spans)
    assert np.array_equal(
        source.read(Region(tuple(spans))), expected[(part[0], slice(None), *part[1:])]
    )


WRITERS = {
    "imagej": {"imagej": True},
    "one entry": {"imagej": True, "truncate": True},
    "shaped": {},
    "shaped, one entry": {"truncate": True},
    "plain": {"metadata": None},
    "ome": {"ome": True},
    "zlib": {"compression": "zlib"},
    "ome tiles": {"ome": True, "tile": (16, 16), "compression": "zlib"},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
}


@pytest.mark.parametrize("kind", WRITERS)
def test_pages_are_channels_depth_or_images_by_the_network(kind, tmp_path):
    path, pages = tmp_path / "a.tif", stack(5, 21, 34)
    tifffile.imwrite(path, pages, photometric="minisblack", **WRITERS[kind])
    assert np.array_equal(tifffile.imread(path), pages)
    read_in_parts(open_source(path, channels=5, size=(21, 34)), scaled(pages)[None])
    read_in_parts(open_source(path, channels=1, size=(5, 21, 34)), scaled(pages)[None, None])
    read_in_parts(open_source(path, channels=1, axes=3), scaled(pages)[None, None])
    if "imagej" in WRITERS[kind] or "ome" in WRITERS[kind]:  # pages are called channels there
        for channels in (1, 3):
            with pytest.raises(ValueError, match=f"has 5 channels, but {channels} are asked for"):
                open_source(path, channels=channels, size=(21, 34))
        tifffile.imwrite(path, pages, metadata={"axes": "ZYX"}, **WRITERS[kind])
    read_in_parts(open_source(path, channels=1, size=(21, 34)), scaled(pages)[:, None])
    with pytest.raises(ValueError, match="5 grey pages, but 3 channels are asked for"):
        open_source(path, size=(21, 34))
    with pytest.raises(ValueError, match="holds 5 images, but the batch size is 1"):
        open_source(path, channels=1, size=(21, 34), batch_size=1)


@pytest.mark.parametrize("truncate", [False, True])
def test_a_hyperstack_of_imagej(truncate, tmp_path):
    path, pages = tmp_path / "a.tif", stack(1, 7, 2, 21, 34)  # TZCYX
    tifffile.imwrite(path, pages, imagej=True, truncate=truncate, metadata={"axes": "TZCYX"})
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == (1 if truncate else 14)
    volume = scaled(pages[0].swapaxes(0, 1))[None]
    read_in_parts(open_source(path, channels=2, size=(7, 21, 34)), volume)
    read_in_parts(open_source(path, channels=2, size=(21, 34)), scaled(pages[0]))
    with pytest.raises(ValueError, match="has 2 channels, but 3 are asked for"):
        open_source(path, size=(21, 34))


def test_pages_that_are_missing_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack(5, 21, 34), photometric="minisblack", truncate=True)
    path.write_bytes(path.read_bytes()[: -3 * 21 * 34])
    with pytest.raises(ValueError, match=r"cannot read .*a\.tif: it ends before the last"):
        open_source(path, channels=5)


@pytest.mark.parametrize("ome", [False, True])
@pytest.mark.parametrize("planar", [False, True])
def test_colours_of_pages(ome, planar, tmp_path):
    path, pages = tmp_path / "a.tif", stack(4, 21, 34, 3)
    stored = np.moveaxis(pages, -1, 1) if planar else pages
    options = {"planarconfig": "separate" if planar else "contig", "ome": ome}
    tifffile.imwrite(path, stored, photometric="rgb", compression="zlib", **options)
    expected = scaled(np.moveaxis(pages, -1, 1))
    read_in_parts(open_source(path, size=(21, 34)), expected)
    read_in_parts(open_source(path, size=(4, 21, 34)), expected.swapaxes(0, 1)[None])


def test_samples_of_a_pixel_are_all_there_if_they_are_asked_for(tmp_path):
    path, pixels = tmp_path / "a.tif", stack(21, 34, 5)
    tifffile.imwrite(path, pixels[..., :4], photometric="rgb", extrasamples=["unassalpha"])
    planes = scaled(np.moveaxis(pixels, -1, 0))[None]
    read_in_parts(open_source(path), planes[:, :3])
    read_in_parts(open_source(path, channels=4), planes[:, :4])
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    read_in_parts(open_source(path, channels=5), planes)


@pytest.mark.parametrize("options", [{}, {"tile": (2, 16, 16), "compression": "zlib"}])
def test_a_page_with_a_depth(options, tmp_path):
    path, volume = tmp_path / "a.tif", stack(5, 21, 34)
    tifffile.imwrite(path, volume, volumetric=True, photometric="minisblack", **options)
    read_in_parts(open_source(path, channels=1, size=(5, 21, 34)), scaled(volume)[None, None])


def test_a_pyramid_is_read_at_its_full_size(tmp_path):
    path, pixels = tmp_path / "a.tif", stack(64, 96, 3, dtype=np.uint8)
    with tifffile.TiffWriter(path) as file:
        options = {"photometric": "rgb", "tile": (16, 16), "compression": "zlib"}
        file.write(pixels, subifds=1, **options)
        file.write(pixels[::2, ::2], subfiletype=1, **options)
    read_in_parts(open_source(path), scaled(np.moveaxis(pixels, -1, 0))[None])


def test_one_page_is_one_image(tmp_path):
    path, pixels = tmp_path / "a.tif", stack(21, 34)
    tifffile.imwrite(path, pixels)
    read_in_parts(TiffSource(str(path)), scaled(pixels)[None, None])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("named", [None, "array", "group"])
def test_a_zarr_of_five_axes(zarr_format, named, tmp_path):
    if named == "array" and zarr_format == 2:
        pytest.skip("version 2 has no names of dimensions")
    names = list("tczyx")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
    if named == "group":
        scales = [{"axes": [{"name": name} for name in names], "datasets": [{"path": "0"}]}]
        group.attrs["multiscales"] = scales

    def written(array):
        path = tmp_path / "a.zarr" / "0"
        options = {"dimension_names": names} if named == "array" else {}
        chunks = tuple(min(n, 16) for n in array.shape)
        group.create_array("0", data=array, chunks=chunks, overwrite=True, **options)
        return path

    for shape, channels, size in (
        ((1, 3, 1, 21, 34), 3, (21, 34)),
        ((1, 1, 1, 21, 34), 1, (21, 34)),
        ((1, 2, 7, 21, 34), 2, (7, 21, 34)),
        ((4, 2, 1, 21, 34), 2, (21, 34)),
    ):
        array = stack(*shape)
        expected = scaled(array[:, :, 0] if len(size) == 2 else array)
        read_in_parts(open_source(written(array), channels=channels, size=size), expected)
    array = stack(1, 1, 5, 21, 34)
    read_in_parts(open_source(written(array), channels=5, size=(21, 34)), scaled(array[0]))


def test_an_array_with_axes_of_one_element():
    array = stack(1, 3, 1, 21, 34)
    read_in_parts(open_source(array, size=(21, 34)), scaled(array[:, :, 0]))
    with pytest.raises(ValueError, match="array is 5x21x34, but 21x34 is asked for"):
        open_source(stack(1, 3, 5, 21, 34), size=(21, 34))
