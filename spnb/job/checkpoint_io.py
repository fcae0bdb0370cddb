"""Where a network's weights come from: a factory, or the file of a checkpoint."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    try:
        with _working_folder_on_path():
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


@contextmanager
def _working_folder_on_path() -> Iterator[None]:
    """Let modules of the working folder be imported within a ``with`` block."""
    if "" in sys.path:
        yield
        return
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def read_file(path: Path) -> Any:
    """Return the content of a checkpoint file; tensors are mapped, and read as they are used.

    Raises
    ------
    WeightsError
        If the file holds anything but tensors and plain data.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"cannot read the checkpoint {path}: {reason}") from None


def read_checkpoint(path: Path) -> Mapping[str, torch.Tensor]:
    """Return the state dict of a file, which may lie under ``"model"`` or ``"state_dict"``.

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
    """Return a copy of a module in evaluation mode, with a checkpoint's weights.

    Parameters
    ----------
    module
        The module to copy.
    dtype
        Floating type of the copy.
    state
        Weights of a checkpoint; without them, the copy has those of the module.
    path
        File of the checkpoint, for messages.

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
            detail = ""
            if wanted == found:  # the names agree, so the first line names a shape
                detail = f"; {str(error).splitlines()[1].strip()}"
            raise WeightsError(
                f"{path} is not a checkpoint of {type(module).__name__}: {len(wanted - found)} of"
                f" its {len(wanted)} weights are missing and {len(found - wanted)} are unknown"
                f"{detail}: name another with checkpoint, or move this one away"
            ) from None
    return copied
