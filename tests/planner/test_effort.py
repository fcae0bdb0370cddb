"""What planning takes grows as the network does, and not faster; seconds are not measured here."""

import sys
from pathlib import Path

import pytest
import torch
from networks import conv
from running import planned
from torch import nn
from vision_transformers import ViT
from window_networks import MaxViTBlock, SwinBlock

import spnb
from spnb import models
from spnb.capture import export
from spnb.capture.export import capture
from spnb.ir.tiling import Tiling

FOLDER = str(Path(spnb.__file__).parent)
SHAPE = (1, 8, 32, 32)
NETWORKS = {
    "convolutions": lambda n: nn.Sequential(
        *(nn.Sequential(conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True)) for _ in range(4 * n))
    ),
    "shifted windows": lambda n: nn.Sequential(*(SwinBlock() for _ in range(n))),
    "grids of windows": lambda n: nn.Sequential(*(MaxViTBlock(fused=False) for _ in range(n))),
    "a class token": lambda n: nn.Sequential(conv(8, 3), ViT(SHAPE[2:], depth=n)),
}


def calls_of_a_plan(net):
    """How many functions of the package are called to capture and plan a network."""
    count = 0

    def note(frame, event, _):
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(FOLDER)

    sys.setprofile(note)
    try:
        planned(net, SHAPE, [Tiling.even((1, 2, 2))])
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.slow(but_each=2)
@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_twice_as_deep_takes_twice_the_calls(name, monkeypatch):
    decomposed, plain = [], export._decomposed
    monkeypatch.setattr(export, "_decomposed", lambda *a: decomposed.append(1) or plain(*a))
    capture(NETWORKS[name](1), SHAPE, torch.float64)  # what is made once in a process
    few, many = (calls_of_a_plan(NETWORKS[name](n)) for n in (3, 6))
    assert many < 2.1 * few
    assert not decomposed  # PyTorch would capture the whole program again


def test_a_capture_compiles_at_most_one_graph(monkeypatch):
    compiled, plain = [], torch.fx.GraphModule.recompile
    monkeypatch.setattr(
        torch.fx.GraphModule, "recompile", lambda graph: compiled.append(1) or plain(graph)
    )
    capture(NETWORKS["convolutions"](1), SHAPE, torch.float64)
    assert len(compiled) <= 1


def test_a_built_in_network_is_built_once_for_all_jobs(monkeypatch):
    built, plain = [], models.build
    monkeypatch.setattr(models, "build", lambda *a, **k: built.append(a) or plain(*a, **k))
    for size in (32, 64):
        spnb.plan(spnb.Job("unet", image_size=size, num_classes=7, num_spatial_parts=4))
    assert len(built) == 1
