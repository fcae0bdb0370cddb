"""Hosts, and a Slurm over them, for the tests of this folder; skipped where they cannot be made."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import slurm as slurm_module
import ssh
import virtual_hosts

NAMES = ("login", "node1", "node2", "node3")


@pytest.fixture(scope="session")
def hosts():
    """Four hosts with an sshd, of which the first is the one where users log in."""
    if why := virtual_hosts.missing() or ssh.missing():
        pytest.skip(why)
    # Not in the folder of temporary files, of which each host has its own.
    folder = Path(tempfile.mkdtemp(prefix="spnb-hosts-", dir="/var/tmp"))
    try:
        with virtual_hosts.VirtualHosts(NAMES, folder) as made:
            ssh.start(made)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def slurm(hosts):
    """A Slurm with three nodes, whose controller runs on the host where users log in."""
    if why := slurm_module.missing():
        pytest.skip(why)
    started = slurm_module.Slurm(hosts)
    started.start()
    return started


@pytest.fixture
def shared(hosts):
    """A folder that all hosts see."""
    return Path(tempfile.mkdtemp(dir=hosts.folder))


@pytest.fixture
def environment():
    """The variables of a user who has activated the environment."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "USER") if name in os.environ}
    path = [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin"]
    return {
        **kept,
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": str(virtual_hosts.REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
