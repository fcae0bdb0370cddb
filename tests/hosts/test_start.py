"""Engines on other hosts, started from the host where users log in: Slurm, an allocation, ssh."""

import textwrap

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.mpi]

SMALL = ["resnet20_v1", "--image-size", "64", "--batch-size", "1"]
INFER = ["python", "-m", "spnb", "infer", *SMALL]


def session(lines):
    """A program that starts engines as a notebook does, and prints where they are."""
    return textwrap.dedent("""
        import spnb
        job = spnb.Job("resnet20_v1", image_size=64, batch_size=1)
        plan = spnb.plan(job)
        """) + textwrap.dedent(lines)


def jobs(slurm):
    return slurm.controller.run(["squeue", "--noheader"]).stdout


def nothing_is_left(hosts):
    for host in hosts.values():
        assert host.shell("ls -d /tmp/spnb-engines-* 2> /dev/null").stdout == ""
        ended = "pgrep -f '[i]pyparallel|[o]n_host' || exit 0; sleep 0.2"
        waited = host.shell(f"for k in $(seq 50); do {ended}; done; exit 1")
        assert waited.returncode == 0, waited.stdout


ON_SLURM = """
    cluster = spnb.start(plan, launcher="slurm", nodes=3, time="10", progress=False)
    print("hosts", sorted(set(cluster.engines.hosts)))
    print(cluster.infer("retina", resize=True).check())
    print("ranks", cluster.view.apply(lambda: __import__("spnb").here.rank))
    two = cluster.engines.hosts.index("node2")
    cluster.load(spnb.plan(job.replace(slice_method="vertical")))
    print(cluster.infer().check())
    spnb.stop()
"""


def test_a_session_on_nodes_of_slurm(hosts, slurm, environment):
    done = slurm.controller.run(["python", "-c", session(ON_SLURM)], env=environment, timeout=240)
    assert done.returncode == 0, done.stdout
    assert "hosts ['node1', 'node2', 'node3']" in done.stdout
    assert done.stdout.count("equal to the untiled run") == 2, done.stdout
    assert "ranks [0, 1, 2, 3, 4]" in done.stdout
    assert jobs(slurm) == ""
    nothing_is_left(hosts)


def test_the_shell_shows_a_job_before_it_is_sent_and_why_it_fails(slurm, environment):
    on_slurm = [*INFER, "--launcher", "slurm", "--nodes", "2", "--partition"]
    done = slurm.controller.run([*on_slurm, "all", "--dry-run"], env=environment, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "#SBATCH --ntasks=5\n#SBATCH --nodes=2\n#SBATCH --partition=all\n" in done.stdout
    assert "mpiexec" in done.stdout
    done = slurm.controller.run([*on_slurm, "none"], env=environment, timeout=120)
    assert done.returncode == 1
    assert "spnb: Slurm took no job: " in done.stdout
    assert "invalid partition specified" in done.stdout
    assert jobs(slurm) == ""


CANCELLED = """
    import subprocess, spnb.errors
    cluster = spnb.start(plan, launcher="slurm", nodes=2, progress=False)
    subprocess.run(["scancel", "--user", "root"], check=True)
    try:
        for _ in range(1000):
            cluster.infer()
    except Exception as error:
        print(type(error).__name__, error)
    cluster.restart()
    print(cluster.infer().check())
    spnb.stop()
"""


def test_a_job_that_is_cancelled_in_a_run_is_noticed_and_sent_again(hosts, slurm, environment):
    done = slurm.controller.run(["python", "-c", session(CANCELLED)], env=environment, timeout=240)
    assert done.returncode == 0, done.stdout
    assert "EngineDied" in done.stdout
    assert "equal to the untiled run" in done.stdout
    assert jobs(slurm) == ""


def test_an_allocation_is_used(hosts, slurm, environment):
    done = slurm.controller.run(
        ["salloc", "-N", "3", "-n", "5", *INFER, "--launcher", "slurm", "--check"],
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    assert "equal to the untiled run" in done.stdout
    assert jobs(slurm) == ""
    nothing_is_left(hosts)


def test_hosts_by_ssh(hosts, shared, environment):
    (shared / "hosts").write_text("node1:2\nnode2:2\nnode3:1\n")
    for where in (["--hosts", "node1:2,node2:2,node3"], ["--hostfile", shared / "hosts"]):
        done = hosts["login"].run(
            [*INFER, "--launcher", "ssh", *where, "--check"], env=environment, timeout=240
        )
        assert done.returncode == 0, done.stdout
        assert "equal to the untiled run" in done.stdout
        nothing_is_left(hosts)


def test_engines_of_this_host_start_inside_a_job(slurm, environment):
    """A server of notebooks runs inside a job: batchspawner, Open OnDemand, a container."""
    for mpi in ("pmi2", "none"):
        done = slurm.controller.run(
            ["srun", f"--mpi={mpi}", "-N", "1", "-n", "1", *INFER, "--check"],
            env=environment,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout
        assert "equal to the untiled run" in done.stdout


def test_the_script_of_a_run_is_a_job(slurm, shared, environment):
    script = ["python", "-m", "spnb", "script", *SMALL, "--check", "--launcher", "slurm"]
    written = slurm.controller.run([*script, "--nodes", "2"], env=environment, timeout=120)
    assert written.returncode == 0, written.stdout
    (shared / "job.sh").write_text(written.stdout)
    sent = ["sbatch", "--wait", f"--output={shared}/printed", str(shared / "job.sh")]
    done = slurm.controller.run(sent, env=environment, timeout=240)
    assert done.returncode == 0, (shared / "printed").read_text()
    assert "equal to the untiled run" in (shared / "printed").read_text()
