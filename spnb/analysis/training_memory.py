"""The most bytes that a rank holds in training: its program is followed, and nothing is run.

A value is in memory once, however many calls save it: see `spnb.training.tapes.saved_pieces`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from ..capture.trainable import may_have_gradient
from ..ir.node import Node
from ..ir.program import Compute, Free, Receive, Segments, Step
from ..ir.region import Region
from ..ir.schedule import SCHEDULES, most_held
from ..kernels.autograd_node import LARGE
from ..planner.plan import Plan
from ..rules import rule_of
from .saved_by_autograd import Saved, saved_by

FRAGMENTED = 1.25
"""Bytes that an engine has from the system for each byte of values that it holds (measured).

Values of many sizes leave holes, although the allocator joins what is freed (see
`spnb.runtime.allocator`).  On plans of ResNet-20 and U-Net in two and four tiles, of 512 and 1024
pixels, it was 1.1 to 1.5.
"""

REPEATED = 1.12
"""The same for what further micro-batches hold between their passes (measured).

Their values are as large as those of the first, so less is left between them.  On ResNet-20 and
U-Net in two tiles, with up to 16 micro-batches at once, it was 1.10 to 1.12.
"""

FREED = 0.5
"""The same for each byte that is not held since segments are computed again (measured).

Their values are in memory for a while all the same, and leave holes.  On the same plans it was 0.2
to 1.0.
"""


CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")


class TrainingMemory:
    """The bytes that a rank of a plan holds in the passes of one micro-batch.

    Parameters
    ----------
    plan
        A plan for training.
    rank
        A rank of the plan.
    segments
        The parts of its program whose values are computed again in the backward pass.
    images
        Images in the micro-batch; by default the most.
    on_disk
        Whether what is held for segments between the passes is on disk.

    Attributes
    ----------
    rank, images
        The rank, and the images in the micro-batch.
    alive, recorded
        Bytes before each step of the forward pass: of the values alive, and of all that is held
        then.
    arrived
        Bytes of what each step read or received.
    saved
        Bytes that are held between the forward and the backward pass.
    forward_peak, peak
        The most bytes in the forward pass, and in either pass.
    of_gradients
        The most bytes of gradients.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int,
        segments: Segments | None = None,
        images: int | None = None,
        on_disk: bool = False,
    ):
        self.plan, self.rank, self.nodes = plan, rank, plan.stage_of(rank).nodes
        self.images = images or max(plan.micro_batch_sizes)
        (self.program,) = plan.programs(rank, self.images)
        self.segments, self.on_disk = segments or Segments(), on_disk
        self.axes, self.peak, self.of_gradients = plan.graph.axes, 0, 0
        self.alive: list[Mapping[str, Region]] = []
        self.recorded: list[int] = []
        self.arrived: dict[int, int] = {}
        self._alive: dict[str, Region] = {}  # the regions that the memory of values covers
        self._readers: Counter[str] = Counter()  # calls that saved a value
        self._covered: dict[str, Region] = {}  # of values that are saved
        self._kept: dict[int, Mapping[str, Region]] = {}  # by the first step of a segment
        self._sizes: dict[str, int] = {}  # bytes of each value in memory
        self._of_values = self._others = 0
        self._shown: dict[str, str] = {}
        self._of_call: dict[str, Saved] = {}
        self._forward()
        self.saved, self.forward_peak = self._held(), self.peak
        if plan.graph.training:  # patches of an inference are followed too
            self._backward()

    def bytes_of(self, value: str, region: Region) -> int:
        """The bytes of a region of a value."""
        parts = self.plan.graph.by_name[value].parts if value in self.plan.graph.by_name else ()
        if parts:
            return sum(math.prod(part) for part in parts) * self.plan.graph.itemsize(value)
        return self.axes[value].local_bytes(region, self.plan.graph.itemsize(value))

    def _held(self, more: int = 0) -> int:
        """Bytes in memory; compared with the most so far."""
        held = self._of_values + self._others
        self.peak = max(self.peak, held + more)
        return held

    def _measure(self, *values: str) -> None:
        """Count the bytes of values anew, after one became alive or saved, or was freed.

        A value may be in memory several times: over the region that it has now, and over those that
        it had where segments begin.
        """
        for value in values:
            regions = set[Region]()
            if not self.on_disk:
                regions = {kept[value] for kept in self._kept.values() if value in kept}
            now = self._alive.get(value, self._covered.get(value))
            if now is not None:
                regions.add(now)
            size = sum(self.bytes_of(value, region) for region in regions)
            self._of_values += size - self._sizes.get(value, 0)
            self._sizes[value] = size

    # --- forward ----------------------------------------------------------------------------

    def _forward(self) -> None:
        for number, step in enumerate(self.program.steps):
            self.alive.append(dict(self._alive))
            if number in self.segments.starts:
                self._kept[number] = dict(self._alive)
            self.recorded.append(self._held())
            recorded = self.segments.of(number) is None
            self._follow(number, step, recorded)
            if number in self.arrived and not (recorded or self.on_disk):
                self._others += self.arrived[number]
            self._held()
        if self.segments.starts:
            self._free(*self._alive)

    def _follow(self, number: int, step: Step, recorded: bool) -> None:
        if isinstance(step, Compute):
            self._compute(step, recorded)
        elif isinstance(step, Receive):
            self.arrived[number] = sum(self.bytes_of(step.value, t.region) for t in step.transfers)
            self._held(self.arrived[number] + self.bytes_of(step.value, step.region))
            self._cover(step.value, step.region)
        elif isinstance(step, Free):
            self._free(*step.values)

    def _free(self, *values: str) -> None:
        for value in values:
            self._alive.pop(value, None)
            self._measure(value)

    def _compute(self, step: Compute, recorded: bool) -> None:
        node = self.nodes[step.node]
        if step.region.empty:
            return
        rule = rule_of(node)
        padded = rule.padded(step.clipped[0], step.region) if step.clipped and recorded else None
        if padded is not None:
            value = node.operands[0]
            covered = self._alive.get(value, step.clipped[0])
            whole = covered | padded.region
            self._held(self.bytes_of(value, whole))
            self._cover(value, whole)
        saved = saved_by(self.plan, node, rule, step)
        if saved.shown:
            self._shown[node.name] = self._memory_of(saved.shown)
        else:
            self._alive[node.name] = step.region
            self._measure(node.name)
        if recorded:
            self._save(node.name, saved, step.region)

    def _save(self, name: str, saved: Saved, region: Region) -> None:
        """Hold what autograd saves of a call."""
        self._of_call[name] = saved
        self._others += saved.others
        for value in map(self._memory_of, saved.values):
            self._readers[value] += 1
            self._covered[value] = self._alive.get(value, self._covered.get(value, region))
            self._measure(value)

    def _memory_of(self, value: str) -> str:
        """The value in whose memory a value lies: a view lies in that of another."""
        return self._shown.get(value, value)

    def _cover(self, value: str, region: Region) -> None:
        self._alive[value] = region
        self._shown.pop(value, None)  # a view that is assembled anew has memory of its own
        if value in self._covered and self._covered[value] in region:
            self._covered[value] = region
        self._measure(value)

    # --- backward ---------------------------------------------------------------------------

    def _backward(self) -> None:
        """Gradients are held until the call that made their value has been differentiated."""
        self._free(*list(self._alive))
        graph, gradients = self.plan.graph, dict[str, int]()
        regions = {s.value: s.region for s in self.program.steps if isinstance(s, Receive)}
        for number, step in reversed(list(enumerate(self.program.steps))):
            if not isinstance(step, Compute) or step.region.empty:
                continue
            node, segment = self.nodes[step.node], self.segments.of(number)
            if segment is not None and segment[0] in self._kept:
                self._record_again(*segment, sum(gradients.values()))
            own = gradients.pop(node.name, self.bytes_of(node.name, step.region))
            found = {
                value: self.bytes_of(value, regions.get(value, region))
                for value, region in zip(node.operands, step.clipped, strict=True)
                if may_have_gradient(graph.dtype_of(value))
            }
            now = own + sum(gradients.values()) + sum(found.values())
            now += self._reordered(node, step.clipped, own) + self._weight_bytes(node)
            self.of_gradients = max(self.of_gradients, now)
            self._held(now)
            for value, size in found.items():
                gradients[value] = max(size, gradients.get(value, 0))
            self._release(self._of_call.pop(node.name))

    def _weight_bytes(self, node: Node) -> int:
        """Bytes of the gradients of a call's weights, before they are added to their sums."""
        return sum(math.prod(w.shape) for w in node.weights) * self.plan.graph.dtype.itemsize

    def _reordered(self, node: Node, clipped: Sequence[Region], own: int) -> int:
        """Bytes of copies in oneDNN's order, of which the gradients of filters are summed.

        They are copies of the image and of the result's gradient.  Those of a large image are freed
        before the image's gradient is made, which is made in oneDNN's order first.
        """
        if node.kind not in CONVOLUTIONS or not clipped:
            return 0
        value = node.operands[0]
        image = self.bytes_of(value, self._covered.get(self._memory_of(value), clipped[0]))
        return image + own if image < LARGE else max(image, own)

    def _record_again(self, first: int, stop: int, of_gradients: int) -> None:
        """Follow a segment once more, as its values are computed again."""
        self._alive = dict(self._kept.pop(first))
        self._measure(*self._alive)
        for number, step in enumerate(self.program.steps[first:stop], first):
            self._follow(number, step, recorded=True)
            self._others -= 0 if self.on_disk else self.arrived.get(number, 0)
            self._held(of_gradients)
        self._free(*list(self._alive))

    def _release(self, saved: Saved) -> None:
        """Free what autograd saved of a call that has been differentiated."""
        self._others -= saved.others
        for value in map(self._memory_of, saved.values):
            self._readers[value] -= 1
            if self._readers[value] <= 0:
                self._covered.pop(value, None)
                self._measure(value)


def bytes_from_system(all_held: TrainingMemory, held: TrainingMemory, at_once: int) -> int:
    """Return the bytes that an engine has from the system for its values.

    Parameters
    ----------
    all_held
        The memory of a program, if nothing is computed again.
    held
        Its memory as it is trained.
    at_once
        Micro-batches that the rank holds at once.
    """
    freed = max(0, all_held.peak - held.peak)
    further = REPEATED * (at_once - 1) * held.saved
    return int(FRAGMENTED * held.peak + further + FREED * freed)


def held_at_once(plan: Plan, rank: int) -> int:
    """Return the largest number of micro-batches between their two passes on a rank.

    Parameters
    ----------
    plan
        A plan for training.
    rank
        A rank of the plan.
    """
    stage = plan.stage_of(rank).index
    count = plan.replicas.micro_batches
    return most_held(SCHEDULES[plan.schedule](count, len(plan.stages), stage))
