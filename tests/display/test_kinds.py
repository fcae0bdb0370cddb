"""Shares of the kinds of events in the time of each rank."""

import pandas as pd
import pytest

from spnb.display.kinds import shares_of


def test_a_rank_is_done_after_its_last_event_and_between_two_of_them():
    events = [(0, "compute", 0.0, 2.0), (0, "wait", 3.0, 8.0), (1, "compute", 0.0, 10.0)]
    timings = pd.DataFrame(events, columns=["rank", "kind", "start", "stop"])
    timings = timings.assign(what="", seconds=timings["stop"] - timings["start"])
    first, second = shares_of(timings, end=10.0).values()
    assert first == pytest.approx({"compute": 0.2, "wait": 0.5, "between": 0.1, "done": 0.2})
    assert second == pytest.approx({"compute": 1.0, "between": 0.0, "done": 0.0})
