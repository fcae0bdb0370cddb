"""The memory of a process, in a process of its own."""

import subprocess
import sys

import pytest

ASIDE = """
import gc, sys, weakref
from spnb.runtime.process_memory import set_modules_aside

class Kept:
    pass

set_modules_aside()
aside = gc.get_freeze_count()
assert aside > 100_000
kept = Kept()
kept.itself, seen = kept, weakref.ref(kept)
set_modules_aside()
assert gc.get_freeze_count() == aside, "nothing was imported"
del kept
gc.collect()
assert seen() is None
"""


@pytest.mark.long
def test_modules_are_left_out_of_collections_once_and_garbage_is_not():
    done = subprocess.run([sys.executable, "-c", ASIDE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
