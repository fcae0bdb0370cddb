"""Training on real MPI ranks: of a cluster, under mpiexec, and after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from processes import MPIEXEC
from tiled import noise
from torch import nn

import spnb
from spnb import models

LINE = [
    "networks:classifier",
    "--checkpoint",
    "checkpoint.pth",
    "--batch-size",
    "4",
    "--parts",
    "2",
    "--precision",
    "fp64",
]
pytestmark = pytest.mark.mpi


def command(folder, *more, ranks=5):
    line = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "spnb", "train", *LINE, *more]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "helpers")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return {"args": line, "cwd": folder, "env": environment, **pipes}


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


def test_any_split_copies_and_gloo_follow_one_rank(tmp_path):
    """The same micro-batches in all; ten ranks are two replicas of five."""
    cases = {
        "one": (1, "--num-spatial-parts", "1", "--split-size", "1"),
        "five": (5,),
        "nine": (9, "--split-size", "3", "--spatial-size", "2", "--schedule", "gpipe"),
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
    assert len(losses["one"]) == 10
    for name in cases:
        assert losses[name] == pytest.approx(losses["one"], rel=1e-7), name
        same(found[name], found["one"], 1e-7)
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
    data = ["--app", "1", "--datapath", str(tmp_path), "--backend", backend]
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
    job = spnb.Job(net, **job.given())  # from its own weights again
    with spnb.Cluster(spnb.plan(job, training=True), progress=False) as cluster:
        found = cluster.train(images, labels)
        assert found.history["loss"].tolist() == pytest.approx(wanted.history["loss"].tolist())
        assert min(found.peak_memory_bytes) > 0
        cluster.load(spnb.plan(job))
        result = cluster.infer(images[:4])
        assert result.check().passed
        with torch.no_grad():
            torch.testing.assert_close(torch.as_tensor(result.output), found.module(images[:4]))


def test_memory_is_foreseen_for_each_schedule():
    """Within a sixth of what is measured; a stage holds what its schedule says."""
    images, labels = noise(8, 3, 192, 192).float(), torch.zeros(8, dtype=torch.long)
    given = {
        "image_size": 192,
        "batch_size": 8,
        "parts": 4,
        "split_size": 1,
        "num_spatial_parts": 2,
    }
    measured = {}
    for schedule in ("1f1b", "gpipe"):
        job = spnb.Job(models.build("resnet20_v1"), schedule=schedule, **given)
        with spnb.Cluster(spnb.plan(job, training=True), progress=False) as cluster:
            training = cluster.train(images, labels)
        (planned,) = training.plan.memory_bytes
        measured[schedule] = max(training.peak_memory_bytes)
        assert abs(planned - measured[schedule]) < measured[schedule] / 6
        assert "memory of a rank: at most" in str(training)
    assert measured["gpipe"] > 1.5 * measured["1f1b"]
