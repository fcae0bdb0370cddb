"""What makes a ``%%px`` cell safe to be interrupted, or to fail on one rank, and to be run again.

The notebook gives each cell a name, so that a rank knows the failure of the cell that it is in
itself (it need not wait for the other any more) from that of an earlier one.
"""

from __future__ import annotations

import uuid
from typing import Any

from ..errors import PeerFailed


def name_cells(view: Any) -> Any:
    """Have an ipyparallel view give each cell that it sends a name; returns the view."""
    execute = view.execute

    def named(
        code: str,
        silent: bool = False,  # ipyparallel's default is not: then no rank would hear of a failure
        targets: Any = None,
        block: bool | None = None,
        label: str | None = None,
    ) -> Any:
        return execute(code, silent, targets, block, label or uuid.uuid4().hex)

    view.execute = named
    return view


def watch_cells(shell: Any, transport: Any) -> None:
    """On an engine: let a transport know which cell runs, and other ranks when it fails.

    Parameters
    ----------
    shell
        The engine's IPython shell.
    transport
        A `spnb.transport.mpi.MPITransport`.
    """

    def begin(info: Any) -> None:
        transport.call = shell.kernel.get_parent().get("metadata", {}).get("label") or ""

    def end(result: Any) -> None:
        error = result.error_before_exec or result.error_in_exec
        if isinstance(error, PeerFailed):
            transport.fail(str(error))  # who waits for us has not heard it, perhaps
        elif error:
            transport.fail(f"rank {transport.rank}: {type(error).__name__}: {error}")
        transport.call = ""

    # A kernel drops what is queued behind a cell that failed; other ranks would run it, and wait
    shell.kernel._abort_queues = lambda *_: None
    shell.events.register("pre_run_cell", begin)
    shell.events.register("post_run_cell", end)
