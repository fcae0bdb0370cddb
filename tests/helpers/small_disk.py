"""A disk that is full, for what this process writes."""

import resource
from contextlib import contextmanager


@contextmanager
def small_disk(most=10_000):
    """Files of this process can have so many bytes at most."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
