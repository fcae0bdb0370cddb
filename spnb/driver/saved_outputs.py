"""The outputs of a network by name, and the files in which they are saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..io.sources import Source, file_of
from ..io.writers import Store
from ..ir.graph import Graph
from ..ir.node import Ref
from ..job.job import Job
from ..job.job_plan import JobPlan
from ..kernels.compat import pytree


def named_outputs(graph: Graph) -> dict[str, str]:
    """The name of each output in the graph, by its key in the structure of the outputs."""
    leaves = graph.structure.unflatten(graph.returned)
    found = {}
    for keys, leaf in pytree.tree_flatten_with_path(leaves)[0]:
        if isinstance(leaf, Ref):
            name = ".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in keys)
            found[name or "output"] = leaf.value
    return found


def value_of(graph: Graph, output: int | str | None) -> str:
    """The name of an output in the graph.

    Parameters
    ----------
    graph
        The network.
    output
        The output's number or key; None for the only one.

    Raises
    ------
    ValueError
        If there are several outputs and none is named, or no such output.
    """
    named = named_outputs(graph)
    if output is None and len(named) == 1:
        output = 0
    known: dict[int | str, str] = dict([*named.items(), *enumerate(named.values())])
    found = None if output is None else known.get(output)
    if found is None:
        given = "" if output is None else f"there is no output {output!r}: "
        raise ValueError(f"{given}say which of {len(named)} outputs: {', '.join(named)}")
    return found


def store_of(graph: Graph, path: str | Path, output: int | str | None = None) -> Store:
    """The file of an output; nothing is made yet.

    Parameters
    ----------
    graph
        The network.
    path
        Where the output is to be saved.
    output
        As of `value_of`.
    """
    value = value_of(graph, output)
    return Store(Path(path).absolute(), graph.axes[value], graph.dtype_of(value))


def makers_of(plan: JobPlan, value: str) -> tuple[int, ...]:
    """The ranks that have regions of an output, in all replicas."""
    return tuple(plan.replicas.everywhere(plan.maker_of(value).team.ranks))


def files_read(job: Job, sources: Mapping[str, Source]) -> list[str | Path]:
    """The files of weights and images that a run reads."""
    files: Iterable[str | Path | None] = (job.weights_file, *map(file_of, sources.values()))
    return [file for file in files if file]
