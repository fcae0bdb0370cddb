"""Training on real MPI ranks: of a cluster, under mpiexec, and after a kill."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from processes import MPIEXEC
from tiled import noise
from torch import nn

import spnb

LINE = ["resnet20_v1", "--batch-size", "4", "--parts", "2", "--precision", "fp64"]
pytestmark = pytest.mark.mpi


def command(folder, *more, ranks=5):
    line = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "spnb", "train", *LINE, *more]
    return {"args": line, "cwd": folder, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}


def trained(folder, *more, **options):
    done = subprocess.run(**command(folder, *more, **options), text=True, timeout=200)
    assert done.returncode == 0, done.stdout
    return torch.load(folder / "checkpoint.pth", weights_only=True), done.stdout


def same(a, b, tolerance):
    for name, tensor in b["model"].items():
        torch.testing.assert_close(a["model"][name], tensor, rtol=tolerance, atol=tolerance)


def test_a_killed_training_goes_on_where_it_was(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    wanted, _ = trained(whole, "--num-epochs", "4")
    process = subprocess.Popen(**command(broken, "--num-epochs", "4"), start_new_session=True)
    end = time.monotonic() + 120
    while not (broken / "checkpoint.pth").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = torch.load(broken / "checkpoint.pth", weights_only=True)["epoch"]
    assert 1 <= before < 4, "the kill came too late to show anything"
    found, said = trained(broken, "--num-epochs", "4")
    assert f"{before} of 4 epochs are done" in said
    assert found["epoch"] == 4
    same(found, wanted, 0)


def test_nine_ranks_and_five_follow_one(tmp_path):
    folders = [tmp_path / name for name in ("one", "five", "nine")]
    for folder in folders:
        folder.mkdir()
    one, _ = trained(folders[0], "--num-spatial-parts", "1", "--split-size", "1", ranks=1)
    five, _ = trained(folders[1], ranks=5)
    split = ["--split-size", "3", "--spatial-size", "2", "--schedule", "gpipe"]
    nine, _ = trained(folders[2], *split, ranks=9)
    losses = [[row["loss"] for row in each["history"]] for each in (one, five, nine)]
    assert len(losses[0]) == 10
    assert losses[1] == pytest.approx(losses[0], rel=1e-7)
    assert losses[2] == pytest.approx(losses[0], rel=1e-7)


def test_copies_and_gloo_follow_one_pipeline_over_mpi(tmp_path):
    """Ten ranks are two replicas of five; the same micro-batches in all."""
    cases = {
        "plain": (5, "--parts", "2"),
        "replicas": (10, "--parts", "1"),
        "gems": (5, "--parts", "1", "--gems"),
        "gloo": (5, "--parts", "1", "--gems", "--backend", "gloo"),
    }
    found, said = {}, {}
    for name, (ranks, *more) in cases.items():
        (tmp_path / name).mkdir()
        found[name], said[name] = trained(tmp_path / name, *more, ranks=ranks)
    assert "10 ranks, 2 replicas" in said["replicas"]
    losses = {name: [row["loss"] for row in each["history"]] for name, each in found.items()}
    for name in ("replicas", "gems"):
        assert losses[name] == pytest.approx(losses["plain"], rel=1e-7)
        same(found[name], found["plain"], 1e-7)
    assert losses["gloo"] == losses["gems"]
    same(found["gloo"], found["gems"], 0)


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_a_broken_file_is_named_and_all_ranks_end(tmp_path, backend):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    broken = tmp_path / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:50])
    data = ["--app", "1", "--datapath", str(tmp_path), "--num-classes", "2", "--backend", backend]
    done = subprocess.run(**command(tmp_path, *data), text=True, timeout=100)
    assert done.returncode == 1, done.stdout
    assert f"cannot read {broken}" in done.stdout
    assert "BAD TERMINATION" not in done.stdout


def test_a_cluster_trains_and_then_infers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    images, labels = noise(8, 1, 20, 24).float(), (noise(8, 20, 24, seed=2) > 0).long()
    job = spnb.Job(net, image_size="20x24", batch_size=4, split_size=1, num_epochs=2)
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        wanted = session.train(images, labels)
    job = job.replace(seed=0)
    job.network.__dict__.pop("_module", None)
    with spnb.Cluster(spnb.plan(job, training=True), progress=False) as cluster:
        found = cluster.train(images, labels)
        assert found.history["loss"].tolist() == pytest.approx(wanted.history["loss"].tolist())
        assert min(found.peak_memory_bytes) > 0
        cluster.load(spnb.plan(job))
        result = cluster.infer(images[:4])
        assert result.check().passed
        with torch.no_grad():
            torch.testing.assert_close(torch.as_tensor(result.output), found.module(images[:4]))
