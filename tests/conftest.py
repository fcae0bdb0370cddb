"""Settings of every process that runs tests."""

import os

# Each worker of pytest-xdist, and each process that a test starts, computes with one thread: more
# threads than cores wait for each other actively, and triple the time of the whole suite.
os.environ.setdefault("OMP_NUM_THREADS", "1")
