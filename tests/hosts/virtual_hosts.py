"""Makes hosts of their own on this machine, and takes them down again.

A host is a process and the namespaces of Linux that it holds: network, mounts, name, processes.
So it has an address and a name, and its own ``/tmp``, ``/dev/shm`` and ``/run``; the rest of the
disk is that of the machine, as a file system that all hosts share.  All hosts are plugged into a
switch, which is a bridge in a namespace too: nothing of the machine's own network changes.

A namespace ends with its processes.  So nothing is left once the first process of each host is
killed, and the system kills that with the process that made the hosts, whatever ends it.

    with VirtualHosts(["login", "node1"], folder) as hosts:
        hosts["node1"].run(["hostname"]).stdout
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
NETWORK = "10.77.0"
NAMESPACES = ["--net", "--mount", "--uts", "--ipc", "--pid"]
WITH_ITS_PARENT = ["setpriv", "--pdeathsig", "KILL"]
OWN_FOLDERS = ("/tmp", "/dev/shm", "/run")
# Bash collects the exit codes of orphans, as the first process of a host must.
FIRST = ["bash", "-c", "while true; do sleep 1000 & wait $!; done"]


def missing() -> str:
    """Why hosts cannot be made here; "" if they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "hosts are made by root of a Linux only"
    programs = ("unshare", "nsenter", "setpriv", "ip", "mount")
    if absent := [name for name in programs if shutil.which(name) is None]:
        return f"no {', '.join(absent)}: apt-get install iproute2 util-linux"
    tried = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True)
    return "" if tried.returncode == 0 else f"no namespaces: {tried.stderr.decode().strip()}"


class Host:
    """A host.

    Attributes
    ----------
    name, address
        Its name and its address, which all hosts know.
    """

    def __init__(self, name: str, address: str):
        self.name, self.address = name, address
        command = [*WITH_ITS_PARENT, "unshare", *NAMESPACES, "--fork", "--mount-proc"]
        command += ["--kill-child", "--propagation", "private", *FIRST]
        self._unshare = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.01)
        self.pid = int(found[0])
        while Path(f"/proc/{self.pid}/comm").read_text().strip() != "bash":
            time.sleep(0.01)

    def command(self, words, folder=REPOSITORY):
        """The words by which a command runs on this host; it ends with the process that waits."""
        enter = ["nsenter", "--target", str(self.pid), *NAMESPACES, f"--wd={folder}"]
        return [*enter, *WITH_ITS_PARENT, *map(str, words)]

    def popen(self, words, folder=REPOSITORY, **options):
        """Start a command on this host."""
        options.setdefault("text", True)
        return subprocess.Popen(self.command(words, folder), **options)

    def run(self, words, timeout=60.0, check=False, **options):
        """Run a command on this host, and return what it printed, both streams in one."""
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with self.popen(words, stdin=subprocess.DEVNULL, **(streams | options)) as process:
            try:
                printed, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                printed, _ = process.communicate()
                raise AssertionError(f"{words} ran longer than {timeout:g} s:\n{printed}") from None
        done = subprocess.CompletedProcess(words, process.returncode, printed)
        assert not check or done.returncode == 0, f"{words} on {self.name}:\n{printed}"
        return done

    def shell(self, line, timeout=60.0, **options):
        """Run a line of the shell on this host."""
        return self.run(["bash", "-c", line], timeout, **options)

    def stop(self):
        """End all processes of the host, and with them its namespaces."""
        self._unshare.kill()
        self._unshare.wait()


class VirtualHosts(dict):
    """Hosts by their names, from the start of a ``with`` block to its end.

    Parameters
    ----------
    names
        Names of the hosts.
    folder
        A folder that all hosts share, outside of `OWN_FOLDERS`.
    """

    def __init__(self, names, folder):
        super().__init__()
        self.names, self.folder = list(names), Path(folder)
        self._all = []

    def __enter__(self):
        try:
            self._switch = self._made("switch", "")
            self._switch.run(["ip", "link", "add", "bridge", "type", "bridge"], check=True)
            self._switch.run(["ip", "link", "set", "bridge", "up"], check=True)
            for number, name in enumerate(self.names, 1):
                self[name] = self._made(name, f"{NETWORK}.{number}")
            table = "".join(f"{host.address} {host.name}\n" for host in self.values())
            (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{table}")
            for host in self.values():
                self._plug(host)
                self._furnish(host)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """End all hosts; safe to call again."""
        while self._all:
            self._all.pop().stop()

    def cut(self, name):
        """Cut a host's link: nothing that is sent arrives, and nobody hears of it."""
        self._switch.run(["ip", "link", "set", name, "down"], check=True)

    def mend(self, name):
        """Mend a link that was cut."""
        self._switch.run(["ip", "link", "set", name, "up"], check=True)

    def _made(self, name, address):
        self._all.append(Host(name, address))
        return self._all[-1]

    def _plug(self, host):
        """Connect a host with the switch by a cable, whose end there has the host's name."""
        ip = ["ip", "link"]
        cable = ["add", host.name, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid)]
        # In the switch's network, but with the machine's numbers of processes.
        network = ["nsenter", f"--net=/proc/{self._switch.pid}/ns/net"]
        subprocess.run([*network, *ip, *cable], check=True)
        self._switch.run([*ip, "set", host.name, "master", "bridge", "up"], check=True)
        host.run(["ip", "address", "add", f"{host.address}/24", "dev", "eth0"], check=True)
        for each in ("lo", "eth0"):
            host.run([*ip, "set", each, "up"], check=True)

    def _furnish(self, host):
        """Give a host its name and its folders; the environment of Python stays where it is."""
        stash = self.folder / "stash"
        stash.mkdir(exist_ok=True)
        lines = [f"hostname {host.name}"]
        for folder in OWN_FOLDERS:
            kept = {Path(sys.prefix), REPOSITORY}
            kept = [path for path in kept if path.is_relative_to(folder)]
            lines += [f"mount --bind {folder} {stash}"] if kept else []
            lines += [f"mount -t tmpfs -o mode=1777 tmpfs {folder}"]
            for path in kept:
                inside = stash / path.relative_to(folder)
                lines += [f"mkdir -p {path}", f"mount --bind {inside} {path}"]
            lines += [f"umount {stash}"] if kept else []
        lines += [f"mount --bind {self.folder / 'hosts'} /etc/hosts"]
        host.shell("set -e\n" + "\n".join(lines), check=True)
