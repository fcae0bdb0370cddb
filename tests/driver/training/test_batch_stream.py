"""Datasets, loaders and iterators train as arrays do, and are read once in an epoch."""

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from trained_sessions import assert_same, examples, job, network, trained

import spnb
from spnb.io.datasets.examples import order_of

IMAGES, LABELS = examples(10)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class Flipped(Dataset):
    """Images and masks that are flipped at random, both alike; counts its reads."""

    def __init__(self, count=10):
        self.images, self.read = IMAGES[:count], []
        self.masks = (self.images[:, 0] > 0).long()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        self.read.append(number)
        image, mask = self.images[number], self.masks[number]
        return (image.flip(-1), mask.flip(-1)) if torch.rand(()) < 0.5 else (image, mask)


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(zip(IMAGES, LABELS))


def segmenter():
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)
    return torch.nn.Sequential(*layers)


def batches(images=IMAGES, labels=LABELS, size=4):
    return [(images[k : k + size], labels[k : k + size]) for k in range(0, len(images), size)]


def plain(net, loader, epochs):
    """A loop of plain PyTorch over the whole batches of a loader, each in two micro-batches."""
    net = copy.deepcopy(net).double().train()
    optimizer, losses = SGD(net.parameters()), []
    for _ in range(epochs):
        for images, targets in loader:
            if len(images) < 4:
                continue
            optimizer.zero_grad()
            shares = [
                F.cross_entropy(net(i), t) / 2 for i, t in zip(images.split(2), targets.split(2))
            ]
            sum(shares).backward()
            optimizer.step()
            losses.append(float(sum(shares).detach()))
    return losses, net.state_dict()


def fed(each, data, **options):
    with spnb.InProcess(spnb.plan(each, training=True), progress=False) as session:
        return session.train(data, **options)


def each_job(net=None, **options):
    return job(net or network(), learning_rate=0.001, **options)  # the rate is the optimizer's


@pytest.mark.long
def test_a_dataset_trains_as_its_arrays_do(capsys):
    wanted = trained(job(num_epochs=2), IMAGES, LABELS)
    with spnb.InProcess(spnb.plan(job(num_epochs=2), training=True)) as session:
        found = session.train(TensorDataset(IMAGES, LABELS))
        said = capsys.readouterr().out
        arrays = session.train(IMAGES, LABELS)
    assert found.history["loss"].tolist() == wanted.history["loss"].tolist()
    assert found.history["accuracy"].tolist() == wanted.history["accuracy"].tolist()
    assert_same(found.module.state_dict(), wanted.module.state_dict(), 0)
    line = "the last 2 images of an epoch fill no batch of 4: left out"
    assert said.count(line) == capsys.readouterr().out.count(line) == 1
    assert len(arrays.epochs) == 4


@pytest.mark.parametrize("kind", ["loader", "function", "iterable", "iterator"])
def test_batches_are_taken_as_they_are_given(kind):
    generator = torch.Generator()
    shuffled = {"shuffle": True, "generator": generator}
    given = {
        "loader": lambda: DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4, **shuffled),
        "function": lambda: lambda: iter(batches()),
        "iterable": Streamed,
        "iterator": lambda: iter(batches()),
    }
    data, epochs, net = given[kind](), 1 if kind == "iterator" else 2, network()
    generator.manual_seed(5)
    losses, state = plain(net, data if kind == "loader" else batches(), epochs)
    generator.manual_seed(5)
    found = fed(each_job(net, num_epochs=epochs), data, optimizer=SGD)
    assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-9)
    assert_same(found.module.state_dict(), state)


