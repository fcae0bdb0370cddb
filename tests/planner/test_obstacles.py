"""What no plan can do is refused with the layer, the reason and the way out."""

import pytest
import torch
from planning import WHOLE, conv, grid
from running import planned
from torch import nn

import spnb
from spnb.errors import CaptureError, PlanError
from spnb.ir.tiling import Tiling


class Head(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.body, self.tail, self.function = conv(), conv(), function

    def forward(self, x):
        return self.tail(self.function(self.body(x)))


def refusal(*args, **options):
    with pytest.raises((PlanError, CaptureError)) as caught:
        planned(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_refuses_what_needs_the_whole_extent():
    net = Head(lambda x: x.sort(dim=3)[0])
    message = refusal(net, (1, 4, 12, 20), [grid("square", 4), WHOLE], balance=[1, 1])
    assert message == (
        "stage 0, forward (sort): sort, used like this, needs the whole extent 12×20 of its"
        " input, but the stage is cut into 2×2 tiles: gather it on every tile (allow_gather=True),"
        " or let the tiled stages end before this layer: it is in the first of 2 blocks, so no"
        " tiled stage fits; a network of finer modules, or spatial_size=0, would do"
    )

    class Sort(nn.Module):
        def forward(self, x):
            return x.sort(-1)[0]

    net = nn.Sequential(conv(), nn.Sequential(nn.Flatten(), Sort()), nn.Linear(4 * 12 * 20, 2))
    message = refusal(net, (1, 4, 12, 20), [grid("square", 4), WHOLE], balance=[2, 1])
    assert "stage 0, 1.1 (sort)" in message
    assert "at most 1 of the 3 blocks can be tiled: balance 1,2" in message
    message = refusal(net, (1, 4, 12, 20), [grid("square", 4)])
    assert "add an untiled stage (split_size=2)" in message


@pytest.mark.long
def test_refuses_an_unknown_operator_by_name():
    class Fourier(nn.Module):
        def forward(self, x):
            return torch.fft.fftn(x).real

    net = nn.Sequential(conv(), nn.Sequential(conv(), Fourier()), conv())
    message = refusal(net, (1, 4, 12, 20), [grid("vertical", 2), WHOLE], balance=[2, 1])
    assert "stage 0, 1.1 (fft_fftn)" in message
    assert "there is no tiling rule for the operator fft_fftn" in message
    assert "at most 1 of the 3 blocks can be tiled" in message
    message = refusal(net, (4, 4, 12, 20), [grid("vertical", 2), WHOLE], parts=2)
    assert "it is not known that fft_fftn, used like this, treats the 4 images" in message
    assert "parts=1" in message


class Sorted(nn.Module):
    def forward(self, x):
        return x.sort(2)[0]


def test_an_even_balance_puts_the_cut_before_what_cannot_be_tiled():
    net = nn.Sequential(conv(), Sorted(), conv(), conv(), conv(), conv())
    plan = planned(net, (1, 4, 12, 20), [grid("square", 4), WHOLE])
    assert [stage.blocks for stage in plan.stages] == [(0, 1), (1, 6)]


def test_refuses_more_tiles_than_pixels():
    with pytest.raises(PlanError, match="stage 0: an image of 3×3 pixels cannot be cut into 2×4"):
        spnb.plan(spnb.Job("resnet20_v1", image_size=3, num_spatial_parts=8))


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        ([1, 1, 2], "has 3 entries with the sum 4, but there are 2 stages and 4 blocks"),
        ([1, 2], "has 2 entries with the sum 3, but there are 2 stages and 4 blocks"),
        ([4, 0], "give 2 positive numbers that add up to 4"),
    ],
)
def test_refuses_a_balance_that_does_not_add_up(balance, message):
    net = nn.Sequential(conv(), conv(), conv(), conv())
    assert message in refusal(net, (1, 4, 16, 16), [grid("square", 4), WHOLE], balance=balance)


def test_refuses_more_stages_than_blocks_and_more_slices_than_images():
    net = nn.Sequential(conv(), conv())
    assert "3 stages, but the network has 2 blocks" in refusal(net, (1, 4, 16, 16), [WHOLE] * 3)
    message = refusal(net, (5, 4, 16, 16), [WHOLE, Tiling.even((2, 1, 1))], parts=3)
    assert "2 ranks share a batch (local_DP), but a micro-batch has only 1 of the 5" in message


def test_refuses_what_changes_its_own_buffer_and_what_makes_noise():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            return x * self.count

    message = refusal(nn.Sequential(conv(), Counter()), (1, 4, 8, 8), [WHOLE])
    assert "changes its buffer 1.count in its forward" in message
    message = refusal(Head(lambda x: x + torch.rand(8, 8)), (1, 4, 8, 8), [WHOLE])
    assert "forward (rand) makes random numbers" in message
    message = refusal(Head(torch.nn.functional.dropout), (1, 4, 8, 8), [WHOLE])
    assert "forward (dropout) makes random numbers" in message


def test_refuses_what_torch_cannot_capture_with_its_reason():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    assert "Branch cannot run or be captured at input shape (1, 4, 8, 8)" in refusal(
        Branch(), (1, 4, 8, 8), [WHOLE]
    )
    assert "expected input[1, 3, 8, 8] to have 4 channels" in refusal(conv(), (1, 3, 8, 8), [WHOLE])
