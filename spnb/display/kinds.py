"""The kinds of events in pictures of a run, with their colours and their shares of its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

KIND = {
    "compute": "#56B4E9",
    "read": "#CC79A7",
    "pack": "#E69F00",
    "unpack": "#0072B2",
    "hand-over": "#009E73",
    "wait": "#BFBFBF",
    "idle": "#EDEDED",
}
"""Colour of each kind of event.  Idle: a rank waits for the stage before its own."""

REST = {"between": "transparent", "done": "#DDE7DD"}
"""Colours of the time of a rank without an event: between two of them, and after the last."""


def kinds_of(timings: pd.DataFrame) -> pd.Series:
    """The kind of each event, with hand-over and idle in place of pack, unpack and wait."""
    handed = timings["what"] == "hand-over"
    kinds = timings["kind"].mask(handed & timings["kind"].isin(["pack", "unpack"]), "hand-over")
    return kinds.mask(handed & (timings["kind"] == "wait"), "idle")


def shares_of(timings: pd.DataFrame, end: float) -> dict[int, dict[str, float]]:
    """The share of each kind in the time of each rank; those of a rank add up to 1.

    Parameters
    ----------
    timings
        Events as `spnb.driver.result.Result.timings` gives them.
    end
        Seconds of the run.

    Returns
    -------
    dict
        By rank and kind, those of `REST` included.
    """
    seconds = timings.groupby(["rank", kinds_of(timings)])["seconds"].sum()
    found: dict[int, dict[str, float]] = {}
    for rank, last in timings.groupby("rank")["stop"].max().items():
        own = {kind: float(value) / end for kind, value in seconds[rank].items()}
        done = max(0.0, 1 - float(last) / end)
        found[int(rank)] = {**own, "between": 1 - sum(own.values()) - done, "done": done}
    return found
