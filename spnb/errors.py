"""Every exception that a user of spnb may catch, in the order in which a run may raise them.

Nothing is imported here, so every folder can raise and catch all of them.
"""

from __future__ import annotations


class OptionError(ValueError):
    """An option's value is wrong; the message says which, why, and what to do."""


class CaptureError(ValueError):
    """The network cannot be captured as a graph of operators."""


class PlanError(ValueError):
    """A split cannot be planned; the message has stage, layer, numbers and a way out."""


class WeightsError(ValueError):
    """A factory or a checkpoint cannot be used; the message has the reason."""


class DatasetError(ValueError):
    """A folder or a file of examples cannot be used; the message names it."""


class WriteError(OSError):
    """A file cannot be written; the message names it and the cause."""


class DeviceError(RuntimeError):
    """The device that a rank should compute on is missing."""


class RankError(RuntimeError):
    """A rank failed; the message names rank, stage and layer."""


class PeerFailed(RuntimeError):
    """Another rank failed while this one waited for it: a consequence, not the cause."""


class WaitTimeout(RuntimeError):
    """Another rank did not send within the deadline."""


class StartError(RuntimeError):
    """The engines did not start."""


class EngineError(RuntimeError):
    """A function raised on an engine.

    Attributes
    ----------
    rank, name, message, traceback
        The MPI rank; the remote exception's class name, message and traceback, as text.
    """

    def __init__(self, rank: int, error: Exception, stuck: str = ""):
        self.rank = rank
        self.name = getattr(error, "ename", type(error).__name__)
        self.message = getattr(error, "evalue", str(error))
        self.traceback = str(getattr(error, "traceback", ""))
        super().__init__(f"rank {rank}: {self.name}: {self.message}{stuck}")


class EngineDied(RuntimeError):
    """An engine's process, or the controller, is no more."""


class EngineTimeout(TimeoutError):
    """Ranks did not answer within the deadline."""


class RunError(RuntimeError):
    """A rank failed; the message names rank, stage and layer, and the cause."""


class CheckFailed(AssertionError):
    """The tiled output differs from the untiled one by more than rounding."""
