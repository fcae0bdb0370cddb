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
