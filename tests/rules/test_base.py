"""The registry: rules of a user's own, and what is refused."""

import pytest
import torch
from tiled import Call, check, check_tiled
from torch import nn
from torch.nn import functional as F

import spnb
from spnb.capture.export import capture
from spnb.errors import CaptureError, PlanError
from spnb.rules import Rule, Unknown, Whole, rule, rule_of

IMAGE = (2, 6, 9, 11)


def custom(name, function, shape=lambda x: torch.empty_like(x)):
    torch.library.define(f"spnbtest::{name}", "(Tensor x) -> Tensor")
    torch.library.impl(f"spnbtest::{name}", "CompositeExplicitAutograd")(function)
    torch.library.register_fake(f"spnbtest::{name}")(shape)
    return Call(getattr(torch.ops.spnbtest, name))


def test_an_operator_without_a_rule_is_refused_by_name():
    net = custom("mixer", lambda x: x + x.mean())
    with pytest.raises(PlanError) as refusal:
        check(net, IMAGE)
    assert str(refusal.value) == (
        "stage 0, forward (mixer): there is no tiling rule for the operator spnbtest.mixer, but the"
        " stage is cut into 2×2 tiles: gather it on every tile (allow_gather=True),"
        " give the operator a rule (spnb.rule), or let the tiled stages end before this layer: it"
        " is in the first of 1 blocks, so no tiled stage fits; a network of finer modules, or"
        " spatial_size=0, would do"
    )
    check(net, IMAGE, allow_gather=True)
    with pytest.raises(PlanError, match="treats the 2 images of a batch independently"):
        check(net, IMAGE, allow_gather=True, parts=2)


def test_a_rule_of_the_users_own():
    net = custom("twice", lambda x: x * 2)
    assert isinstance(rule_of(capture(net, IMAGE, torch.float64).nodes[0]), Unknown)
    spnb.rule("spnbtest.twice")(lambda node: Rule(node))
    check(net, IMAGE)


def test_a_rule_that_gives_the_wrong_shape_is_told():
    net = custom("flat", lambda x: x.flatten(2), lambda x: x.new_empty(x.flatten(2).shape))
    rule("spnbtest.flat")(lambda node: WrongRule(node))
    with pytest.raises(CaptureError, match=r"gives \(2, 6, 99\), but its rule says"):
        capture(net, IMAGE, torch.float64)


class WrongRule(Rule):
    @property
    def axes(self):
        return self.node.operand_axes[0]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean(0, keepdim=True) + x,
        lambda x: x[1] - x[0],
        lambda x: torch.cat([x, 2 * x, x[:1]]).split([3, 2])[0],
        lambda x: x.sort(0).values,
        lambda x: x - x.median(0)[0],
        lambda x: x.sum(),
        lambda x: x.softmax(dim=0),
        lambda x: torch.cat([x, x], dim=0),
        lambda x: x.flip(0),
        lambda x: x.cumsum(0),
        lambda x: x[1:],
        lambda x: torch.nn.functional.batch_norm(x, None, None, training=True),
    ],
)
def test_what_mixes_images_is_exact_but_never_in_micro_batches(function):
    plans = check(Call(function), IMAGE)
    assert not any(plan.gathered for plan in plans)
    with pytest.raises(PlanError, match="parts=1"):
        check(Call(function), IMAGE, allow_gather=True, parts=2)


def test_what_needs_all_of_space_says_so():
    node = capture(Call(torch.fft.fft2), IMAGE, torch.float64).nodes[0]
    found = rule_of(node)
    assert isinstance(found, Whole)
    assert found.gathers(0, 1)
    assert found.need(0, 1, (2, 3)) == (0, 9)
    assert found.need(0, 0, (1, 2)) == (1, 2)


def clips(x):
    return x.mean((2, 3)).view(2, 3, 4).mean(1)


def clips_inside(x):
    y = x.view(2, 3, *x.shape[1:]).sum(1, keepdim=True)
    return x + y.expand(-1, 3, -1, -1, -1).reshape(x.shape)


@pytest.mark.parametrize("function", [clips, clips_inside])
def test_a_batch_that_a_view_takes_apart_is_never_cut(function):
    check_tiled(Call(function), (6, 4, 9, 11))
    for parts in (2, 3):
        with pytest.raises(PlanError, match=r"view, used like this, treats the 6 images"):
            check_tiled(Call(function), (6, 4, 9, 11), parts=parts)


def test_layers_of_a_single_image():
    check_tiled(
        Call(lambda layers, x: layers[0](x[0]), nn.Conv2d(4, 3, 3)), (1, 4, 9, 11), grids=[(1, 1)]
    )
    deep = Call(lambda layers, x: layers[0](x[0]).relu(), nn.Conv3d(4, 3, 3))
    check_tiled(deep, (1, 4, 6, 7, 8), grids=[(1, 1, 1)])


def turned(layers, x):
    how = layers[0](x).mean((2, 3)).view(-1, 2, 3)
    grid = F.affine_grid(how, x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def test_a_grid_that_is_computed():
    net = Call(turned, nn.Conv2d(4, 6, 3))
    check_tiled(net, (2, 4, 9, 11), grids=[(1, 1)])
    check_tiled(net, (2, 4, 9, 11), allow_gather=True)


def test_a_result_without_positions():
    net = Call(lambda x: (x.relu(), x[:, :, 5:5]))
    job = spnb.Job(net, input_shapes=[(1, 4, 9, 11)], split_size=1)
    output = spnb.InProcess(spnb.plan(job), progress=False).infer().output
    assert [tuple(part.shape) for part in output] == [(1, 4, 9, 11), (1, 4, 0, 11)]


def test_sizes_that_depend_on_values_are_refused():
    with pytest.raises(CaptureError, match=r"\(index\) gives a result whose size depends on the"):
        capture(Call(lambda x: x[x > 0]), IMAGE, torch.float64)
