"""Files of writers that people use, with options drawn by chance: read as they were written.

Each file is read equal to the array that was written, or refused in one line.  A reader that is not
spnb's own (tifffile, Pillow, zarr) must read the same array from it.  The environment variable
``SPNB_FUZZ_FILES`` sets how many files are drawn, ``SPNB_FUZZ_SEED`` the first seed.
"""

import os
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from png import write_png16

from spnb.io.open import open_source
from spnb.ir.region import Region

FILES = int(os.environ.get("SPNB_FUZZ_FILES", "240"))
SEED = int(os.environ.get("SPNB_FUZZ_SEED", "0"))


@dataclass
class Drawn:
    """A file, and the batch ``(images, channels, *spatial)`` that is in it."""

    path: object
    image: np.ndarray
    reference: object
    """What another reader makes of it, and what that should be."""
    wanted: np.ndarray
    options: dict = field(default_factory=dict)


def random_array(chance, shape, dtype):
    if dtype is bool:
        return chance.random(shape) > 0.5
    if np.dtype(dtype).kind == "f":
        return chance.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return chance.integers(info.min, info.max, shape, dtype, endpoint=True)


def picture(chance, space):
    """Draw the shape of a batch."""
    images, channels = chance.choice([1, 1, 1, 2, 3]), chance.choice([1, 1, 2, 3, 3, 4, 5])
    size = [chance.integers(2, 6)] * (space == 3) + [*chance.integers(5, 50, 2)]
    return tuple(map(int, (images, channels, *size)))


def drawn_tiff(chance, folder):
    """A TIFF of tifffile: pages or samples, of ImageJ, OME, tifffile's own kind or plain."""
    space = int(chance.choice([2, 2, 3]))
    shape = picture(chance, space)
    flavour = str(chance.choice(["imagej", "ome", "shaped", "plain"]))
    dtypes = [np.uint8, np.uint16, np.float32]
    if flavour != "imagej":
        dtypes += [np.int16, np.uint32, np.float64, np.float16, np.int8, bool]
    dtype = dtypes[chance.integers(len(dtypes))]
    image = random_array(chance, shape, dtype)
    options = {"photometric": "minisblack"}
    axes = "TCZYX" if space == 3 else "TCYX"
    colour = shape[1] in (3, 4) and chance.random() < 0.5
    if dtype is bool or (flavour == "imagej" and dtype != np.uint8):
        colour = False  # tifffile writes bits of colours that it does not read; ImageJ has bytes
    stored = image
    if colour:
        options["photometric"] = "rgb"
        planar = flavour != "imagej" and chance.random() < 0.4
        options["planarconfig"] = "separate" if planar else "contig"
        if shape[1] == 4:
            options["extrasamples"] = ["unassalpha"]
        stored = np.moveaxis(image, 1, -3 if planar else -1)
        axes = axes.replace("C", "")
        axes = axes[:-2] + "SYX" if planar else axes + "S"
    if flavour == "imagej":
        order = [k for k in (axes.find(letter) for letter in "TZCYXS") if k >= 0]
        stored, axes = stored.transpose(order), "".join(axes[k] for k in order)
        options |= {"imagej": True, "metadata": {"axes": axes}}
        if chance.random() < 0.4:
            options["truncate"] = True
    elif flavour == "ome":
        options |= {"ome": True, "metadata": {"axes": axes}}
    elif flavour == "plain":
        options["metadata"] = None
    else:
        options["metadata"] = {"axes": axes} if chance.random() < 0.5 else {}
        options["truncate"] = bool(chance.random() < 0.3)
    if flavour != "imagej":
        options["bigtiff"] = bool(chance.random() < 0.3)
        options["byteorder"] = str(chance.choice(["<", ">"]))
        if not options.get("truncate"):
            codecs = [None, None, "zlib", "lzw", "zstd", "lzma", "packbits", "deflate"]
            options["compression"] = (
                codecs[chance.integers(len(codecs))] if dtype is not bool else None
            )
            if chance.random() < 0.4 and dtype is not bool:
                options["tile"] = (16, 16 * int(chance.integers(1, 3)))
            elif chance.random() < 0.5:
                options["rowsperstrip"] = int(chance.integers(1, 20))
            lossless = options["compression"] in ("zlib", "lzw", "zstd", "deflate")
            options["predictor"] = bool(lossless and dtype not in (bool, np.float16))
    if not options.get("compression"):
        options.pop("predictor", None)
    path = folder / f"a{chance.choice(['.tif', '.tiff', '.svs', '.dat', '.btf'])}"
    try:
        tifffile.imwrite(path, stored, **options)
    except (
        ValueError,
        TypeError,
        tifffile.OmeXmlError,
    ):  # tifffile does not write every combination
        return None
    read = tifffile.imread(path).reshape(stored.shape)
    return Drawn(path, image, read, stored, options)


