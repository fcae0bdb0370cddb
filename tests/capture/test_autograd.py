"""What a capture in training changes in PyTorch meanwhile, and for whom."""

import threading

import pytest
import torch
from torch import nn

from spnb.capture.autograd import as_trained
from spnb.capture.export import capture
from spnb.errors import CaptureError


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def gradient():
    x = torch.ones(3, requires_grad=True)
    Doubled.apply(x).sum().backward()
    return x.grad.tolist()


def in_a_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join(60)
    return found


def test_functions_of_other_threads_keep_their_gradients_during_a_capture():
    with as_trained():
        assert in_a_thread(gradient) == [[2.0, 2.0, 2.0]]
        with pytest.raises(CaptureError, match=r"Doubled is a torch.autograd.Function"):
            gradient()
    assert gradient() == [2.0, 2.0, 2.0]


def test_captures_in_two_threads_follow_each_other():
    apply = vars(torch.autograd.Function)["apply"]
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with as_trained():
            entered.set()
            leave.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(60)
    graphs = []
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1))
    waiting = threading.Thread(
        target=lambda: graphs.append(capture(net, (2, 1, 8, 8), torch.float32, training=True))
    )
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive() and not graphs
    leave.set()
    holder.join(60)
    waiting.join(60)
    assert [node.kind for node in graphs[0].nodes] == ["conv2d", "batch_norm"]
    assert vars(torch.autograd.Function)["apply"] is apply
