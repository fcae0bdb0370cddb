"""What a user types under Slurm: ranks of ``srun`` on several hosts."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.mpi]

SMALL = ["resnet20_v1", "--image-size", "64", "--batch-size", "1"]
SPNB = ["python", "-m", "spnb"]


def test_several_ranks_on_each_host(slurm, environment):
    done = slurm.controller.run(
        ["srun", "--mpi=pmi2", "-N", "3", "-n", "5", *SPNB, "infer", *SMALL, "--check"],
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    assert "equal to the untiled run" in done.stdout


def test_tasks_that_are_no_ranks_are_told_from_ranks(slurm, environment):
    done = slurm.controller.run(
        ["srun", "-N", "2", "-n", "5", *SPNB, "infer", *SMALL], env=environment, timeout=120
    )
    assert done.returncode == 1
    told = [line for line in done.stdout.splitlines() if line.startswith("spnb: ")]
    assert "srun started 5 tasks, but not as ranks of MPI: add --mpi=pmi2" in told[0]
    assert len(told) == 2, done.stdout  # one line on each host
