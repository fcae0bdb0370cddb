"""Networks that write their own parameters, buffers and attributes in their forward."""

import pytest
import torch
from tiled import check_tiled
from torch import nn

from spnb.capture.export import capture
from spnb.errors import CaptureError

SHAPE = (2, 3, 8, 10)


class Writer(nn.Module):
    """A network whose forward writes; `write` and `compute` make up its forward."""

    def __init__(self, forward):
        super().__init__()
        self.read, self.written = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.register_buffer("scale", torch.ones(3, 1, 1))
        self.calls, self.size, self.grid = 0, None, None
        self.write = forward

    def forward(self, x):
        return self.write(self, x)


def data_is_set(self, x):
    self.written.weight.data = 2 * self.read.weight
    return self.written(x)


def data_is_copied(self, x):
    self.written.weight.data.copy_(2 * self.read.weight)
    return self.written(x)


def parameter_is_copied(self, x):
    with torch.no_grad():
        self.written.weight.copy_(2 * self.read.weight)
    return self.written(x)


def parameter_is_new(self, x):
    self.written.weight = nn.Parameter(2 * self.read.weight)
    return self.written(x)


def parameter_is_replaced(self, x):
    del self.written.weight
    self.written.weight = 2 * self.read.weight
    return self.written(x)


def data_is_filled(self, x):
    self.written.weight.data.fill_(0.3)
    self.written.bias.data.zero_()
    return self.written(x)


def parameter_is_made_anew(self, x):
    nn.init.constant_(self.written.weight, 0.1)
    return self.written(x)


def buffer_is_written_throughout(self, x):
    self.scale.zero_()
    self.scale[:] = self.read.bias.view(3, 1, 1)
    return x * self.scale


def buffer_is_copied(self, x):
    self.scale.copy_(self.read.bias.view(3, 1, 1))
    return x * self.scale


def buffer_is_set(self, x):
    self.scale = self.read.bias.view(3, 1, 1) * 2
    return x * self.scale


def buffer_of_another_size(self, x):
    self.scale = torch.arange(x.shape[3]).to(x) + 1
    return x * self.scale


def buffer_is_registered(self, x):
    self.register_buffer("shift", self.read.bias.view(3, 1, 1) * 2)
    return x + self.shift


def grid_is_a_memo(self, x):
    if self.size != x.shape[2:]:
        self.size, self.grid = x.shape[2:], torch.arange(x.shape[3]).to(x)
    return x * self.grid


def calls_are_counted(self, x):
    self.calls += 1
    return self.read(x)


def attention_is_shown(self, x):
    self.shown = x.softmax(1)
    self.all_shown = [self.shown.mean(), x]
    return self.read(self.shown)


def a_memo_in_a_dict(self, x):
    if not hasattr(self, "memo"):
        self.memo = {}
    if x.shape not in self.memo:
        self.memo[x.shape] = torch.arange(x.shape[3]).to(x) + torch.zeros_like(x)
    return x * self.memo[x.shape]


def a_mean_in_the_images_type(self, x):
    self.mean = getattr(self, "mean", torch.ones(1, 3, 1, 1)).type_as(x).to(x)
    self.shape = self.mean.expand_as(x)
    return x - self.mean


FOLLOWED = [
    a_mean_in_the_images_type,
    attention_is_shown,
    a_memo_in_a_dict,
    data_is_set,
    data_is_copied,
    parameter_is_copied,
    parameter_is_new,
    parameter_is_replaced,
    data_is_filled,
    parameter_is_made_anew,
    buffer_is_written_throughout,
    buffer_is_copied,
    buffer_is_set,
    buffer_of_another_size,
    buffer_is_registered,
    grid_is_a_memo,
    calls_are_counted,
]


@pytest.mark.parametrize("forward", FOLLOWED, ids=lambda each: each.__name__)
def test_what_every_pass_writes_alike_is_followed(forward):
    check_tiled(Writer(forward), SHAPE, grids=[(2, 2)])


def test_pytorch_says_nothing_of_attributes_that_are_followed(recwarn):
    capture(Writer(a_memo_in_a_dict), SHAPE, torch.float32)
    assert not recwarn.list


def data_is_scaled(self, x):
    self.written.weight.data.mul_(2)
    return self.written(x)


def data_is_clamped(self, x):
    self.written.weight.data.clamp_(-0.1, 0.1)
    return self.written(x)


def a_part_is_scaled(self, x):
    with torch.no_grad():
        self.written.weight[0].mul_(2)
    return self.written(x)


def data_of_another_size(self, x):
    self.scale.data = torch.ones(3, 1, 1, 1)
    return x * self.scale


def buffer_is_added_to(self, x):
    self.scale.add_(1)
    return x * self.scale


def buffer_is_left_for_the_next_pass(self, x):
    y = x * self.scale
    self.scale = self.scale * 2
    return y


def buffer_is_of_the_image(self, x):
    self.scale.copy_(x.mean((0, 2, 3)).view(3, 1, 1))
    return x * 2


def attribute_counts(self, x):
    self.calls += 1
    return x * self.calls


def layers_change_places(self, x):
    self.read, self.written = self.written, self.read
    return self.read(x)


def features_of_the_frame_before(self, x):
    y = self.read(x)
    before, self.shown = getattr(self, "shown", y), y
    return y - before


def a_running_figure(self, x):
    self.memo = 0.9 * self.memo + 0.1 * x.mean() if hasattr(self, "memo") else x.mean()
    return x - self.memo


def features_in_a_list(self, x):
    if not hasattr(self, "frames"):
        self.frames = []
    self.frames.append(x * 2)
    return x + sum(self.frames[-2:])


REFUSED = [
    (layers_change_places, "attribute (read|written) in each pass"),
    (features_of_the_frame_before, "keeps a value of one pass in its attribute shown"),
    (a_running_figure, "keeps a value of one pass in its attribute memo"),
    (features_in_a_list, "keeps a value of one pass in its attribute frames"),
    (data_is_scaled, "parameter written.weight"),
    (data_is_clamped, "parameter written.weight"),
    (a_part_is_scaled, "parameter written.weight"),
    (data_of_another_size, "other .data of"),
    (buffer_is_added_to, "buffer scale"),
    (buffer_is_left_for_the_next_pass, "buffer scale"),
    (buffer_is_of_the_image, "buffer scale"),
    (attribute_counts, "attribute calls"),
]


@pytest.mark.parametrize(
    ("forward", "named"), REFUSED, ids=lambda each: getattr(each, "__name__", "")
)
def test_what_passes_see_differently_is_refused_by_name(forward, named):
    with pytest.raises(CaptureError, match=named):
        capture(Writer(forward), SHAPE, torch.float32)
