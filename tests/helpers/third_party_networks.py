"""Networks that nobody here wrote, unmodified, with random weights: a table of how they are tiled.

``python tests/helpers/third_party_networks.py`` prints the table of
notebooks/guide/networks-and-operators.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

os.environ["HF_HUB_OFFLINE"] = "1"

import monai.networks.nets as monai
import torch
import transformers as hf
from networks import randomize
from torch import nn

import spnb
from spnb.analysis.traffic import traffic
from spnb.display.cards import size_text
from spnb.job.job_plan import JobPlan

HIDDEN = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
TOKENS = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
WINDOWS = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2]}


@dataclass(frozen=True)
class Other:
    """A network of another package, and how it is tried.

    Attributes
    ----------
    make
        Builds it, small.
    size
        Of the image.
    gather
        Whether it must be allowed to gather.
    channels
        Of the image, where its first layer does not tell.
    """

    package: str
    name: str
    make: Callable[[], nn.Module]
    size: tuple[int, ...]
    gather: bool = False
    channels: int = 3


def of_monai(name, make, size, **options):
    return Other("MONAI", name, make, size, **options)


def of_transformers(name, config, size, **options):
    """A model with a small configuration of its own class."""
    model = getattr(hf, name)
    return Other("transformers", name, lambda: model(model.config_class(**config)), size, **options)


EFFICIENT = "efficientnet-b0"
OTHERS = [
    of_monai("UNet", lambda: monai.UNet(2, 3, 2, (8, 16, 32), (2, 2), num_res_units=2), (60, 92)),
    of_monai("AttentionUnet", lambda: monai.AttentionUnet(2, 3, 2, (8, 16, 32), (2, 2)), (52, 68)),
    of_monai("SegResNet", lambda: monai.SegResNet(2, 8, 3, 2), (56, 72)),
    of_monai("DenseNet121", lambda: monai.DenseNet121(2, 3, 5), (97, 131)),
    of_monai("EfficientNet-B0", lambda: monai.EfficientNetBN(EFFICIENT, False), (97, 131)),
    of_monai(
        "DynUNet",
        lambda: monai.DynUNet(2, 3, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, res_block=True),
        (56, 72),
    ),
    of_monai("BasicUNet", lambda: monai.BasicUNet(2, 3, 2, (8, 8, 16, 32, 64, 8)), (50, 67)),
    of_monai("HighResNet", lambda: monai.HighResNet(2, 3, 2), (41, 53)),
    of_monai(
        "SwinUNETR",
        lambda: monai.SwinUNETR(3, 2, feature_size=12, spatial_dims=2),
        (64, 96),
    ),
    of_monai(
        "UNet, 3-D", lambda: monai.UNet(3, 1, 2, (4, 8, 16), (2, 2)), (20, 28, 24), channels=1
    ),
    of_transformers("ResNetForImageClassification", {"embedding_size": 8} | HIDDEN, (97, 131)),
    of_transformers("ConvNextV2ForImageClassification", HIDDEN, (97, 131)),
    of_transformers(
        "RegNetForImageClassification", {"embedding_size": 8, "groups_width": 8} | HIDDEN, (97, 131)
    ),
    of_transformers("MobileNetV2ForImageClassification", {}, (97, 131)),
    of_transformers("MobileNetV2ForSemanticSegmentation", {}, (97, 131)),
    of_transformers(
        "SegformerForSemanticSegmentation",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "decoder_hidden_size": 16},
        (97, 131),
    ),
    of_transformers(
        "Swin2SRForImageSuperResolution", {"window_size": 8, "upscale": 2} | WINDOWS, (40, 56)
    ),
    of_transformers("SwinModel", {"window_size": 4} | WINDOWS, (97, 131)),
    of_transformers(
        "ViTForImageClassification",
        {"image_size": (48, 64), "patch_size": 8, "intermediate_size": 32} | TOKENS,
        (48, 64),
    ),
    of_transformers(
        "Dinov2WithRegistersForImageClassification",
        {"image_size": 56, "patch_size": 8, "mlp_ratio": 2} | TOKENS,
        (48, 64),
    ),
    of_transformers(
        "DPTForDepthEstimation",
        {"image_size": 64, "patch_size": 16, "intermediate_size": 32, "is_hybrid": False}
        | {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8] * 4}
        | {"fusion_hidden_size": 8}
        | TOKENS
        | {"num_hidden_layers": 4},
        (64, 64),
    ),
    of_transformers(
        "HieraForImageClassification",
        {"image_size": [64, 96], "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 1, 2, 2]},
        (64, 96),
    ),
    of_transformers(
        "MobileViTModel",
        {
            "image_size": 128,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 32],
            "num_attention_heads": 2,
        },
        (128, 128),
    ),
    of_transformers(
        "PvtV2Model",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 4]},
        (96, 128),
    ),
    of_transformers(
        "CvtModel",
        {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
        (96, 128),
    ),
    of_transformers(
        "LevitModel",
        {
            "image_size": 128,
            "hidden_sizes": [16, 32, 48],
            "num_attention_heads": [2, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        (128, 128),
    ),
    of_transformers("SuperPointForKeypointDetection", {}, (97, 131), channels=1),
]
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
        input_shapes=[(1, other.channels, *other.size)],
        split_size=1,
        precision="fp64",
        allow_gather=other.gather,
    )


def sent(planned: spnb.job.job_plan.JobPlan) -> str:
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
