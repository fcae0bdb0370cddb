"""One rank at home in a process: its part of the plan, its worker, and what a cell can ask of it.

On an engine ``spnb.here`` is this rank; the functions below are what a cluster calls there.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from . import memory
from .axes import Axes
from .cards import Card, Shown, Table, stage_grid
from .devices import CPU, compute_exactly, device_of
from .examples import Examples
from .exchange import Exchange, Spans, region_at
from .halves import Scaling
from .losses import LOSSES
from .patchwork import cut
from .program import Part
from .recipe import Recipe
from .region import Region
from .rules import has_rule
from .run import Piece
from .sources import Source
from .store import Store
from .trace import Event
from .trainer import EpochReport, OptimizerState, Trainer
from .training import Learner
from .transport import Transport
from .transport.staging import reaching
from .worker import Tell, Worker

SMALL = 1 << 20
"""Output pieces of a rank up to this many bytes come back with its report."""

CELL_TAG = 1 << 15
"""Of exchanges made by hand in a cell: beyond those of any plan."""

SAVE_TAG = CELL_TAG + 1
"""Of exchanges before an output is written, one for each micro-batch."""


def read_tensor(source: Source, region: Region, dtype: torch.dtype) -> torch.Tensor:
    """A region of an image, as the network takes it."""
    array = np.require(source.read(region), requirements="W")  # torch warns of what is read-only
    return torch.from_numpy(array).to(dtype)


def share_cores(part: Part, ranks_here: int) -> None:
    """Let this process compute with its share of the cores.

    Parameters
    ----------
    part
        What it will compute.
    ranks_here
        Ranks on this host.
    """
    share = max(1, (os.cpu_count() or 1) // min(ranks_here, part.at_once))
    torch.set_num_threads(part.threads or share)


@dataclass
class Report:
    """What a rank tells of one run."""

    rank: int
    stage: int
    tile: int
    events: list[Event]
    peak_memory_bytes: int  # growth of its process; 0 where that is not known
    pieces: list[Piece] | None = field(repr=False)

    @property
    def figures(self) -> dict[str, Any]:
        """Messages, bytes and seconds of each kind, summed."""
        packs = [e for e in self.events if e.kind == "pack"]
        seconds = {
            f"{kind}_s": sum(e.stop - e.start for e in self.events if e.kind == kind)
            for kind in ("compute", "read", "pack", "wait", "unpack")
        }
        return {
            "rank": self.rank,
            "stage": self.stage,
            "tile": self.tile,
            "bytes_sent": sum(e.bytes for e in packs),
            "messages": len(packs),
            **seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }


class Here(Shown):
    """What a rank knows of itself, and what it can be asked to do.

    Attributes
    ----------
    plan
        Its part of the plan (`spnb.program.Part`); ``None``, as are the properties below, before a
        plan is loaded and where the plan needs no rank here.
    device
        Where it computes.
    """

    def __init__(self):
        self.plan: Part | None = None
        self.worker: Worker | None = None
        self.trainer: Trainer | None = None
        self.transport: Transport | None = None
        self.device = CPU
        self.outputs: dict[int, list[Piece]] = {}
        self._idle_bytes = 0
        self._initial: Mapping[str, torch.Tensor] | None = None

    @property
    def rank(self) -> int | None:
        """Number of this rank."""
        return self.plan and self.plan.world_rank

    @property
    def stage(self) -> int | None:
        """Number of its stage."""
        return self.plan and self.plan.stage

    @property
    def tile(self) -> int | None:
        """Number of its tile in the stage."""
        return self.plan and self.plan.tile

    @property
    def region(self) -> Region | None:
        """The region of the stage's first input that it owns, over ``(batch, *spatial)``."""
        return self.plan and self.plan.region

    @property
    def neighbours(self) -> dict[str, int]:
        """Ranks of the tiles around its own, by direction: ``{"right": 1, "down": 2, …}``."""
        team = self._loaded().home
        mine, found = team.position(self.plan.rank), {}
        world = self.plan.copies.of(self.plan.replica)[0].ranks
        words = (("front", "back"), ("up", "down"), ("left", "right"))[-(len(mine) - 1) :]
        for steps in itertools.product((-1, 0, 1), repeat=len(mine) - 1):
            place = (mine[0], *(k + step for k, step in zip(mine[1:], steps, strict=True)))
            inside = all(0 <= k < n for k, n in zip(place, team.tiling.grid, strict=True))
            if any(steps) and inside:
                names = (pair[step > 0] for pair, step in zip(words, steps, strict=True) if step)
                found["-".join(names)] = world[team.rank_at(place)]
        return found

    def plot(self, x: torch.Tensor | None = None, ax: Any = None) -> Any:
        """Draw this rank's tile and its widest halo; see `spnb.plots.halo`.

        Parameters
        ----------
        x
            Pixels to show: this rank's tile of the stage's input grown by the halo,
            ``(batch, channels, height, width)``, as `exchange` gives it.
        ax
            Where to draw.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If it has no halo, or its space has not two axes.
        """
        from . import plots

        return plots.rank_halo(self._loaded(), x, ax)

    @property
    def card(self) -> Card:
        """Who it is, what it owns, its neighbours, and its stage's ranks."""
        if self.plan is None:
            return Card(str(self))
        facts = [("owns", str(self.region)), ("operators", str(len(self.plan.nodes)))]
        facts += [(f"{where} of it", f"rank {rank}") for where, rank in self.neighbours.items()]
        return Card(str(self), [Table(("", ""), facts)], [stage_grid(self.stage, self.plan.home)])

    def __repr__(self) -> str:
        if self.plan is None:
            return "spnb.here: no plan is loaded on this rank"
        grid = "×".join(map(str, self.plan.home.tiling.grid[1:]))
        return (
            f"spnb.here: rank {self.rank} of {self.plan.num_ranks}, stage {self.stage},"
            f" tile {self.tile} of {grid}, owns {self.region}"
        )

    def load(
        self,
        part: Part,
        weights: Mapping[str, torch.Tensor],
        transport: Transport | None,
        local_rank: int = 0,
    ) -> None:
        """Make this rank ready to run its part; it may be connected with the others later.

        Parameters
        ----------
        local_rank
            Number of the rank among those of its host, which says what GPU it has.

        Raises
        ------
        DeviceError
            If the host has no GPU, and one is asked for.
        """
        for module in (module for image in part.images for module in image.imports):
            importlib.import_module(module)
        for op in (op for image in part.images for op in image.ruled):
            if not has_rule(op):
                raise RuntimeError(
                    f"rank {part.rank} has no rule for the operator {op.rsplit('.', 1)[0]}: define"
                    " operator and rule in a module, or in a cell that begins with %%px --local"
                )
        self.unload()
        self.device = device_of(part.device, local_rank)
        if self.device != CPU:
            compute_exactly()
            self._idle_bytes = 0  # of tensors there
        elif not self._idle_bytes:
            self._idle_bytes = _before_any_network()
        self.plan, self.transport = part, reaching(transport, self.device)
        if part.training:
            self._initial = weights
        else:
            self.worker = Worker(part, weights, self.transport, self.device)

    def connect(self, transport: Transport) -> None:
        """Reach the other ranks through a transport."""
        self.transport = transport = reaching(transport, self.device)
        if self.worker is not None:
            self.worker.transport = transport
        if self.trainer is not None:
            self.trainer.learner.transport = transport

    def unload(self) -> None:
        """Forget the plan: this rank takes no part in the one that is loaded now."""
        self.plan = self.worker = self.trainer = self.transport = self._initial = None
        self.outputs.clear()

    def infer(
        self,
        sources: Mapping[str, Source],
        run: int = 0,
        tell: Tell = lambda done, share: None,
    ) -> Report:
        """Run the network on a source for each input; every rank of the plan must be called."""
        part, worker = self._loaded(), self._worker()
        memory.restart_peak(self.device)
        outcome = worker.infer(lambda name, region: self._read(sources[name], region), tell)
        self.outputs[run] = outcome.pieces
        size = sum(p.tensor.numel() * p.tensor.element_size() for p in outcome.pieces)
        pieces = outcome.pieces if size <= SMALL else None
        peak = max(0, memory.peak_bytes(self.device) - self._idle_bytes)
        return Report(part.world_rank, part.stage, part.tile, outcome.events, peak, pieces)

    def begin(
        self,
        trained: Sequence[str],
        recipe: Recipe,
        kept: OptimizerState,
        workers: int = 0,
        scaling: Scaling | None = None,
    ) -> None:
        """Make ready to train the parameters of these names; so many threads read ahead."""
        facts = (self._loaded(), self._initial, trained, self.transport, LOSSES[recipe.loss])
        learner = Learner(*facts, recipe.schedule, recipe.recompute, self.device)
        self._initial = None  # it has copies: the file that they were mapped from is let go
        if scaling is not None:
            learner.scaling = scaling
        self.trainer = Trainer(learner, recipe, kept, workers)

    def epoch(
        self,
        examples: Examples,
        epoch: int,
        tell: Callable[[int, float], None] = lambda step, loss: None,
    ) -> EpochReport:
        """Train on all examples once; every rank of the plan must be called."""
        return self.trainer.epoch(examples, epoch, self._idle_bytes, tell)

    def weights(self, wanted: bool) -> tuple[dict, dict] | None:
        """Parameters and buffers as they are now, and what the optimizer keeps, if wanted."""
        return (self.trainer.weights, self.trainer.kept) if wanted else None

    def save(self, run: int, value: str, store: Store) -> None:
        """Write this rank's part of an output; every rank that has one must be called.

        What of it lies in a chunk of the file that another rank writes is sent there first.
        """
        worker = self._worker()
        pieces = {p.region: p.tensor for p in self.kept(run) if p.value == value}
        for copy, station in enumerate(worker.stations):
            if any(node.name == value for node in station.part.nodes):
                for number in (n for turn in station.role.pipeline.turns for n in turn):
                    self._save(copy, number, pieces, value, store)

    def _save(
        self,
        copy: int,
        number: int,
        pieces: Mapping[Region, torch.Tensor],
        value: str,
        store: Store,
    ) -> None:
        """Write what this rank has of a micro-batch's output, in one copy of the plan."""
        part = self.worker.stations[copy].part
        images_each = store.axes.extent[0] // sum(part.batches)  # rows of the output for an image
        rows = part.batches[number] * images_each or 1
        first = sum(part.batches[:number]) * images_each
        has = part.home.tiling.spans((rows, *store.axes.extent[1:]))
        own, needs = region_at(has, part.position), store.spans(has)
        if own.empty:
            return
        x = pieces[own.moved(first)]
        if needs != has:
            tag, home = SAVE_TAG + number, part.home
            exchange = Exchange(tag, value, "save", home, home, has, needs, 0)
            x = self.worker.exchange(exchange, x, store.axes, copy)
        if not (aligned := region_at(needs, part.position)).empty:
            store.write(aligned.moved(first), x)

    def kept(self, run: int) -> list[Piece]:
        """The regions of a run's outputs that this rank computed.

        Raises
        ------
        RuntimeError
            If another plan was loaded since: its outputs have taken their place.
        """
        if run not in self.outputs:
            raise RuntimeError("the outputs of this run went when another plan was loaded")
        return self.outputs[run]

    def forward(self, x: torch.Tensor | None = None) -> list[Piece]:
        """Run the network on the tiles that the ranks of stage 0 give; every rank must call it.

        Parameters
        ----------
        x
            On a rank of stage 0, its tile: ``(batch, channels, *spatial)`` over ``here.region``.
            ``None`` on the others.

        Returns
        -------
        list of Piece
            The regions of the network's outputs that this rank computed.
        """
        part, worker = self._loaded(), self._worker()
        if part.mirror is not None:
            raise ValueError("forward runs one copy of the plan, but this has mirrored ones (gems)")
        if part.stage > 0:
            if x is not None:
                raise ValueError(f"rank {part.rank} is in stage {part.stage}: only stage 0 takes x")
            return worker.infer(self._no_image).pieces
        if part.home.tiling.grid[0] > 1 or part.copies.num_ranks > part.copies.ranks_each:
            raise ValueError("forward takes tiles, but the ranks of stage 0 share a batch")
        grown = self._grow(x, part.entry_needs)
        held = Region(
            tuple(spans[k] for spans, k in zip(part.entry_needs, part.position, strict=True))
        )
        axes = Axes.image((2, grown.shape[1], *[2] * (grown.ndim - 2)))
        return worker.infer(lambda name, region: cut(grown, held, region, axes)).pieces

    def exchange(self, x: torch.Tensor, halo: int | tuple[int, ...] = 1) -> torch.Tensor:
        """Grow this rank's tile by a halo from its neighbours; every rank of the stage must call.

        Parameters
        ----------
        x
            This rank's tile of the stage's input: over ``here.region``, with any channels.
        halo
            Positions to grow on each spatial axis, or one number for each.

        Returns
        -------
        torch.Tensor
            The tile with its halo; nothing is added at the border of the image.
        """
        return self._grow(x, self._loaded().grown(halo))

    def _grow(self, x: torch.Tensor | None, needs: Spans) -> torch.Tensor:
        part = self._loaded()
        shape = None if x is None else (*x.shape[:1], *x.shape[2:])
        if shape != part.region.shape:
            images, *sizes = part.region.shape
            wanted = ", ".join(map(str, (images, "channels", *sizes)))
            given = None if x is None else tuple(x.shape)
            raise ValueError(
                f"rank {part.rank} owns {part.region}: x must be that tile, of shape ({wanted}),"
                f" not {given}"
            )
        has = part.home.tiling.spans(part.extent)
        exchange = Exchange(CELL_TAG, "x", "halo", part.home, part.home, has, needs, 0)
        axes = Axes.image((2, x.shape[1], *[2] * (x.ndim - 2)))  # of any size: regions tell it
        return self._worker().exchange(exchange, x, axes)

    def _no_image(self, name: str, region: Region) -> torch.Tensor:
        raise ValueError(f"stage {self.stage} reads the image itself, and forward has none for it")

    def _read(self, source: Source, region: Region) -> torch.Tensor:
        return read_tensor(source, region, self._loaded().dtype)

    def _worker(self) -> Worker:
        if self.worker is None:
            self._loaded()
            raise RuntimeError("the plan on this rank is for training: it has no run to ask for")
        return self.worker

    def _loaded(self) -> Part:
        if self.plan is None:
            raise RuntimeError("no plan is loaded on this rank: cluster.load(plan) first")
        return self.plan


def _before_any_network() -> int:
    """What the process holds before any network: what PyTorch loads to compute is not of it."""
    x = torch.zeros(1, 8, 8, 8)
    torch.nn.functional.conv2d(x, torch.zeros(8, 8, 3, 3))
    return memory.resident_bytes()


here = Here()
