"""Outputs written by region, by the ranks."""

import numpy as np
import pytest
import torch
from saved import read
from tiled import Call
from torch import nn

import spnb
from spnb.io.writing.writers import CHUNK


def dense(*channels, stride=1):
    return nn.Sequential(nn.Conv2d(3, channels[0], 3, stride, 1), nn.Conv2d(*channels, 3, 1, 1))


@pytest.mark.parametrize("suffix", ["npy", "tif", "zarr"])
@pytest.mark.parametrize(
    "options",
    [
        {"split_size": 1, "num_spatial_parts": 6},
        {"split_size": 2, "spatial_size": 1, "parts": 2, "batch_size": 3},
        {"split_size": 2, "spatial_size": 1, "parts": 2, "batch_size": 4, "local_DP": 2},
        {"split_size": 2, "spatial_size": 1, "batch_size": 3, "gems": True},
        {"split_size": 1, "batch_size": 5, "replicas": 2, "gems": True, "num_spatial_parts": 2},
    ],
)
def test_what_is_saved_is_the_output(tmp_path, suffix, options):
    size = (CHUNK + 47, 2 * CHUNK + 31)
    job = spnb.Job(dense(4, 2), image_size=size, **{"batch_size": 1} | options)
    result = spnb.InProcess(spnb.plan(job)).infer()
    path = result.save(tmp_path / f"out.{suffix}")
    assert np.array_equal(read(path).squeeze(), result.output.numpy().squeeze())
    result.check()


def test_no_two_ranks_write_into_one_chunk(tmp_path, monkeypatch):
    written = []
    job = spnb.Job(dense(4, 2), image_size=3 * CHUNK + 5, batch_size=1, split_size=1)
    result = spnb.InProcess(spnb.plan(job)).infer()
    plain = spnb.io.writing.writers.Store.write
    monkeypatch.setattr(
        spnb.io.writing.writers.Store, "write", lambda *a: (written.append(a[1]), plain(*a))[1]
    )
    result.save(tmp_path / "out.zarr")
    edges = {edge for region in written for span in region.spans[1:] for edge in span}
    assert len(written) == 4
    assert all(edge % CHUNK == 0 or edge == 3 * CHUNK + 5 for edge in edges)


def test_more_tiles_than_chunks(tmp_path):
    job = spnb.Job(dense(4, 2), image_size=60, batch_size=1, split_size=1, num_spatial_parts=9)
    result = spnb.InProcess(spnb.plan(job)).infer()
    path = result.save(tmp_path / "out.zarr")
    assert np.array_equal(read(path), result.output.numpy())


def test_one_of_several_outputs_is_named(tmp_path):
    net = Call(
        lambda m, x: {"dense": m[0](x), "rest": [m[0](x).mean((2, 3)), x > 0.5]}, dense(4, 2)
    )
    job = spnb.Job(net, image_size=40, batch_size=1, split_size=1)
    result = spnb.InProcess(spnb.plan(job)).infer()
    with pytest.raises(ValueError, match=r"which of 3 outputs: dense, rest\.0, rest\.1"):
        result.save(tmp_path / "out.npy")
    with pytest.raises(ValueError, match="there is no output 'x'"):
        result.save(tmp_path / "out.npy", "x")
    for key, value in (("dense", result.output["dense"]), (1, result.output["rest"][0])):
        assert np.array_equal(read(result.save(tmp_path / f"{key}.npy", key)), value)
    mask = read(result.save(tmp_path / "mask.tif", "rest.1"))
    assert np.array_equal(mask.squeeze(), result.output["rest"][1][0])


def test_tokens_and_halves(tmp_path):
    net = Call(lambda m, x: m[0](x).flatten(2).transpose(1, 2), dense(4, 2))
    job = spnb.Job(net, image_size=(33, 21), batch_size=2, split_size=1, precision="bf16")
    result = spnb.InProcess(spnb.plan(job)).infer()
    path = result.save(tmp_path / "out.npy")
    assert np.array_equal(read(path), result.output.float().numpy())
    with pytest.raises(ValueError, match=r"save it as \.npy"):
        result.save(tmp_path / "out.zarr")


def test_nothing_is_overwritten_by_accident(tmp_path):
    job = spnb.Job(dense(4, 2), image_size=40, batch_size=1, split_size=1)
    result = spnb.InProcess(spnb.plan(job)).infer()
    with pytest.raises(ValueError, match=r"cannot save as out.bmp: use .npy, .tif"):
        result.save(tmp_path / "out.bmp")
    for name in ("out.npy", "out.zarr"):
        path = result.save(tmp_path / name)
        with pytest.raises(FileExistsError, match="overwrite=True"):
            result.save(path)
        assert np.array_equal(read(result.save(path, overwrite=True)), result.output)


def test_outputs_of_a_plan_that_was_replaced_are_gone():
    job = spnb.Job(dense(4, 2), image_size=40, batch_size=1, split_size=1)
    session = spnb.InProcess(spnb.plan(job))
    result = session.infer()
    session.load(session.plan)
    with pytest.raises(RuntimeError, match="another plan was loaded"):
        session._fetch(0, [0])
    assert torch.is_tensor(result.output)  # what came back with the run stays
