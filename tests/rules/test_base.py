"""The registry: rules of a user's own, and what is refused."""

import pytest
import torch
from tiled import Call, check

import spnb
from spnb.capture import CaptureError, capture
from spnb.layout import PlanError
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
        " stage is cut into 2×2 tiles: gather it on every tile (allow_gather=True, --allow-gather),"
        " give the operator a rule (spnb.rule), or let the tiled stages end before this layer: it"
        " is in the first of 1 blocks, so no tiled stage fits; a network of finer modules, or"
        " spatial_size=0 (--spatial-size 0), would do"
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
    check(Call(function), IMAGE, allow_gather=True)
    with pytest.raises(PlanError, match="parts=1"):
        check(Call(function), IMAGE, allow_gather=True, parts=2)


def test_what_needs_all_of_space_says_so():
    node = capture(Call(torch.fft.fft2), IMAGE, torch.float64).nodes[0]
    found = rule_of(node)
    assert isinstance(found, Whole)
    assert found.gathers(0, 1)
    assert found.need(0, 1, (2, 3)) == (0, 9)
    assert found.need(0, 0, (1, 2)) == (1, 2)
