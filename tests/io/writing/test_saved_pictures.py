"""Outputs as PNG files, and the types of integers in a TIFF."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from saved import read
from tiled import Call
from torch import nn

import spnb
from spnb.errors import OptionError
from spnb.io.open import open_source
from spnb.io.writing.writers import Store
from spnb.ir.axes import Axes
from spnb.ir.region import Region

SIZE = (37, 53)


def session(function, channels=5, **options):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, channels, 1))

    def spread(y):
        return (y - y.mean((2, 3), keepdim=True)) * 20

    net = Call(lambda m, x: function(spread(m[0](x))), layers)
    given = {"image_size": SIZE, "batch_size": 1, "split_size": 1} | options
    return spnb.InProcess(spnb.plan(spnb.Job(net, **given)))


def colours(y):
    return torch.sigmoid(y)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (lambda y: y.argmax(1), np.uint8),
        (lambda y: y.argmax(1, keepdim=True).int(), np.uint8),
        (lambda y: y.argmax(1) * 300, np.uint16),
        (lambda y: y.argmax(1).to(torch.uint8), np.uint8),
    ],
)
def test_classes_are_small_integers(tmp_path, suffix, function, dtype):
    result = session(function).infer()
    path = result.save(tmp_path / f"mask.{suffix}")
    stored = tifffile.imread(path) if suffix == "tif" else np.asarray(Image.open(path))
    assert stored.dtype == dtype and len(np.unique(stored)) > 1
    assert np.array_equal(stored.squeeze(), result.output.squeeze())


def test_classes_in_a_tiff_are_read_as_they_were(tmp_path):
    result = session(lambda y: y.argmax(1, keepdim=True)).infer()
    source = open_source(result.save(tmp_path / "mask.tif"), channels=1)
    assert np.array_equal(source.read(Region.whole((1, *SIZE))), result.output)


def test_numbers_that_fit_no_small_type(tmp_path):
    result = session(lambda y: y.argmax(1) - 1).infer()
    with pytest.raises(ValueError, match=r"numbers go from -1 to 3, and a PNG holds 0 to 65535"):
        result.save(tmp_path / "mask.png")
    assert list(tmp_path.iterdir()) == []
    stored = tifffile.imread(result.save(tmp_path / "mask.tif"))
    assert stored.dtype == np.int64 and np.array_equal(stored.squeeze(), result.output[0])


def test_a_mask_of_booleans(tmp_path):
    result = session(lambda y: y.argmax(1) > 1).infer()
    stored = Image.open(result.save(tmp_path / "mask.png"))
    assert stored.mode == "1" and len(np.unique(stored)) == 2
    assert np.array_equal(np.asarray(stored), result.output[0])


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("channels", [1, 3])
def test_colours(tmp_path, channels, last, capsys):
    def function(y):
        return colours(y).permute(0, 2, 3, 1) if last else colours(y)

    result = session(function, channels, num_spatial_parts=6).infer()
    stored = np.asarray(Image.open(result.save(tmp_path / "out.png")))
    expected = result.output if last else result.output.permute(0, 2, 3, 1)
    expected = (expected * 255).round().numpy().astype(np.uint8)
    assert np.array_equal(stored.reshape(*SIZE, channels), expected[0])
    assert "cut off" not in capsys.readouterr().out


def test_colours_of_16_bits(tmp_path):
    result = session(lambda y: (colours(y) * 60000).long(), 3).infer()
    path = result.save(tmp_path / "out.png")
    read = open_source(path).read(Region.whole((1, *SIZE)))
    assert np.array_equal((read * 65535).round(), result.output)


def test_a_picture_larger_than_memory_is_refused(tmp_path):
    result = session(colours, 3, image_size=8).infer()
    axes = Axes.image((1, 3, 2**21, 2**21))
    with pytest.raises(
        OptionError, match=r"do not fit into the memory: they take 65536.0 GiB, .* free; save it as"
    ):
        Store(tmp_path / "out.png", axes, torch.float32).require()
    assert result.save(tmp_path / "out.png").exists()


def test_colours_that_are_cut_off_are_told(tmp_path, capsys):
    result = session(lambda y: colours(y) * 1.6 - 0.2, 1).infer()
    stored = np.asarray(Image.open(result.save(tmp_path / "out.png")))
    expected = (result.output[0, 0].clamp(0, 1) * 255).round().numpy()
    assert np.array_equal(stored, expected)
    assert "out.png: colours go from -0" in capsys.readouterr().out
    result = session(lambda y: colours(y) * 0 / (y > 0), 1).infer()
    result.save(tmp_path / "nan.png")
    assert "nan.png: NaN becomes 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("function", "channels", "batch", "words"),
    [
        (colours, 21, 1, r"\(1, 21, 37, 53\) has 21 channels, and a PNG holds 1 or 3: .*argmax"),
        (colours, 3, 2, r"has 2 images, and a PNG holds one: save it as \.tif"),
        (lambda y: y.mean((2, 3)), 3, 1, r"\(1, 3\) is no image of rows and columns"),
        (lambda y: y * 100, 3, 1, r"numbers go from -.*, but colours lie in \[0, 1\]"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, function, channels, batch, words):
    result = session(function, channels, batch_size=batch).infer()
    with pytest.raises(ValueError, match=words):
        result.save(tmp_path / "out.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_of_one_row(tmp_path):
    result = session(lambda y: y[:, :1, :1, :].sigmoid(), split_size=1, num_spatial_parts=1).infer()
    assert np.asarray(Image.open(result.save(tmp_path / "row.png"))).shape == (1, SIZE[1])


def test_a_png_is_replaced_only_if_asked(tmp_path):
    running = session(lambda y: y.argmax(1))
    result = running.infer()
    path = result.save(tmp_path / "mask.png")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        result.save(path)
    result.save(path, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["mask.png"]
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "in.png")
    result = running.infer(tmp_path / "in.png")
    with pytest.raises(ValueError, match="the run reads"):
        result.save(tmp_path / "in.png", overwrite=True)
    (tmp_path / "text.png").write_text("mine")
    with pytest.raises(FileExistsError, match="never replaced"):
        result.save(tmp_path / "text.png", overwrite=True)
    assert np.array_equal(read(result.save(tmp_path / "mask.npy")), result.output)
