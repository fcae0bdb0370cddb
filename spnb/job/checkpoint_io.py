"""A network's weights: from a factory, a checkpoint, or a seed; cut by stage, never by tile."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..capture.export import cast, rebuilt
from ..errors import WeightsError

DEFAULT_CHECKPOINT = "./checkpoint.pth"


def call_factory(spec: str) -> nn.Module:
    """Build a network from ``"package.module:factory"``.

    Raises
    ------
    WeightsError
        If there is no such module or callable, or it returns no `nn.Module`.
    """
    module_name, _, name = spec.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise WeightsError(f"cannot find the model {spec}: {error}") from None
    try:
        network = factory() if callable(factory) else factory
    except Exception as error:
        raise WeightsError(
            f"{spec} raises {type(error).__name__}: {error}; a factory takes no arguments"
        ) from error
    if not isinstance(network, nn.Module):
        raise WeightsError(f"{spec} gives a {type(network).__name__}, not a torch.nn.Module")
    return network


def read_file(path: Path) -> Any:
    """What a checkpoint file holds; tensors are mapped, and read as they are used.

    Raises
    ------
    WeightsError
        If it cannot be read as tensors and plain data.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"cannot read the checkpoint {path}: {reason}") from None


def read_checkpoint(path: Path) -> Mapping[str, torch.Tensor]:
    """A state dict, on its own or under ``"model"`` or ``"state_dict"``.

    Raises
    ------
    WeightsError
        If the file is missing or is no checkpoint of tensors.
    """
    if not path.exists():
        raise WeightsError(f"there is no checkpoint {path}")
    state = read_file(path)
    for key in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(t, torch.Tensor) for t in state.values()
    ):
        raise WeightsError(f"{path} holds no state dict of tensors")
    return state


def ready(
    module: nn.Module,
    dtype: torch.dtype,
    state: Mapping[str, torch.Tensor] | None = None,
    path: Path | None = None,
) -> nn.Module:
    """A copy of a module in evaluation mode and a floating type, with a checkpoint's weights.

    Raises
    ------
    WeightsError
        If the checkpoint is of another network.
    """
    copied = rebuilt(module, lambda t: t.detach().to(cast(t, dtype), copy=state is not None))
    if state is not None:
        try:
            copied.load_state_dict(state)
        except RuntimeError as error:
            wanted, found = set(copied.state_dict()), set(state)
            raise WeightsError(
                f"{path} is not a checkpoint of {type(module).__name__}: {len(wanted - found)} of"
                f" its {len(wanted)} weights are missing and {len(found - wanted)} are unknown;"
                f" {str(error).splitlines()[1].strip() if wanted == found else ''}".rstrip("; ")
                + ": name another with checkpoint, or move this one away"
            ) from None
    return copied
