"""Georeferences and pixel sizes of images, carried over to outputs."""

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

import spnb
from spnb.io.open import open_source
from spnb.io.writing.pixel_grid import pixel_grid
from spnb.ir.region import Region

SIZE = (40, 60)
UTM = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
NORTH_UP = {33550: (10.0, 20.0, 0.0), 33922: (0.0, 0.0, 0.0, 500000.0, 5200000.0, 0.0)}
ELSEWHERE = NORTH_UP | {33922: (3.0, 5.0, 0.0, 500030.0, 5199900.0, 0.0)}
TURNED = {34264: (10.0, 1, 0, 5e5, 2, -20.0, 0, 5.2e6, 0, 0, 0, 0, 0, 0, 0, 1.0)}
"""As GDAL writes them: a pixel's size with a point; a matrix for an image that is turned."""


def geotiff(path, place, point=False, **options):
    keys = [*UTM]
    keys[11] = 2 if point else 1
    tags = place | {34735: tuple(keys), 34737: "WGS 84 / UTM zone 33N|WGS 84|"}
    types = {34735: 3, 34737: 2}
    extra = [(code, types.get(code, 12), len(v), v, True) for code, v in tags.items()]
    pixels = np.random.default_rng(0).random((*SIZE, 3), np.float32)
    tifffile.imwrite(path, pixels, photometric="rgb", extratags=extra, **options)
    return path


def saved(net, image, path, **options):
    given = {"image_size": SIZE, "batch_size": 1, "split_size": 1, "num_spatial_parts": 2}
    session = spnb.InProcess(spnb.plan(spnb.Job(net, **given | options)))
    return session.infer(image).save(path)


def corner(path, row, column):
    """The coordinates of the upper left corner of a pixel, as the standard says."""
    with tifffile.TiffFile(path) as tif:
        for page in tif.pages:  # programs look at any of them
            tags = {tag.code: tag.value for tag in page.tags}
            half = 0.5 if tags[34735][11] == 2 else 0.0  # coordinates of middles
            x, y = column - half, row - half
            if 34264 in tags:
                matrix = np.array(tags[34264]).reshape(4, 4)
                found = (matrix @ [x, y, 0, 1])[:2]
            else:
                (dx, dy, _), (i, j, _, east, north, _) = tags[33550], tags[33922]
                found = np.array([east + (x - i) * dx, north - (y - j) * dy])
    return found


NETS = {
    "same": (nn.Conv2d(3, 2, 3, 1, 1), lambda k: k),
    "stride": (nn.Conv2d(3, 2, 3, 2, 1), lambda k: 2 * k),
    "no padding": (nn.Conv2d(3, 2, 5), lambda k: k + 2),
    "enlarged": (nn.Upsample(scale_factor=2), lambda k: k / 2),
}


@pytest.mark.parametrize("point", [False, True], ids=["corners", "middles"])
@pytest.mark.parametrize("place", [NORTH_UP, ELSEWHERE, TURNED], ids=["north", "point", "turned"])
@pytest.mark.parametrize("net", NETS)
def test_a_georeference(tmp_path, net, place, point):
    image = geotiff(tmp_path / "in.tif", place, point)
    net, corner_in_image = NETS[net]
    path = saved(net, image, tmp_path / "out.tif")
    for row, column in ((0, 0), (7, 11)):
        expected = corner(image, corner_in_image(row), corner_in_image(column))
        assert np.allclose(corner(path, row, column), expected, rtol=0, atol=1e-6)
    with tifffile.TiffFile(path) as tif:
        tags = tif.pages[0].tags
        assert tags[34735].value[12:] == UTM[12:] and "UTM" in tags[34737].value


