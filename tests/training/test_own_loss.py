"""A loss of one's own: tiles compute it exactly, whatever it divides by."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from trained_sessions import assert_same

import spnb
from spnb.errors import CaptureError, OptionError, PlanError

BCE = F.binary_cross_entropy_with_logits
WEIGHTS = torch.tensor([1.0, 2.0, 3.0])


class Deep(nn.Module):
    """Two outputs, of the image's size and of half of it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.fine, self.coarse = nn.Conv2d(4, 1, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        h = self.a(x).relu()
        return self.fine(h), self.coarse(self.b(h))


def classifier():
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), pooled)


def segmenter(outputs=3):
    first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(first, nn.Conv2d(4, outputs, 3, padding=1))


def dice(output, target):
    p, wanted = output.softmax(1), F.one_hot(target, 3).movedim(-1, 1).to(output)
    both = (p * wanted).sum((2, 3))
    return 1 - ((2 * both + 1) / ((p + wanted).sum((2, 3)) + 1)).mean()


def dice_of_batch(output, target):
    p = output.sigmoid()
    return 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


def deep_supervision(output, target):
    return BCE(output[0], target[0]) + 0.4 * BCE(output[1], target[1])


def total_variation(output, target):
    along = [output.diff(dim=d).abs().mean() for d in (2, 3)]
    return F.l1_loss(output, target) + 0.1 * sum(along)


NOISE = torch.Generator().manual_seed(4)
IMAGES = torch.randn(4, 1, 12, 10, generator=NOISE).double()
CLASSES = torch.randint(0, 3, (4, 12, 10), generator=NOISE)
LABELS = torch.tensor([0, 2, 1, 1])
MASKS = (torch.rand(4, 1, 12, 10, generator=NOISE) > 0.5).double()
SOFT = torch.rand(4, 3, 12, 10, generator=NOISE).double().softmax(1)
COARSE = (torch.rand(4, 1, 6, 5, generator=NOISE) > 0.5).double()

CASES = {
    "cross entropy": (segmenter, F.cross_entropy, CLASSES),
    "class weights, ignored": (
        segmenter,
        nn.CrossEntropyLoss(WEIGHTS, ignore_index=2),
        CLASSES,
    ),
    "label smoothing": (segmenter, nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1), CLASSES),
    "each position": (segmenter, nn.CrossEntropyLoss(reduction="none"), CLASSES),
    "dice": (segmenter, dice, CLASSES),
    "dice of the batch": (lambda: segmenter(1), dice_of_batch, MASKS),
    "one channel": (lambda: segmenter(1), nn.BCEWithLogitsLoss(pos_weight=WEIGHTS[2]), MASKS),
    "without channels": (lambda: segmenter(1), lambda o, t: BCE(o.squeeze(1), t), MASKS[:, 0]),
    "focal": (
        lambda: segmenter(1),
        lambda o, t: ((1 - (-BCE(o, t, reduction="none")).exp()) ** 2 * BCE(o, t)).mean(),
        MASKS,
    ),
    "total variation": (lambda: segmenter(1), total_variation, MASKS),
    "sum": (lambda: segmenter(1), nn.MSELoss(reduction="sum"), MASKS),
    "variance": (lambda: segmenter(1), lambda o, t: (o - t).var() + (o - t).std(), MASKS),
    "two outputs": (Deep, deep_supervision, (MASKS, COARSE)),
    "images": (classifier, nn.CrossEntropyLoss(WEIGHTS), LABELS),
    "likelihood": (classifier, lambda o, t: F.nll_loss(o.log_softmax(1), t), LABELS),
    "soft labels": (segmenter, nn.CrossEntropyLoss(), SOFT),
    "soft labels of images": (classifier, nn.CrossEntropyLoss(WEIGHTS), SOFT[:, :, 0, 0]),
    "divergence of the batch": (
        segmenter,
        lambda o, t: F.kl_div(o.log_softmax(1), t, reduction="batchmean"),
        SOFT,
    ),
    "mean of images": (
        lambda: segmenter(1),
        lambda o, t: (o - t).abs().sum() / len(o),
        MASKS,
    ),
    "without target": (lambda: segmenter(1), lambda o, t: F.softplus(-o).mean(), MASKS),
}
SPLITS = {
    "2×2": {"num_spatial_parts": 4},
    "1×3": {"num_spatial_parts": 3, "slice_method": "vertical"},
    "parts": {"num_spatial_parts": 2, "slice_method": "horizontal", "parts": 2},
    "stages": {"split_size": 2, "num_spatial_parts": 2, "slice_method": "vertical", "parts": 2},
    "gems": {"split_size": 2, "num_spatial_parts": 4, "gems": True},
    "replicas": {"num_spatial_parts": 2, "slice_method": "vertical", "replicas": 2},
}
IN_EACH_SPLIT = (
    "class weights, ignored",
    "dice of the batch",
    "two outputs",
    "divergence of the batch",
)
"""Losses that divide by a sum over tiles, by one over images too, by the number of images, and that
read two outputs."""


