"""Names of options: short ones beside those of the benchmarks, and what a wrong one may mean."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ..errors import OptionError
from .options import option_named, options

FUSE = "fuse"
"""Another name of ``fused_layers``, which sets ``halo_D2`` too."""


def other_names() -> dict[str, str]:
    """The options that have another name, by it.

    >>> other_names()["tiles"]
    'num_spatial_parts'
    """
    others = {option.metadata["other"]: option.name for option in options()}
    return {other: name for other, name in others.items() if other}


def own_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the names that they have in the table.

    Parameters
    ----------
    given
        Options by any of their names.

    Raises
    ------
    TypeError
        If there is no option of a name; the nearest names are said.
    OptionError
        If an option is given by two names.

    Examples
    --------
    >>> own_names({"tiles": 4, "fuse": 2})
    {'num_spatial_parts': 4, 'fused_layers': 2, 'halo_D2': True}
    """
    others, known = other_names(), {option.name for option in options()}
    found = {}
    for name, value in given.items():
        own = others.get(name, name)
        if own not in known:
            raise TypeError(f"there is no option {name}{_advice(name, [*known, *others])}")
        if own != name and own in given:
            raise OptionError(f"{name} is another name of {own}: give one of them")
        found[own] = value
    if FUSE in given:
        if "halo_D2" in given:
            raise OptionError(f"{FUSE} sets halo_D2 and fused_layers: leave halo_D2 out")
        found["halo_D2"] = given[FUSE] not in (0, "0", None)
        if not found["halo_D2"]:
            found["fused_layers"] = option_named("fused_layers").default
    return found


def _advice(name: str, known: list[str]) -> str:
    """The names that somebody may have meant."""
    near = difflib.get_close_matches(name.lower(), known, 3, 0.55)
    parts = [each for each in known if name.lower() in each.split("_")]
    means = list(dict.fromkeys([*parts, *near]))[:3]
    return f": did you mean {' or '.join(means)}?" if means else ": see help(spnb.Job)"
