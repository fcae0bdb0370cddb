"""Results of many images: the next one is opened while one runs, and an error ends no more."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import spnb
from spnb.driver.image_results import ImageResults
from spnb.errors import RunError

SIZE = (24, 32)


def plan():
    torch.manual_seed(0)
    net = nn.Conv2d(3, 2, 3, padding=1)
    return spnb.plan(spnb.Job(net, image_size=SIZE, split_size=1, num_spatial_parts=2))


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((*SIZE, 3), 40 * number, np.uint8)).save(path)
    return paths


def test_each_image_has_its_result(files):
    session = spnb.InProcess(plan(), progress=False)
    results = list(session.map(map(str, files), preprocess="imagenet"))
    assert [result.source.name for result in results] == [path.name for path in files]
    for result, path in zip(results, files):
        assert torch.equal(result.output, session.infer(path, preprocess="imagenet").output)
        assert result.check().passed
    assert list(session.map([])) == []


def test_an_error_names_the_file_and_ends_no_more(files):
    files[1].write_text("no image")
    Image.new("RGB", (9, 9)).save(files[2])
    missing = files[0].with_name("missing.png")
    results = spnb.InProcess(plan(), progress=False).map([files[0], *files[1:3], missing, files[3]])
    assert next(results).source.name == "0.png"
    with pytest.raises(ValueError, match=r"1\.png"):
        next(results)
    with pytest.raises(ValueError, match=r"2\.png is 9x9, but 24x32 is planned"):
        next(results)
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        next(results)
    assert next(results).source.name == "3.png"
    with pytest.raises(StopIteration):
        next(results)


def test_an_error_of_an_array_has_its_number():
    session = spnb.InProcess(plan(), progress=False)
    results = session.map([np.zeros((3, *SIZE), np.float32), np.zeros((5, 5, 5, 5, 5))])
    next(results)
    with pytest.raises(ValueError, match="image 1"):
        next(results)


def test_an_error_of_the_run_has_the_name():
    def run(opened):
        if opened["x"] == "b":
            raise RuntimeError("rank 1 failed")
        return opened["x"]

    results = ImageResults(["a", "b", "c"], lambda image: {"x": image}, run)
    assert next(results) == "a"
    with pytest.raises(RunError, match=r"^b: rank 1 failed$"):
        next(results)
    assert list(results) == ["c"]


def test_the_next_image_is_opened_while_one_runs():
    opened = {name: threading.Event() for name in "abc"}

    def open_image(name):
        opened[name].set()
        return {"x": name}

    def run(sources):
        following = chr(ord(sources["x"]) + 1)
        assert following not in opened or opened[following].wait(20)
        return sources["x"]

    assert list(ImageResults("abc", open_image, run)) == ["a", "b", "c"]


def test_an_iterator_of_images_that_fails():
    def images():
        yield "a"
        raise OSError("the disk is gone")

    results = ImageResults(images(), lambda image: {"x": image}, lambda sources: sources["x"])
    assert next(results) == "a"
    with pytest.raises(ValueError, match="the images: the disk is gone"):
        next(results)
    assert list(results) == []


@pytest.mark.mpi
def test_engines(cluster, files):
    cluster.load(plan())
    results = cluster.map(files)
    assert sum(result.check().passed for result in results) == len(files)
