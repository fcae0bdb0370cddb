"""Files that are no files, or that claim more than they hold: refused before they are decoded."""

import logging
import os
import socket
import struct
import zlib

import numpy as np
import psutil
import pytest
import tifffile
import zarr
from PIL import Image

from spnb.io.open import open_source
from spnb.ui.cli import main

RGB = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)


@pytest.fixture(autouse=True)
def nothing_is_decoded_or_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "spnb.driver.launch.engines.Engines.start", lambda self: pytest.fail("engines started")
    )
    monkeypatch.setattr(
        "spnb.io.readers.pillow._loaded", lambda image: pytest.fail("pixels decoded")
    )


def refused(line, capsys):
    """The one line with which a command is refused."""
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.long
@pytest.mark.timeout(60)
def test_only_files_are_read(tmp_path, capsys):
    for name in ("pipe.png", "pipe.npy", "pipe.pth", "pipe.pt2"):
        os.mkfifo(tmp_path / name)
    infer = "infer resnet20_v1 --batch-size 1"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.png")
        for line, told in (
            (f"{infer} --image pipe.png", "pipe.png is a named pipe: name one image file"),
            (f"{infer} --image pipe.npy --image-size 32", "pipe.npy is a named pipe"),
            (f"{infer} --image /dev/zero", "/dev/zero is a device: name one image file"),
            (f"{infer} --image socket.png", "socket.png is a socket: name one image file"),
            (f"{infer} --weights pipe.pth", "the checkpoint pipe.pth: it is a named pipe"),
            (f"{infer} --weights /dev/zero", "the checkpoint /dev/zero: it is a device"),
            ("plan resnet20_v1 --checkpoint pipe.pth", "checkpoint pipe.pth: it is a named pipe"),
            ("train resnet20_v1 --checkpoint pipe.pth", "checkpoint pipe.pth: it is a named pipe"),
            ("plan pipe.pt2", "cannot read the program pipe.pt2: it is a named pipe"),
        ):
            assert told in refused(line, capsys)


def claim_png(path, width, height):
    """A PNG with a header of its own and 1000 bytes of pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, content in (
            (b"IHDR", head),
            (b"IDAT", zlib.compress(bytes(1000))),
            (b"IEND", b""),
        ):
            check = zlib.crc32(name + content)
            file.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", check))


def claim_bmp(path, width, height):
    """A BMP of 2 KB with a header of its own."""
    Image.fromarray(RGB[:20, :36]).save(path, "BMP")
    content = bytearray(path.read_bytes())
    content[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("claim", [claim_png, claim_bmp])
def test_a_header_is_compared_before_pixels_are_decoded(claim, tmp_path, capsys):
    claim(tmp_path / "a.img", 50_000, 40_000)
    line = "infer resnet20_v1 --image a.img"
    assert "a.img is 40000x50000, but 64x64 is planned" in refused(
        f"{line} --image-size 64", capsys
    )
    for more in ("", " --image-size 64 --resize", " --image-size 40000x50000"):
        assert "its header names 40000x50000 pixels, and its" in refused(line + more, capsys)
    claim(tmp_path / "a.img", 3_000_000, 20)
    assert "cannot hold so many: it is damaged" in refused(line, capsys)


def test_an_image_for_which_there_is_no_memory_is_not_decoded(tmp_path, monkeypatch, capsys):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    zarr.create_array(tmp_path / "a.zarr", data=RGB, chunks=(256, 256, 3))
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", compression="zlib")
    memory = psutil.virtual_memory()._replace(available=100_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    for name in ("a.png", "a.zarr", "a.tif"):
        told = refused(f"infer resnet20_v1 --image {name}", capsys)
        assert "do not fit into the memory: they take 192.0 KiB, and 97.7 KiB are free" in told


def test_a_large_image_that_compresses_well_is_no_damaged_one(tmp_path, monkeypatch):
    monkeypatch.undo()
    black = Image.fromarray(np.zeros((3000, 3000), bool))
    for suffix in ("png", "gif", "bmp"):
        black.save(tmp_path / f"a.{suffix}")
        assert open_source(tmp_path / f"a.{suffix}", channels=1).shape == (1, 1, 3000, 3000)
    Image.new("L", (3000, 3000)).save(tmp_path / "a.jpg", quality=1, progressive=True)
    assert open_source(tmp_path / "a.jpg", channels=1).shape == (1, 1, 3000, 3000)


def test_a_tiff_that_ends_early_or_has_other_tags_is_refused_before_ranks_read_it(
    tmp_path, capsys, caplog
):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", compression="zlib", tile=(64, 64))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    told = refused("infer resnet20_v1 --image a.tif", capsys)
    assert "tiles or strips of its page 0 are missing: it is truncated" in told
    path.write_bytes(whole)
    with tifffile.TiffFile(path) as tif:
        width = tif.pages[0].tags["ImageWidth"].valueoffset
    wrong = bytearray(whole)
    wrong[width : width + 4] = (100_000).to_bytes(4, "little")
    path.write_bytes(wrong)
    refused("infer resnet20_v1 --image a.tif", capsys)
    with caplog.at_level(logging.WARNING, "tifffile"):
        path.write_bytes(whole[:4] + (10**6).to_bytes(4, "little") + whole[8:])
        assert "cannot read" in refused("infer resnet20_v1 --image a.tif", capsys)
    assert not caplog.records


def test_a_zarr_that_cannot_be_decoded_is_refused_before_ranks_read_it(tmp_path, capsys):
    zarr.create_array(tmp_path / "a.zarr", data=RGB, chunks=(64, 64, 3))
    chunk = tmp_path / "a.zarr" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:50])
    assert "cannot read" in refused("infer resnet20_v1 --image a.zarr", capsys)
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    assert "cannot read" in refused("infer resnet20_v1 --image a.zarr", capsys)
