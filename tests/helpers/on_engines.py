"""Plans and functions that tests run on engines."""

from networks import dense

import spnb


def remote(function):
    """Sent by its code: engines cannot import the tests."""
    function.__module__ = "__main__"
    return function


def planned(image_size="97x131", batch_size=1, **given):
    given.setdefault("precision", "fp64")
    job = spnb.Job(dense(), image_size=image_size, batch_size=batch_size, resize=True, **given)
    return spnb.plan(job)
