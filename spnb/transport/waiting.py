"""A wait that leaves the processor to others.

More ranks than cores is the normal case in a notebook.  MPI's own waits spin, and take the core
from a rank that computes.  Here a wait tests, and sleeps between two tests: at first briefly, so
that a halo that is about to arrive is not missed, later longer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

_SPIN = 2e-4  # seconds of testing without sleep: most halos arrive within
_SHORTEST, _LONGEST = 2e-5, 1e-3  # seconds of sleep between two tests


def politely(done: Callable[[], bool], check: Callable[[], None], timeout: float) -> bool:
    """Test until done, and sleep ever longer between two tests: a 20th of the time waited so far.

    Parameters
    ----------
    done
        Tells whether the wait is over.
    check
        Called before each sleep; an exception that it raises ends the wait.
    timeout
        Seconds to wait at most.

    Returns
    -------
    bool
        False if the timeout passed.

    Examples
    --------
    >>> answers = iter([False, False, True])
    >>> politely(lambda: next(answers), lambda: None, timeout=1.0)
    True
    """
    start = time.perf_counter()
    while not done():
        waited = time.perf_counter() - start
        if waited <= _SPIN:
            os.sched_yield()
        else:
            check()
            if waited > timeout:
                return False
            time.sleep(min(max(_SHORTEST, waited / 20), _LONGEST))
    return True
