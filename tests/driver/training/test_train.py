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
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import spnb
from spnb import models

LINE = "networks:classifier --checkpoint checkpoint.pth --batch-size 4 --precision fp64"
LINE += " --num-spatial-parts 2 --slice-method vertical"
pytestmark = pytest.mark.mpi


def command(folder, more, ranks=3):
    line = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "spnb", "train"]
    line += [*LINE.split(), *more.split()]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "helpers")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return {"args": line, "cwd": folder, "env": environment, **pipes}


def trained(folder, more):
    done = subprocess.run(**command(folder, more), text=True, timeout=250)
    assert done.returncode == 0, done.stdout
    return torch.load(folder / "checkpoint.pth", weights_only=True), done.stdout


def same(a, b, tolerance):
    for name, tensor in b["model"].items():
        torch.testing.assert_close(a["model"][name], tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(cluster, tmp_path):
    given = {"batch_size": 4, "parts": 2, "precision": "fp64", "num_epochs": 12}
    given |= {"num_spatial_parts": 2, "slice_method": "vertical"}
    job = spnb.Job("networks:classifier", checkpoint=str(tmp_path / "whole.pth"), **given)
    cluster.load(spnb.plan(job, training=True))
    wanted = {"model": cluster.train().module.state_dict()}
    line = "--parts 2 --num-epochs 12"
    process = subprocess.Popen(**command(tmp_path, line), start_new_session=True)
    end = time.monotonic() + 200
    while not (tmp_path / "checkpoint.pth").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = torch.load(tmp_path / "checkpoint.pth", weights_only=True)["epoch"]
    assert 1 <= before < 12, "the kill came too late to show anything"
    found, said = trained(tmp_path, line)
    assert f"{before} of 12 epochs are done" in said
    assert found["epoch"] == 12
    same(found, wanted, 0)


SPLITS = {
    "one": {"num_spatial_parts": 1, "split_size": 1},
    "five": {},
    "nine": {"split_size": 3, "spatial_size": 2, "schedule": "gpipe"},
    "replicas": {"parts": 1, "replicas": 2},
    "patches": {"split_size": 1, "num_spatial_parts": 2, "patches": 4},
    "gems": {"parts": 1, "gems": True},
    "gloo": {"parts": 1, "gems": True, "backend": "gloo"},
}
"""The same micro-batches in all."""


@pytest.mark.slow
def test_any_split_copies_and_gloo_follow_one_rank(cluster, tmp_path):
    found, losses = {}, {}
    for name, options in SPLITS.items():
        given = {"batch_size": 4, "parts": 2, "precision": "fp64"} | options
        job = spnb.Job("networks:classifier", checkpoint=str(tmp_path / f"{name}.pth"), **given)
        plan = spnb.plan(job, training=True)
        cluster.load(plan)
        training = cluster.train()
        losses[name] = training.history["loss"].tolist()
        found[name] = torch.load(tmp_path / f"{name}.pth", weights_only=True)
    assert plan.num_ranks == 5
    assert len(losses["one"]) == 10
    for name in SPLITS:
        assert losses[name] == pytest.approx(losses["one"], rel=1e-7), name
        same(found[name], found["one"], 1e-7)
    assert losses["gloo"] == losses["gems"]
    same(found["gloo"], found["gems"], 0)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "ranks"), [("mpi", 3), ("gloo", 4)])
def test_a_broken_file_is_named_before_a_step_and_all_ranks_end(tmp_path, backend, ranks):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    broken = tmp_path / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:50])
    data = f"--app 1 --datapath {tmp_path} --backend {backend}"
    data += " --split-size 1" * (backend == "gloo")
    done = subprocess.run(**command(tmp_path, data, ranks), text=True, timeout=250)
    assert done.returncode == 2, done.stdout
    assert f"cannot read {broken}" in done.stdout
    assert "epoch 1" not in done.stdout
    assert "BAD TERMINATION" not in done.stdout
    assert ("4 ranks, 2 replicas" in done.stdout) == (ranks == 4)


