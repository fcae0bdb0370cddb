"""The fields of a training's checkpoint, checked before a training goes on from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ...errors import WeightsError
from ...job.options import option_named
from ...training.loss_scale import LossScale
from ...training.recipe import OPTIMIZERS

MOST_EPOCHS: int = option_named("num_epochs").metadata["most"]


def require_fields(state: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint with a field that training cannot go on from.

    Parameters
    ----------
    state
        The content of the file.
    path
        The file, for the message.

    Raises
    ------
    WeightsError
        Naming the file, the field and its value.

    Examples
    --------
    >>> require_fields({"model": {"a": torch.ones(1)}, "epoch": -5}, Path("net.pth"))
    Traceback (most recent call last):
    spnb.errors.WeightsError: net.pth: epoch is -5, but must be a whole number up to 1,000,000: ...
    """
    if "model" not in state:
        raise WeightsError(f"{path} has no model: name another file with checkpoint")
    for name, (is_good, wanted) in _FIELDS.items():
        if name in state and not is_good(state[name]):
            raise _wrong(path, name, state[name], wanted)
    optimizer, best = state.get("optimizer", {}), state.get("best", {})
    for name, (is_good, wanted) in _OF_OPTIMIZER.items():
        if name in optimizer and not is_good(optimizer[name]):
            raise _wrong(path, f"optimizer.{name}", optimizer[name], wanted)
    for name, (is_good, wanted) in _OF_BEST.items() if best else ():
        if name not in best or not is_good(best[name]):
            raise _wrong(path, f"best.{name}", best.get(name), wanted)
    epoch, history = state.get("epoch", 0), state.get("history")
    if history and history[-1].get("epoch", epoch - 1) != epoch - 1:
        raise _wrong(path, "epoch", epoch, f"{history[-1]['epoch'] + 1}, as history says")
    _refuse_shapes(optimizer, state["model"], path)


def _wrong(path: Path, name: str, value: Any, wanted: str) -> WeightsError:
    shown = repr(value)
    shown = shown if len(shown) <= 40 and "\n" not in shown else f"a {type(value).__name__}"
    return WeightsError(
        f"{path}: {name} is {shown}, but must be {wanted}: name another file with checkpoint"
    )


def _refuse_shapes(optimizer: Mapping[str, Any], model: Mapping[str, Any], path: Path) -> None:
    """Refuse moments of other shapes than the weights that they are of."""
    if optimizer.get("name") not in OPTIMIZERS:
        return  # that of a user may have shapes of its own
    for name, moments in optimizer.get("state", {}).items():
        for key, value in moments.items():
            if name not in model or not isinstance(value, torch.Tensor) or value.ndim == 0:
                continue
            if value.shape != model[name].shape:
                wanted = f"of shape {tuple(model[name].shape)}, as {name}"
                field = f"optimizer.state.{name}.{key}"
                raise _wrong(path, field, f"of shape {tuple(value.shape)}", wanted)


def _is_count(value: Any, most: int = MOST_EPOCHS) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _is_dict(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and of(each) for key, each in value.items()
    )


def _is_weights(value: Any) -> bool:
    return _is_dict(value, lambda each: isinstance(each, torch.Tensor) and _is_dense(each))


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a number at each place, as those that training writes."""
    strided = tensor.layout is torch.strided and not tensor.is_nested
    return strided and not (tensor.is_quantized or tensor.is_meta)


def _is_state(value: Any) -> bool:
    """Whether each tensor of an optimizer's state is dense."""
    return _is_dict(value, lambda each: not isinstance(each, torch.Tensor) or _is_dense(each))


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and all(_is_dict(row, _is_number) for row in value)


def _is_progress(value: Any) -> bool:
    groups = value.get("groups", ()) if isinstance(value, Mapping) else None
    return isinstance(groups, (list, tuple)) and all(_is_dict(g, _is_anything) for g in groups)


def _is_scaling(value: Any) -> bool:
    names = {each.name for each in fields(LossScale)}
    return _is_dict(value, lambda each: _is_number(each) and 0 <= each < math.inf) and (
        value.keys() <= names
    )


def _is_anything(value: Any) -> bool:
    return True


_Checks = dict[str, tuple[Callable[[Any], bool], str]]
_COUNT = f"a whole number up to {MOST_EPOCHS:,}"
_FIELDS: _Checks = {
    "model": (_is_weights, "weights by name"),
    "optimizer": (lambda value: _is_dict(value, _is_anything), "a dict"),
    "epoch": (_is_count, _COUNT),
    "history": (_is_history, "a list with the figures of each step"),
    "recipe": (
        lambda value: _is_dict(value, lambda each: isinstance(each, (str, int, float))),
        "a dict of settings",
    ),
    "data": (
        lambda value: _is_dict(value, lambda each: isinstance(each, int)),
        "a dict of whole numbers",
    ),
    "best": (lambda value: _is_dict(value, _is_anything), "a dict"),
}
"""For each field, whether a value is good, and what it must be in words."""

_OF_OPTIMIZER: _Checks = {
    "name": (lambda value: isinstance(value, str), "a name"),
    "state": (
        lambda value: _is_dict(value, _is_state),
        "a dict of what each weight has",
    ),
    "progress": (_is_progress, "a dict of groups and a scheduler"),
    "scaling": (_is_scaling, "a dict of the scale's factor and its steps"),
}
_OF_BEST: _Checks = {
    "epoch": (_is_count, _COUNT),
    "loss": (_is_number, "a number"),
    "targets": (lambda value: isinstance(value, int), "a whole number"),
    "model": (_is_weights, "weights by name"),
}
