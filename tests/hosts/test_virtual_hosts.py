"""The hosts themselves: what each has of its own, and that nothing of them is left."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import virtual_hosts

pytestmark = [pytest.mark.slow, pytest.mark.mpi]


def test_each_has_a_name_an_address_and_folders_of_its_own(hosts):
    login, node = hosts["login"], hosts["node1"]
    assert node.run(["hostname"]).stdout.strip() == "node1"
    for folder in ("/tmp", "/dev/shm", "/run"):
        login.shell(f"touch {folder}/here", check=True)
        assert node.shell(f"test -e {folder}/here").returncode == 1
        assert not Path(folder, "here").exists()
    assert login.run(["ssh", "node2", "hostname"]).stdout.strip() == "node2"


def test_a_cut_link_carries_nothing_until_it_is_mended(hosts):
    reach = ["ssh", "-o", "ConnectTimeout=1", "node3", "hostname"]
    hosts.cut("node3")
    try:
        assert hosts["login"].run(reach).returncode == 255
    finally:
        hosts.mend("node3")
    assert hosts["login"].run(reach).stdout.strip() == "node3"


LEFT_BEHIND = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from virtual_hosts import VirtualHosts
with VirtualHosts(["one"], sys.argv[1]) as hosts:
    waiting = hosts["one"].popen(["sleep", "987654"])
    print("made", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_of_them_when_who_made_them_is_killed(hosts, shared):
    folder = str(Path(virtual_hosts.__file__).parent)
    command = [sys.executable, "-c", LEFT_BEHIND.format(folder=folder), str(shared)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.stdout.strip() == "made"
    gone = [p for p in psutil.process_iter(["cmdline"]) if "987654" in (p.info["cmdline"] or [])]
    psutil.wait_procs(gone, timeout=5)
    assert not [process for process in gone if process.is_running()]
