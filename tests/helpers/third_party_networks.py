"""Networks that nobody here wrote, unmodified, with random weights: a table of how they are tiled.

``python tests/helpers/third_party_networks.py`` prints the table of
notebooks/guide/networks-and-operators.md.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from installed_networks import INSTALLED
from networks import randomize
from networks_beside_torchvision import BESIDE_TORCHVISION
from other_network import Other
from torch import nn

import spnb
from spnb.analysis.traffic import traffic
from spnb.display.cards import size_text
from spnb.job.job_plan import JobPlan

OTHERS = [*INSTALLED, *BESIDE_TORCHVISION]
GRIDS = {2: ("2x2", "1x3"), 3: ("1x2x2", "1x1x3")}


def build(other: Other) -> nn.Module:
    """The network with random weights and norm statistics; of a detector, its encoder."""
    torch.manual_seed(0)
    network = other.make()
    return randomize(getattr(network, "encoder", network) if "Point" in other.name else network)


def plan(other: Other, network: nn.Module, grid: str, fused: bool) -> JobPlan:
    """The whole network tiled, in double precision."""
    job = _job(other, network).replace(
        num_spatial_parts=math.prod(map(int, grid.split("x"))),
        slice_method=grid,
        halo_D2=fused,
        fused_layers="all" if fused else 1,
    )
    return spnb.plan(job)


@lru_cache(maxsize=1)
def _job(other: Other, network: nn.Module) -> spnb.Job:
    """One job for all plans of a network: it is captured once."""
    return spnb.Job(
        network,
        input_shapes=[(1, other.channels, *other.size), *other.further_inputs],
        split_size=1,
        precision="fp64",
        allow_gather=other.gather,
    )


def sent(planned: JobPlan) -> str:
    """How much the busiest tile sends."""
    return size_text(max(traffic(planned, rank)[1] for rank in range(planned.num_ranks)))


def table() -> str:
    """A row for each network: bytes that the busiest tile sends, with and without fused halos."""
    lines = [
        "| package | network | image | sent by a tile of 2×2 | of 1×3 | error | gathered |",
        "|---|---|---|---|---|---|---|",
    ]
    for other in OTHERS:
        network, errors, texts, gathered = build(other), [], [], set()
        for grid in GRIDS[len(other.size)]:
            for fused in (False, True):
                planned = plan(other, network, grid, fused)
                check = spnb.InProcess(planned).infer().check()
                errors.append(check.max_abs_error / check.output_scale)
                texts.append(sent(planned))
                gathered |= {node.kind for node in planned.gathered.values()}
        first, first_fused, second, second_fused = texts
        lines.append(
            f"| {other.package} | {other.name} | {'×'.join(map(str, other.size))} |"
            f" {first} ({first_fused}) | {second} ({second_fused}) | {max(errors):.0e} |"
            f" {', '.join(sorted(gathered)) or '–'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
