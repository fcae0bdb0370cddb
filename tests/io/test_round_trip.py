"""What spnb wrote it reads: every format, type of element, number of channels and of axes."""

import numpy as np
import pytest
import torch
from saved import read
from torch import nn

import spnb
from spnb.io.open import open_source
from spnb.io.writing.writers import Store
from spnb.ir.axes import Axes
from spnb.ir.region import Region
from spnb.ir.value_range import ValueRange

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
)

PLANES = [
    (1, 1, 21, 34),
    (1, 2, 21, 34),
    (1, 3, 21, 34),
    (2, 4, 21, 34),
    (3, 1, 21, 34),
    (1, 3, 3, 3),
]
SHAPES = [*PLANES, (1, 1, 5, 21, 34), (1, 3, 5, 21, 34), (2, 2, 1, 21, 34), (1, 3, 50), (2, 1, 50)]


def written(path, tensor):
    """Write a tensor as the only rank of a plan would."""
    store = Store(path, Axes.image(tuple(tensor.shape)), tensor.dtype)
    if store.depends_on_numbers:
        store = store.holding(ValueRange.of(tensor))
    with store.created() as created:
        created.write(Region.whole((tensor.shape[0], *tensor.shape[2:])), tensor)
    return store.path


@pytest.mark.parametrize("suffix", ["npy", "tif", "zarr"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_file_is_read_as_it_was_written(suffix, dtype, shape, tmp_path):
    torch.manual_seed(1)
    tensor = (torch.rand(shape) * 200 - 100 * (dtype != torch.uint8)).to(dtype)
    if dtype == torch.bool:
        tensor = torch.rand(shape) > 0.5
    path = written(tmp_path / f"out.{suffix}", tensor)
    expected = tensor.to(torch.float32).numpy()
    assert np.array_equal(np.squeeze(read(path)), np.squeeze(tensor.float().numpy()))
    if dtype == torch.uint8:
        expected = expected / np.float32(255)  # unsigned integers are scaled, whoever wrote them
    _, channels, *size = shape
    source = open_source(path, channels=channels, size=size)
    assert np.array_equal(source.read(Region.whole((shape[0], *size))), expected)
    one = [(n // 2, n // 2 + 1) for n in (shape[0], *size)]
    part = tuple(slice(*span) for span in one)
    assert np.array_equal(
        source.read(Region(tuple(one))), expected[(part[0], slice(None), *part[1:])]
    )


@pytest.mark.parametrize("suffix", ["npy", "tif", "zarr"])
def test_an_output_of_three_channels_is_an_input(suffix, tmp_path):
    job = spnb.Job(nn.Conv2d(3, 3, 3, padding=1), image_size="40x60", batch_size=1, split_size=1)
    session = spnb.InProcess(spnb.plan(job), progress=False)
    first = session.infer()
    second = session.infer(first.save(tmp_path / f"o.{suffix}"))
    assert second.check().passed
    assert torch.equal(session.infer(first.output).output, second.output)
