"""Zarr: an array of a group is read by name."""

import pytest
import zarr
from image_regions import FIRST, RGB, reads_like

from spnb.io.open import open_source


def test_zarr_groups_and_what_is_none(tmp_path):
    group = zarr.open_group(tmp_path / "pyramid.zarr", mode="w")
    group.create_array("level0", data=RGB)
    with pytest.raises(ValueError, match=r"group of arrays \(level0\): name one"):
        open_source(tmp_path / "pyramid.zarr")
    reads_like(open_source(tmp_path / "pyramid.zarr" / "level0"), FIRST)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        open_source(tmp_path / "empty")


@pytest.mark.parametrize("folder", ["", "scale"])
@pytest.mark.parametrize("version", [2, 3])
def test_an_image_of_ome_is_named_by_its_group(tmp_path, version, folder):
    path = tmp_path / "image.ome.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=version)
    image, levels = RGB.transpose(2, 0, 1)[None, :, None], []
    for level, step in enumerate([1, 2]):
        levels.append(f"{folder}{level}/image" if folder else str(level))
        group.create_array(levels[-1], data=image[..., ::step, ::step], chunks=(1, 1, 1, 40, 40))
    axes = [{"name": name, "type": "space"} for name in "tczyx"]
    images = [{"axes": axes, "datasets": [{"path": level} for level in levels]}]
    group.attrs.update(
        {"multiscales": images} if version == 2 else {"ome": {"multiscales": images}}
    )
    reads_like(open_source(path, size=(97, 131)), FIRST)
    reads_like(open_source(f"{path}@1", size=(49, 66)), FIRST[..., ::2, ::2])
    with pytest.raises(ValueError, match=r"there is no level 2: image.ome.zarr has levels 0 to 1"):
        open_source(f"{path}@2")
    with pytest.raises(ValueError, match=r"1@1: name the array"):
        open_source(f"{path / levels[1].split('/')[0]}@1")


def test_metadata_that_name_no_arrays_say_nothing_of_axes(tmp_path):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=FIRST[0])
    group.attrs["multiscales"] = [{"axes": [{"name": "y"}]}]
    reads_like(open_source(tmp_path / "a.zarr" / "0"), FIRST)
