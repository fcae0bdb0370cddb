"""What the README tells a user to type works as it stands there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import spnb
from spnb.ui.cli import _job, _parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"`(python -m spnb infer [^`]+--check)`", README)
TRAINING = re.findall(r"`(python -m spnb train [^`]+)` ²", README)


@pytest.mark.long
def test_the_benchmarks_examples_are_there():
    jobs = [_job(_parser().parse_args(c.split()[3:])) for c in COMMANDS + TRAINING]
    assert [spnb.plan(job).num_ranks for job in jobs] == [5, 5, 5, 9, 4, 4, 4, 8]
    assert [job.gems for job in jobs] == [True] + [False] * 4 + [True] * 3


@pytest.mark.mpi
@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.split()[4] + str(COMMANDS.index(c)))
def test_the_benchmarks_examples_equal_the_untiled_run(command):
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "check: equal to the untiled run" in done.stdout


@pytest.mark.mpi
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", TRAINING, ids=lambda c: c.split()[4])
def test_the_benchmarks_examples_train(command, tmp_path):
    line = [sys.executable, *shlex.split(command)[1:], "--report", "report.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["steps"]) == 10
    assert all(0 < step["loss"] < 10 for step in report["steps"])
    assert (tmp_path / "checkpoint.pth").exists()


@pytest.mark.mpi
@pytest.mark.timeout(600)
def test_the_first_command_checks_a_photograph_and_draws(tmp_path):
    line = re.search(r"\.venv/bin/python (-m spnb infer resnet --image retina .*)\n", README)[1]
    done = subprocess.run(
        [sys.executable, *shlex.split(line)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    assert "1 image of 1411×1411" in done.stdout
    assert "check: equal to the untiled run" in done.stdout
    for name in ("tiles-stage-0.png", "timeline.png"):
        assert (tmp_path / "plots" / name).stat().st_size > 10_000


def test_every_folder_is_in_the_table():
    table = README[README.index("| folder | holds |") :]
    named = set(re.findall(r"`(\w+)/?`", table[: table.index("## Limits")]))
    modules = {p.stem for p in (ROOT / "spnb").glob("[a-z]*") if p.is_dir()}
    assert modules <= named


def test_nothing_but_what_belongs_at_the_top_level():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    belongs = {"notebooks", "spnb", "tests", "binder", "requirements.txt", "README.md", "LICENSE"}
    assert all(name in belongs | {"pyproject.toml"} or name.startswith(".") for name in top)
