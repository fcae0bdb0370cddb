"""Outputs on a disk that is too small: one line, both numbers, and the old file stays."""

import os
import shutil

import numpy as np
import pytest
from small_disk import small_disk
from torch import nn

import spnb
from spnb.driver.saved_outputs import store_of
from spnb.errors import WriteError
from spnb.io.disk.disk_space import claim
from spnb.ui.cli import main

BYTES = 2 * 200 * 200 * 4


@pytest.fixture(scope="module")
def result():
    job = spnb.Job(nn.Conv2d(3, 2, 1), image_size=200, batch_size=1, split_size=1)
    return spnb.InProcess(spnb.plan(job), progress=False).infer()


def full(*_):
    return shutil._ntuple_diskusage(total=10**6, used=10**6 - 9_000, free=9_000)


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_space_is_compared_before_a_run(name, result, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", full)
    monkeypatch.setattr(
        "spnb.driver.launch.engines.Engines.start", lambda self: pytest.fail("engines started")
    )
    with pytest.raises(ValueError, match=r"it takes 312.5 KiB, and 8.8 KiB are free$"):
        result.save(tmp_path / name)
    line = ["infer", "unet", "--image-size", "64", "--batch-size", "1", "--save-output"]
    assert main([*line, str(tmp_path / "missing" / name)]) == 2
    error = capsys.readouterr().err
    assert "it takes 160.0 KiB, and 8.8 KiB are free" in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_space_that_is_gone_by_then_is_a_line_and_the_old_file_stays(name, result, tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    told = rf"cannot write \S+{name}: .*File too large"
    with small_disk(), pytest.raises(WriteError, match=told):
        result.save(tmp_path / name, overwrite=True)
    assert os.listdir(tmp_path) == ["a.npy"]
    assert np.load(tmp_path / "a.npy").tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_every_byte_of_an_output_has_a_block_before_ranks_write(name, result, tmp_path):
    with store_of(result.plan.graph, tmp_path / name).created() as created:
        assert created.new.stat().st_blocks * 512 >= BYTES
        assert os.listdir(tmp_path) == [created.new.name]
    assert os.listdir(tmp_path) == [name]


def test_without_fallocate_space_is_compared(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(shutil, "disk_usage", full)
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(BYTES)
    with pytest.raises(WriteError, match=r"it takes 312.5 KiB, and 8.8 KiB are free$"):
        claim(sparse, sparse)
