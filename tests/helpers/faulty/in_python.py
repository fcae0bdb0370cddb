"""A run from Python, as cells of a notebook do it, and once more after an error.

``python in_python.py infer|train OPTIONS-AS-JSON``.  It prints a line when a run is done or fails.
"""

import json
import resource
import sys

import faulty_net

import spnb

verb, options = sys.argv[1], json.loads(sys.argv[2])
plan = spnb.plan(spnb.Job(faulty_net.make(), **options), training=verb == "train")
cluster = None


def work():
    """The user's cells."""
    global cluster
    cluster = cluster or spnb.Cluster(plan, progress=False)
    if verb == "infer":
        cluster.infer().save("out.npy", overwrite=True)
    else:
        cluster.train()


try:
    work()
except (Exception, KeyboardInterrupt) as error:
    text = f"{type(error).__name__}: {error}"
    print(f"failed: {text}", flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, [resource.RLIM_INFINITY] * 2)  # the disk has room now
    if cluster is not None and "cluster.restart()" in text:
        cluster.restart()
    work()
print("done", flush=True)
cluster.stop()
