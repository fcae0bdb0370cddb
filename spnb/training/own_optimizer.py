"""An optimizer, a scheduler and a limit on gradients of the user's own, as ranks receive them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import cloudpickle
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import OptionError

MakeOptimizer = Callable[[list[tuple[str, torch.Tensor]]], Optimizer]
"""Makes an optimizer of named parameters: ``functools.partial(torch.optim.SGD, momentum=0.9)``."""

MakeScheduler = Callable[[Optimizer], LRScheduler]
"""Makes a scheduler, which is stepped after each epoch."""

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class OwnOptimizer:
    """What a user gives in place of the job's optimizer and learning rates.

    Functions of a notebook are sent to the ranks by their code.

    Attributes
    ----------
    optimizer
        Makes the optimizer of a rank's parameters; None for the job's.
    scheduler
        Makes the scheduler; None for the job's decay of the learning rate.
    clip
        Largest norm of the gradients of all parameters together; None for no limit.
    """

    optimizer: MakeOptimizer | None = None
    scheduler: MakeScheduler | None = None
    clip: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return _received, (cloudpickle.dumps(given),)

    @property
    def keeps_rates(self) -> bool:
        """Whether learning rates are the job's, by epoch."""
        return self.optimizer is None and self.scheduler is None


def _received(content: bytes) -> OwnOptimizer:
    return OwnOptimizer(**cloudpickle.loads(content))


def made_optimizer(
    make: MakeOptimizer, named: list[tuple[str, torch.Tensor]], all_stages: bool
) -> Optimizer | None:
    """Return the optimizer of a rank's parameters, or None if it is to train none of these.

    Parameters
    ----------
    make
        The user's function.
    named
        The parameters with their names.
    all_stages
        Whether these are the parameters of the whole network.

    Raises
    ------
    OptionError
        If the function returns none, or one that ranks cannot step.

    Examples
    --------
    >>> made_optimizer(torch.optim.LBFGS, [("bias", torch.ones(1))], all_stages=True)
    Traceback (most recent call last):
    spnb.errors.OptionError: LBFGS computes the loss several times in a step, which train does ...
    """
    try:
        found: Any = make(named)
    except ValueError as error:
        if not all_stages and "empty parameter list" in str(error):
            return None  # the function chose parameters of other stages
        raise
    if not isinstance(found, Optimizer):
        raise OptionError(
            f"optimizer returned {found!r}, but must return an optimizer of PyTorch's, made of the"
            " named parameters that it is given"
        )
    if isinstance(found, torch.optim.LBFGS):
        raise OptionError(
            "LBFGS computes the loss several times in a step, which train does not: use another"
            " optimizer, or a loop of your own (spnb.parallel) with split_size=1"
        )
    return found


def made_scheduler(make: MakeScheduler, optimizer: Optimizer) -> LRScheduler:
    """Return the scheduler of a rank's optimizer.

    Raises
    ------
    OptionError
        If the function returns none.
    """
    found: Any = make(optimizer)
    if not isinstance(found, LRScheduler):
        raise OptionError(f"scheduler returned {found!r}, but must return a scheduler of PyTorch's")
    return found


def progress_of(optimizer: Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    """The settings of an optimizer's groups, and a scheduler's state, as plain data.

    Parameters
    ----------
    optimizer, scheduler
        Of a rank; those of all ranks have the same progress.

    Examples
    --------
    >>> optimizer = torch.optim.SGD([torch.ones(1)], lr=0.5)
    >>> progress_of(optimizer, None)["groups"][0]["lr"]
    0.5
    """
    groups = [_plain(group) for group in optimizer.param_groups]
    state = {} if scheduler is None else _plain(scheduler.state_dict())
    return {"kind": type(optimizer).__name__, "groups": groups, "scheduler": state}


def restore(
    optimizer: Optimizer, scheduler: LRScheduler | None, progress: Mapping[str, Any]
) -> None:
    """Set groups and scheduler to an earlier progress; empty progress changes nothing.

    Raises
    ------
    OptionError
        If the progress is of another kind of optimizer, whose state this one cannot take.
    """
    kind = type(optimizer).__name__
    if (before := progress.get("kind", kind)) != kind:
        raise OptionError(
            f"the training went on with {before} so far, and {kind} cannot take its state: give the"
            " same optimizer, or load the plan again, with another checkpoint file if it has one"
        )
    for group, saved in zip(optimizer.param_groups, progress.get("groups", ()), strict=False):
        group.update(saved)
    if scheduler is not None and progress.get("scheduler"):
        scheduler.load_state_dict(dict(progress["scheduler"]))


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """What of a state a file may hold: numbers and texts, and lists of them."""
    found = {}
    for name, value in state.items():
        several = isinstance(value, (list, tuple)) and all(isinstance(v, PLAIN) for v in value)
        if isinstance(value, PLAIN) or (several and name != "param_names"):
            found[name] = value
    return found
