"""Finds the state dict of a network in what a checkpoint file holds.

Training scripts write weights in many ways: beside an optimizer and an epoch, under a key such as
``"state_dict"``, or with a prefix before each name, such as ``"module."``.  What is found in
another place than its own is described in a few words, so that a user sees what was read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

PREFERRED_KEYS = (
    "model",
    "state_dict",
    "model_state_dict",
    "params_ema",
    "params",
    "net",
    "network",
    "weights",
    "module",
)
"""Where a file has several state dicts that fit equally well, the first of these is read."""

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Modules of PyTorch that hold one other module, and put their own name before its names."""

DEEPEST = 3
"""How many keys are followed into the content of a file."""


@dataclass(frozen=True)
class FoundStateDict:
    """A state dict with the names of a network.

    Attributes
    ----------
    tensors
        The weights by name.
    how
        Where in the file they were, in words; empty for a file that holds them and nothing else.
    """

    tensors: Mapping[str, torch.Tensor]
    how: str = ""


@dataclass(frozen=True)
class _Candidate:
    """Tensors of a file by name, and the keys that lead to them."""

    keys: tuple[str, ...]
    tensors: Mapping[str, torch.Tensor]


def holds_tensors(content: object) -> bool:
    """Whether what a file holds has a tensor with a name.

    >>> holds_tensors({"epoch": 1, "state_dict": {"weight": torch.ones(1)}}), holds_tensors([1])
    (True, False)
    """
    return any(True for _ in _candidates(content))


def state_dict_for(names: Collection[str], content: object) -> FoundStateDict:
    """Find the state dict that has most of the names of a network.

    Parameters
    ----------
    names
        Names in the network's own state dict.
    content
        What the file holds: a state dict, or mappings that hold one.

    Returns
    -------
    FoundStateDict
        Names of the file that belong to another module than the network are left out, if all of
        the network's names have a prefix before them.

    Examples
    --------
    >>> found = state_dict_for(["weight"], {"state_dict": {"model.weight": torch.ones(1)}})
    >>> list(found.tensors), found.how
    (['weight'], 'under "state_dict", without the prefix "model."')
    """
    every = list(_candidates(content))
    if not every:
        return FoundStateDict({})
    every.sort(key=lambda candidate: _preference(candidate.keys))
    fits = [_fitted(set(names), candidate.tensors) for candidate in every]
    scores = [len(fit.tensors.keys() & set(names)) for fit in fits]
    best = scores.index(max(scores))
    keys, fit = every[best].keys, fits[best]
    words = [f'under "{".".join(keys)}"'] if keys not in ((), ("model",)) else []
    words += [fit.how] if fit.how else []
    others = [e.keys for e, score in zip(every, scores, strict=True) if score == scores[best] > 0]
    beside = [f'"{".".join(other)}"' for other in others if other != keys]
    if beside:
        words = words or [f'under "{".".join(keys)}"']
        words.append(f"not those under {' and '.join(beside)}")
    return FoundStateDict(fit.tensors, ", ".join(words))


def _preference(keys: tuple[str, ...]) -> tuple[int, ...]:
    """Sorts keys: those of `PREFERRED_KEYS` come first, in their order."""
    known = len(PREFERRED_KEYS)
    return tuple(PREFERRED_KEYS.index(k) if k in PREFERRED_KEYS else known for k in keys)


def _candidates(content: object, keys: tuple[str, ...] = ()) -> Iterator[_Candidate]:
    """Every mapping in a file that holds tensors by name."""
    if not isinstance(content, Mapping) or len(keys) > DEEPEST:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    tensors = {name: value for name, value in tensors.items() if not value.is_nested}  # no shape
    if tensors:
        yield _Candidate(keys, tensors)
    for name, value in named.items():
        yield from _candidates(value, (*keys, name))


def _fitted(names: set[str], tensors: Mapping[str, torch.Tensor]) -> FoundStateDict:
    """The tensors by the network's names: without wrappers, and without a prefix or with one."""
    words = []
    wrapped = [w for w in WRAPPERS if any(w in name.split(".") for name in tensors)]
    wrapped = [w for w in wrapped if not any(w in name.split(".") for name in names)]
    if wrapped:
        tensors = {_without(wrapped, name): tensor for name, tensor in tensors.items()}
        words += [f'without "{wrapper}" in its names' for wrapper in wrapped]
    equal = len(names & tensors.keys())
    extra = _commonest_prefixes(names, tensors)
    absent = _commonest_prefixes(set(tensors), names)
    if extra.names > max(equal, absent.names):
        prefix, *others = extra.prefixes
        picked = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        words.append(f'without the prefix "{prefix}"')
        if left := len(tensors) - len(picked):
            words.append(f"and without the {left} other tensors")
        words += [f'not those with "{other}"' for other in others]
        tensors = picked
    elif absent.names > equal:
        prefix = absent.prefixes[0]
        tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
        words.append(f'with the prefix "{prefix}" added')
    return FoundStateDict(tensors, ", ".join(words))


def _without(wrappers: Collection[str], name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in wrappers)


class _Prefixes(NamedTuple):
    """The prefixes that most names have, and how many names each of them fits."""

    prefixes: list[str]
    names: int


def _commonest_prefixes(names: Collection[str], longer: Collection[str]) -> _Prefixes:
    """The prefixes that make most of some names of others; none where none does.

    >>> _commonest_prefixes({"a", "b"}, ["module.a", "module.b", "c"])
    _Prefixes(prefixes=['module.'], names=2)
    """
    found: Counter[str] = Counter()
    for name in longer:
        parts = name.split(".")
        for count in range(1, len(parts)):
            if ".".join(parts[count:]) in names:
                found[".".join(parts[:count]) + "."] += 1
    most = max(found.values(), default=0)
    return _Prefixes([prefix for prefix, count in found.items() if count == most], most)
