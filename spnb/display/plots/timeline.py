"""Where the time went, and where a pipeline's would go."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from ...ir.clock import ClockTable
from .style import KIND, TILE, open_frame

MOST_RANKS = 32  # rows of a timeline; of more ranks, an even choice is drawn
MOST_LAYERS = 20


def timeline(timings: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw what each rank did when.

    Packing and unpacking for the next stage is called hand-over, waiting for the stage before idle.
    The legend has the share of each in the time of all ranks; the rest is blank.

    Parameters
    ----------
    timings
        Events as `spnb.driver.result.Result.timings` gives them.
    ax
        Where to draw; a new figure by default.
    """
    timings = timings.assign(kind=_kinds(timings))
    ranks = sorted(timings["rank"].unique())
    if len(ranks) > MOST_RANKS:
        ranks = [ranks[k] for k in np.linspace(0, len(ranks) - 1, MOST_RANKS).round().astype(int)]
    row = {rank: k for k, rank in enumerate(ranks)}
    shown = timings[timings["rank"].isin(ranks)]
    if ax is None:
        height = 1.3 + max(0.36 * len(ranks) if len(ranks) <= 24 else 0.17 * len(ranks), 0.7)
        _, ax = plt.subplots(figsize=(8.0, height), layout="constrained")
    scale, unit = _unit(timings["stop"].max())
    for kind, colour in KIND.items():
        chosen = shown[shown["kind"] == kind]
        lines = [
            ((start * scale, row[rank]), (stop * scale, row[rank]))
            for rank, start, stop in _joined(chosen, 1e-3 * timings["stop"].max())
        ]
        thick = 13 if kind in ("pack", "unpack", "read", "hand-over") else 9
        width = thick if len(ranks) <= 24 else thick * 0.45
        ax.add_collection(LineCollection(lines, colors=colour, linewidths=width, capstyle="butt"))
    ax.set_xlim(0, timings["stop"].max() * scale)
    ax.set_ylim(len(ranks) - 0.4, -0.6)
    stages = timings.groupby("rank")["stage"].unique()
    names = {r: ", ".join(map(str, sorted(stages[r]))) for r in ranks}
    labels = [f"rank {r} (stage{'s' * (len(stages[r]) > 1)} {names[r]})" for r in ranks]
    ax.set_yticks(range(len(ranks)), labels, fontsize=10 if len(ranks) <= 24 else 7)
    ax.set_xlabel(f"time since all ranks were ready ({unit})")
    total = timings["rank"].nunique() * timings["stop"].max()  # blank time included
    share = timings.groupby("kind")["seconds"].sum() / total
    _legend(ax, {kind: f"{kind} {share[kind]:.0%}" for kind in KIND if kind in share})
    open_frame(ax)
    return ax


def layers(timings: pd.DataFrame, ax: Axes | None = None, most: int = MOST_LAYERS) -> Axes:
    """Draw where the time of all ranks went, by layer, in the order of the network.

    Layers are drawn together, as modules that hold them, until there are few enough.

    Parameters
    ----------
    timings
        Events as `spnb.driver.result.Result.timings` gives them.
    ax
        Where to draw; a new figure by default.
    most
        Layers, or modules of them, shown; where there are more, the others are one bar.
    """
    timings = timings.assign(kind=_kinds(timings), layer=_modules(timings.layer, most))
    table = timings.pivot_table("seconds", "layer", "kind", "sum", sort=False).fillna(0.0)
    kinds = [kind for kind in KIND if kind in table]
    table = table[kinds]
    working = table.drop(columns=["wait", "idle"], errors="ignore").sum(axis=1)
    top = set(working.nlargest(most).index)
    rest = table[~table.index.isin(top)]
    table = table[table.index.isin(top)]
    if len(rest):
        table.loc[f"{len(rest)} others"] = rest.sum()
    if ax is None:
        _, ax = plt.subplots(figsize=(8.0, 1.4 + 0.26 * len(table)), layout="constrained")
    scale, unit = _unit(table.sum(axis=1).max())
    left = np.zeros(len(table))
    for kind in kinds:
        width = table[kind].to_numpy() * scale
        ax.barh(range(len(table)), width, left=left, color=KIND[kind], height=0.75)
        left += width
    ax.set_yticks(range(len(table)), table.index, fontsize=9)
    ax.invert_yaxis()
    ax.set_xlabel(f"time, summed over ranks ({unit})")
    _legend(ax, {kind: kind for kind in kinds})
    open_frame(ax)
    return ax


def clock(table: ClockTable, ax: Axes | None = None) -> Axes:
    """Draw which micro-batch goes forward, in training also back, at which tick.

    Parameters
    ----------
    table
        The passes, tick by tick.
    ax
        Where to draw; a new figure by default.
    """
    ticks, rows = table.ticks, table.rows
    if ax is None:
        size = (min(12.0, 1.6 + 0.55 * len(ticks)), 1.1 + 0.5 * len(rows))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    numbers = {number for tick in ticks for _, number in tick.values()}
    for tick, tasks in enumerate(ticks):
        for row, (kind, number) in tasks.items():
            back = kind == "backward"
            cell = Rectangle(
                (tick, row - 0.45),
                1,
                0.9,
                edgecolor="white",
                hatch="////" if back else None,
                alpha=0.75 if back else None,
            )
            cell.set_facecolor(TILE[number % len(TILE)])
            ax.add_patch(cell)
            if len(numbers) <= 64:
                style = "italic" if number in table.mirrored else "normal"
                middle = tick + 0.5
                ax.text(
                    middle, row, str(number), ha="center", va="center", fontsize=10, style=style
                )
    ax.set_xlim(0, len(ticks))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(range(len(rows)), rows)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("tick")
    ax.set_title(f"{table.title}: idle {table.idle:.0%}", fontsize=10)
    open_frame(ax)
    return ax


def _kinds(timings: pd.DataFrame) -> pd.Series:
    """What a picture calls each event."""
    handed = timings["what"] == "hand-over"
    kinds = timings["kind"].mask(handed & timings["kind"].isin(["pack", "unpack"]), "hand-over")
    return kinds.mask(handed & (timings["kind"] == "wait"), "idle")


def _joined(events: pd.DataFrame, gap: float) -> list[tuple[int, float, float]]:
    """Rank, start and stop of events of one kind; those that all but touch are one."""
    found: list[tuple[int, float, float]] = []
    for rank, start, stop in zip(events["rank"], events.start, events.stop, strict=True):
        if found and found[-1][0] == rank and start - found[-1][2] < gap:
            start = found.pop()[1]
        found.append((rank, start, stop))
    return found


def _modules(layers: pd.Series, most: int) -> pd.Series:
    """Paths of layers, cut to as many names as leave at most so many."""
    names = layers.replace("", "forward").str.split(".")
    for depth in range(names.str.len().max(), 0, -1):
        cut = names.str[:depth].str.join(".")
        if cut.nunique() <= most:
            break
    return cut


def _unit(longest: float) -> tuple[float, str]:
    return (1e3, "ms") if longest < 10 else (1.0, "s")


def _legend(ax: Axes, labels: dict[str, str]) -> None:
    ax.legend(
        handles=[
            Patch(facecolor=KIND[kind], edgecolor="#999999", linewidth=0.4, label=label)
            for kind, label in labels.items()
        ],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=4 if len(labels) > 5 else len(labels),
        frameon=False,
        fontsize=9,
    )
