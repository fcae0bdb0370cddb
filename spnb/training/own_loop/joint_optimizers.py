"""Refuses optimizers whose step depends on the gradients of all stages together."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ...errors import RankError

_IN_STAGES: WeakSet[nn.Module] = WeakSet()
"""Networks whose parameters are divided among ranks."""


def refuse_joint_optimizers(network: nn.Module) -> None:
    """Refuse a step of such an optimizer from now on; others look at each parameter alone.

    Parameters
    ----------
    network
        A network of which each rank has the parameters of one stage.
    """
    if not _IN_STAGES:
        register_optimizer_step_pre_hook(_refuse)
    _IN_STAGES.add(network)


def _refuse(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if not isinstance(optimizer, torch.optim.LBFGS):
        return
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for network in list(_IN_STAGES):
        if any(id(parameter) in stepped for parameter in network.parameters()):
            raise RankError(
                "LBFGS chooses one step for all parameters together, but this rank has those of its"
                " stage alone: use split_size=1, or an optimizer such as AdamW or SGD"
            )
