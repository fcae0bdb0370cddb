"""The parts of the suite: quick, README's, and what CI runs after it.

====================  =======================================================================
``pytest``            all but the tests marked `slow`: README's command
``pytest --quick``    the first case of each test that starts no rank and takes no seconds
``pytest --slow``     what `pytest` leaves out: sweeps of what a shorter test begins to check
``pytest FILE``       all of the file, and what is marked `by_hand`, which none of the others has
====================  =======================================================================
"""

from __future__ import annotations

NOT_QUICK = {"mpi", "library", "long", "notebook", "slow"}


def marks(item):
    """The marks of a test, by name."""
    return {mark.name: mark for mark in item.iter_markers()}


def function_of(item):
    """The test without its case, as a part of its address."""
    return item.nodeid.split("[")[0]


def is_slow(item, case):
    """Whether `pytest` leaves out this case, by its number, of a test."""
    mark = marks(item).get("slow")
    return mark is not None and (not mark.kwargs or case % mark.kwargs["but_each"] > 0)


def part(items, which):
    """The tests of a part: "quick", "slow" or "README"."""
    chosen, cases = [], {}
    for item in items:
        if "by_hand" in marks(item):
            continue
        case = cases.get(function_of(item), 0)
        cases[function_of(item)] = case + 1
        if which == "quick":
            belongs = case == 0 and not NOT_QUICK & marks(item).keys()
        else:
            belongs = is_slow(item, case) == (which == "slow")
        if belongs:
            chosen.append(item)
    return chosen