def test_a_cluster_trains_and_then_infers(cluster):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    images, labels = noise(8, 1, 20, 24).float(), (noise(8, 20, 24, seed=2) > 0).long()
    given = {"image_size": "20x24", "batch_size": 4, "split_size": 1, "num_epochs": 2}
    job = spnb.Job(net, num_spatial_parts=2, **given)
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        wanted = session.train(images, labels)
    cluster.load(spnb.plan(job, training=True))
    found = cluster.train(images, labels)
    assert found.history["loss"].tolist() == pytest.approx(wanted.history["loss"].tolist())
    assert min(found.peak_memory_bytes) > 0
    cluster.load(spnb.plan(job, training=True))
    fed = cluster.train(TensorDataset(images, labels)).history  # steps are calls of their own
    assert fed["loss"].tolist() == pytest.approx(wanted.history["loss"].tolist())
    own = spnb.plan(job, training=True)
    given = {
        "loss": lambda output, target: F.cross_entropy(output, target) + output.square().mean(),
        "metrics": {"right": lambda output, target: (output.argmax(1) == target).float().mean()},
        "optimizer": lambda named: torch.optim.SGD(named, lr=0.1, momentum=0.9),
        "clip": 0.5,
        "validation": (images[:7], labels[:7]),
    }
    with spnb.InProcess(own, progress=False) as session:
        wanted_own = session.train(images, labels, **given).history
    cluster.load(own)
    found_own = cluster.train(images, labels, **given).history
    for column in ("loss", "right", "validation_loss", "validation_right"):
        wanted_column = pytest.approx(wanted_own[column].tolist(), rel=1e-5, nan_ok=True)
        assert found_own[column].tolist() == wanted_column
    evaluated = {"loss": given["loss"], "metrics": given["metrics"]}
    beside = cluster.evaluate(images[:7], labels[:7], **evaluated)
    cluster.load(spnb.plan(found.job))
    plain = cluster.evaluate(images[:7], labels[:7])
    with spnb.InProcess(spnb.plan(found.job), progress=False) as session:
        assert plain.figures == pytest.approx(session.evaluate(images[:7], labels[:7]).figures)
    assert min(plain.peak_memory_bytes) > 0
    assert beside.metrics["right"] == pytest.approx(beside.accuracy)
    result = cluster.infer(images[:4])
    assert result.check().passed
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(result.output), found.module(images[:4]))
    cluster.load(spnb.plan(job))  # the job's own weights
    with torch.no_grad():
        untrained = torch.as_tensor(cluster.infer(images[:4]).output)
        torch.testing.assert_close(untrained, net.eval()(images[:4]))


def compilers():
    """What a process has imported that takes memory, and that a training has no use for."""
    return [name for name in ("torch._dynamo", "sympy") if name in sys.modules]


@pytest.mark.slow
def test_memory_is_foreseen_for_each_schedule():
    """Within a sixth of what is measured; a stage holds what its schedule says."""
    images, labels = noise(16, 3, 128, 128).float(), torch.zeros(16, dtype=torch.long)
    given = {
        "image_size": 128,
        "batch_size": 16,
        "parts": 8,
        "split_size": 1,
        "num_spatial_parts": 2,
    }
    measured = {}
    for schedule in ("1f1b", "gpipe"):
        job = spnb.Job(models.build("resnet20_v1"), schedule=schedule, **given)
        with spnb.Cluster(spnb.plan(job, training=True), progress=False) as cluster:
            training = cluster.train(images, labels)
            assert cluster.view.apply_sync(compilers) == [[], []]
        (planned,) = training.plan.memory_bytes
        measured[schedule] = max(training.peak_memory_bytes)
        assert abs(planned - measured[schedule]) < measured[schedule] / 6
        assert "memory of a rank: at most" in str(training)
    # Stage 1 holds eight micro-batches by one schedule and two by the other.
    assert measured["gpipe"] > 2 * measured["1f1b"]