def cases_and_splits():
    """Each case in the grid and in one other split, and some in each of them."""
    grid, *others = SPLITS
    for number, case in enumerate(CASES):
        chosen = others if case in IN_EACH_SPLIT else [others[number % len(others)]]
        yield from ((case, split) for split in (grid, *chosen))


def made(network):
    torch.manual_seed(0)
    return network().train()


def job_of(net, **options):
    given = {"image_size": "12x10", "batch_size": 4, "precision": "fp64", "optimizer": "sgd"}
    given |= {"learning_rate": 0.05, "num_epochs": 2, "split_size": 1}
    return spnb.Job(copy.deepcopy(net), **(given | options))


def untiled(job, loss, targets):
    """What plain PyTorch does, with the loss of each micro-batch."""
    net = copy.deepcopy(job.model).double().train()
    loss = copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss
    optimizer = torch.optim.SGD(net.parameters(), lr=job.learning_rate, weight_decay=0.0001)
    losses, count = [], job.num_micro_batches
    for epoch in range(job.num_epochs):
        optimizer.param_groups[0]["lr"] = job.learning_rate * 0.85**epoch
        optimizer.zero_grad()
        total = 0.0
        for part in np.array_split(np.random.default_rng([0, epoch]).permutation(4), count):
            wanted = (
                tuple(t[part] for t in targets) if isinstance(targets, tuple) else targets[part]
            )
            share = loss(net(IMAGES[part]), wanted).mean() * len(part) / 4
            share.backward()
            total += float(share.detach())
        losses.append(total)
        optimizer.step()
    return losses, net.state_dict()


@pytest.mark.slow(but_each=7)
@pytest.mark.long
@pytest.mark.parametrize(("case", "split"), [*cases_and_splits()])
def test_it_is_that_of_the_whole_image(case, split):
    network, loss, targets = CASES[case]
    job = job_of(made(network), **SPLITS[split])
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        found = session.train(IMAGES, targets, loss=loss)
        assert not session.plan.gathered
    losses, state = untiled(job, loss, targets)
    assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-12, abs=1e-12)
    assert_same(found.module.state_dict(), state, 1e-11)


def lovasz(output, target):
    """The Lovász hinge: it sorts the errors of all positions (Berman et al., 2018)."""
    errors, order = (1 - (2 * target - 1) * output).flatten().sort(descending=True)
    right = target.flatten()[order]
    missed = right.sum() - right.cumsum(0)
    overlap = 1 - missed / (right.sum() + (1 - right).cumsum(0))
    return torch.dot(errors.relu(), torch.cat([overlap[:1], overlap.diff()]))


def hardest(output, target):
    each = F.cross_entropy(output, target, reduction="none").flatten()
    return each.topk(each.numel() // 4).values.mean()


def spectrum(output, target):
    return (torch.fft.rfft2(output) - torch.fft.rfft2(target)).abs().mean()


WHOLE = {
    "sorted": (lambda: segmenter(1), lovasz, MASKS),
    "largest": (segmenter, hardest, CLASSES),
    "spectrum": (segmenter, spectrum, SOFT),
}


@pytest.mark.long
@pytest.mark.parametrize("split", ["gathered", "stages", "parts"])
@pytest.mark.parametrize("case", WHOLE)
def test_losses_that_read_the_whole_output(case, split):
    """In an untiled stage, or gathered; of each micro-batch by itself."""
    network, loss, targets = WHOLE[case]
    stages = {"split_size": 2, "num_spatial_parts": 2}
    options = {
        "gathered": {"num_spatial_parts": 4, "allow_gather": True},
        "stages": stages,
        "parts": {"parts": 2, **stages},
    }
    job = job_of(made(network), **options[split])
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        found = session.train(IMAGES, targets, loss=loss)
    losses, state = untiled(job, loss, targets)
    assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-12)
    assert_same(found.module.state_dict(), state, 1e-11)


@pytest.mark.long
def test_volumes():
    net = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv3d(2, 3, 1))
    volumes = torch.randn(2, 1, 6, 8, 5, generator=NOISE).double()
    classes = torch.randint(0, 3, (2, 6, 8, 5), generator=NOISE)
    loss = nn.CrossEntropyLoss(WEIGHTS)
    job = job_of(net, image_size="6x8x5", batch_size=2, num_spatial_parts=4, num_epochs=1)
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        found = session.train(volumes, classes, loss=loss)
    with torch.no_grad():
        wanted = copy.deepcopy(loss).double()(copy.deepcopy(net).double()(volumes), classes)
    assert found.history["loss"].tolist() == pytest.approx([float(wanted)], rel=1e-12)


