"""The cores that a process may use: fewer than the machine's in a container or in a batch job."""

import subprocess
import sys

import pytest

from spnb.kernels.cores import Cores, cores_of_process


@pytest.fixture
def system(tmp_path):
    """Writes the files in which a system describes control groups."""

    def write(groups, mounts, **files):
        for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cores_of_process({}, tmp_path).limits

    return write


V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 30 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
)


def test_quotas_of_all_control_groups_above_a_process(system):
    files = {
        "slurm/cpu.max": "400000 100000\n",
        "slurm/job_7/cpu.max": "max 100000\n",
        "slurm/job_7/step_0/cpu.max": "150000 100000\n",
        "slurm/job_8/cpu.max": "100000 100000\n",
    }
    assert system("0::/slurm/job_7/step_0\n", V2, **files) == {
        "/sys/fs/cgroup/slurm": 4.0,
        "/sys/fs/cgroup/slurm/job_7/step_0": 1.5,
    }


def test_quotas_of_version_1(system):
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/docker/a1/cpu.cfs_quota_us": "300000\n",
        "cpu,cpuacct/docker/a1/cpu.cfs_period_us": "100000\n",
    }
    groups = "3:cpuset:/docker/a1\n1:cpu,cpuacct:/docker/a1\n0::/\n"
    assert system(groups, V1, **files) == {"/sys/fs/cgroup/cpu,cpuacct/docker/a1": 3.0}


def test_a_container_that_sees_its_own_group_as_the_root(system):
    bind = V2.replace("0:26 / /sys", "0:26 /docker/a1 /sys")
    found = system("0::/docker/a1\n", bind, **{"cpu.max": "200000 100000\n"})
    assert found == {"/sys/fs/cgroup": 2.0}
    assert system("0::/\n", V2, **{"cpu.max": "50000 100000\n"}) == {"/sys/fs/cgroup": 0.5}


def test_a_system_that_describes_none(tmp_path):
    assert cores_of_process({}, tmp_path).limits == {}


def test_ranks_divide_what_they_share_and_nothing_else():
    whole = Cores(frozenset(range(12)))
    assert [whole.threads([whole] * others) for others in (0, 2, 11, 23)] == [12, 4, 1, 1]
    bound = [Cores(frozenset(range(first, first + 4))) for first in (0, 4, 8)]
    assert [rank.threads(others=[o for o in bound if o is not rank]) for rank in bound] == [4] * 3
    shares = Cores(frozenset({0, 1, 2, 3}))  # shares two with another
    assert shares.threads([Cores(frozenset({2, 3, 4, 5}))]) == 3


def test_a_quota_is_divided_among_the_ranks_of_its_group():
    cores = frozenset(range(12))
    inside, outside = Cores(cores, {"job": 6.0}), Cores(cores)
    assert inside.threads() == 6
    assert inside.threads([inside, inside]) == 2
    assert inside.threads([inside, inside], at_once=1) == 6
    assert inside.threads([outside]) == 6
    assert Cores(cores, {"job": 0.5}).threads() == 1


def test_the_numbers_that_slurm_says_are_kept_to():
    task = cores_of_process({"SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "1"})
    assert task.threads() == 1
    other = cores_of_process({"SLURM_CPUS_ON_NODE": "6"})
    wide = Cores(frozenset(range(64)), other.limits)
    assert wide.threads() == 6
    assert wide.threads([wide] * 2) == 2
    # In a batch script no task has begun, and its ranks share what the job has.
    assert not cores_of_process({"SLURM_CPUS_PER_TASK": "3"}).limits


def test_a_process_that_may_run_on_one_core_computes_with_one_thread():
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from spnb.kernels.cores import cores_of_process; print(cores_of_process().threads())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr
