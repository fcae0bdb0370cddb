"""When each rank computed, packed and waited; and the time of all ranks, layer by layer."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Patch

from ..kinds import KIND, kinds_of, shares_of
from .style import open_frame

MOST_RANKS = 32
"""Rows of a timeline; of more ranks, an even choice is drawn."""

MOST_LAYERS = 20
"""Bars of `layers` by default."""

FEW_RANKS = 24
"""Most ranks of a picture with rows of full height; more ranks have thinner rows."""

THICK = ("pack", "unpack", "read", "hand-over")
"""Kinds of events that are drawn thicker: they are short, and easily overlooked."""

TOUCHING = 1e-3
"""Share of the whole time; events of one kind with a shorter gap are drawn as one."""


def timeline(timings: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw when each rank did what.

    Packing and unpacking for the next stage is called hand-over.  Waiting for the stage before is
    called idle, and so is the time after a rank's last event.  The legend has the share of each
    kind in the time of all ranks; blank is what a rank does between two events.

    Parameters
    ----------
    timings
        Events as `spnb.driver.result.Result.timings` gives them.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    end = timings["stop"].max()
    shares = pd.DataFrame(shares_of(timings, end)).fillna(0.0).mean(axis=1)
    timings = _until_the_end(timings.assign(kind=kinds_of(timings)), end)
    ranks = _chosen_ranks(timings)
    if ax is None:
        height = 1.3 + max((0.36 if len(ranks) <= FEW_RANKS else 0.17) * len(ranks), 0.7)
        _, ax = plt.subplots(figsize=(8.0, height), layout="constrained")
    scale, unit = _unit(end)
    for kind in KIND:
        events = timings[(timings["kind"] == kind) & timings["rank"].isin(ranks)]
        _draw_events(ax, kind, _joined(events, TOUCHING * end), ranks, scale)
    ax.set_xlim(0, end * scale)
    ax.set_xlabel(f"time since all ranks were ready ({unit})")
    _label_ranks(ax, ranks, timings.groupby("rank")["stage"].unique())
    shares["idle"] = shares.get("idle", 0.0) + shares["done"]
    labels = {kind: f"{kind} {shares[kind]:.0%}" for kind in KIND if shares.get(kind)}
    _legend(ax, labels | {"between": f"between events {shares['between']:.0%}"})
    open_frame(ax)
    return ax


def _until_the_end(timings: pd.DataFrame, end: float) -> pd.DataFrame:
    """The events, and for each rank one from its last event to the end of the run: it is idle."""
    last = timings.sort_values("stop").groupby("rank").tail(1)
    rest = last.assign(kind="idle", start=last["stop"], stop=end, seconds=end - last["stop"])
    return pd.concat([timings, rest[rest["seconds"] > 0]], ignore_index=True)


def _chosen_ranks(timings: pd.DataFrame) -> list[int]:
    """The ranks that are drawn: all, or an even choice of many."""
    ranks = sorted(timings["rank"].unique())
    if len(ranks) <= MOST_RANKS:
        return ranks
    return [ranks[k] for k in np.linspace(0, len(ranks) - 1, MOST_RANKS).round().astype(int)]


def _draw_events(
    ax: Axes,
    kind: str,
    events: list[tuple[int, float, float]],
    ranks: list[int],
    scale: float,
) -> None:
    """Draw events of one kind as lines in the rows of their ranks."""
    row = {rank: k for k, rank in enumerate(ranks)}
    lines = [
        ((start * scale, row[rank]), (stop * scale, row[rank])) for rank, start, stop in events
    ]
    width = (13 if kind in THICK else 9) * (1.0 if len(ranks) <= FEW_RANKS else 0.45)
    ax.add_collection(LineCollection(lines, colors=KIND[kind], linewidths=width, capstyle="butt"))


def _label_ranks(ax: Axes, ranks: list[int], stages: pd.Series) -> None:
    """Name each row by its rank and, if there are several, the rank's stages."""
    names = {rank: ", ".join(map(str, sorted(stages[rank]))) for rank in ranks}
    labels = [f"rank {r} (stage{'s' * (len(stages[r]) > 1)} {names[r]})" for r in ranks]
    if set(names.values()) == {"0"}:
        labels = [f"rank {r}" for r in ranks]
    ax.set_ylim(len(ranks) - 0.4, -0.6)
    ax.set_yticks(range(len(ranks)), labels, fontsize=10 if len(ranks) <= FEW_RANKS else 8)


