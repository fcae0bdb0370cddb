"""A small network whose operators are timed on a rank, as `spnb.benchmarking.calibration` needs.

The rank runs it by itself, with one thread, by the same worker that runs every plan.  So the times
have all that a run has: kernels, memory, and Python between two operators.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..ir.tags import TIMED
from ..ir.weights import tensors_of
from ..job.job import Job
from ..job.job_plan import JobPlan
from ..runtime.worker import Worker
from ..training.losses import LOSSES
from ..training.step import TrainingWorker
from ..transport import Transport
from ..transport.local import LocalTransport, World

SIZES = (16, 64, 256)
"""Sides of the images: operators on the smallest take hardly more than their launch."""

TRAINED = 128
"""Side of the image of the timed steps of training."""

RUNS = 5
"""Timed runs of each size, after one that is not timed; the shortest times count."""

SMALL, LARGE = 64, 4 << 20
"""Bytes of the messages that tell the latency and the bandwidth of a link."""


class ProbeNetwork(nn.Module):
    """Operators of convolutional networks, with few, many and most channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.few = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 64, 1),
            nn.Conv2d(64, 16, 1),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
        )
        self.many = nn.Sequential(
            nn.Conv2d(16, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.Conv2d(64, 64, 1),
        )
        self.most = nn.Sequential(
            nn.Conv2d(64, 256, 1),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.Conv2d(256, 64, 1),
        )
        self.up = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.norm = nn.GroupNorm(8, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = F.relu(F.max_pool2d(self.stem(x), 3, 1, 1))
        few = F.max_pool2d(self.few(self.first(x)), 3, 2, 1)
        many = self.many(few)
        many = many + torch.sigmoid(many) * stem
        most = self.most(F.avg_pool2d(F.gelu(self.norm(many)), 2))
        nearest = F.interpolate(most, scale_factor=2.0)
        bilinear = F.interpolate(most, scale_factor=2.0, mode="bilinear")
        joined = torch.cat([self.up(most), bilinear], 1)
        return self.head((nearest + joined[:, :64]).mean((2, 3)))


@dataclass(frozen=True)
class Probe:
    """What a rank is given to time: plans of the network on one rank, with their weights.

    Attributes
    ----------
    rank_plans, weights
        For each of `SIZES`, the plan, and the weights by name.
    trained, trained_weights
        The plan for training, and its weights.
    parameters
        Names of those that are trained.
    """

    rank_plans: Mapping[int, RankPlan]
    weights: Mapping[int, Mapping[str, torch.Tensor]]
    trained: RankPlan
    trained_weights: Mapping[str, torch.Tensor]
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class RankTimes:
    """What a rank took.

    Attributes
    ----------
    operators
        By size, the seconds of each call, in order.
    between
        Seconds between two calls.
    forward, backward
        Seconds of the passes of a step of training.
    """

    operators: Mapping[int, Sequence[float]]
    between: float
    forward: float
    backward: float


@dataclass(frozen=True)
class Link:
    """Seconds of the shortest message from rank 0, and bytes per second of a long one."""

    latency: float
    bandwidth: float


@dataclass(frozen=True)
class ProbePlans:
    """The plans of the network on one rank, by the size of the image, and the one for training."""

    network: ProbeNetwork
    by_size: Mapping[int, JobPlan]
    trained: JobPlan

    @classmethod
    def made(cls) -> ProbePlans:
        """Plan the network."""
        network = ProbeNetwork()
        job = Job(network, batch_size=1, split_size=1, num_spatial_parts=1)
        plans = {size: JobPlan(job.replace(image_size=size)) for size in SIZES}
        return cls(network, plans, JobPlan(job.replace(image_size=TRAINED), training=True))

    @property
    def probe(self) -> Probe:
        """What a rank is given to time."""
        rank_plans = {size: plan.rank_plan(0) for size, plan in self.by_size.items()}
        trained = self.trained.rank_plan(0)
        return Probe(
            rank_plans=rank_plans,
            weights={
                size: tensors_of(self.network, each.weights, self.by_size[size].graph)
                for size, each in rank_plans.items()
            },
            trained=trained,
            trained_weights=tensors_of(self.network, trained.weights, self.trained.graph),
            parameters=tuple(name for name, _ in self.network.named_parameters()),
        )


def timed(probe: Probe) -> RankTimes:
    """Time the network in this process, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {
            size: _operators(each, probe.weights[size]) for size, each in probe.rank_plans.items()
        }
        forward, backward = _training(probe)
    finally:
        torch.set_num_threads(threads)
    smallest = min(found)
    return RankTimes(
        {size: seconds for size, (seconds, _) in found.items()},
        found[smallest][1],
        forward,
        backward,
    )


def _operators(
    rank_plan: RankPlan, weights: Mapping[str, torch.Tensor]
) -> tuple[list[float], float]:
    """Seconds of each call, and seconds between two calls."""
    worker = Worker(rank_plan, weights, _alone())
    calls, between = [], []
    for run in range(RUNS + 1):
        events = worker.infer(_noise).events
        computed = [e for e in events if e.kind == "compute"]
        if run:
            calls.append([e.stop - e.start for e in computed])
            taken = computed[-1].stop - computed[0].start
            between.append((taken - sum(calls[-1])) / len(computed))
    return [min(each) for each in zip(*calls, strict=True)], min(between)


def _training(probe: Probe) -> tuple[float, float]:
    """Seconds of the forward and of the backward pass of a step."""
    worker = TrainingWorker(
        rank_plan=probe.trained,
        weights=probe.trained_weights,
        trained=probe.parameters,
        transport=_alone(),
        loss=LOSSES["mse"],
    )
    seconds: list[dict[str, float]] = []

    def report_pass(kind: str, stage: int, number: int) -> None:
        seconds[-1][kind] = time.perf_counter()

    worker.report_pass = report_pass
    for _ in range(RUNS + 1):
        seconds.append({})
        worker.step(_noise, lambda value, region: torch.zeros(1, 10))
    taken = seconds[1:]
    forward = min(each["backward"] - each["forward"] for each in taken)
    return forward, min(each["between"] - each["backward"] for each in taken)


def _alone() -> LocalTransport:
    return LocalTransport(World(1), 0)


def _noise(name: str, region: Region) -> torch.Tensor:
    batch, *size = region.shape
    return torch.rand(batch, 3, *size)


def link_with(other: int, transport: Transport, pings: int = 40) -> Link | None:
    """Time messages between rank 0 and another rank; None on all ranks but rank 0.

    Both must call this; other ranks return at once.
    """
    if transport.rank not in (0, other):
        return None
    partner = other if transport.rank == 0 else 0
    short = _round_trip(transport, partner, SMALL, pings) / 2
    long = _round_trip(transport, partner, LARGE, max(3, pings // 8)) / 2
    if transport.rank:
        return None
    return Link(short, (LARGE - SMALL) / max(long - short, 1e-9))


def _round_trip(transport: Transport, partner: int, size: int, count: int) -> float:
    """The median seconds of a message to another rank and back."""
    out = torch.zeros(size, dtype=torch.uint8)
    back = torch.zeros(size, dtype=torch.uint8)
    taken = []
    for _ in range(count + 1):
        start = time.perf_counter()
        arrival = transport.receive(partner, TIMED.tag(), back)
        if transport.rank == 0:
            transport.send(partner, TIMED.tag(), out)
            transport.wait([arrival])
        else:
            transport.wait([arrival])
            transport.send(partner, TIMED.tag(), out)
        transport.flush()
        taken.append(time.perf_counter() - start)
    return median(taken[1:])
