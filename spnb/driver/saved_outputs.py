"""The outputs of a network by name, and the files in which they are saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..analysis.positions import alignment
from ..io.sources import Source, file_of
from ..io.writing.pixel_grid import PixelGrid, has_rows_and_columns, pixel_grid
from ..io.writing.writers import Store
from ..ir.graph import Graph
from ..ir.node import Joined, Ref
from ..job.job import Job
from ..job.job_plan import JobPlan
from ..kernels.compat import pytree


def named_outputs(graph: Graph) -> dict[str, str]:
    """The name of each output in the graph, by its key in the structure of the outputs.

    Those that are joined of several values have no name in the graph.
    """
    leaves = _computed_leaves(graph).items()
    return {key: leaf.value for key, leaf in leaves if isinstance(leaf, Ref)}


def _computed_leaves(graph: Graph) -> dict[str, Ref | Joined]:
    """What the network computes of all that it returns, by its key."""
    leaves = graph.structure.unflatten(graph.returned)
    found = {}
    for keys, leaf in pytree.tree_flatten_with_path(leaves)[0]:
        if isinstance(leaf, Ref | Joined):
            name = ".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in keys)
            found[name or "output"] = leaf
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
        If there are several outputs and none is named, or no such output, or if it is joined of
        several values.
    """
    named = _computed_leaves(graph)
    if output is None and len(named) == 1:
        output = 0
    known: dict[int | str, Ref | Joined] = dict([*named.items(), *enumerate(named.values())])
    found = None if output is None else known.get(output)
    if isinstance(found, Joined):
        raise ValueError(
            "this output joins positions of the image with others, so it has no regions to save or"
            " to draw: take result.output"
        )
    if found is None:
        given = "" if output is None else f"there is no output {output!r}: "
        raise ValueError(f"{given}say which of {len(named)} outputs: {', '.join(named)}")
    return found.value


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


def grid_of(
    graph: Graph, sources: Mapping[str, Source], value: str
) -> tuple[PixelGrid | None, str]:
    """The grid of an output's positions, from that of the image.

    Parameters
    ----------
    graph
        The network.
    sources
        The images of a run, by the input's name.
    value
        Name of the output.

    Returns
    -------
    PixelGrid or None
        None if the image's file has none, or if the positions have no place on it.
    str
        In the latter case, a line that says so.
    """
    source = next(iter(sources.values()))
    file = file_of(source)
    grid = pixel_grid(file) if file else None
    if grid is None:
        return None, ""
    places = alignment(graph, value)
    if places is None or not has_rows_and_columns(graph.axes[value]):
        shape = "×".join(map(str, graph.extent(value)[1:]))
        return None, (
            f"the {grid.what} of {Path(file).name} is not carried over: the output's {shape}"
            " positions have no place on its pixels"
        )
    # A level of a pyramid, or a resized image, has fewer pixels than its file.
    size = source.shape[2:]
    coarser = [
        *[1.0] * (len(size) - 2),
        *(a / b for a, b in zip(grid.extent, size[-2:], strict=True)),
    ]
    scales = [each.scale * n for each, n in zip(places, coarser, strict=True)]
    shifts = [each.shift * n for each, n in zip(places, coarser, strict=True)]
    return grid.moved(scales, shifts), ""


def makers_of(plan: JobPlan, value: str) -> tuple[int, ...]:
    """The ranks that have regions of an output, in all replicas."""
    return tuple(plan.replicas.everywhere(plan.maker_of(value).team.ranks))


def files_read(job: Job, sources: Mapping[str, Source]) -> list[str | Path]:
    """The files of weights and images that a run reads."""
    files: Iterable[str | Path | None] = (job.weights_file, *map(file_of, sources.values()))
    return [file for file in files if file]
