"""The exchanges of a plan between teams of ranks, for one micro-batch."""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.exchange import HOST, Exchange
from ..ir.tags import FORWARD
from .needs import StageNeeds, extent_in
from .staged_graph import StagedGraph


def exchanges_of(
    network: StagedGraph, needs: Mapping[int, StageNeeds], images: int
) -> tuple[Exchange, ...]:
    """Return every exchange of a micro-batch, in the order in which values are first read.

    Parameters
    ----------
    network
        The stages.
    needs
        By number of the stage, the spans that its tiles own and need.
    images
        Number of images in the micro-batch.

    Raises
    ------
    PlanError
        If there are more exchanges than messages have tags.
    """
    found: list[Exchange] = []
    for value, readers in network.readers.items():
        for reader in readers:
            if kind := _kind(network, needs, value, reader):
                tag = FORWARD.tag(len(found))
                found.append(_exchange(network, needs, images, value, reader, kind, tag))
    return tuple(found)


def _kind(
    network: StagedGraph, needs: Mapping[int, StageNeeds], value: str, reader: int
) -> str | None:
    """The kind of the exchange of a value to a stage or to the host; None if nothing moves."""
    if reader == HOST:
        return "output"
    if value not in needs[reader].need:
        return None  # no result of the calls that read it is needed
    producer = network.producer[value]
    if producer == HOST:
        return "input"
    if producer != reader:
        return "hand-over"
    return _kind_within(network, value, reader) if value in needs[reader].points else None


def _kind_within(network: StagedGraph, value: str, stage: int) -> str:
    """The kind of an exchange among the tiles of one stage."""
    op = network.graph.by_name[value].op
    if op.startswith(("spnb.partial", "spnb.combined")):
        return "merge"
    if op.startswith("spnb.turned"):
        return "ring"
    return "gather" if (stage, value) in network.gathered else "halo"


def _exchange(
    network: StagedGraph,
    needs: Mapping[int, StageNeeds],
    images: int,
    value: str,
    reader: int,
    kind: str,
    tag: int,
) -> Exchange:
    graph, producer = network.graph, network.producer[value]
    source, target = network.team_of(producer), network.team_of(reader)
    extent = extent_in(graph, value, images)
    return Exchange(
        tag=tag,
        value=value,
        kind=kind,
        source=source,
        target=target,
        has=source.tiling.spans(extent) if producer == HOST else needs[producer].own[value],
        needs=target.tiling.spans(extent) if reader == HOST else needs[reader].need[value],
        position_bytes=graph.channels(value) * graph.itemsize(value),
    )
