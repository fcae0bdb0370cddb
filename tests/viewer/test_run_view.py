"""A viewer asks for tiles of image and output, and only what it asks for is read."""

import base64
import io
import time
from dataclasses import replace

import numpy as np
import pytest
import zarr
from networks import conv
from PIL import Image
from torch import nn

import spnb
import spnb.io.open
from spnb.display.paint import STYLES, painted, span_of, style_of
from spnb.driver import result_view
from spnb.io.readers.zarr_source import ZarrSource
from spnb.viewer.layer import Layer


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.fixture(scope="module")
def result():
    network = nn.Sequential(conv(3, 4), nn.MaxPool2d(2), conv(4, 5))
    job = spnb.Job(network, image_size="600x700", batch_size=2, parts=2, stages=1, tiles=4)
    return spnb.InProcess(spnb.plan(job), progress=False).infer()


def sent(view):
    """What the script is answered from now on."""
    answers = []
    view.send = lambda content, buffers=(): answers.append((content, list(buffers)))
    return answers


def test_a_tile_of_the_output_is_that_part_of_it(result):
    view = result.show()
    assert view.layers["output"]["height"] == 300
    output = result.output[0].numpy()
    for level, row, column in ((0, 0, 0), (0, 1, 1), (1, 0, 0)):
        png, exact = view.tile("output", level, row, column, style="classes")
        step, side = 2**level, 256 * 2**level
        part = output[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
        wanted = painted(part[:, ::step, ::step], "classes", (0, 1))
        assert exact
        np.testing.assert_array_equal(decoded(png), wanted)


class Classes(nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = conv(3, 5)

    def forward(self, x):
        return self.scores(x).argmax(1)


@pytest.mark.parametrize("small", [0, result_view.SMALL])
def test_a_map_of_classes_is_a_picture(monkeypatch, small):
    monkeypatch.setattr(result_view, "SMALL", small)
    job = spnb.Job(Classes(), image_size="300x350", batch_size=2, stages=1, tiles=4)
    result = spnb.InProcess(spnb.plan(job), progress=False).infer()
    view = result.show()
    assert view.layers["output"]["styles"][0] == "classes"
    classes = result.output[:1].numpy()
    for level, row, column in ((0, 0, 1), (1, 0, 0)):
        png, _ = view.tile("output", level, row, column)
        step, side = 2**level, 256 * 2**level
        part = classes[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
        wanted = painted(part[:, ::step, ::step], "classes", (0, 1))
        np.testing.assert_array_equal(decoded(png), wanted)


def test_outputs_that_stay_on_ranks_are_sampled_there(monkeypatch):
    monkeypatch.setattr(result_view, "SMALL", 0)
    job = spnb.Job(conv(3, 5), image_size="300x350", batch_size=1, stages=1, tiles=4)
    session = spnb.InProcess(spnb.plan(job), progress=False)
    result = session.infer()
    held = {report.rank: report.pieces for report in result.reports}
    result.reports = [replace(report, pieces=None) for report in result.reports]
    png, _ = result.show().tile("output", 0, 1, 1, style="classes")
    own = np.concatenate([piece.tensor[0].numpy() for piece in held[3]])
    wanted = painted(own[:, 256 - 150 :, 256 - 175 :], "classes", (0, 1))
    np.testing.assert_array_equal(decoded(png), wanted)
    session.load(spnb.plan(job.replace(tiles=2)))
    view = result.show(overlay="classes")
    answers = sent(view)
    asked = {"layer": "output", "style": "heat", "level": 0, "row": 0, "column": 0, "most": 64}
    view._handle_custom_msg(asked, [])
    assert "another plan was loaded" in answers[0][0]["failed"]


def test_what_was_shown_can_be_looked_into_when_the_ranks_are_stopped(tmp_path):
    job = spnb.Job(conv(3, 5), image_size="300x350", batch_size=1, stages=1, tiles=4)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 350, 3), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    with spnb.InProcess(spnb.plan(job), progress=False) as session:
        result = session.infer(tmp_path / "a.npy")
        result.reports = [replace(report, pieces=None) for report in result.reports]
        view = result.show()
    (tmp_path / "a.npy").unlink()
    session._ranks.clear()
    np.testing.assert_array_equal(decoded(view.tile("image", 0, 1, 1)[0]), pixels[256:, 256:])
    assert decoded(view.tile("output", 0, 1, 1)[0]).shape == (44, 94, 3)


def test_a_message_is_answered_with_a_tile_or_with_the_reason(result):
    view = result.show()
    answers = sent(view)
    asked = {"layer": "image", "style": "colours", "level": 1, "row": 0, "column": 1, "most": 64}
    view._handle_custom_msg(asked, [])
    ((answer, (png,)),) = answers
    assert 0 < answer.pop("seconds") < 10
    assert answer == {**asked, "exact": True}
    assert decoded(png).shape == (256, 94, 3)
    assert view.read == [("image", 1, 0, 1)]
    view._handle_custom_msg({**asked, "column": 9}, [])
    assert answers[-1] == ({**asked, "column": 9, "failed": "there is no tile 0, 9 at level 1"}, [])


def test_a_notebook_without_a_kernel_has_a_picture(result):
    data, _ = result.show()._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= set(data)
    assert decoded(base64.b64decode(data["image/png"])).shape[1] > 800


def test_overlays_that_cannot_be_had_are_refused(result):
    with pytest.raises(ValueError, match="no overlay 'clases': choose one of colours, classes"):
        result.show(overlay="clases")
    assert result.show(overlay="heat").layers["output"]["styles"][0] == "heat"
    job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
    scores = spnb.InProcess(spnb.plan(job), progress=False).infer()
    assert list(scores.show().layers) == ["image"]
    with pytest.raises(ValueError, match="no overlay of the output: it is no picture"):
        scores.show(overlay="heat")


def test_an_image_is_shown_as_it_was_before_it_is_preprocessed():
    job = spnb.Job(conv(3, 4), image_size=32, batch_size=1, stages=1, tiles=2)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    result = spnb.InProcess(spnb.plan(job), progress=False).infer(pixels, preprocess="imagenet")
    np.testing.assert_array_equal(decoded(result.show().tile("image", 0, 0, 0)[0]), pixels)


@pytest.mark.parametrize(
    ("scores", "style", "shown"),
    [
        ([[[9.0, 0.0]], [[0.0, 9.0]]], "classes", [0, 1]),
        ([[[0.0, 1.0]]], "probability", [0, 1]),
        ([[[-7.0, 7.0]]], "heat", [0, 1]),
    ],
)
def test_a_style_suits_the_numbers(scores, style, shown):
    pixels = np.array(scores, np.float32)
    assert style_of(pixels) == style
    dark, light = painted(pixels, style, (-7.0, 7.0))[0]
    assert not np.array_equal(dark, light)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "pixels",
    [
        np.array([[[0.5, np.nan, np.inf, -np.inf]]]),
        np.array([[[0.5, np.nan, np.inf, 7.0]], [[-1.0, 2.0, 0.0, np.nan]]]),
        np.full((2, 1, 4), np.nan),
        np.array([[[True, False, True, True]]]),
        np.array([[[3, 0, 200, -1]]]),
    ],
)
def test_every_number_has_a_colour_in_every_style(pixels, style):
    colours = painted(pixels, style, span_of(pixels))
    assert colours.shape == (1, 4, 3)
    missing = np.isnan(pixels).any(axis=0)
    assert not colours[missing].any()  # black
    assert style_of(pixels) in STYLES


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    """A zarr of 65,536² pixels with a few chunks written; the others are zero."""
    path = tmp_path_factory.mktemp("huge") / "a.zarr"
    array = zarr.create_array(str(path), shape=(65536, 65536), chunks=(1024, 1024), dtype="uint8")
    array[2048:4096, 1024:2048] = np.random.default_rng(0).integers(0, 256, (2048, 1024), np.uint8)
    return path


def test_a_huge_zarr_opens_at_once(huge, monkeypatch):
    chunks = []
    own = ZarrSource.read

    def counted(self, region):
        rows, columns = region.spans[1:]
        chunks.append((rows[1] - rows[0]) * (columns[1] - columns[0]) // 2**20)
        return own(self, region)

    job = spnb.Job(
        nn.Conv2d(1, 1, 3, padding=1), image_size=65536, batch_size=1, stages=1, tiles=16
    )
    plan = spnb.plan(job)
    monkeypatch.setattr(ZarrSource, "read", counted)
    seconds = []
    for _ in range(3):
        chunks.clear()
        start = time.perf_counter()
        view = plan.show(huge)
        png, exact = view.tile("image", 8, 0, 0)
        seconds.append(time.perf_counter() - start)
    assert decoded(png).shape == (256, 256, 3)
    assert not exact  # the picture says that it is sampled
    assert len(chunks) <= 64
    assert min(seconds) < 1.0
    chunks.clear()
    png, exact = view.tile("image", 0, 8, 4)
    assert exact
    assert len(chunks) == 1
    stored = zarr.open_array(str(huge), mode="r")[2048:2304, 1024:1280]
    np.testing.assert_array_equal(decoded(png)[..., 0], stored)


def test_a_sampled_tile_becomes_exact_when_more_may_be_read(huge):
    layer = Layer.of_image(spnb.io.open.open_source(huge, channels=1))
    sharp = [layer.tile(4, 0, 0, most=most)[1] for most in (4, 16)]
    assert sharp == [False, True]
