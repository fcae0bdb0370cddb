"""Formats that Pillow decodes, and the samples of scikit-image."""

import os

import numpy as np
import pytest
from image_regions import GREY16, RGB, reads_like
from PIL import Image

from spnb.io.open import open_source
from spnb.io.readers.native_messages import messages_caught


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


@pytest.mark.parametrize(
    ("compression", "reason"),
    [("tiff_lzw", "Using code not yet in table"), ("tiff_deflate", "Decoding error at scanline 0")],
)
def test_the_line_about_a_damaged_tiff_has_what_libtiff_prints(
    tmp_path, capfd, compression, reason
):
    path = tmp_path / "damaged.tif"
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 4), dtype=np.uint8)
    Image.fromarray(noise, "CMYK").save(path, compression=compression)
    data = bytearray(path.read_bytes())
    data[300:-400:7] = bytes(255 - byte for byte in data[300:-400:7])
    path.write_bytes(data)
    capfd.readouterr()
    with pytest.raises(ValueError, match=rf"cannot read .*damaged\.tif: .*Pillow: .*{reason}"):
        open_source(str(path), channels=3)
    printed = capfd.readouterr().err
    assert reason not in printed
    assert "ecode:" not in printed


def test_messages_of_a_decoder_that_succeeds_are_printed(capfd):
    with messages_caught() as lines:
        os.write(2, b"from a library in C\n")
    assert lines == ["from a library in C"]
    assert capfd.readouterr().err == "from a library in C\n"


def test_a_header_that_names_too_many_pixels_is_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "damaged.bmp"
    Image.fromarray(np.zeros((20, 36, 3), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = (2_000_000).to_bytes(4, "little") + (1_000_000).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"1000000x2000000, but 20x36 is planned"):
        open_source(path, channels=3, size=(20, 36))
    with pytest.raises(ValueError, match=r"names 1000000x2000000 pixels, and its 2.2 KiB cannot"):
        open_source(path, channels=3)
