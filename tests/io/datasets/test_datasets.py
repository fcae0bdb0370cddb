"""Datasets on disk: what is read of them, and what is wrong with them, by file."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch.nn import functional as F

import spnb
from spnb.driver.training.training_examples import examples_of
from spnb.errors import DatasetError
from spnb.io.datasets.cifar import cifar10
from spnb.io.datasets.examples import Ahead, Examples
from spnb.io.datasets.image_folder import Pictures, image_folder
from spnb.io.datasets.prepared import Normalized, Scaled, decoded
from spnb.io.open import open_source
from spnb.ir.region import Region
from spnb.job.options import OptionError
from spnb.job.parsing import NORMALIZATIONS

CHANCE = np.random.default_rng(0)


def picture(*shape):
    return CHANCE.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pets"
    root.mkdir()
    for number, name in enumerate(("cats", "dogs")):
        (root / name).mkdir()
        for k in range(3):
            Image.fromarray(picture(20 + number, 24, 3)).save(root / name / f"{k}.png")
    tifffile.imwrite(root / "dogs" / "9.tif", picture(16, 18, 3), tile=(16, 16))
    return root


def write_python(root, labels=10):
    root.mkdir(exist_ok=True)
    for k in (1, 2):
        data = {b"data": picture(4, 3072), b"labels": list(range(labels - 4, labels))}
        (root / f"data_batch_{k}").write_bytes(pickle.dumps(data, protocol=2))
    return root


def trained(model="resnet20_v1", **options):
    job = spnb.Job(model, batch_size=2, split_size=1, num_spatial_parts=2, **options)
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        return session.train()


def test_a_folder_for_each_class(folder):
    source, labels = image_folder(folder, 3, (16, 18), resize=True)
    assert labels == [0, 0, 0, 1, 1, 1, 1]
    assert source.shape == (7, 3, 16, 18)
    whole = open_source(str(folder / "cats" / "1.png"), channels=3, size=(16, 18), resize=True)
    region = Region(((1, 2), (3, 9), (0, 7)))
    assert np.array_equal(source.read(region), whole.read(Region(((0, 1), *region.spans[1:]))))
    raw = tifffile.imread(folder / "dogs" / "9.tif").transpose(2, 0, 1)[None] / np.float32(255)
    assert np.allclose(source.read(Region(((6, 7), (0, 16), (0, 18)))), raw)


def test_what_is_wrong_with_a_folder_is_said_by_name(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"no folder .*nowhere"):
        image_folder(tmp_path / "nowhere", 3, (16, 18))
    with pytest.raises(DatasetError, match="has no folders"):
        image_folder(folder / "cats", 3, (16, 18))
    (folder / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty holds no image"):
        image_folder(folder, 3, (16, 18))
    (folder / "empty" / "a.png").write_bytes((folder / "cats" / "0.png").read_bytes()[:200])
    source, _ = image_folder(folder, 3, (16, 18), resize=True)
    with pytest.raises(DatasetError, match=r"a\.png"):
        source.read(Region(((7, 8), (0, 16), (0, 18))))


def test_every_image_in_a_folder_is_taken_and_nothing_else(folder):
    cats = folder / "cats"
    for end in (".ppm", ".JP2", ".tga", ".webp", ".gif", ".bmp"):
        Image.fromarray(picture(16, 18, 3)).save(cats / f"8{end}")
    np.save(cats / "9.npy", picture(16, 18, 3))
    (cats / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/0-checkpoint.png", "._0.png"):
        (cats / name).write_bytes((cats / "0.png").read_bytes())
    (cats / "more.png").mkdir()
    with warnings.catch_warnings(action="error"):
        source, labels = image_folder(folder, 3, (16, 18), resize=True)
    names = [Path(path).name for path in source.paths[:10]]
    wanted = ["0.png", "1.png", "2.png", "8.JP2", "8.bmp", "8.gif", "8.ppm", "8.tga", "8.webp"]
    assert names == [*wanted, "9.npy"]
    assert labels == [0] * 10 + [1] * 4
    assert source.read(Region(((0, 10), (0, 4), (0, 4)))).shape == (10, 3, 4, 4)
    (cats / "notes.txt").touch()
    with pytest.warns(UserWarning, match=r"1 files beside 14 images are left out, as cats/notes"):
        image_folder(folder, 3, (16, 18), resize=True)


def test_pictures_of_any_size_are_read_in_any_thread(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's limit, else 180 million
    source, _ = image_folder(folder, 3, (16, 18), resize=True)
    with ThreadPoolExecutor(4) as pool:
        regions = [Region(((k % 6, k % 6 + 1), (0, 16), (0, 18))) for k in range(40)]
        assert len(list(pool.map(source.read, regions))) == 40
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.long
def test_trains_on_a_folder(folder):
    options = {"app": 1, "datapath": str(folder), "image_size": "32x32"}
    with pytest.raises(DatasetError, match=r"0\.png is 20x24, but 32x32 is planned: .*resize=True"):
        trained(**options, num_classes=2)
    found = trained(**options, num_classes=2, resize=True)
    assert len(found.history) == 3
    with pytest.raises(ValueError, match="run from 0 to 1, but the network has 1 classes"):
        trained(**options, num_classes=1, resize=True)


def test_each_image_is_decoded_once_and_in_one_file(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(
        Pictures,
        "opened",
        lambda self, path, own=Pictures.opened: (opened.append(path), own(self, path))[1],
    )
    pictures, _ = image_folder(folder, 3, (16, 18), resize=True)
    whole = Region.whole((7, 16, 18))
    wanted = pictures.read(whole)
    opened.clear()
    source = decoded(pictures)
    assert sorted(opened) == sorted(pictures.paths)
    assert np.array_equal(source.read(whole), wanted)
    assert len(opened) == 7
    file = Path(source.path)
    assert file.exists()
    del source
    assert not file.exists()


def test_images_that_would_fill_the_disk_are_read_from_their_files(folder, monkeypatch):
    pictures, _ = image_folder(folder, 3, (16, 18), resize=True)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert decoded(pictures) is pictures


def test_a_damaged_image_is_found_before_a_rank_starts(folder, monkeypatch):
    broken = folder / "dogs" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    monkeypatch.setattr("spnb.driver.session.Session.load", lambda *_: pytest.fail("ranks started"))
    options = {"app": 1, "datapath": str(folder), "image_size": "32x32", "resize": True}
    job = spnb.Job("resnet20_v1", batch_size=2, split_size=1, **options)
    with pytest.raises(DatasetError, match=r"dogs/1\.png"):
        examples_of(spnb.plan(job, training=True))
    image_folder(folder, 3, (16, 18), resize=True)
    with pytest.raises(DatasetError, match=r"dogs/1\.png"):
        decoded(image_folder(folder, 3, (16, 18), resize=True)[0])


@pytest.mark.long
def test_normalization(folder):
    pictures, _ = image_folder(folder, 3, (16, 18), resize=True)
    region = Region(((2, 5), (1, 9), (2, 7)))
    raw = pictures.read(region)
    mean, std = (np.array(n).reshape(3, 1, 1) for n in NORMALIZATIONS["imagenet"])
    found = Normalized(pictures, *NORMALIZATIONS["imagenet"]).read(region)
    assert np.allclose(found, (raw - mean) / std, atol=1e-6)
    assert np.allclose(Normalized(pictures, (0.5,), (0.5,)).read(region), raw * 2 - 1, atol=1e-6)
    with pytest.raises(DatasetError, match="a mean of 2 numbers, but images have 3 channels"):
        Normalized(pictures, (0.5, 0.4), (0.5,))
    options = {"app": 1, "datapath": str(folder), "image_size": "32x32", "resize": True}
    plain, scaled = (trained(**options, num_classes=2, normalize=how) for how in (None, "0.5,0.25"))
    assert plain.history["loss"].tolist() != scaled.history["loss"].tolist()
    for wrong in ("0.5", "a,b", "0.5,0"):
        with pytest.raises(OptionError, match="normalize"):
            trained(**options, normalize=wrong)
    with pytest.raises(OptionError, match="normalize is for app 1 and 2"):
        trained(normalize="benchmark")


@pytest.mark.long
def test_cifar_in_both_forms(tmp_path):
    root = write_python(tmp_path / "cifar-10-batches-py")
    source, labels = cifar10(tmp_path)
    assert source.shape == (8, 3, 32, 32)
    assert labels == [6, 7, 8, 9] * 2
    rows = np.concatenate([np.array(labels, np.uint8)[:, None], source.array.reshape(8, -1)], 1)
    other = tmp_path / "binary"
    other.mkdir()
    rows.tofile(other / "data_batch_1.bin")
    again, same = cifar10(other)
    assert np.array_equal(again.array, source.array)
    assert same == labels
    for size in (32, 40):
        file = str(tmp_path / f"{size}.pth")
        options = {"app": 2, "datapath": str(tmp_path), "image_size": size, "checkpoint": file}
        if size != 32:
            with pytest.raises(ValueError, match="CIFAR-10 are 32x32, but 40x40 is planned"):
                trained(**options)
        found = trained(**options, resize=size != 32)
        assert len(found.history) == 4
    with (root / "data_batch_1").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(DatasetError, match="data_batch_1 is no CIFAR-10 batch, or truncated"):
        cifar10(tmp_path)


def test_what_is_wrong_with_cifar_is_said_by_name(tmp_path):
    with pytest.raises(DatasetError, match="has no CIFAR-10 files"):
        cifar10(tmp_path)
    with pytest.raises(DatasetError, match="data_batch_1 has the label 10"):
        cifar10(write_python(tmp_path / "wrong", labels=12))
    for data, labels, message in (
        ([1, 2], [0, 0], r"one has pixels of list and labels of \(2,\)"),
        (picture(2, 3000), [0, 0], r"one has pixels of \(2, 3000\)"),
        (picture(0, 3072), [], r"one has pixels of \(0, 3072\) and labels of \(0,\)"),
        (picture(2, 3072), [0, -1], "one has the label -1"),
        (picture(2, 3072), ["cat", "dog"], "one has the label cat"),
        (picture(2, 3072), [0.5, 1], "one has the label 0.5"),
    ):
        one = tmp_path / "one"
        one.mkdir(exist_ok=True)
        (one / "data_batch_1").write_bytes(pickle.dumps({b"data": data, b"labels": labels}))
        with pytest.raises(DatasetError, match=message.replace("one", "data_batch_1")):
            cifar10(one)
    gap = write_python(tmp_path / "gap")
    (gap / "data_batch_1").rename(gap / "data_batch_4")
    with pytest.raises(DatasetError, match="data_batch_1 is missing, but data_batch_4 is there"):
        cifar10(gap)
    (tmp_path / "data_batch_1.bin").write_bytes(b"0" * 5000)
    with pytest.raises(DatasetError, match="has 5000 bytes, but an image has 3073"):
        cifar10(tmp_path)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "data_batch_1").write_bytes(pickle.dumps(DatasetError))
    with pytest.raises(DatasetError, match=r"asks for spnb\.errors\.DatasetError"):
        cifar10(bad)


def test_images_in_memory_are_resized_as_they_are_read(tmp_path):
    source, _ = cifar10(write_python(tmp_path / "a"))
    scaled = Scaled(source, (20, 44))
    whole = open_source(source.array[3:4], size=(20, 44), resize=True)
    region = Region(((3, 4), (2, 9), (5, 40)))
    wanted = whole.read(Region(((0, 1), *region.spans[1:])))
    assert np.array_equal(scaled.read(region), wanted)
    job = spnb.Job("resnet20_v1", image_size="20x44", batch_size=2, num_spatial_parts=2)
    with spnb.InProcess(spnb.plan(job, training=True), progress=False) as session:
        shares = session.share(Examples(scaled, np.zeros(8, np.int64)))
        assert len(pickle.dumps(shares[0])) < 2000  # ranks map the file that has the pixels
        assert np.array_equal(shares[0].images.read(region), wanted)


@pytest.mark.long
def test_an_evaluation_has_the_test_images_of_cifar(tmp_path):
    folder = write_python(tmp_path / "a")
    with pytest.raises(DatasetError, match=r"has no CIFAR-10 files.*\(test_batch\)"):
        cifar10(folder, test=True)
    pixels = picture(3, 3072)
    content = {b"data": pixels, b"labels": [9, 0, 1]}
    (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    given = {"batch_size": 2, "split_size": 1, "app": 2, "datapath": str(folder)}
    each = spnb.Job("resnet20_v1", num_spatial_parts=2, enable_evaluation=True, **given)
    with spnb.InProcess(spnb.plan(each), progress=False) as session:
        found = session.evaluate()
    with torch.no_grad():
        output = each.module(torch.from_numpy(pixels).reshape(3, 3, 32, 32) / 255)
    wanted = torch.tensor([9, 0, 1])
    assert found.num_images == 3
    assert found.loss == pytest.approx(float(F.cross_entropy(output, wanted)), rel=1e-5)
    assert found.accuracy == pytest.approx(float((output.argmax(1) == wanted).float().mean()))


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_of_a_job_read_ahead_on_every_rank(monkeypatch, workers):
    asked, reading = [], Ahead.reading
    monkeypatch.setattr(Ahead, "reading", lambda a, n: asked.append(n) or reading(a, n))
    trained(num_workers=workers)
    assert asked and set(asked) == {workers}


def test_reading_ahead_reads_the_same(tmp_path):
    images = open_source(torch.rand(7, 1, 5, 4), channels=1)
    examples = Examples(images, np.zeros(7, np.int64))
    batches = [[0, 3], [6, 1], [2, 5]]
    region = Region(((0, 2), (1, 4), (0, 4)))
    seen = []
    for workers in (0, 1, 3):
        ahead = Ahead(examples, batches)
        with ahead.reading(workers):
            seen.append([ahead.read(k, region) for k in range(3)])
            assert (ahead._pool is not None) == (workers > 0)
    for other in seen[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(seen[0], other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"app": 4}, "app is 4: use 1"),
        ({"datapath": "x"}, "datapath is for app 1 and 2"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"app": 2, "datapath": "nowhere"}, "no CIFAR-10 files"),
    ],
    ids=str,
)
def test_options_are_refused_where_they_do_not_apply(options, message):
    with pytest.raises((OptionError, DatasetError), match=message):
        trained(**options)
    with pytest.raises(ValueError, match="class for each pixel, but app 1"):
        trained("unet", app=1)