def test_augmentation_is_of_the_pair_and_each_image_is_read_once():
    """Image and mask are flipped alike, in an order and by numbers that the job's seed gives."""
    each, data, net = each_job(segmenter(), num_epochs=2, split_size=1), Flipped(), segmenter()
    state = torch.get_rng_state()
    found = fed(each, data, optimizer=SGD)
    assert torch.equal(torch.get_rng_state(), state)
    orders = [order_of(10, each.seed, epoch)[:8].tolist() for epoch in (0, 1)]
    assert data.read == [0, *orders[0], *orders[1]]  # the first item tells the kind of targets
    again = fed(each, Flipped(), optimizer=SGD, callbacks=[lambda record: None])
    assert again.history["loss"].tolist() == found.history["loss"].tolist()
    taken = []
    for epoch, order in enumerate(orders):
        for step in range(2):
            torch.manual_seed(epoch * 1_000_003 + step)
            taken.append([data[number] for number in order[4 * step : 4 * step + 4]])
    pairs = [tuple(map(torch.stack, zip(*items))) for items in taken]
    losses, weights = plain(net, pairs, 1)
    assert found.history["loss"].tolist() == pytest.approx(losses, rel=1e-9)
    assert_same(found.module.state_dict(), weights)


@pytest.mark.long
def test_a_loss_of_ones_own_and_validation_take_datasets():
    data, known = TensorDataset(IMAGES, LABELS), TensorDataset(IMAGES[:8], LABELS[:8])
    found = fed(job(), data, loss=F.cross_entropy, validation=DataLoader(known, batch_size=3))
    wanted = trained(job(), IMAGES, LABELS, validation=(IMAGES[:8], LABELS[:8]))
    for column in ("loss", "validation_loss", "validation_accuracy"):
        assert found.epochs[column].tolist() == pytest.approx(wanted.epochs[column].tolist())
    assert_same(found.module.state_dict(), wanted.module.state_dict(), 1e-12)


@pytest.mark.long
def test_a_training_of_a_dataset_is_resumed(tmp_path):
    each = job(num_epochs=2, checkpoint=str(tmp_path / "net.pth"))
    fed(each, TensorDataset(IMAGES, LABELS))
    found = fed(each.replace(num_epochs=3), TensorDataset(IMAGES, LABELS))
    whole = trained(job(num_epochs=3), IMAGES, LABELS)
    assert_same(found.module.state_dict(), whole.module.state_dict(), 0)


def test_a_dataset_is_evaluated_whole():
    with spnb.InProcess(spnb.plan(job(network())), progress=False) as session:
        wanted = session.evaluate(IMAGES, LABELS).figures
        assert session.evaluate(TensorDataset(IMAGES, LABELS)).figures == wanted
        assert session.evaluate(iter(batches(size=3))).figures == pytest.approx(wanted)


class Uneven(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, number):
        return IMAGES[number], torch.zeros(3 + number)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (lambda: DataLoader(TensorDataset(IMAGES, LABELS), batch_size=5), {}, "batches of 5, but"),
        (lambda: TensorDataset(IMAGES[:3], LABELS[:3]), {}, "3 images make no batch of 4"),
        (lambda: TensorDataset(IMAGES, LABELS), {"num_workers": 2}, "num_workers is 2, but"),
        (lambda: iter(batches()), {"num_epochs": 2}, "an iterator serves one epoch, but num_ep"),
        (lambda: iter([]), {}, "list_iterator gives no batch"),
        (lambda: iter(batches(size=3)), {}, "batch 0 of list_iterator has 3 images, but batch_si"),
        (lambda: iter(batches(size=5)), {}, "batch 0 of list_iterator has 5 images, but batch_si"),
        (lambda: iter([IMAGES]), {}, "gives a Tensor, but a batch is a pair"),
        (lambda: TensorDataset(IMAGES), {}, "gives a list of 1, but a batch is a pair"),
        (Uneven, {}, "items of Uneven make no batch"),
        (lambda: iter([*batches(size=4)[:1], (IMAGES[:4], IMAGES[:4])]), {}, "targets of shape"),
    ],
)
def test_what_does_not_fit_is_one_line(data, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        fed(job(**options), data())
    assert "\n" not in str(caught.value)


def test_targets_beside_a_dataset_are_refused():
    with pytest.raises(ValueError, match="TensorDataset gives targets itself"):
        trained(job(), TensorDataset(IMAGES, LABELS), LABELS)
