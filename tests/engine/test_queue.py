"""A kernel runs the cells behind one that failed, whichever way it offers to say so."""

import pytest

from spnb.engine.cells import run_cells_after_a_failure


class Kernel:
    def __init__(self):
        self.dropped = []

    def execute(self, stream, identity, request):
        if request["content"].get("stop_on_error", True):
            self._abort_queues()

    def _abort_queues(self, subshell=None):
        self.dropped.append(subshell)


def test_requests_say_that_an_error_stops_nothing():
    kernel = Kernel()
    kernel.shell_handlers = {"execute_request": kernel.execute}
    kernel.shell_handlers["execute_request"](None, None, {"content": {}})
    assert kernel.dropped == [None]
    run_cells_after_a_failure(kernel)
    kernel.shell_handlers["execute_request"](None, None, {"content": {}})
    assert kernel.dropped == [None]


@pytest.mark.parametrize("handlers", [None, {}, ["execute_request"]])
def test_a_kernel_without_handlers_drops_nothing(handlers):
    kernel = Kernel()
    if handlers is not None:
        kernel.shell_handlers = handlers
    run_cells_after_a_failure(kernel)
    kernel.execute(None, None, {"content": {}})
    assert not kernel.dropped


def test_a_kernel_with_neither_is_refused():
    with pytest.raises(RuntimeError, match="neither shell_handlers nor _abort_queues"):
        run_cells_after_a_failure(object())
