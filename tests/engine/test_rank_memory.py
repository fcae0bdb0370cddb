"""A rank's memory does not grow from run to run."""

import gc
import weakref

import torch
from torch import nn

import spnb


class Message:
    """Refers to itself, as the messages of a notebook do that carry a large result."""

    def __init__(self):
        self.content = self


def test_what_only_refers_to_itself_is_freed_at_the_next_run():
    job = spnb.Job(nn.Conv2d(1, 1, 3), image_size=8, batch_size=1, split_size=1)
    session = spnb.InProcess(spnb.plan(job), progress=False)
    gc.disable()
    try:
        left = weakref.ref(Message())
        assert left() is not None
        session.infer(torch.ones(1, 1, 8, 8))
        assert left() is None
    finally:
        gc.enable()
