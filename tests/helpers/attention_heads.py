"""Heads of attention over the positions of an image, in tests that write attention out."""

import math

import torch

SHAPE = (2, 6, 5, 7)
HEADS, TOKENS = 3, 35


def heads(x):
    return x.flatten(2).unflatten(1, (HEADS, -1)).mT


def image(y):
    return y.mT.reshape(SHAPE)


def constant(*shape):
    return torch.arange(math.prod(shape)).double().view(shape).sin()
