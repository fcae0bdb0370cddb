"""Checkpoints with damage drawn by chance: read, or refused in one line; never a traceback.

The environment variable ``SPNB_FUZZ_CHECKPOINTS`` sets how many are drawn, ``SPNB_FUZZ_SEED`` the
first seed.
"""

import contextlib
import copy
import io
import math
import os
import random
import warnings

import pytest
import torch
from torch import nn

import spnb
from spnb.errors import OptionError, WeightsError

CHECKPOINTS = int(os.environ.get("SPNB_FUZZ_CHECKPOINTS", "20"))
SEED = int(os.environ.get("SPNB_FUZZ_SEED", "0"))
SETTINGS = {"image_size": 8, "batch_size": 2, "split_size": 1, "num_spatial_parts": 2}
VALUES = [
    *(None, True, 0, 1, -1, 2, 10**9, 2**63, 10**30, 0.5, math.nan, math.inf, -math.inf, "", "x"),
    *("adam", "a\nb", b"x", [], [1], (), (0,), {}, {"a": 1}, {1: 2}, {"a": [{}]}, {"weight": {}}),
    *(1j, torch.float16, torch.Size([2]), torch.device("cpu")),
]
TENSORS = [
    lambda t: t.reshape(-1)[:0],
    lambda t: t.reshape(-1),
    lambda t: t.unsqueeze(0),
    lambda t: t.sum(),
    lambda t: t.half(),
    lambda t: t.double(),
    lambda t: t.long(),
    lambda t: t > 0,
    lambda t: t.to(torch.complex64),
    lambda t: t * math.nan,
    lambda t: t.to("meta"),
    lambda t: t.to_sparse(),
    lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    lambda t: t.expand(3, *t.shape),
    lambda t: nn.Parameter(t.float()),
    lambda t: torch.nested.nested_tensor([t.float()]),
    lambda t: t.to(torch.float8_e4m3fn),
]


def network():
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """Sessions that train from a file, with each optimizer, and the content of the file."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made = []
    for optimizer in ("adam", "sgd"):
        path = folder / f"{optimizer}.pth"
        job = spnb.Job(network(), optimizer=optimizer, num_epochs=1, checkpoint=path, **SETTINGS)
        plan = spnb.plan(job, training=True)
        session = spnb.InProcess(plan, progress=False)
        train(session)
        made.append((session, path, torch.load(path, weights_only=True)))
    yield made
    for session, _, _ in made:
        session.stop()


def train(session):
    images = torch.rand(2, 1, 8, 8)
    session.load(session.plan)
    return session.train(images, torch.zeros(2, 8, 8, dtype=torch.long))


def places(content, keys=()):
    """Every place in a nested content, as the keys that lead to it."""
    if isinstance(content, dict | list | tuple):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in pairs:
            yield (*keys, key)
            yield from places(value, (*keys, key))


def change(chance, content):
    """Change or remove one value of the content, or its name; return what was changed."""
    *above, key = chance.choice(list(places(content)))
    owner = content
    for each in above:
        owner = owner[each]
    kind = chance.random()
    if isinstance(owner, tuple):
        return "nothing"
    if kind < 0.2:
        del owner[key]
        return f"without {(*above, key)}"
    if kind < 0.3 and isinstance(owner, dict):
        owner[chance.choice(["x", "", 7, None, "a.b"])] = owner.pop(key)
        return f"another name for {(*above, key)}"
    if isinstance(owner[key], torch.Tensor) and kind < 0.8:
        number = chance.randrange(len(TENSORS))
        owner[key] = TENSORS[number](owner[key])
        return f"tensor {number} at {(*above, key)}"
    owner[key] = chance.choice(VALUES)
    return f"{owner[key]!r} at {(*above, key)}"


def damaged(chance, written):
    """The bytes of a file, cut or with some of them changed."""
    if chance.random() < 0.4:
        written = written[: chance.randrange(len(written))]
    for _ in range(chance.randrange(0, 8) if written else 0):
        written[chance.randrange(len(written))] = chance.randrange(256)
    return written


def drawn(number, content):
    """The file of a draw, and what is wrong with it in words."""
    chance, said, content = random.Random(number), [], copy.deepcopy(content)
    kind = chance.random()
    for _ in range(chance.choice([1, 1, 2]) if kind < 0.7 else 0):
        with contextlib.suppress(RuntimeError):  # not every tensor can be every other
            said.append(change(chance, content))
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=chance.random() < 0.8)
    written = bytearray(file.getvalue())
    if kind >= 0.7:
        written = damaged(chance, written)
        said.append(f"{len(written)} bytes")
    return bytes(written), said


def weights_are_read(path):
    """Plan and load a job with these weights."""
    job = spnb.Job(network(), weights=path, **SETTINGS)
    with spnb.InProcess(spnb.plan(job), progress=False):
        pass


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_damaged_checkpoints_are_read_or_refused_in_a_line(sessions, capsys):
    read, faults = 0, []
    for number in range(SEED, SEED + CHECKPOINTS):
        session, path, content = sessions[number % 2]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file, said = drawn(number, content)
        for use in (
            lambda session=session: train(session),
            lambda path=path: weights_are_read(path),
        ):
            path.write_bytes(file)
            try:
                use()
                read += 1
            except (WeightsError, OptionError) as error:
                if "\n" in str(error):
                    faults.append(f"seed {number}: {said}: {error}")
            except Exception as error:
                faults.append(f"seed {number}: {said}: {type(error).__name__}: {str(error)[:200]}")
    with capsys.disabled():
        if CHECKPOINTS > 100:
            print(f"{read} of {2 * CHECKPOINTS} read", *faults, sep="\n")
    assert not faults, "\n".join(faults)
    assert 0 < read < 2 * CHECKPOINTS
