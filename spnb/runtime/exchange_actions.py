"""The actions that move values: between ranks, from the image, to the host and out of memory."""

from __future__ import annotations

from ..ir.axes import rows_beside
from ..ir.exchange import HOST
from ..ir.program import Free, Keep, Receive, Send
from ..ir.rank_plan import RankPlan
from ..kernels.nan_watch import look
from .halo_tile import FramedHaloTile, HaloTile, Pieces, channels_last, packed, putter
from .local_values import LocalValues
from .result_places import ResultPlaces
from .state import Action, Piece, RunState


class ExchangeActions:
    """Makes the actions that move values, in the order of a program's steps.

    Parameters
    ----------
    rank_plan
        The rank's share of the plan.
    values
        The values that the rank holds at this point of the program; the actions change them.
    places
        The memory of results.
    """

    def __init__(self, rank_plan: RankPlan, values: LocalValues, places: ResultPlaces):
        self._rank_plan, self._values, self._places = rank_plan, values, places

    def send(self, step: Send) -> Action:
        """The action that sends regions of a value to other ranks, or holds them for the host."""
        layer = self._values.layer(step.value)
        takes = [
            (t.target, t.region, self._values.operand(step.value, t.region, step.axes))
            for t in step.transfers
        ]

        def send(run: RunState) -> None:
            run.at = layer
            for target, region, take in takes:
                if target == HOST:
                    region = self._rank_plan.in_batch(region, step.axes, run.first_image)
                    run.pieces.append(Piece(step.value, region, take(run), run.first_image))
                    continue
                start = run.recorder.now()
                message = packed(take(run), step.axes)
                run.transport.send(target, step.tag, message)
                run.recorder.note(start, "pack", layer, step.kind, message.nbytes)

        return send

    def receive(self, step: Receive) -> Action:
        """The action that reads a region of the image, or receives a value from other ranks."""
        if any(t.source == HOST for t in step.transfers):
            return self._read(step)
        return self._receive(step)

    def _read(self, step: Receive) -> Action:
        layer = self._values.layer(step.value)
        size = step.axes.local_bytes(step.region, step.dtype.itemsize)
        self._values.hold(step.value, step.region)

        def read(run: RunState) -> None:
            run.at, start = layer, run.recorder.now()
            region = self._rank_plan.in_batch(step.region, step.axes, run.first_image)
            image = run.read(step.value, region)
            run.values[step.value] = channels_last(image, step.axes)
            run.recorder.note(start, "read", layer, step.kind, size)

        return read

    def _receive(self, step: Receive) -> Action:
        layer, tile = self._values.layer(step.value), self._halo_tile(step)

        def begin(run: RunState) -> None:
            run.at = layer
            pieces = Pieces([run.values.get(step.value)])
            for t in step.transfers:
                buffer, piece = tile.message(t.region)
                pieces.arrivals.append(run.transport.receive(t.source, step.tag, buffer))
                pieces.tensors.append(piece)
            run.values[step.value] = pieces

        def end(run: RunState) -> None:
            pieces, start = run.values[step.value], run.recorder.now()
            run.transport.wait(pieces.arrivals)
            size = sum(tensor.nbytes for tensor in pieces.tensors[1:])
            run.recorder.note(start, "wait", layer, step.kind, size)
            look(pieces.tensors[1:])

        self._values.hold_tile(step.value, tile, end if step.transfers else None)
        return begin

    def _halo_tile(self, step: Receive) -> HaloTile:
        """The pieces in which a value arrives; framed, if one buffer holds them all."""
        tile = HaloTile(
            region=step.region,
            own=self._values.own(step.value),
            halo=tuple(t.region for t in step.transfers),
            axes=step.axes,
            dtype=step.dtype,
            kind=step.kind,
        )
        if not rows_beside(tile.region, tile.own, tile.axes):
            return tile
        whole = self._places.tensor(step.value, step.axes, step.region, step.dtype)
        return tile if whole is None else FramedHaloTile.of(tile, whole)

    def free(self, step: Free) -> Action:
        """The action that drops values after their last use."""
        # A halo that no call has read is awaited first: a later receive might take its message.
        arrivals = self._values.free(step.values)

        def free(run: RunState) -> None:
            for arrive in arrivals:
                arrive(run)
            for value in step.values:
                run.values.pop(value, None)

        return free

    def keep(self, step: Keep) -> Action:
        """The action that writes a patch into the tile of a value, for later programs."""
        layer = self._values.layer(step.value)
        take = self._values.operand(step.value, step.own, step.axes)
        put = putter(step.axes, step.whole, step.own)
        size = step.axes.local_bytes(step.own, step.dtype.itemsize)

        def keep(run: RunState) -> None:
            run.at = layer
            if step.value not in run.tiles:
                memory = self._places.own_memory(step.axes, step.whole, step.dtype)
                run.tiles[step.value] = memory
            patch = take(run)
            start = run.recorder.now()
            put(run.tiles[step.value], patch)
            run.recorder.note(start, "unpack", layer, "patch", size)
            del run.values[step.value]
            if step.last:
                run.values[step.value] = run.tiles.pop(step.value)

        return keep
