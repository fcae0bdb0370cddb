"""Every bit of a sample that a file has is read, or the file is refused by name."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from png import write_png16

from spnb.io.open import open_source
from spnb.ir.region import Region

RANDOM = np.random.default_rng(3)
FINE = RANDOM.integers(0, 2**16, (13, 17, 4), np.uint16)


def whole(source):
    return source.read(Region.whole((source.shape[0], *source.shape[2:])))


def planes(pixels, largest=65535):
    return np.moveaxis(pixels, -1, 0)[None] / np.float32(largest)


@pytest.mark.parametrize(
    ("stored", "asked"), [(1, 1), (1, 3), (2, 1), (2, 3), (3, 3), (4, 3), (4, 4)]
)
def test_png_of_16_bits(stored, asked, tmp_path):
    path = tmp_path / "a.png"
    write_png16(path, FINE[..., :stored])
    kept = [0] * asked if stored < 3 else range(asked)  # an alpha is dropped, grey stands for RGB
    assert np.array_equal(whole(open_source(path, channels=asked)), planes(FINE[..., list(kept)]))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg2000_of_more_than_8_bits(bits, channels, tmp_path):
    pixels = (FINE[..., :channels] >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    encoded = imagecodecs.jpeg2k_encode(
        pixels.squeeze(), level=0, bitspersample=bits, reversible=True, codecformat="jp2"
    )
    path = tmp_path / "a.jp2"
    path.write_bytes(encoded)
    assert np.array_equal(imagecodecs.jpeg2k_decode(encoded), pixels.squeeze())
    expected = planes(pixels, 255) if bits == 8 else planes(pixels << (16 - bits))
    assert np.array_equal(whole(open_source(path, channels=channels)), expected)


def ppm(kind, largest):
    head = f"P{kind} 17 13 {largest}\n".encode()
    values = FINE[..., :3].astype(int) % (largest + 1)
    if kind == 3:
        return head + " ".join(map(str, values.ravel())).encode()
    return head + values.astype(">u2").tobytes()


def sgi():
    head = struct.pack(">HBBHHHH", 474, 0, 2, 3, 17, 13, 3).ljust(512, b"\0")
    return head + np.moveaxis(FINE[::-1, :, :3], -1, 0).astype(">u2").tobytes()


def avif():
    encoded = bytearray(imagecodecs.avif_encode(FINE[..., :3] >> 6, level=95, bitspersample=10))
    return bytes(encoded)


def fits():
    cards = ["SIMPLE  =                    T", "BITPIX  =                   16"]
    cards += ["NAXIS   =                    2", "NAXIS1  =                   17"]
    cards += ["NAXIS2  =                   13", "BZERO   =                32768", "END"]
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)


def frames(kind):
    stream = io.BytesIO()
    first, *others = (Image.fromarray(FINE[..., :3].astype(np.uint8) // k) for k in (1, 2, 3))
    first.save(stream, kind, save_all=True, append_images=others)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.ppm", lambda: ppm(6, 65535), "samples have 16 bits, and Pillow keeps 8"),
        ("b.ppm", lambda: ppm(6, 1000), "samples have 10 bits, and Pillow keeps 8"),
        ("c.ppm", lambda: ppm(3, 4095), "samples have 12 bits, and Pillow keeps 8"),
        ("d.ppm", lambda: b"P6 900000000 900000 255 ", "900000x900000000 pixels, and its"),
        ("a.sgi", sgi, "samples have 16 bits, and Pillow keeps 8"),
        ("a.avif", avif, "samples have 10 bits, and Pillow keeps 8"),
        ("a.fits", fits, "zero and scale of a FITS are not read"),
        ("a.gif", lambda: frames("GIF"), "it holds 3 images"),
        ("a.webp", lambda: frames("WEBP"), "it holds 3 images"),
        ("a.png", lambda: frames("PNG"), "it holds 3 images"),
    ],
)
def test_what_would_be_reduced_is_refused_by_name(name, content, words, tmp_path):
    path = tmp_path / name
    path.write_bytes(content())
    with pytest.raises(ValueError, match=rf"cannot read .*{name}: .*{words}") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_grey_maps_of_any_depth_keep_their_range(tmp_path):
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 17 13 1000\n" + (FINE[..., 0] % 1001).astype(">u2").tobytes())
    found = whole(open_source(path, channels=1))[0, 0]
    np.testing.assert_allclose(found, FINE[..., 0] % 1001 / np.float32(1000), atol=1e-5)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int16])
def test_tiff_keeps_all_bits_of_rgb(compression, dtype, tmp_path):
    path, pixels = tmp_path / "a.tif", FINE[..., :3].astype(dtype)
    tifffile.imwrite(path, pixels, photometric="rgb", compression=compression)
    expected = planes(pixels, 65535 if dtype == np.uint16 else 1)
    assert np.array_equal(whole(open_source(path)), expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_fill_the_range(bits, tmp_path):
    image = Image.fromarray((FINE[..., 0] >> (16 - bits)).astype(np.uint8))
    levels = np.float32(FINE[..., 0] >> (16 - bits)) / np.float32(2**bits - 1)
    path = tmp_path / "a.tif"
    packed = np.packbits(
        np.unpackbits(np.asarray(image)[..., None], axis=-1)[..., 8 - bits :].reshape(13, -1), -1
    )
    _tiff_of_packed_rows(path, packed, bits)
    assert np.array_equal(whole(open_source(path, channels=1))[0, 0], levels)
    with Image.open(path) as read:
        assert np.array_equal(np.asarray(read.convert("L")) / np.float32(255), levels)


def _tiff_of_packed_rows(path, rows, bits):
    """Write grey rows of few bits a sample as a TIFF of one strip, without a library."""
    tags = [(256, 17), (257, 13), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, 13)]
    tags += [(279, rows.size)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = 8 + rows.size + rows.size % 2
    head = b"II*\0" + struct.pack("<I", start) + rows.tobytes().ljust(start - 8, b"\0")
    path.write_bytes(head + struct.pack("<H", len(tags)) + directory + bytes(4))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_white_may_be_zero(dtype, tmp_path):
    path = tmp_path / "a.tif"
    pixels = FINE[..., 0] > 30000 if dtype is bool else FINE[..., 0].astype(dtype)
    tifffile.imwrite(path, pixels, photometric="miniswhite")
    shown = ~pixels if dtype is bool else np.iinfo(dtype).max - pixels
    largest = 1 if dtype is bool else np.iinfo(dtype).max
    expected = shown / np.float32(largest)
    assert np.array_equal(whole(open_source(path, channels=1))[0, 0], expected)


def test_a_palette_has_16_bits(tmp_path):
    path, colours = tmp_path / "a.tif", RANDOM.integers(0, 2**16, (3, 256), np.uint16)
    index = FINE[..., 0].astype(np.uint8)
    for options in ({}, {"tile": (16, 16), "compression": "zlib"}):
        tifffile.imwrite(path, index, photometric="palette", colormap=colours, **options)
        assert np.array_equal(whole(open_source(path))[0], colours[:, index] / np.float32(65535))


@pytest.mark.parametrize("bits", [8, 16])
def test_cmyk_tiff(bits, tmp_path):
    path, dtype = tmp_path / "a.tif", np.dtype(f"u{bits // 8}")
    tifffile.imwrite(path, FINE.astype(dtype), photometric="separated", compression="zlib")
    if bits == 16:
        with pytest.raises(ValueError, match="samples have 16 bits, and Pillow keeps 8"):
            open_source(path)
        return
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(whole(open_source(path)), planes(expected, 255))
