"""What a saved output may take the place of, and what stays if it cannot be written."""

import errno
import os
import shutil
from functools import partial

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from torch import nn

import spnb
from spnb.errors import RankError
from spnb.io.writing.outputs import is_array
from spnb.io.writing.writers import Store
from spnb.ui.cli import main


def ran(image=None):
    torch_net = nn.Conv2d(3, 2, 3, padding=1)
    job = spnb.Job(torch_net, image_size=40, batch_size=1, split_size=1, num_spatial_parts=2)
    session = spnb.InProcess(spnb.plan(job), progress=False)
    return session.infer() if image is None else session.infer(image)


@pytest.fixture(scope="module")
def result():
    return ran()


def folder_of_a_user(path):
    path.mkdir()
    (path / "precious").write_text("x")


def group_of_arrays(path):
    zarr.open_group(path, mode="w").create_array("0", shape=(3,), dtype="f4")


def array_beside_notes(path):
    zarr.create_array(path, data=np.ones((4, 4)))
    (path / "c" / "notes.txt").write_text("x")


def text(path):
    path.write_text("precious")


OTHERS = {
    "folder.zarr": folder_of_a_user,
    "empty.zarr": lambda path: path.mkdir(),
    "group.zarr": group_of_arrays,
    "notes.zarr": array_beside_notes,
    "text.zarr": text,
    "text.npy": text,
    "text.tif": text,
    "folder.npy": folder_of_a_user,
    "folder.tiff": folder_of_a_user,
    "pipe.npy": os.mkfifo,
}


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_array_is_never_replaced(name, result, tmp_path, capsys, monkeypatch):
    OTHERS[name](tmp_path / name)
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match="that spnb can read, so it is never replaced"):
        result.save(tmp_path / name, overwrite=True)
    monkeypatch.setattr(
        "spnb.driver.launch.engines.Engines.start", lambda self: pytest.fail("engines started")
    )
    line = ["infer", "resnet20_v1", "--batch-size", "1", "--overwrite", "--save-output"]
    assert main([*line, str(tmp_path / name)]) == 2
    assert "so it is never replaced: name another file" in capsys.readouterr().err
    assert content(tmp_path) == before


ARRAYS = {
    "a.npy": lambda path: np.save(path, np.ones((4, 5))),
    "scalar.npy": lambda path: np.save(path, 3.0),
    "a.tif": lambda path: tifffile.imwrite(path, np.ones((4, 5), np.uint8)),
    "three.zarr": lambda path: zarr.create_array(path, data=np.ones((4, 5)), chunks=(2, 2)),
    "two.zarr": lambda path: zarr.create_array(
        path, data=np.ones((4, 5)), chunks=(2, 2), zarr_format=2, attributes={"of": "a user"}
    ),
    "nested.zarr": lambda path: zarr.create_array(
        path, data=np.ones(4), zarr_format=2, chunk_key_encoding={"name": "v2", "separator": "/"}
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_replaced_if_that_is_asked_for(name, result, tmp_path):
    path = tmp_path / name
    ARRAYS[name](path)
    assert is_array(path)
    before = content(tmp_path)
    with pytest.raises(FileExistsError, match=r"overwrite=True$"):
        result.save(path)
    assert content(tmp_path) == before
    saved = spnb.io.open.open_source(result.save(path, overwrite=True), channels=2)
    assert saved.shape == tuple(result.output.shape)
    assert os.listdir(tmp_path) == [name]


def test_to_overwrite_needs_an_output(capsys):
    assert main(["infer", "resnet", "--overwrite"]) == 2
    assert "give --save-output too" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["npy", "tif", "zarr"])
def test_an_input_is_never_replaced(suffix, tmp_path, capsys):
    image = tmp_path / f"in.{suffix}"
    values = np.random.default_rng(0).random((1, 3, 40, 40), np.float32)
    {
        "npy": np.save,
        "tif": partial(tifffile.imwrite, photometric="minisblack"),
        "zarr": lambda path, data: zarr.create_array(path, data=data),
    }[suffix](image, values)
    link = tmp_path / f"link.{suffix}"
    link.symlink_to(image)
    others = [image, link]
    if suffix == "zarr":
        others.append(image / "out.zarr")
    else:
        others.append(tmp_path / f"hard.{suffix}")
        others[-1].hardlink_to(image)
    result, before = ran(image), content(tmp_path)
    for other in others:
        with pytest.raises(ValueError, match="the run reads"):
            result.save(other, overwrite=True)
        line = ["infer", "resnet20_v1", "--image", str(link), "--overwrite"]
        assert main([*line, "--save-output", str(other)]) == 2
        assert "the run reads" in capsys.readouterr().err
    assert content(tmp_path) == before


def test_an_input_that_is_decoded_whole_is_not_replaced_either(tmp_path):
    image = tmp_path / "in.tif"
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 4), np.uint8)
    Image.fromarray(noise, "CMYK").save(image, compression="tiff_lzw")
    result = ran(image)
    with pytest.raises(ValueError, match="the run reads"):
        result.save(image, overwrite=True)


@pytest.mark.parametrize("suffix", ["npy", "tif", "zarr"])
def test_if_a_rank_cannot_write_the_old_file_stays(suffix, result, tmp_path, monkeypatch):
    path = result.save(tmp_path / f"out.{suffix}")
    before = content(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some chunk")

    monkeypatch.setattr(Store, "_write", full)
    told = rf"^rank \d, stage 0, save: WriteError: cannot write \S+/out.{suffix}: No space left on"
    with pytest.raises(RankError, match=told):
        result.save(path, overwrite=True)
    assert content(tmp_path) == before
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RankError):
        result.save(path)
    assert os.listdir(tmp_path) == []


def test_a_link_to_an_array_stays_a_link(result, tmp_path):
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "a.npy", tmp_path / "a.npy"
    np.save(real, np.ones(3))
    link.symlink_to(real)
    assert result.save(link, overwrite=True) == link
    assert link.is_symlink()
    assert np.array_equal(np.load(real), result.output.numpy())


def test_which_output_is_saved_is_asked_before_a_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "two.py").write_text(
        "from torch import nn\n"
        "class Two(nn.Conv2d):\n"
        "    def forward(self, x):\n"
        "        y = super().forward(x)\n"
        "        return y, y.mean((2, 3))\n"
        "def make():\n    return Two(3, 2, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "spnb.driver.launch.engines.Engines.start", lambda self: pytest.fail("engines started")
    )
    line = "infer two:make --batch-size 1 --split-size 1 --save-output o.npy"
    assert main(line.split()) == 2
    assert "say which of 2 outputs: 0, 1" in capsys.readouterr().err
