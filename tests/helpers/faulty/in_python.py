"""A run from Python, as cells of a notebook do it, and once more after an error.

``python in_python.py infer|train OPTIONS-AS-JSON``.  It prints a line when a run is done or fails.
"""

import json
import resource
import sys

import faulty_net

import spnb


class Cells:
    """The user's cells, and the cluster that they started."""

    def __init__(self, verb, options):
        self.verb, self.cluster = verb, None
        job = spnb.Job(faulty_net.make(), **options)
        self.plan = spnb.plan(job, training=verb == "train")

    def run(self):
        self.cluster = self.cluster or spnb.Cluster(self.plan, progress=False)
        if self.verb == "infer":
            self.cluster.infer().save("out.npy", overwrite=True)
        else:
            self.cluster.train()


def main(verb, options):
    cells = Cells(verb, options)
    try:
        cells.run()
    except (Exception, KeyboardInterrupt) as error:
        text = f"{type(error).__name__}: {error}"
        print(f"failed: {text}", flush=True)
        # The disk has room now.
        resource.setrlimit(resource.RLIMIT_FSIZE, [resource.RLIM_INFINITY] * 2)
        if cells.cluster is not None and "cluster.restart()" in text:
            cells.cluster.restart()
        cells.run()
    print("done", flush=True)
    cells.cluster.stop()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
