"""What stands for an image: its size, its number of images, and None, which stands for nothing."""

import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image
from torch import nn

import spnb
from spnb.errors import OptionError
from spnb.io.sources import NOT_GIVEN
from spnb.ir.region import Region
from spnb.job.options import LeftOut
from spnb.ui.job_of_line import job_of_images


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))


def session(module=None, training=False, **options):
    options = {"image_size": "20x30", "split_size": 1, "num_spatial_parts": 2} | options
    plan = spnb.plan(spnb.Job(module or net(), **options), training=training)
    return spnb.InProcess(plan, progress=False)


@pytest.fixture
def photo(tmp_path):
    """An image of 40×30 pixels: another aspect than the plans here have."""
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


# ---------------------------------------------------------------- size


@pytest.mark.parametrize("kind", ["path", "text", "array", "sample"])
def test_another_size_is_refused_unless_resize_is_said(photo, kind):
    image = {
        "path": photo,
        "text": str(photo),
        "array": np.zeros((1, 3, 40, 30), np.float32),
        "sample": "coffee",
    }[kind]
    shown = "400x600" if kind == "sample" else "40x30"
    words = rf"is {shown}, but 20x30 is planned: .*image_size='{shown}', .*resize=True, which"
    plain = session(batch_size=1)
    for open_image in (plain.infer, plain.plan.open, plain.plan.plot_tiles):
        with pytest.raises(ValueError, match=words):
            open_image(image)
    result = plain.infer(image, resize=True)
    assert f"resized from {shown}" in result.source.name
    assert result.check().passed
    assert torch.equal(session(batch_size=1, resize=True).infer(image).output, result.output)
    with pytest.raises(ValueError, match=words):
        session(batch_size=1, resize=True).infer(image, resize=False)


def test_a_resized_image_is_pillows(photo):
    found = session(batch_size=1).plan.open(photo, resize=True)
    with Image.open(photo) as image:
        each = [
            band.convert("F").resize((30, 20), Image.Resampling.BILINEAR) for band in image.split()
        ]
    expected = np.stack([np.asarray(band) for band in each])[None] / np.float32(255)
    whole = session(batch_size=1).plan.open(torch.zeros(1, 3, 20, 30)).shape
    assert found.shape == whole
    np.testing.assert_allclose(found.read(Region.whole((1, 20, 30))), expected, atol=1e-5)


def test_every_image_of_a_network_with_several_is_held_to_its_size():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3, padding=1)

        def forward(self, x, y):
            return self.conv(x) + self.conv(y)

    both = session(Sum(), image_size=32, input_shapes=[(1, 3, 20, 30)] * 2)
    fits, other = torch.rand(1, 3, 20, 30), torch.rand(1, 3, 40, 30)
    with pytest.raises(ValueError, match="array is 40x30, but 20x30 is planned"):
        both.infer([fits, other])
    with pytest.raises(ValueError, match="the input y is None"):
        both.infer([fits, None])
    assert both.infer([fits, fits]).check().passed
    assert both.infer([fits, other], resize=True).check().passed
    assert both.infer([fits, NOT_GIVEN]).check().passed


def test_images_to_train_on_are_held_to_their_size():
    images, labels = torch.rand(4, 3, 40, 30), torch.ones(4, 20, 30, dtype=torch.long)
    with pytest.raises(ValueError, match="array is 40x30, but 20x30 is planned"):
        session(training=True, batch_size=2).train(images, labels)
    trained = session(training=True, batch_size=2, resize=True).train(images, labels)
    assert len(trained.history) == 2


def test_a_line_takes_size_and_number_from_its_image(photo):
    job = job_of_images("resnet20_v1", {}, [str(photo)])
    assert job.input_shape == (1, 3, 40, 30)
    assert job_of_images("resnet20_v1", {"batch_size": 4}, [str(photo)]).input_shape == (
        4,
        3,
        40,
        30,
    )
    several = np.zeros((3, 3, 8, 9), np.float32)
    assert job_of_images("resnet20_v1", {}, [several]).input_shape == (3, 3, 8, 9)
    assert job_of_images("resnet20_v1", {"image_size": "8x9"}, [several]).input_shape == (
        3,
        3,
        8,
        9,
    )
    volume = nn.Conv3d(2, 2, 3, padding=1)
    assert job_of_images(volume, {}, [np.zeros((2, 5, 6, 7))]).input_shape == (1, 2, 5, 6, 7)


