"""A Slurm over virtual hosts: a controller, a daemon for each node, and munge, which all trust."""

from __future__ import annotations

import os
import shutil
import time

PROGRAMS = ("slurmctld", "slurmd", "srun", "munged")
CORES = 8  # of each node, whatever the machine has
CONFIGURATION = """
ClusterName=hosts
SlurmctldHost={controller}
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldParameters=enable_configless
KillWait=2
MessageTimeout=10
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=60 State=UP
"""


def missing() -> str:
    """Why no Slurm runs here; "" if one can."""
    absent = [name for name in PROGRAMS if _path(name) is None]
    return f"no {', '.join(absent)}: apt-get install slurm-wlm munge" if absent else ""


def _path(program):
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Slurm:
    """A Slurm whose controller runs on one host, and whose nodes are the others.

    Parameters
    ----------
    hosts
        The virtual hosts, the controller's first.
    """

    def __init__(self, hosts):
        self.hosts, self.folder = hosts, hosts.folder / "slurm"
        self.controller, *self.nodes = hosts.values()

    def start(self):
        """Start all daemons, and wait until every node is idle."""
        (self.folder / "state").mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        nodes = "\n".join(
            f"NodeName={node.name} NodeAddr={node.address} CPUs={CORES} RealMemory=4000"
            for node in self.nodes
        )
        names = ",".join(node.name for node in self.nodes)
        text = CONFIGURATION.format(
            controller=self.controller.name, folder=self.folder, nodes=nodes, names=names
        )
        (self.folder / "slurm.conf").write_text(text)
        for host in self.hosts.values():
            host.shell(
                f"mkdir -p /etc/slurm && mount -t tmpfs tmpfs /etc/slurm"
                f" && cp {self.folder}/slurm.conf /etc/slurm/ && mkdir -p /run/munge /run/slurmd",
                check=True,
            )
            own = "--pid-file=/run/munge/pid --log-file=/run/munge/log --seed-file=/run/munge/seed"
            host.shell(f"munged --force --key-file={key} {own}", check=True)
        self.controller.run([_path("slurmctld")], check=True)
        for node in self.nodes:
            node.run([_path("slurmd")], check=True)
        self._wait()

    def _wait(self, seconds=30.0):
        deadline = time.monotonic() + seconds
        while True:
            states = self.controller.run(["sinfo", "-h", "-N", "-o", "%T"]).stdout.split()
            if states == ["idle"] * len(self.nodes):
                return
            assert time.monotonic() < deadline, f"nodes are {states}; logs are in {self.folder}"
            time.sleep(0.2)
