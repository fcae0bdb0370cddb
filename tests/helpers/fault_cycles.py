"""Runs with faults, one after the other: ``python tests/helpers/fault_cycles.py``.

``--cycles N --seed S`` draws N runs by chance.  ``--table`` has every run of the table, writes what
became of them to ``notebooks/reports/faults.json``, and so to the guide.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from fault_list import drawn, table
from fault_runs import ROOT, carried_out

REPORT = ROOT / "notebooks" / "reports" / "faults.json"


def cycles(runs):
    """Carry out runs; print what is wrong; yield each run with its outcome."""
    for number, run in enumerate(runs):
        with tempfile.TemporaryDirectory() as folder:
            outcome = carried_out(run, Path(folder, "run"))
        state = "; ".join(outcome.wrong) or "good"
        print(f"{number} {run} +{run.delay}: {outcome.seconds:.1f} s, {state}", flush=True)
        yield run, outcome


def parser():
    """The command's options."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--cycles", type=int, default=10, help="runs that are drawn by chance")
    found.add_argument("--seed", type=int, default=0, help="number of the first of them")
    found.add_argument("--table", action="store_true", help="the runs of the table")
    found.add_argument("--first", type=int, default=0, help="leave out so many of them")
    return found


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # A shell lets background commands ignore it, and what they start inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    args = parser().parse_args()
    chosen = (
        table()[args.first :] if args.table else [drawn(args.seed + k) for k in range(args.cycles)]
    )
    kinds, wrong, lines = Counter(), 0, []
    for run, outcome in cycles(chosen):
        kinds[run.fault] += 1
        wrong += bool(outcome.wrong)
        lines.append(asdict(run) | asdict(outcome))
        if args.table:
            REPORT.write_text(json.dumps({"runs": lines}, indent=1) + "\n")
    print(f"{len(lines)} runs, {wrong} with something wrong; {dict(kinds)}")
    sys.exit(bool(wrong))
