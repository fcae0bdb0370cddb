"""Folders of a session: they end with its process, however that ends."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from spnb.io.disk.scratch import remove_orphans, remove_scratch, scratch_folder

OWNER = """
import time
from spnb.io.disk.scratch import scratch_folder
print(scratch_folder("images"), flush=True)
time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path, monkeypatch):
    """A process with a folder, in a folder for temporary files of its own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as made:
        yield made, Path(made.stdout.readline().strip())
        made.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_folder_of_a_process_that_was_killed_is_removed_by_the_next(number, owner):
    process, folder = owner
    (folder / "stage-0.pt").write_text("weights")
    remove_orphans()
    assert (folder / "stage-0.pt").exists()
    process.send_signal(number)
    process.wait()
    other = scratch_folder()
    assert not folder.exists()
    assert other.exists()
    remove_orphans()
    assert other.exists()  # its process lives
    remove_scratch(other)


def test_a_folder_that_somebody_else_made_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "spnb-notes").mkdir()
    remove_orphans()
    assert (tmp_path / "spnb-notes").exists()