def layers(timings: pd.DataFrame, ax: Axes | None = None, most: int = MOST_LAYERS) -> Axes:
    """Draw the time of all ranks together, layer by layer, in the order of the network.

    Where there are too many layers, those of one module share a bar.

    Parameters
    ----------
    timings
        Events as `spnb.driver.result.Result.timings` gives them.
    ax
        Where to draw; a new figure by default.
    most
        Number of layers or modules that are shown; the rest share one more bar.

    Returns
    -------
    matplotlib.axes.Axes
    """
    table = _seconds_by_layer(timings, most)
    if ax is None:
        _, ax = plt.subplots(figsize=(8.0, 1.4 + 0.26 * len(table)), layout="constrained")
    scale, unit = _unit(table.sum(axis=1).max())
    left = np.zeros(len(table))
    for kind in table.columns:
        width = table[kind].to_numpy() * scale
        ax.barh(range(len(table)), width, left=left, color=KIND[kind], height=0.75)
        left += width
    ax.set_yticks(range(len(table)), table.index, fontsize=9)
    ax.invert_yaxis()
    ax.set_xlabel(f"time, summed over ranks ({unit})")
    _legend(ax, {kind: kind for kind in table.columns})
    open_frame(ax)
    return ax


def _seconds_by_layer(timings: pd.DataFrame, most: int) -> pd.DataFrame:
    """Seconds of all ranks: a row for each layer or module, a column for each kind of event."""
    timings = timings.assign(kind=kinds_of(timings), layer=_modules(timings.layer, most))
    table = timings.pivot_table("seconds", "layer", "kind", "sum", sort=False).fillna(0.0)
    table = table[[kind for kind in KIND if kind in table]]
    working = table.drop(columns=["wait", "idle"], errors="ignore").sum(axis=1)
    is_shown = table.index.isin(set(working.nlargest(most).index))
    shown, rest = table[is_shown], table[~is_shown]
    if len(rest):
        shown.loc[f"{len(rest)} others"] = rest.sum()
    return shown


def _joined(events: pd.DataFrame, gap: float) -> list[tuple[int, float, float]]:
    """Rank, start and stop of events of one kind; events with less than a gap between are one."""
    found: list[tuple[int, float, float]] = []
    for rank, start, stop in zip(events["rank"], events.start, events.stop, strict=True):
        if found and found[-1][0] == rank and start - found[-1][2] < gap:
            start = found.pop()[1]
        found.append((rank, start, stop))
    return found


def _modules(layers: pd.Series, most: int) -> pd.Series:
    """For each layer its path, cut to the depth at which at most ``most`` paths differ."""
    names = layers.replace("", "forward").str.split(".")
    for depth in range(names.str.len().max(), 0, -1):
        cut = names.str[:depth].str.join(".")
        if cut.nunique() <= most:
            break
    return cut


def _unit(longest: float) -> tuple[float, str]:
    """The factor from seconds to a unit that suits a time, and the unit's name."""
    return (1e3, "ms") if longest < 10 else (1.0, "s")


def _legend(ax: Axes, labels: dict[str, str]) -> None:
    """Put a legend of kinds above the picture."""
    ax.legend(
        handles=[
            Patch(facecolor=KIND.get(kind, "none"), edgecolor="#999999", linewidth=0.4, label=label)
            for kind, label in labels.items()
        ],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=4 if len(labels) > 5 else len(labels),
        frameon=False,
        fontsize=9,
    )
