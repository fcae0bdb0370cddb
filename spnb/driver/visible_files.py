"""Which ranks see the files of this process: all on one host, and those that share its disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..io.disk.file_mark import FileMark


def unseen_text(ranks: Sequence[int], folder: Path) -> str:
    """The sentence about ranks that do not see a folder.

    >>> unseen_text([2], Path("/data"))
    'rank 2 does not see /data'
    """
    who = f"rank {ranks[0]} does" if len(ranks) == 1 else f"ranks {list(ranks)} do"
    return f"{who} not see {folder}"


class VisibleFiles:
    """Asks the ranks which of them see a file, once for each state of a file.

    Parameters
    ----------
    ask
        Asks every rank whether it sees a file; None if all ranks are on this host.

    Examples
    --------
    >>> files = VisibleFiles(lambda mark: [True, mark.seen_here(), False])
    >>> files.seen(__file__, num_ranks=3)
    [True, True, False]
    """

    def __init__(self, ask: Callable[[FileMark], Sequence[bool]] | None = None):
        self._ask = ask
        self._known: dict[FileMark, list[bool]] = {}

    def seen(self, path: str | Path, num_ranks: int) -> list[bool]:
        """Whether each of the first ranks sees a file or folder of this process."""
        if self._ask is None:
            return [True] * num_ranks
        mark = FileMark.of(path)
        if mark not in self._known:
            self._known[mark] = list(self._ask(mark))
        return self._known[mark][:num_ranks]

    def seen_in(self, folder: Path, num_ranks: int) -> list[bool]:
        """Whether each of the first ranks sees a new file of a folder."""
        if self._ask is None:
            return [True] * num_ranks
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".spnb-") as file:
            return self.seen(file.name, num_ranks)
