"""An sshd on each virtual host, which lets in whoever has the key that all hosts have."""

from __future__ import annotations

import shutil

PROGRAMS = ("sshd", "ssh", "ssh-keygen")
SERVER = """
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin yes
StrictModes no
PasswordAuthentication no
PidFile /run/sshd.pid
"""
CLIENT = """
IdentityFile {folder}/key
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""


def missing() -> str:
    """Why no sshd runs here; "" if one can."""
    absent = [name for name in PROGRAMS if _path(name) is None]
    return f"no {', '.join(absent)}: apt-get install openssh-server" if absent else ""


def _path(program):
    return shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")


def start(hosts):
    """Start an sshd on each host; ``ssh HOST`` then works on all, without a question."""
    folder = hosts.folder / "ssh"
    folder.mkdir()
    first = next(iter(hosts.values()))
    first.run(
        [_path("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True
    )
    for name, text in {"sshd_config": SERVER, "ssh_config": CLIENT}.items():
        (folder / name).write_text(text.format(folder=folder))
    for host in hosts.values():
        host.shell(
            f"mkdir -p /run/sshd && mount --bind {folder}/ssh_config /etc/ssh/ssh_config"
            f" && {_path('sshd')} -f {folder}/sshd_config",
            check=True,
        )
