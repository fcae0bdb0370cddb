"""Examples and targets of training: which fit, in any order of axes, and which are refused."""

import pytest
import torch
from tiled import noise
from torch import nn
from torch.nn import functional as F
from trained_sessions import Wired, assert_same, examples, job, trained, untiled

from spnb.io.sources import NOT_GIVEN


def test_numbers_as_targets():
    images, net = examples()[0], nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))
    targets = noise(10, 2, 11, 9).float()
    for loss, function in (("mse", F.mse_loss), ("l1", F.l1_loss)):
        each = job(net, spatial_size=1, split_size=1, num_spatial_parts=3)
        found = trained(each, images, targets, loss=loss)
        losses, _ = untiled(each, images, targets.double(), function)
        assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-6)
        assert found.history["accuracy"].isna().all()


def test_examples_that_do_not_fit_are_refused():
    images, labels = examples()
    for given, message in (
        ((images, labels[:3]), "10 images, but 3 targets"),
        ((images, labels + 3), "run from 3 to 5, but the network has 3 classes"),
        ((images, torch.where(labels == 1, 255, labels)), r"CrossEntropyLoss\(ignore_index=255\)"),
        ((images[:3], labels[:3]), "3 images make no batch of 4"),
        ((images, labels.double()), r"numbers have \(10, 3\)"),
        ((images, NOT_GIVEN), "images without targets"),
        ((NOT_GIVEN, labels), "targets without images"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(job(), *given)
    with pytest.raises(ValueError, match="the loss mse does not go with"):
        trained(job(), images, labels, loss="mse")


def test_synthetic_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = trained(job(precision="fp32"), NOT_GIVEN, NOT_GIVEN)
    assert len(found.history) == 10


@pytest.mark.parametrize("stages", [{"split_size": 1}, {"split_size": 2}])
@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.b(net.a(x)).mean(2),
        lambda net, x: net.b(net.a(x)).mean((2, 3)),
        lambda net, x: net.b(net.a(x)).permute(0, 2, 3, 1),
        lambda net, x: net.b(net.a(x)).flatten(2).transpose(1, 2),
        lambda net, x: net.b(net.a(x)).sum(1),
    ],
    ids=["rows", "means", "channels last", "tokens", "no channels"],
)
def test_outputs_lie_in_any_order(forward, stages):
    images, _ = examples(8)
    net = Wired(forward)
    targets = noise(*net(images.float()).shape).float()
    for loss, function in (("mse", F.mse_loss), ("l1", F.l1_loss)):
        each = job(net, **stages)
        found = trained(each, images, targets, loss=loss)
        losses, state = untiled(each, images, targets.double(), function)
        assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-6)
        untouched = [name for name in state if name.startswith("norm")]
        assert_same(found.module.state_dict(), state, 1e-5)
        assert all(name in found.module.state_dict() for name in untouched)


def test_class_scores_of_tokens_and_of_a_flat_output():
    images, _ = examples(8)
    net = Wired(lambda net, x: net.b(net.a(x)).flatten(2))
    labels = torch.randint(0, 4, (8, 99), generator=torch.Generator().manual_seed(1))
    flat = Wired(lambda net, x: net.b(net.a(x)).flatten(1))
    for wired, classes, options in (
        (net, labels, {}),
        (flat, labels[:, 0] * 90, {"spatial_size": 0, "num_spatial_parts": 4}),
    ):
        each = job(wired, slice_method="square", **options)
        found = trained(each, images, classes)
        losses, state = untiled(each, images, classes)
        assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-6)
        assert_same(found.module.state_dict(), state, 1e-5)


def test_targets_that_have_no_place_are_refused():
    images, labels = examples(8)
    rows = Wired(lambda net, x: net.a(x).permute(2, 0, 1, 3))
    with pytest.raises(ValueError, match=r"first dimension is not the batch of 4"):
        trained(job(rows, split_size=1), images, labels)
    last = Wired(lambda net, x: net.a(x).permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match=r"no scores of classes in its second dimension"):
        cut = job(last, split_size=1, slice_method="horizontal")
        trained(cut, images, torch.zeros(8, 9, 4, dtype=torch.long))
