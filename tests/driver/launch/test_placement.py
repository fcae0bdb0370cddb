"""Where engines are started: what is refused, and the commands and jobs that are shown."""

import pytest

import spnb
from spnb.driver.launch.placement import Placement
from spnb.errors import OptionError
from spnb.ui.cli import main

JOB = ["resnet20_v1", "--image-size", "64", "--batch-size", "1"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"launcher": "pbs"}, r"launcher is 'pbs', but must be local, mpiexec, ssh or slurm"),
        ({"nodes": 2}, r"nodes has no effect with launcher local: it is for slurm"),
        ({"launcher": "ssh", "nodes": 2}, r"nodes has no effect with launcher ssh"),
        ({"launcher": "slurm", "hosts": "a"}, r"hosts has no effect .*: it is for mpiexec or ssh"),
        ({"launcher": "slurm", "nodes": 0}, r"nodes is 0, but must be 1 or more"),
        ({"launcher": "ssh"}, r"launcher is ssh, but no host is named"),
        ({"launcher": "ssh", "hosts": ["a", "b:0"]}, r"hosts has 'b:0', but must have names"),
        ({"launcher": "ssh", "hostfile": "/no/file"}, r"hostfile is /no/file, but there is no"),
    ],
)
def test_what_does_not_fit_is_refused(given, text):
    with pytest.raises(OptionError, match=text):
        Placement.of(given)


def test_words_of_both_families_of_mpi(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("a\nb:2\n")
    by_file = Placement.of({"launcher": "mpiexec", "hostfile": file})
    assert by_file.mpiexec("mpiexec") == ["mpiexec", "--hostfile", str(file)]
    by_ssh = Placement.of({"launcher": "ssh", "hosts": ["a", "b:2"]})
    assert by_ssh.mpiexec("m", True, ["X"])[-4:] == ["--host", "a,b:2", "-x", "X"]


def test_a_dry_run_shows_the_job_and_starts_nothing():
    plan = spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=1))
    shown = spnb.start(plan, launcher="slurm", nodes=2, time=30, dry_run=True)
    lines = repr(shown).splitlines()
    assert lines[:5] == [
        "#!/bin/sh",
        "#SBATCH --job-name=spnb",
        "#SBATCH --ntasks=5",
        "#SBATCH --nodes=2",
        "#SBATCH --time=30",
    ]
    assert "mpiexec -ppn 3 -n 5" in lines[5]
    assert "mpiexec -n 5" in spnb.start(plan, dry_run=True)


def test_the_script_of_a_run(capsys):
    slurm = ["--launcher", "slurm", "--partition", "all"]
    assert main(["script", *JOB, "--check", *slurm]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "#!/bin/sh",
        "#SBATCH --job-name=resnet20_v1",
        "#SBATCH --ntasks=5",
        "#SBATCH --partition=all",
    ]
    assert lines[4].startswith("srun --mpi=pmi")
    assert lines[4].endswith("-m spnb infer resnet20_v1 --image-size 64 --batch-size 1 --check")
    assert main(["script", *JOB, "--run", "train", "--launcher", "ssh", "--hosts", "a,b:4"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert "-hosts a,b:4 -n 5" in line
    assert " train resnet20_v1 " in line
    assert main(["script", *JOB]) == 2
    assert "a script needs a launcher" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["script", *JOB, *slurm, "--no-such-flag"])


def test_flags_that_do_not_fit_are_refused_in_a_line(capsys):
    assert main(["infer", *JOB, "--launcher", "slurm", "--hosts", "a"]) == 2
    assert "hosts has no effect with launcher slurm" in capsys.readouterr().err
