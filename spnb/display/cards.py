"""How objects show themselves: one description, read as plain text or as HTML.

>>> card = Card("two tiles", [Table(("rank", "tile"), [("0", "64×32"), ("1", "64×32")])])
>>> print(card.text)
two tiles
rank  tile
0     64×32
1     64×32
>>> "<td" in card.html
True
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..ir.exchange import Team

TILE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
"""Colours that suit colour-blind readers (Okabe & Ito, *Color universal design*, 2008)."""

MOST_CELLS = 7
"""Rows and columns of a grid that are shown; a larger grid leaves out its middle."""


@dataclass(frozen=True)
class Table:
    """Rows of text under headings."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def text(self) -> str:
        """Columns aligned with spaces."""
        widths = [max(map(len, column)) for column in zip(self.headings, *self.rows, strict=True)]
        lines = (
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip()
            for r in (self.headings, *self.rows)
        )
        return "\n".join(lines)

    @property
    def html(self) -> str:
        """An HTML table with its cells aligned to the left."""

        def row(cells: Sequence[str], tag: str) -> str:
            style = "text-align:left;padding:2px 10px 2px 0"
            return "".join(f'<{tag} style="{style}">{escape(c)}</{tag}>' for c in cells)

        head = row(self.headings, "th") if any(self.headings) else ""
        body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True)
class Grid:
    """Labels in rows and columns, in the positions of tiles, under a caption.

    >>> print(Grid("stage 0", [["0", "1"], ["2", "3"]]).text)
    stage 0
    ┌───┬───┐
    │ 0 │ 1 │
    ├───┼───┤
    │ 2 │ 3 │
    └───┴───┘
    """

    caption: str
    cells: Sequence[Sequence[str]]

    @property
    def text(self) -> str:
        """Cells in boxes."""
        width = max(len(cell) for row in self.cells for cell in row)
        bars = ["─" * (width + 2)] * len(self.cells[0])
        lines = ["│" + "│".join(f" {c.center(width)} " for c in row) + "│" for row in self.cells]
        between = f"\n├{'┼'.join(bars)}┤\n"
        return f"{self.caption}\n┌{'┬'.join(bars)}┐\n{between.join(lines)}\n└{'┴'.join(bars)}┘"

    @property
    def html(self) -> str:
        """Cells in the colours that tiles have in pictures."""
        style = "border:1px solid #555;padding:4px 10px;text-align:center;color:#000;background:{}"
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="{style.format(TILE[k % 2 + 2 * (number % 2)])}">{escape(cell)}</td>'
                for k, cell in enumerate(row)
            )
            + "</tr>"
            for number, row in enumerate(self.cells)
        )
        return (
            '<div style="display:inline-block;vertical-align:top;margin:4px 24px 4px 0">'
            f'<div>{escape(self.caption)}</div><table style="border-collapse:collapse">'
            f"{rows}</table></div>"
        )


@dataclass(frozen=True)
class Card:
    """A title, then tables, grids (side by side) and lines of text."""

    title: str
    body: Sequence[Table | str] = ()
    grids: Sequence[Grid] = field(default=())

    @property
    def text(self) -> str:
        """As plain text."""
        blocks = [self.title, *(b if isinstance(b, str) else b.text for b in self.body)]
        if self.grids:
            blocks.append(beside([grid.text for grid in self.grids]))
        return "\n".join(blocks)

    @property
    def html(self) -> str:
        """As HTML without scripts, for notebooks."""
        blocks = [f"<b>{escape(self.title)}</b>"]
        blocks += [f"<div>{escape(b)}</div>" if isinstance(b, str) else b.html for b in self.body]
        return f"<div>{''.join(blocks)}<div>{''.join(g.html for g in self.grids)}</div></div>"


class Shown(ABC):
    """An object that a notebook shows as a card in HTML; its ``repr`` is the card as text."""

    @property
    @abstractmethod
    def card(self) -> Card:
        """The card of this object."""

    def __repr__(self) -> str:
        return self.card.text

    def _repr_html_(self) -> str:
        return self.card.html

    def __dir__(self) -> list[str]:
        """Public names only: what completion offers."""
        return [name for name in super().__dir__() if not name.startswith("_")]


def stage_grid(stage: int, team: Team) -> Grid:
    """The ranks of a stage, in the positions of their tiles."""
    shape, ranks = team.tiling.grid, team.ranks
    columns = shape[-1]
    lines = [ranks[k : k + columns] for k in range(0, len(ranks), columns)]
    cells = [
        ["…"] * len(shortened(ranks[:columns]))
        if line is None
        else ["…" if rank is None else str(rank) for rank in shortened(line)]
        for line in shortened(lines)
    ]
    cut = "×".join(map(str, shape[1:])) + " tiles" if math.prod(shape[1:]) > 1 else "whole"
    sharing = f", batch shared by {shape[0]}" if shape[0] > 1 else ""
    return Grid(f"stage {stage}: {cut}{sharing}", cells)


def beside(blocks: Sequence[str], gap: int = 3) -> str:
    """Blocks of text side by side.

    >>> print(beside(["a\\nbb", "c"]))
    a    c
    bb
    """
    columns = [block.splitlines() for block in blocks]
    widths = [max(map(len, column)) + gap for column in columns]
    rows = zip_longest(*columns, fillvalue="")
    return "\n".join(
        "".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def shortened(items: Sequence[Any], most: int = MOST_CELLS) -> list[Any]:
    """Items; if there are more than ``most``, ``None`` stands for those in the middle.

    >>> shortened("abcdefghij", 4)
    ['a', 'b', None, 'j']
    """
    if len(items) <= most:
        return list(items)
    ahead = most // 2
    return [*items[:ahead], None, *items[len(items) - (most - 1 - ahead) :]]


def counted(number: int, noun: str) -> str:
    """A number and a noun, in the plural unless the number is 1.

    >>> counted(1, "image"), counted(2, "image"), counted(4096, "rank")
    ('1 image', '2 images', '4,096 ranks')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def size_text(size: float) -> str:
    """A number of bytes in words.

    >>> size_text(3_500_000)
    '3.3 MiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.{0 if unit == 'B' else 1}f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def time_text(seconds: float) -> str:
    """Seconds in words.

    >>> time_text(0.0123), time_text(75), time_text(3.21)
    ('12.3 ms', '1 min 15 s', '3.21 s')
    """
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
