"""Where a network's weights come from: a factory, or the file of a checkpoint."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..capture.export import cast, rebuilt
from ..errors import OptionError, WeightsError
from ..io.disk.kinds import no_file_at
from ..ir.weights import named
from .state_dict import FoundStateDict, holds_tensors, state_dict_for

SHOWN = 4
"""How many names a message lists."""

INDEX = ".index.json"
"""How the name of a file ends that says in which files the weights of a network are."""

_NUMPY_SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
_PLAIN_DATA: tuple[Callable[..., Any] | tuple[Callable[..., Any], str], ...] = (
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "u8", "?")},
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
)
"""What training scripts store beside weights, and which runs no code when it is read."""


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
    """Return the content of a checkpoint file.

    Tensors of a zip file, which PyTorch has written since 1.6, are mapped, and read as they are
    used; older files are read at once.

    Raises
    ------
    WeightsError
        If the file holds anything but tensors and plain data, or is no file.
    """
    if kind := no_file_at(path):
        raise WeightsError(f"cannot read the checkpoint {path}: it is {kind}")
    if path.name.endswith(INDEX):
        return _of_shards(path)
    try:
        with torch.serialization.safe_globals(list(_PLAIN_DATA)):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:
        raise WeightsError(f"cannot read the checkpoint {path}: {_reason(error)}") from None


def _of_shards(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of several files, by an index that names the file of each."""
    try:
        file_of: dict[str, str] = json.loads(path.read_text())["weight_map"]
        files = sorted({*file_of.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(
            f"cannot read the checkpoint {path}: it has no weight_map, which names the file of each"
            " weight"
        ) from None
    shards = {name: read_file(path.parent / name) for name in files}
    absent = [name for name, file in file_of.items() if name not in shards[file]]
    if absent:
        raise WeightsError(
            f"cannot read the checkpoint {path}: {file_of[absent[0]]} has no {absent[0]}"
        )
    return {name: shards[file][name] for name, file in file_of.items()}


def _reason(error: Exception) -> str:
    """Why a file could not be read, in one line; PyTorch advises to run the code in the file."""
    text = str(error).strip()
    way_out = "save the state_dict() of the network alone, where the file was made"
    if found := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module \S+ is blocked)", text):
        return f"it holds a {found[1]}, and not only tensors and plain data: {way_out}"
    if "TorchScript" in text:
        return f"it is a TorchScript program, not weights: {way_out}"
    if "weights_only" in text:
        return f"it holds more than tensors and plain data, or is damaged: {way_out}"
    if isinstance(error, LookupError | EOFError):  # PyTorch says no more than a number
        return f"it is no file of torch.save, or it is damaged: {way_out}"
    return (text or type(error).__name__).splitlines()[0]


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Return the content of a file that holds a state dict, alone or beside other things.

    Raises
    ------
    WeightsError
        If the file is missing or has no tensors.
    """
    if not path.exists():
        raise WeightsError(f"there is no checkpoint {path}")
    content = read_file(path)
    if not holds_tensors(content):
        raise WeightsError(f"{path} holds no state dict of tensors")
    return content


def ready(
    module: nn.Module,
    dtype: torch.dtype | None,
    content: Mapping[str, Any] | None = None,
    path: Path | None = None,
) -> nn.Module:
    """Return a copy of a module in evaluation mode, with a checkpoint's weights.

    Where the weights were not at the top of the file under the module's own names, one line on
    standard error says what was read.

    Parameters
    ----------
    module
        The module to copy.
    dtype
        Floating type of the copy; ``None`` for the types of the module.
    content
        What a checkpoint holds; without it, the copy has the weights of the module.
    path
        File of the checkpoint, for messages.

    Raises
    ------
    WeightsError
        If the checkpoint is of another network.
    OptionError
        If a weight of the module is on the meta device, and no checkpoint has its value.
    """
    if content is None:
        refuse_meta(module, set())
        return rebuilt(module, lambda t: t.detach().to(cast(t, dtype)))
    found = state_dict_for(module.state_dict(), content)
    refuse_meta(module, set(found.tensors))
    copied = rebuilt(module, lambda t: _own_memory(t, cast(t, dtype)))
    _load(found, copied, path)
    if found.how:
        print(f"spnb: {path}: read {found.how}", file=sys.stderr, flush=True)
    return copied


def refuse_other(module: nn.Module, content: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another network than a module, whose weights need not be read for it.

    Parameters
    ----------
    module
        The network; it may be on the meta device, and stays as it is.
    content
        What the checkpoint holds.
    path
        Its file, for messages.

    Raises
    ------
    WeightsError
        Naming a weight.
    """
    found = state_dict_for(module.state_dict(), content)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is a no-op")  # values are not copied to meta tensors
        _load(found, rebuilt(module, lambda t: t.detach().to("meta")), path)


def _load(found: FoundStateDict, module: nn.Module, path: Path | None) -> None:
    """Load weights into a module; raise if they are of another network."""
    try:
        differing = module.load_state_dict(found.tensors, strict=False)
        problem = _differing_names(differing.missing_keys, differing.unexpected_keys)
    except RuntimeError as error:  # a shape, below a heading, or a layout
        problem = "".join(str(error).splitlines()[:2][-1:]).strip().rstrip(".")
    if problem:
        how = f" (read {found.how})" if found.how else ""
        raise WeightsError(
            f"{path}{how} is not a checkpoint of {type(module).__name__}: {problem}: name another"
            " file"
        )


def _own_memory(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor with memory of its own, for a checkpoint to be read into."""
    if tensor.is_meta:
        return torch.empty_like(tensor, dtype=dtype, device="cpu")
    return tensor.detach().to(dtype, copy=True)


def refuse_meta(module: nn.Module, known: Collection[str]) -> None:
    """Refuse a module with weights that have no values.

    Parameters
    ----------
    module
        The network.
    known
        Names of the weights that a checkpoint has.

    Raises
    ------
    OptionError
        If other weights are on the meta device.
    """
    every = named(module)
    empty = [name for name, tensor in every.items() if tensor.is_meta and name not in known]
    if empty:
        raise OptionError(
            f"{len(empty)} of the {len(every)} weights of {type(module).__name__} are on the meta"
            f" device, where they have no values ({_listed(empty)}): make the module on the CPU, or"
            " name a file that has them with weights"
        )


def _differing_names(missing: Sequence[str], unknown: Sequence[str]) -> str:
    """In words, which names a network and a checkpoint have not in common; empty if none."""
    words = []
    if missing:
        words.append(f"it has no {_listed(missing)}")
    if unknown:
        words.append(f"the network has no {_listed(unknown)}")
    return ", and ".join(words)


def _listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