def test_what_another_program_makes_of_it(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    image = geotiff(tmp_path / "in.tif", NORTH_UP)
    with rasterio.open(image) as before:
        path = saved(NETS["stride"][0], image, tmp_path / "out.tif")
        with rasterio.open(path) as after:
            assert after.bounds == before.bounds and after.crs == before.crs
            assert after.width * 2 == before.width


def test_a_level_of_a_pyramid(tmp_path):
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as tif:
        extra = [(code, 12, len(v), v, True) for code, v in NORTH_UP.items()]
        pixels = np.zeros((*SIZE, 3), np.uint8)
        tif.write(pixels, photometric="rgb", subifds=1, extratags=extra, tile=(16, 16))
        tif.write(pixels[::2, ::2], photometric="rgb", subfiletype=1, tile=(16, 16))
    level = f"{tmp_path / 'pyramid.tif'}@1"
    path = saved(NETS["same"][0], level, tmp_path / "level.tif", image_size=(20, 30))
    with tifffile.TiffFile(path) as tif:
        assert tif.pages[0].tags[33550].value == (20.0, 40.0, 0.0)


def test_a_grid_without_a_place_is_told(tmp_path, capsys):
    image = geotiff(tmp_path / "in.tif", NORTH_UP)
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 2, 3, 2))
    path = saved(net, image, tmp_path / "out.tif")
    said = "the georeference of in.tif is not carried over: the output's 18×28 positions"
    assert said in capsys.readouterr().out
    assert pixel_grid(path) is None


def test_the_resolution(tmp_path):
    image = geotiff(tmp_path / "in.tif", {}, resolution=(300, 200), resolutionunit="INCH")
    path = saved(NETS["stride"][0], image, tmp_path / "out.tif")
    assert pixel_grid(path).resolution == (150, 100, 2)


@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_sizes_of_pixels(tmp_path, kind):
    pixels = np.zeros((3, *SIZE), np.float32)
    if kind == "ome":
        sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 500.0, "PhysicalSizeYUnit": "nm"}
        image = tmp_path / "in.ome.tif"
        tifffile.imwrite(image, pixels, metadata={"axes": "CYX", **sizes}, photometric="minisblack")
    else:
        image = tmp_path / "in.tif"
        metadata = {"axes": "CYX", "unit": "um"}
        tifffile.imwrite(image, pixels, imagej=True, resolution=(4, 2), metadata=metadata)
    path = saved(NETS["stride"][0], image, tmp_path / "out.tif")
    assert np.allclose(pixel_grid(path).resolution, (20000, 10000, 3))
    path = saved(NETS["stride"][0], image, tmp_path / "out.ome.tif")
    found = pixel_grid(path).sizes
    unit = "nm" if kind == "ome" else "µm"
    assert found == {"X": (0.5, "µm"), "Y": (1000.0 if kind == "ome" else 1.0, unit)}
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome and tif.series[0].axes == "CYX"
    assert open_source(path, channels=2).shape == (1, 2, 20, 30)


def test_an_ome_tiff_of_what_it_cannot_hold(tmp_path):
    image = np.zeros((1, 3, *SIZE), np.float32)
    with pytest.raises(ValueError, match=r"holds no float16: save it as \.tif"):
        saved(NETS["same"][0], image, tmp_path / "out.ome.tif", precision="fp16")
    with pytest.raises(
        ValueError, match=r"\(1, 2\) is no image \(batch, channels, rows, columns\)"
    ):
        net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        saved(net, image, tmp_path / "out.ome.tif")


def test_batches_and_volumes(tmp_path):
    net = nn.Conv3d(1, 1, 3, (1, 2, 2), 1)
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2.0}
    volume = np.random.default_rng(0).random((6, 16, 24)).astype(np.float32)
    tifffile.imwrite(tmp_path / "in.ome.tif", volume, metadata={"axes": "ZYX", **sizes})
    image = tmp_path / "in.ome.tif"
    path = saved(net, image, tmp_path / "out.ome.tif", image_size=(6, 16, 24))
    assert {k: v for k, (v, _) in pixel_grid(path).sizes.items()} == {"X": 0.5, "Y": 0.5, "Z": 2.0}
    source = open_source(path, channels=1, size=(6, 8, 12))
    with torch.inference_mode():
        expected = torch.from_numpy(
            open_source(path, channels=1, axes=3).read(Region.whole((1, 6, 8, 12)))
        )
    assert np.array_equal(source.read(Region.whole((1, 6, 8, 12))), expected)
