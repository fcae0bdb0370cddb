"""An evaluation equals a plain loop of PyTorch over all images, however many there are."""

import copy
import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from trained_sessions import Wired, assert_same, examples, job, network, trained

import spnb
from spnb.errors import OptionError, PlanError, RankError
from spnb.training.evaluation import Evaluator

NOISE = torch.Generator().manual_seed(7)
IMAGES = torch.randn(11, 1, 11, 9, generator=NOISE).double()
CLASSES = torch.randint(0, 3, (11, 11, 9), generator=NOISE)
MARKED = CLASSES.masked_fill(torch.rand(11, 11, 9, generator=NOISE) < 0.2, 255)
WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0]), ignore_index=255)
SPLITS = [
    {},
    {"parts": 1, "replicas": 2},
    {"parts": 1, "gems": True},
    {"parts": 1, "local_DP": 2},
    {"split_size": 1, "halo_D2": True, "fused_layers": "all", "patches": 2},
]


def segmenter():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, padding=1),
    )


def settled(net):
    """A network whose running statistics are not those that it was made with."""
    with torch.no_grad():
        net.double().train()(IMAGES)
    return net.float()


def evaluated(each, images, targets, **options):
    with spnb.InProcess(spnb.plan(each), progress=False) as session:
        return session.evaluate(images, targets, **options)


