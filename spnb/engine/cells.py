"""Makes ``%%px`` cells safe: one may be interrupted, or fail on one rank, and be run again.

The notebook gives each cell a name.  When another rank reports a failure, a rank sees by the name
whether the other failed in the same cell, so that waiting for it is useless, or in an earlier one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import wraps
from typing import Any

from IPython import get_ipython
from IPython.core.error import UsageError

from ..errors import PeerFailed

DIGESTS = 1000
"""Messages whose signatures a process remembers, so that none is taken twice."""


class SentCells:
    """The cells that a view sends: each has a name, and it is known which engines still run one.

    Parameters
    ----------
    view
        An ipyparallel view of engines; from now on it gives a name to each cell.
    """

    def __init__(self, view: Any):
        self._view, self._execute = view, view.execute
        self._sent: list[tuple[int, str]] = []  # engines, and ids of their messages
        view.execute = self._named

    def ended(self, engines: Collection[int]) -> None:
        """Forget the cells of engines that have answered a later request."""
        self._sent = [(engine, message) for engine, message in self._sent if engine not in engines]

    def refuse(self, reason: str) -> None:
        """Answer each cell from now on with a line: the engines are gone."""

        def refused(*_: Any, **__: Any) -> Any:
            raise UsageError(reason)  # of which IPython shows no traceback

        self._view.execute = refused

    def _named(
        self,
        code: str,
        silent: bool = False,  # with ipyparallel's default, True, IPython triggers no cell events
        targets: Any = None,
        block: bool | None = None,
        label: str | None = None,
    ) -> Any:
        block = self._view.block if block is None else block
        targets = self._view.targets if targets is None else targets
        self.still_run()  # forgets those that have ended
        result = self._execute(code, silent, targets, False, label or uuid.uuid4().hex)
        self._sent += zip(self._engines(targets), result.msg_ids, strict=True)
        if block:  # as ipyparallel waits
            with suppress(KeyboardInterrupt):
                result.get()
                result.wait_for_output()
        return result

    def _engines(self, targets: Any) -> list[int]:
        """The ids of engines that ipyparallel's ``targets`` means."""
        every = self._view.client.ids
        if isinstance(targets, slice):
            return every[targets]
        if isinstance(targets, int):
            return [every[targets] if targets < 0 else targets]
        return every if targets == "all" else list(targets)

    def still_run(self) -> list[int]:
        """The engines that have not answered yet."""
        outstanding = self._view.client.outstanding
        self._sent = [(engine, message) for engine, message in self._sent if message in outstanding]
        return sorted({engine for engine, _ in self._sent})


def watch_cells(shell: Any, transport: Any) -> None:
    """On an engine: name the running cell to the transport, and report a failure to other ranks.

    The engine also remembers no more signatures of messages than others do: ipyparallel's default
    is 65,536, which take some MiB.

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
            transport.fail(str(error))  # a rank may still wait for this one
        elif error:
            transport.fail(f"rank {transport.rank}: {type(error).__name__}: {error}")
        transport.call = ""

    shell.kernel.session.digest_history_size = DIGESTS
    run_cells_after_a_failure(shell.kernel)
    shell.events.register("pre_run_cell", begin)
    shell.events.register("post_run_cell", end)


def free_message() -> None:
    """Free the arrays of the message that the kernel handles, once their call has used them.

    Contexts of tasks refer to the message until much later; weights and moments of a training are
    as large as the network.
    """
    if shell := get_ipython():
        del (shell.kernel.get_parent().get("buffers") or [])[:]


def run_cells_after_a_failure(kernel: Any) -> None:
    """Make a kernel run the cells that are queued behind a failed one.

    By default a kernel drops them.  But the other ranks run theirs, and would wait for this rank.

    Parameters
    ----------
    kernel
        An ipykernel.  In Jupyter's protocol, a request to execute has a field ``stop_on_error``;
        ipyparallel's client does not set it, so it is set here when the request arrives.  If the
        kernel has no table of handlers, its method that drops cells is replaced instead.

    Raises
    ------
    RuntimeError
        If the kernel has neither.
    """
    handlers = getattr(kernel, "shell_handlers", None)
    if isinstance(handlers, dict) and "execute_request" in handlers:
        handlers["execute_request"] = _without_stop_on_error(handlers["execute_request"])
    elif hasattr(kernel, "_abort_queues"):
        kernel._abort_queues = lambda *_: None
    else:
        raise RuntimeError(
            f"{type(kernel).__name__} has neither shell_handlers nor _abort_queues, so a cell that"
            " fails on one rank would keep the others waiting: install ipykernel 6 or 7"
        )


def _without_stop_on_error(execute: Callable[..., Any]) -> Callable[..., Any]:
    """A handler of requests to execute, after which the kernel does not drop later requests."""

    @wraps(execute)
    def handler(stream: Any, identity: Any, request: dict[str, Any]) -> Any:
        request["content"]["stop_on_error"] = False
        return execute(stream, identity, request)

    return handler