# ---------------------------------------------------------------- number of images


def test_an_image_brings_its_number_where_the_batch_is_left_out():
    run, module = session(), net()
    image = torch.rand(1, 3, 20, 30)
    result = run.infer(image)
    assert result.output.shape == (1, 2, 20, 30)
    assert "on 1 image of 20×30" in result.summary
    torch.testing.assert_close(result.output, module(image).detach())
    assert run.plan.job.batch_size == 1
    assert run.infer(torch.rand(3, 3, 20, 30)).output.shape == (3, 2, 20, 30)
    assert run.infer(run.plan.open(image)).output.shape == (1, 2, 20, 30)
    assert run.plan is run.infer(image).plan
    assert session().infer().output.shape == (32, 2, 20, 30)
    assert isinstance(run.plan.job.replace(num_spatial_parts=3).batch_size, LeftOut)


def test_a_batch_that_is_said_is_kept():
    image = torch.rand(1, 3, 20, 30)
    for said in (32, 2, 1):
        run = session(batch_size=said)
        assert run.infer(image).output.shape == (said, 2, 20, 30)
        assert run.plan.job.batch_size == said
    with pytest.raises(ValueError, match="holds 3 images, but the batch size is 2"):
        session(batch_size=2).infer(torch.rand(3, 3, 20, 30))
    with pytest.raises(OptionError, match="4 parts of a batch of 1"):
        session(parts=4).infer(image)


# ---------------------------------------------------------------- None


def test_none_is_no_image():
    run, message = session(batch_size=1), "is None: give an array, a path, a sample or a source"
    for call in (run.infer, run.plan.open, run.plan.open_inputs, run.plan.plot_tiles):
        with pytest.raises(ValueError, match=message):
            call(None)
    with pytest.raises(ValueError, match=message):
        run.plan.plot_halo(0, None)
    with pytest.raises(ValueError, match=message):
        spnb.explore(run.plan.job, None)
    training = session(training=True, batch_size=2)
    labels = torch.ones(4, 20, 30, dtype=torch.long)
    for arguments in ((None,), (None, None), (None, labels), (torch.rand(4, 3, 20, 30), None)):
        with pytest.raises(ValueError, match=message):
            training.train(*arguments)
    with pytest.raises(ValueError, match="targets without images"):
        training.train(targets=labels)


def test_what_is_synthetic_says_so(capsys):
    run = session(batch_size=1)
    assert "(synthetic)" in run.infer().summary
    assert "(synthetic)" in run.infer().card.title
    plan = spnb.plan(run.plan.job.replace(batch_size=2), training=True)
    spnb.InProcess(plan).train()
    assert "no images are given: these are synthetic" in capsys.readouterr().out


# ---------------------------------------------------------------- double precision


@pytest.mark.parametrize("suffix", ["array", "npy", "tif", "zarr", "tiles"])
def test_double_precision_is_not_rounded(suffix, tmp_path):
    module = net().double()
    image = torch.rand(1, 3, 20, 30, dtype=torch.float64)
    given, path = image, tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, image.numpy())
        given = path
    elif suffix == "zarr":
        zarr.create_array(path, data=image.numpy())
        given = path
    elif suffix in ("tif", "tiles"):
        options = {"tile": (16, 16), "compression": "zlib"} if suffix == "tiles" else {}
        given = path.with_suffix(".tif")
        tifffile.imwrite(given, image.numpy(), photometric="minisblack", **options)
    result = session(module, batch_size=1, precision="fp64").infer(given)
    with torch.no_grad():
        torch.testing.assert_close(result.output, module(image), rtol=1e-14, atol=1e-14)


def test_numbers_and_images_of_training_are_not_rounded():
    module = nn.Conv2d(3, 2, 3, padding=1).double()
    images = torch.rand(2, 3, 20, 30, dtype=torch.float64)
    targets = torch.rand(2, 2, 20, 30, dtype=torch.float64)
    expected = nn.functional.mse_loss(module(images), targets).item()
    found = session(module, training=True, batch_size=2, precision="fp64").train(
        images, targets, loss="mse"
    )
    assert found.history["loss"][0] == pytest.approx(expected, rel=1e-13)
