"""Files that take the place of others when they are complete, also after a kill."""

import os

from spnb.io.disk.replacing import replacing


def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path):
    path = tmp_path / "out.zarr"
    child = os.fork()
    if child == 0:
        with replacing(path) as new:
            new.mkdir()
            (new / "chunk").write_text("half")
            os._exit(0)  # as at a kill, nothing is cleared away
    os.waitpid(child, 0)
    assert len(os.listdir(tmp_path)) == 1
    with replacing(path) as new:
        assert os.listdir(tmp_path) == []
        new.write_text("complete")
    assert os.listdir(tmp_path) == ["out.zarr"]


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    with replacing(tmp_path / "a.npy") as new:
        new.write_text("half")
        with replacing(tmp_path / "a.npy") as other:
            other.write_text("complete")
        assert new.exists()
    assert (tmp_path / "a.npy").read_text() == "half"
