"""A wait that leaves the processor to other ranks.

In a notebook there are usually more ranks than cores.  MPI's own waits use a core all the time,
which a rank that computes then lacks.  Here a wait tests, and sleeps between two tests: at first
briefly, since most halos arrive soon, and later longer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

_SPIN = 2e-4  # seconds of testing without sleep, in which most halos arrive
_SHORTEST, _LONG, _LONGEST = 2e-5, 1e-3, 5e-3  # seconds of sleep between two tests


def politely(done: Callable[[], bool], check: Callable[[], None], timeout: float) -> bool:
    """Test until done; between two tests, sleep for a 20th of the time waited so far.

    A sleep of more than a millisecond is at most a 500th of it: nobody notices that, and a rank
    that waits for seconds takes a hundredth of a core.

    Parameters
    ----------
    done
        Whether the wait is over.
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
            longest = min(max(_LONG, waited / 500), _LONGEST)
            time.sleep(min(max(_SHORTEST, waited / 20), longest))
    return True