def drawn_pillow(chance, folder):
    """A file of Pillow in one of its formats and modes that lose nothing."""
    mode, suffix = [
        ("L", "png"), ("RGB", "png"), ("RGBA", "png"), ("1", "png"), ("I;16", "png"),
        ("L", "bmp"), ("RGB", "bmp"), ("L", "tif"), ("RGB", "tif"), ("RGBA", "tif"), ("1", "tif"),
        ("I;16", "tif"), ("F", "tif"), ("L", "pgm"), ("RGB", "ppm"), ("1", "pbm"), ("I;16", "pgm"),
        ("RGB", "webp"), ("RGBA", "webp"), ("L", "jp2"), ("RGB", "jp2"), ("RGBA", "jp2"),
        ("L", "tga"), ("RGB", "tga"), ("RGBA", "tga"), ("RGB", "qoi"), ("L", "sgi"), ("RGB", "sgi"),
        ("L", "pcx"), ("RGB", "pcx"), ("F", "pfm"), ("RGB", "dds"), ("L", "gif"),
    ][chance.integers(33)]  # fmt: skip
    channels = len(mode) if mode in ("RGB", "RGBA") else 1
    dtype = {"1": bool, "I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)
    _, _, *size = picture(chance, 2)
    image = random_array(chance, (1, channels, *size), dtype)
    path, options = (
        folder / f"a.{suffix}",
        {"webp": {"lossless": True, "exact": True}}.get(suffix, {}),
    )
    if suffix == "tif":
        options = {
            "compression": [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"][chance.integers(4)]
        }
    pixels = np.moveaxis(image[0], 0, -1).squeeze(-1 if channels == 1 else ())
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)
    with Image.open(path) as again:
        read = np.asarray(again.convert(mode) if again.mode not in (mode, "I") else again)
    return Drawn(path, image, read, pixels, {"mode": mode})


def drawn_png16(chance, folder):
    _, channels, *size = picture(chance, 2)
    channels = channels if channels in (1, 3, 4) else 3
    image = random_array(chance, (1, channels, *size), np.uint16)
    path = folder / "a.png"
    write_png16(path, np.moveaxis(image[0], 0, -1))
    return Drawn(path, image, image, image)


def drawn_zarr(chance, folder):
    """A zarr of version 2 or 3, with names of its axes or without."""
    space = int(chance.choice([2, 2, 3]))
    shape = picture(chance, space)
    dtype = [np.uint8, np.uint16, np.float32, np.int32, np.float64, bool][chance.integers(6)]
    image = random_array(chance, shape, dtype)
    stored, names = image, list("tczyx" if space == 3 else "tcyx")
    if space == 2 and chance.random() < 0.5:
        stored, names = image[:, :, None], list("tczyx")
    form = int(chance.choice([2, 3]))
    options = {
        "zarr_format": form,
        "chunks": tuple(min(n, int(chance.integers(3, 20))) for n in stored.shape),
    }
    if form == 3 and chance.random() < 0.5:
        options["dimension_names"] = names
    path = folder / "a.zarr"
    zarr.create_array(path, data=stored, overwrite=True, **options)
    return Drawn(path, image, zarr.open_array(path)[:], stored, options)


MAKERS = [drawn_tiff] * 6 + [drawn_pillow] * 3 + [drawn_png16] + [drawn_zarr] * 2


def floats(image):
    if image.dtype.kind == "u":
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32)


@pytest.mark.long
def test_files_are_read_as_they_were_written(tmp_path):
    equal, skipped, refused = 0, 0, []
    for number in range(SEED, SEED + FILES):
        chance = np.random.default_rng(number)
        folder = tmp_path / str(number)
        folder.mkdir()
        drawn = MAKERS[chance.integers(len(MAKERS))](chance, folder)
        if drawn is None:
            skipped += 1
            continue
        assert np.array_equal(drawn.reference, drawn.wanted), (number, drawn.options)
        images, channels, *size = drawn.image.shape
        try:
            source = open_source(drawn.path, channels=channels, size=size)
            spans = [sorted(chance.integers(0, n + 1, 2).tolist()) for n in (images, *size)]
            found = source.read(Region.whole((images, *size)))
            part = source.read(Region(tuple(map(tuple, spans))))
        except ValueError as error:
            assert "\n" not in str(error), (number, drawn.options)
            refused.append((number, drawn.path.name, drawn.image.shape, drawn.options, str(error)))
            continue
        expected = floats(drawn.image)
        assert source.shape == expected.shape, (number, drawn.options)
        assert np.array_equal(found, expected), (number, drawn.image.shape, drawn.options)
        index = (slice(*spans[0]), slice(None), *(slice(*span) for span in spans[1:]))
        assert np.array_equal(part, expected[index]), (number, drawn.options)
        equal += 1
    print(f"{equal} files equal, {skipped} not written, {len(refused)} refused", *refused, sep="\n")
    assert equal > 6 * len(refused)
    assert skipped < FILES / 10


def damaged(chance, path):
    """Cut a file, or change some of its bytes, most of them near its beginning."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    file = files[chance.integers(len(files))]
    content = bytearray(file.read_bytes())
    if chance.random() < 0.4:
        content = content[: chance.integers(len(content))]
    for _ in range(chance.integers(0, 6) if content else 0):
        content[min(int(chance.exponential(80)), len(content) - 1)] = chance.integers(256)
    file.write_bytes(bytes(content))


@pytest.mark.long
def test_damaged_files_are_read_or_refused_in_a_line(tmp_path):
    # Pillow warned of the tags of the first one.
    for number in (1070275, *range(SEED + 10**6, SEED + 10**6 + FILES // 2)):
        chance = np.random.default_rng(number)
        folder = tmp_path / str(number)
        folder.mkdir()
        drawn = MAKERS[chance.integers(len(MAKERS))](chance, folder)
        if drawn is None:
            continue
        damaged(chance, drawn.path)
        _, channels, *size = drawn.image.shape
        with warnings.catch_warnings(record=True) as more:
            warnings.simplefilter("always")
            try:
                source = open_source(drawn.path, channels=channels, size=size)
                source.read(Region.whole((source.shape[0], *size)))
            except ValueError as error:
                assert "\n" not in str(error), (number, drawn.options)
                assert not more, (number, more[0].message)
