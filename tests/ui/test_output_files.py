"""Reports, pictures and checkpoints: refused before a run if they cannot be written."""

import json
import os
import socket
import sys

import pytest
import torch
from small_disk import small_disk

import spnb
from spnb.driver.training.checkpoint import Checkpoint
from spnb.errors import WriteError
from spnb.ui.cli import main
from spnb.ui.output_files import save_picture, save_report


@pytest.fixture(autouse=True)
def nothing_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "spnb.driver.launch.engines.Engines.start", lambda self: pytest.fail("engines started")
    )


def refused(line, capsys):
    """The one line with which a command is refused."""
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


INFER = "infer resnet20_v1 --batch-size 1"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"{INFER} --report /", "cannot write the report /: it is a folder"),
        (f"{INFER} --report /dev/full", "cannot write the report /dev/full: it is a device"),
        (f"{INFER} --report pipe", "cannot write the report pipe: it is a named pipe"),
        (f"{INFER} --report socket", "cannot write the report socket: it is a socket"),
        (f"{INFER} --report text/r.json", "text: Not a directory"),
        (f"{INFER} --report text", "text exists and is no report of spnb, so it is not replaced"),
        (f"{INFER} --report config.json", "config.json exists and is no report of spnb"),
        (f"{INFER} --report /proc/no/r.json", "report /proc/no/r.json: /proc: No such file"),
        (f"{INFER} --save-plots text", "cannot write the pictures text: "),
        (f"{INFER} --save-plots /proc/no", "cannot write the pictures /proc/no: /proc: No such"),
        (f"{INFER} --save-output /proc/no/o.npy", "the output /proc/no/o.npy: /proc: No such file"),
        (f"{INFER} --save-output text/o.zarr", "text/o.zarr: "),
        (f"{INFER} --save-output o.npy --report ./o.npy", "o.npy is named for two files"),
        ("evaluate resnet20_v1 --report /", "cannot write the report /: it is a folder"),
        ("suite --report /", "cannot write the report /: it is a folder"),
        ("halo --save-plots text", "cannot write the pictures text: "),
        ("train resnet20_v1 --checkpoint /proc/no/c.pth", "checkpoint /proc/no/c.pth: /proc: No"),
        ("train resnet20_v1 --checkpoint folder", "write the checkpoint folder: it is a folder"),
        ("train resnet20_v1 --checkpoint c.pth --report c.pth", "c.pth is named for two files"),
        (
            "train resnet20_v1 --checkpoint dir.pth --validation 0.5",
            "cannot write the best checkpoint dir-best.pth: it is a folder",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_run(line, told, tmp_path, capsys):
    (tmp_path / "text").write_text("of a user")
    (tmp_path / "config.json").write_text('{"name": "of a user"}')
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dir-best.pth").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        before = sorted(os.listdir(tmp_path))
        assert told in refused(line, capsys)
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "text").read_text() == "of a user"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path, capsys):
    (tmp_path / "folder").mkdir(mode=0o500)
    assert "folder: Permission denied" in refused(f"{INFER} --report folder/r.json", capsys)


def test_a_report_replaces_an_older_one_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "report.json"
    save_report({"job": 1}, path)
    save_report({"job": 2}, path)
    with small_disk(), pytest.raises(WriteError, match=r"cannot write \S+report.json: File too l"):
        save_report({"job": "x" * 20_000}, path)
    assert json.loads(path.read_text()) == {"job": 2}
    assert os.listdir(path.parent) == ["report.json"]


def test_a_picture_or_a_trace_on_a_full_disk_is_a_line(tmp_path):
    job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, split_size=1, num_spatial_parts=2)
    plan = spnb.plan(job)
    session = spnb.InProcess(plan, progress=False)
    result = session.infer()
    with (
        small_disk(1000),
        pytest.raises(WriteError, match=r"cannot write \S+a.png: File too"),
    ):
        save_picture(plan.plot_traffic, tmp_path / "a.png")
    with small_disk(1000), pytest.raises(WriteError, match=r"cannot write \S+t.json: File too la"):
        result.to_chrome_trace(tmp_path / "t.json")
    with small_disk(), pytest.raises(WriteError, match=r"cannot write \S+stage-0.pt: File too lar"):
        session.load(plan)
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_on_a_full_disk_is_a_line_and_the_old_one_stays(tmp_path):
    path = tmp_path / "net.pth"
    Checkpoint({"a": torch.zeros(2)}, epoch=1).save(path)
    with small_disk(), pytest.raises(WriteError, match=r"cannot write \S+net.pth: File too large"):
        Checkpoint({"a": torch.zeros(20_000)}, epoch=2).save(path)
    assert Checkpoint.read(path).epoch == 1
    assert os.listdir(tmp_path) == ["net.pth"]


@pytest.mark.long
def test_a_session_refuses_a_checkpoint_before_it_trains():
    job = spnb.Job("resnet20_v1", batch_size=2, split_size=1, checkpoint="/proc/no/c.pth")
    session = spnb.InProcess(spnb.plan(job, training=True), progress=False)
    with pytest.raises(ValueError, match="cannot write the checkpoint /proc"):
        session.train()


def test_standard_output_on_a_full_disk_is_a_line(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["plan", "resnet20_v1", "--batch-size", "1"]) == 1
    assert capsys.readouterr().err == "spnb: cannot print: No space left on device\n"


def test_a_reader_that_goes_away_ends_a_command_silently(monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert main(["plan", "resnet20_v1", "--batch-size", "1"]) == 1
    assert capsys.readouterr().err == ""
