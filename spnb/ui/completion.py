"""Completes lines of ``%spnb``: verbs, flags, their values, samples and variables."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import models
from ..io.samples import samples
from ..job.job import Job
from ..job.job_plan import JobPlan
from . import flags


class Completion:
    """The possible words at a place in a line.

    Parameters
    ----------
    parsers
        The parser of each verb.
    variables
        The user's variables by name.
    """

    def __init__(
        self, parsers: Mapping[str, argparse.ArgumentParser], variables: Mapping[str, Any]
    ):
        self.parsers, self.variables = parsers, variables

    def complete(self, line: str, symbol: str) -> list[str]:
        """Return the possible words at the place of a symbol that is being typed.

        Parameters
        ----------
        line
            The line up to the cursor, from ``%spnb`` on.
        symbol
            The beginning of the word at the cursor.
        """
        words = line.split()[1:]
        before = words[:-1] if symbol else words
        if not before:
            found = list(self.parsers)
        elif before[0] not in self.parsers:
            return []
        else:
            found = self._in_verb(self.parsers[before[0]], before, symbol)
        return [name for name in found if name.startswith(symbol)]

    def _in_verb(
        self, parser: argparse.ArgumentParser, before: list[str], symbol: str
    ) -> list[str]:
        """Return values of the flag before the cursor, or flags, or arguments of the verb."""
        actions = {name: action for action in parser._actions for name in action.option_strings}
        action = actions.get(before[-1])
        if action is not None and action.nargs != 0:
            if action.dest == "image":
                return self._images()
            return list(map(str, action.choices or flags.choices(action.dest)))
        if symbol.startswith("-"):
            return list(actions)
        positional = {action.dest for action in parser._actions if not action.option_strings}
        if "model" in positional and len(before) == 1:
            known = [name for name, _ in models.names() if "<" not in name]
            return known + self._names_of((nn.Module, Job, JobPlan))
        if {"image", "images", "examples"} & positional:
            return self._images()
        return list(actions)

    def _images(self) -> list[str]:
        return [*samples(), *self._names_of((np.ndarray, torch.Tensor))]

    def _names_of(self, kinds: tuple[type, ...]) -> list[str]:
        """Return the names of the user's variables of some types."""
        return [
            name
            for name, value in self.variables.items()
            if not name.startswith("_") and isinstance(value, kinds)
        ]
