"""Memory and descriptors of a cluster's processes, while it runs and loads plans again and again.

``python tests/helpers/growth.py --runs 2000 --loads 100`` prints how much each process has grown
since the first tenth.  What is measured is the resident memory of each process: the memory that it
has alone would change with what other programs run, since all map the same libraries.

What leaks grows in every part of the runs, while a process may take a piece of memory once.  So the
growth is that of the middle one of three parts of the runs, by size, three times.
"""

import argparse
import gc
import os
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import psutil
from torch import nn

import spnb

ALLOWED = 0.02
"""The share by which a process may grow."""


@dataclass(frozen=True)
class Usage:
    """What a process has: bytes of resident memory, and descriptors."""

    memory: int
    descriptors: int

    @classmethod
    def of(cls, process):
        return cls(process.memory_info().rss, process.num_fds())


def growth(usages):
    """The share by which a process grows: of its memory, and of its descriptors."""
    first = usages[0]
    memory = [after.memory - before.memory for before, after in pairwise(usages)]
    descriptors = [after.descriptors - before.descriptors for before, after in pairwise(usages)]
    return tuple(
        len(parts) * median(parts) / all_of_it
        for parts, all_of_it in ((memory, first.memory), (descriptors, first.descriptors))
    )


def usage(cluster):
    """The usage of the caller, of each process of the controller, and of each engine."""
    gc.collect()
    launch = cluster.engines._launch
    named = {"caller": psutil.Process()}
    named |= {f"controller {k}": process for k, process in enumerate(launch.controller)}
    named |= {f"engine {k}": process for k, process in enumerate(launch.engines)}
    return {name: Usage.of(process) for name, process in named.items()}


def job(number):
    """Jobs with plans that all differ."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    size = f"{32 + number % 10}x{32 + number // 10}"
    given = {"batch_size": 1, "split_size": 1, "num_spatial_parts": 2}
    return spnb.Job(network, image_size=size, **given)


def grown(act, count, cluster):
    """How much each process grows by an act after its first tenth, and a text for each.

    Parameters
    ----------
    act
        Called with a number.
    count
        How often.
    """
    stops = [count // 10 * part for part in (0, 1, 4, 7, 10)]
    usages = []
    for start, stop in pairwise(stops):
        for number in range(start, stop):
            act(number)
        usages.append(usage(cluster))
    found = {name: growth([each[name] for each in usages]) for name in usages[-1]}
    for name, (memory, descriptors) in found.items():
        now = usages[-1][name]
        print(
            f"{name}: {now.memory / 2**20:.1f} MiB ({memory:+.2%}),"
            f" {now.descriptors} descriptors ({descriptors:+.2%})",
            flush=True,
        )
    return found


def by_runs(cluster, count):
    """The growth by inferences of one plan."""
    return grown(lambda _: cluster.infer().output, count, cluster)


def by_loads(cluster, count):
    """The growth by loads of plans that differ, with an inference of each."""

    def load(number):
        cluster.load(spnb.plan(job(number)))
        _ = cluster.infer().output

    return grown(load, count, cluster)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--loads", type=int, default=100)
    args = parser.parse_args()
    with spnb.Cluster(spnb.plan(job(0)), progress=False) as own:
        print(f"{args.runs} inferences")
        by_runs(own, args.runs)
        print(f"{args.loads} loads")
        by_loads(own, args.loads)
