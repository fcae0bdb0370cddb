"""What PyTorch says when it cannot capture a network, in one line of spnb's."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def first_line(error: Exception) -> str:
    """The first line of an error, with a way out where one is known."""
    text = repr(error) if isinstance(error, KeyError) else str(error).strip()
    first = text.splitlines()[0] if text else repr(error)
    inner = re.search(r"got \w+\([\"'](.+?)[\"']\)", text) or re.search(r"Explanation: (.+)", text)
    if inner and len(text.splitlines()) > 1:  # of PyTorch's compiler, which is told of at length
        first = f"{first.rstrip('.')}: {inner[1].rstrip(':')}"
    if kind := re.search(r"Found <class '(.+?)'> in output", text):
        return (
            f"it returns a {kind[1]}, of which PyTorch does not know the tensors: return tensors,"
            " tuples, lists or dicts, or register the class with torch.export.register_dataclass"
        )
    if type(error).__name__ == "DataDependentOutputException":  # its text is an operator's name
        first = f"data-dependent: {first}"
    if "data-dependent" not in first:
        return first
    return (
        "its forward decides by the values of a tensor (if, float(), int(), math), so two images"
        f" may take different ways through it: use torch.where or torch.cond, or .item() for a"
        f" number, or decide outside ({first})"
    )


@contextmanager
def quiet_log() -> Iterator[None]:
    """Keep PyTorch's own messages out of the log: what is wrong is said in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Pred is a Python constant")  # one branch is taken
            # A checkpoint says so whenever it is run without gradients, as it is here.
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
            # Tensors that a forward keeps for the next one are followed, or refused by name.
            warnings.filterwarnings("ignore", "The tensor attributes? ")
            yield
    finally:
        logging.disable(before)