@pytest.mark.long
def test_targets_may_be_a_list_of_numbers():
    job = job_of(made(classifier), num_spatial_parts=2, slice_method="vertical", num_epochs=1)
    found = []
    for targets in (LABELS, LABELS.tolist()):
        with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
            training = session.train(IMAGES, targets, loss=nn.CrossEntropyLoss())
            found.append(training.history["loss"].tolist())
    assert found[0] == found[1]


@pytest.mark.long
def test_metrics_are_columns_of_the_history():
    job = job_of(made(segmenter), num_spatial_parts=4, parts=2, num_epochs=1)
    metrics = {
        "right": lambda output, target: (output.argmax(1) == target).double().mean(),
        "dice": lambda output, target: 1 - dice(output, target),
    }
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        found = session.train(IMAGES, CLASSES, loss=nn.CrossEntropyLoss(), metrics=metrics)
    net, right, overlap = copy.deepcopy(job.model).double(), 0.0, 0.0
    with torch.no_grad():
        for part in np.array_split(np.random.default_rng([0, 0]).permutation(4), 2):
            output = net(IMAGES[part])
            right += float((output.argmax(1) == CLASSES[part]).double().mean()) / 2
            overlap += float(1 - dice(output, CLASSES[part])) / 2
    assert found.history["right"].tolist() == pytest.approx([right], rel=1e-12)
    assert found.history["dice"].tolist() == pytest.approx([overlap], rel=1e-12)


@pytest.mark.long
def test_losses_may_change_from_call_to_call():
    job = job_of(made(segmenter), num_spatial_parts=2, slice_method="vertical", num_epochs=1)
    net = copy.deepcopy(job.model).double().train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=0.0001)
    found = []
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        for epoch, loss in enumerate((dice, "cross_entropy", dice, nn.CrossEntropyLoss(WEIGHTS))):
            found.append(session.train(IMAGES, CLASSES, loss=loss).history["loss"].iloc[-1])
            plain = F.cross_entropy if loss == "cross_entropy" else loss
            plain = copy.deepcopy(plain).double() if isinstance(plain, nn.Module) else plain
            order = np.random.default_rng([0, epoch]).permutation(4)
            optimizer.param_groups[0]["lr"] = 0.05 * 0.85**epoch
            optimizer.zero_grad()
            wanted = plain(net(IMAGES[order]), CLASSES[order])
            wanted.backward()
            optimizer.step()
            assert found[-1] == pytest.approx(float(wanted.detach()), rel=1e-10)


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, output, target):
        return self.scale * F.mse_loss(output, target)


class Counting:
    """A loss that grows from call to call."""

    calls = 0

    def __call__(self, output, target):
        self.calls += 1
        return self.calls * BCE(output, target)


@pytest.mark.parametrize(
    ("loss", "targets", "error", "message"),
    [
        (Weighted(), MASKS, CaptureError, "has parameters to train"),
        (lambda o, t: 3.0, MASKS, CaptureError, "returns a float, not a tensor"),
        (lambda o, t: BCE(o, t[:, :5]), COARSE, CaptureError, "the loss cannot run"),
        (
            lambda o, t: o.flatten(1).sort()[0].mean(),
            MASKS,
            PlanError,
            "the whole extent 12×10",
        ),
        (BCE, MASKS[:3], ValueError, "4 images, but 3 targets"),
        (lambda o, t: BCE(o, t).item(), MASKS, CaptureError, "returns a float, not a tensor"),
        (lambda o, t: {}["dice"], MASKS, CaptureError, "KeyError"),
        (lambda o, t: BCE(o.detach(), t), MASKS, ValueError, "no gradient goes from the loss"),
        (lambda o, t: (o > 0).sum(), MASKS, ValueError, "no gradient goes from the loss"),
        (nn.BCEWithLogitsLoss, MASKS, OptionError, "make one of it, BCEWithLogitsLoss()"),
        (Counting(), MASKS, CaptureError, "something else when it is called again"),
    ],
)
def test_what_cannot_be_exact_is_refused_in_one_line(loss, targets, error, message):
    job = job_of(made(lambda: segmenter(1)), num_spatial_parts=2, slice_method="vertical", parts=2)
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        with pytest.raises(error) as caught:
            session.train(IMAGES, targets, loss=loss)
        assert message in str(caught.value) and "\n" not in str(caught.value)
        session.train(IMAGES, MASKS)


@pytest.mark.long
def test_unequal_micro_batches_cannot_each_divide_by_their_images():
    job = job_of(made(lambda: segmenter(1)), num_spatial_parts=2, batch_size=4, parts=3)
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        with pytest.raises(CaptureError, match="other is 2 for one micro-batch, and 1 for another"):
            session.train(IMAGES, MASKS, loss=lambda o, t: (o - t).abs().sum() / len(o))
        session.train(IMAGES, MASKS, loss=BCE)