def untiled(net, images, targets, loss, batch, parts=1):
    """The loss of each micro-batch, and all outputs, as plain PyTorch computes them."""
    net, total, outputs = copy.deepcopy(net).double().eval(), 0.0, []
    with torch.no_grad():
        for start in range(0, len(images), batch):
            chosen = torch.arange(start, min(start + batch, len(images)))
            count = -(-len(chosen) // -(-batch // parts))
            cuts = [len(chosen) * k // count for k in range(1, count)]
            for part in torch.tensor_split(chosen, cuts):
                outputs.append(net(images[part]))
                total += float(loss(outputs[-1], targets[part])) * len(part)
    return total / len(images), torch.cat(outputs)


def iou(found, wanted, classes):
    """Of each class, by PyTorch's own logic."""
    known, result = wanted < classes, []
    for each in range(classes):
        a, b = (found == each) & known, (wanted == each) & known
        result.append(float((a & b).sum() / (a | b).sum()))
    return result


@pytest.mark.parametrize("split", SPLITS, ids=str)
@settings(max_examples=4, deadline=None)
@given(count=st.integers(1, 11))
def test_classes_of_pixels_follow_a_plain_loop(split, count):
    net, images, targets = settled(segmenter()), IMAGES[:count], CLASSES[:count]
    found = evaluated(job(net, **split), images, targets)
    loss, output = untiled(net, images, targets, F.cross_entropy, batch=1)
    assert found.loss == pytest.approx(loss, rel=1e-12)
    assert found.num_images == count == sum(images for images, _ in found.batches)
    assert found.accuracy == float((output.argmax(1) == targets).double().mean())
    wanted = iou(output.argmax(1), targets, 3)
    assert found.per_class["iou"].tolist() == pytest.approx(wanted)
    assert found.mean_iou == pytest.approx(sum(wanted) / 3)


@pytest.mark.slow(but_each=2)
@pytest.mark.long
@pytest.mark.parametrize("count", [2, 4, 11])
def test_a_loss_and_metrics_that_are_functions_see_no_filling(count):
    """Ignored positions are no classes; a function is of a micro-batch, those of the rest too."""
    net, images, targets = settled(segmenter()), IMAGES[:count], MARKED[:count]
    brightness = {"square": lambda output, target: output.square().mean()}
    found = evaluated(job(net), images, targets, loss=WEIGHTED, metrics=brightness)
    weighted = copy.deepcopy(WEIGHTED).double()
    loss, output = untiled(net, images, targets, weighted, batch=4, parts=2)
    assert found.loss == pytest.approx(loss, rel=1e-12)
    assert found.metrics == {"square": pytest.approx(float(output.square().mean()), rel=1e-6)}
    known = targets != 255
    assert found.accuracy == float((output.argmax(1) == targets)[known].double().mean())
    assert found.mean_iou == pytest.approx(sum(iou(output.argmax(1), targets, 3)) / 3)
    assert [n for n, _ in found.batches] == [4] * (count // 4) + [count % 4] * (count % 4 > 0)


@pytest.mark.slow(but_each=2)
@pytest.mark.long
@pytest.mark.parametrize("split", SPLITS[:3], ids=str)
def test_metrics_go_with_a_loss_by_name_and_with_copies(split):
    net = settled(network())
    images, labels = examples(11)
    metrics = {"right": lambda output, target: (output.argmax(1) == target).double().mean()}
    found = evaluated(job(net, **split), images, labels, metrics=metrics)
    loss, output = untiled(net, images, labels, F.cross_entropy, batch=1)
    assert found.loss == pytest.approx(loss, rel=1e-9)
    assert found.metrics["right"] == pytest.approx(found.accuracy)
    assert found.accuracy == float((output.argmax(1) == labels).double().mean())
    assert math.isnan(found.mean_iou)
    assert list(found.figures) == ["loss", "accuracy", "right"]


def test_numbers_have_no_accuracy():
    net = settled(segmenter())
    wanted = torch.randn(11, 3, 11, 9, generator=NOISE).double()
    for name, function in (("mse", F.mse_loss), ("l1", F.l1_loss)):
        found = evaluated(job(net), IMAGES, wanted, loss=name)
        assert found.loss == pytest.approx(untiled(net, IMAGES, wanted, function, 1)[0])
        assert math.isnan(found.accuracy) and math.isnan(found.mean_iou)
        assert list(found.figures) == ["loss"]
    with pytest.raises(ValueError, match="does not go with targets that are numbers"):
        evaluated(job(net), IMAGES, wanted, loss="cross_entropy")


@pytest.mark.long
def test_several_outputs_and_targets_go_to_a_function():
    two = Wired(lambda net, x: (net.a(x), net.norm(net.b(net.a(x)))))
    targets = tuple(torch.randn(2, 6, 4, 11, 9, generator=NOISE).double())

    def deep(output, target):
        return F.mse_loss(output[0], target[0]) + 0.5 * F.mse_loss(output[1], target[1])

    found = evaluated(job(two, parts=1), IMAGES[:6], targets, loss=deep)
    net = copy.deepcopy(two).double().eval()
    with torch.no_grad():
        wanted = deep(net(IMAGES[:6]), targets)
    assert found.loss == pytest.approx(float(wanted))


@pytest.mark.long
def test_the_last_images_that_no_function_can_see_alone_are_named():
    each = job(segmenter(), parts=1, local_DP=2)
    with pytest.raises(PlanError, match=r"the last 1 of 5 images fill no batch of 4.*divides"):
        evaluated(each, IMAGES[:5], MARKED[:5], loss=WEIGHTED)


@pytest.mark.long
def test_the_weights_of_the_moment_are_evaluated_and_training_goes_on(capsys):
    images, labels = examples()
    with spnb.InProcess(spnb.plan(job(num_epochs=2), training=True)) as session:
        before = session.evaluate(images, labels)
        training = session.train(images, labels)
        after = session.evaluate(images, labels, loss=F.cross_entropy)
        again = session.train(images, labels)
    said = capsys.readouterr().out
    assert "evaluated with the weights after 2 epochs" in said
    wanted, _ = untiled(network(), images, labels, F.cross_entropy, batch=1)
    assert before.loss == pytest.approx(wanted, rel=1e-9)
    wanted, output = untiled(training.module, images, labels, F.cross_entropy, batch=1)
    assert after.loss == pytest.approx(wanted, rel=1e-9)
    assert after.accuracy == float((output.argmax(1) == labels).double().mean())
    whole = trained(job(num_epochs=4), images, labels)
    assert_same(again.module.state_dict(), whole.module.state_dict(), 0)


@pytest.mark.long
def test_an_earlier_result_and_changed_weights_are_kept():
    net, images = settled(segmenter()), IMAGES[:4]
    with spnb.InProcess(spnb.plan(job(net)), progress=False) as session:
        result = session.infer(images)
        session.evaluate(images, MARKED[:4], loss=WEIGHTED)
        assert result.check().passed
        with torch.no_grad():
            net[0].weight.mul_(2)
        found = session.evaluate(images, CLASSES[:4])
    wanted, _ = untiled(net, images, CLASSES[:4], F.cross_entropy, batch=1)
    assert found.loss == pytest.approx(wanted, rel=1e-9)


def test_figures_are_shown_and_reported():
    found = evaluated(job(settled(segmenter())), IMAGES[:5], CLASSES[:5])
    assert "evaluated on 5 images, on 3 ranks" in str(found)
    assert "mean IoU" in found.card.text and "images per second" in found.card.text
    report = found.report()
    assert report["loss"] == found.loss and len(report["iou"]) == 3
    assert report["median_images_per_second"] == found.median_images_per_second > 0


def test_what_does_not_fit_is_refused():
    net = segmenter()
    with pytest.raises(ValueError, match="array is empty"):
        evaluated(job(net), IMAGES[:0], CLASSES[:0])
    with pytest.raises(ValueError, match="4 images, but 3 targets"):
        evaluated(job(net), IMAGES[:4], CLASSES[:3])
    with pytest.raises(OptionError, match="unknown loss"):
        evaluated(job(net), IMAGES[:4], CLASSES[:4], loss="hinge")


def test_a_rank_that_fails_to_compare_ends_the_others(monkeypatch):
    compare = Evaluator._compare

    def failing(self, output, target):
        if self.worker.rank_plan.rank == 1:
            raise OSError("the file of targets is gone")
        compare(self, output, target)

    monkeypatch.setattr(Evaluator, "_compare", failing)
    plan, start = spnb.plan(job(segmenter(), split_size=1)), time.monotonic()
    named = pytest.raises(RankError, match=r"rank 1, stage 0, evaluating: OSError: the file of")
    with spnb.InProcess(plan, deadline=20, progress=False) as session, named:
        session.evaluate(IMAGES, CLASSES)
    assert time.monotonic() - start < 15
