"""Places of results: none overlap while both are in use, and what is written there is right."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Residual, randomize
from tiled import Call
from torch import nn
from torch.nn import functional as F

import spnb
from spnb.ir.axes import Axes, rows_beside
from spnb.ir.program import Compute, Free
from spnb.ir.region import Region
from spnb.kernels.preallocated import written_into
from spnb.rules import rule_of
from spnb.runtime.arena import Arena, ArenaPool
from spnb.runtime.buffer_plan import _Buffer, _offsets, plan_buffers

IMAGE = Axes.image((1, 16, 64, 64))
buffers = st.builds(
    lambda rows, first, length: _Buffer(
        Region(((0, 1), (0, rows), (0, 3))), IMAGE, 4, first, first + length
    ),
    st.integers(1, 40),
    st.integers(0, 20),
    st.integers(0, 6),
)


@given(st.lists(buffers, min_size=1, max_size=12))
@settings(deadline=None)
def test_what_is_in_use_at_one_time_lies_apart(made):
    placed = _offsets(made)
    assert len(placed) == len(made)
    for number, (a, start) in enumerate(placed):
        assert start % 64 == 0
        for b, other in placed[:number]:
            apart = start + a.bytes <= other or other + b.bytes <= start
            assert apart or a.last < b.first or b.last < a.first
    most = max(sum(b.bytes for b in made if b.first <= k <= b.last) for k in range(30))
    assert max(start + b.bytes for b, start in placed) >= most


def parts(net, size="40x36", channels=4, **options):
    options = {"split_size": 1, "num_spatial_parts": 3, "slice_method": "horizontal"} | options
    shape = (options.pop("batch_size", 1), channels, *map(int, size.split("x")))
    job = spnb.Job(randomize(net), input_shapes=[shape], batch_size=shape[0], **options)
    return spnb.plan(job)


def planned(plan, rank=1):
    rank_plan = plan.rank_plan(rank)
    rules = [rule_of(node) for node in rank_plan.nodes]
    ((program,),) = rank_plan.programs.values()
    return program, plan_buffers(program, rank_plan.nodes, rules), rank_plan


def chain(count, channels=4):
    layers = []
    for _ in range(count):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.long
def test_a_chain_of_any_length_takes_two_buffers():
    sizes = {planned(parts(chain(n)))[1].size for n in (4, 8, 16)}
    assert len(sizes) == 1
    rows, columns = 40 // 3 + 1, 36
    assert sizes.pop() <= 2 * (rows + 2) * columns * 4 * 4 + 128


def normed(channels):
    norm = nn.GroupNorm(2, channels)
    return [norm, nn.SiLU(), nn.Dropout(), nn.Conv2d(channels, channels, 3, padding=1)]


@pytest.mark.parametrize("count", [2, 4])
def test_residual_blocks_with_group_norms_take_three_buffers(count):
    blocks = [Residual(*normed(4), *normed(4)) for _ in range(count)]
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), *blocks, nn.Conv2d(4, 4, 1))
    program, found, rank_plan = planned(parts(net))
    made = [rank_plan.nodes[step.node] for step in program.steps if isinstance(step, Compute)]
    large = [node for node in made if node.axes.channels == 4 and rule_of(node).allocates]
    assert {node.name for node in large} - found.places.keys() == {large[-1].name}  # the output
    rows, columns = 40 // 3 + 1, 36
    assert found.size <= 3 * (rows + 2) * columns * 4 * 4 + 256


def test_a_value_lies_between_the_rows_of_its_halo():
    program, found, rank_plan = planned(parts(chain(3)))
    made = {rank_plan.nodes[s.node].name: s.region for s in program.steps if isinstance(s, Compute)}
    grown = [v for v, place in found.places.items() if place.region != made[v]]
    assert len(grown) == 2  # the third is the output
    assert all(made[v] in found.places[v].region for v in found.places)


def test_only_rows_of_one_image_lie_in_one_run():
    own, rows = Region(((0, 1), (4, 8), (0, 9))), Region(((0, 1), (3, 9), (0, 9)))
    assert rows_beside(rows, own, IMAGE)
    assert not rows_beside(Region(((0, 1), (4, 8), (0, 10))), own, IMAGE)
    two = Region(((0, 2), (4, 8), (0, 9)))
    assert not rows_beside(Region(((0, 2), (3, 9), (0, 9))), two, IMAGE)
    assert not rows_beside(rows, own, Axes.image((1, 16, 64)))


def view(layers, x):
    y = layers[0](x)
    return layers[1](y.transpose(2, 3)).transpose(2, 3) + y


def twice(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear")


NETWORKS = [
    lambda layers, x: F.relu(layers[1](F.relu(layers[0](x)))),
    lambda layers, x: layers[1](F.relu(layers[0](x))) + layers[0](x),
    lambda layers, x: (layers[0](x), layers[1](layers[0](x))),
    lambda layers, x: layers[1](F.max_pool2d(layers[0](x), 3, 2, 1)),
    lambda layers, x: layers[1](F.avg_pool2d(layers[0](x), 3, 1, 1)),
    lambda layers, x: torch.cat([layers[0](x), layers[1](layers[0](x))], 1),
    lambda layers, x: layers[1](layers[0](x).contiguous()) + 1,
    lambda layers, x: layers[1](F.dropout(layers[0](x), training=False)),
    lambda layers, x: layers[1](layers[0](x).mean((2, 3), keepdim=True) + x),
    lambda layers, x: layers[1](layers[0](x))[:, :, 3:] + layers[0](x)[:, :, :-3],
    view,
    # what the operator makes of all that a tile reads is more than the tile's: others see a part
    lambda layers, x: layers[1](y := twice(layers[0](x))[..., :77, :71]) + y.sigmoid(),
    lambda layers, x: layers[1](twice(layers[0](x))) * twice(layers[1](F.silu(x))),
    lambda layers, x: (
        layers[1](F.max_pool2d(twice(layers[0](x)), 3, 2)) + twice(x)[..., ::2, ::2][..., :-1, :-1]
    ),
    lambda layers, x: torch.cat([twice(layers[0](x)), twice(layers[1](x)).tanh()], 1),
    lambda layers, x: layers[1](F.interpolate(layers[0](x), scale_factor=(1, 2))) * 0.5,
    lambda layers, x: layers[1](y := F.silu(layers[0](x))) * y.mean((2, 3), keepdim=True).sigmoid(),
    lambda layers, x: layers[1](F.interpolate(layers[0](x), (77, 71), mode="bicubic"))[..., 1:, :],
    lambda layers, x: layers[1](F.silu(F.group_norm(layers[0](x), 2))) + F.group_norm(x, 1),
    lambda layers, x: F.group_norm(layers[1](F.dropout(layers[0](x).tanh(), training=False)), 4),
    # a view is read last, or is the output, or is of a view: its memory is in use as long
    lambda layers, x: layers[1](F.silu(y := layers[0](x))) + y.flatten(2).view_as(y),
    lambda layers, x: (layers[0](x).transpose(2, 3), layers[1](layers[0](x).tanh()) * 2),
    lambda layers, x: (
        layers[1](
            layers[0](
                v := layers[0](x).tanh().transpose(2, 3)[:, 1:].transpose(2, 3)[:, [0, 1, 2, 0]]
            )
        )
        * v
    ),
    # of two images one above the other, a tile of two has one alone: it is not copied
    lambda layers, x: layers[1](layers[0](y := torch.cat([layers[0](x), layers[1](x)], 2))) + y,
]


@pytest.mark.slow(but_each=5)
@pytest.mark.parametrize("forward", NETWORKS)
@pytest.mark.parametrize("slice_method", ["horizontal", "vertical", "square"])
def test_results_in_places_are_exact(forward, slice_method):
    layers = [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)]
    plan = parts(Call(forward, *layers), slice_method=slice_method, num_spatial_parts=2)
    session = spnb.InProcess(plan)
    first = session.infer(torch.randn(1, 4, 40, 36))
    kept = [x.clone() for x in torch.utils._pytree.tree_leaves(first.output)]
    second = session.infer(torch.randn(1, 4, 40, 36))
    assert second.check().passed
    assert first.check().passed
    for a, b in zip(kept, torch.utils._pytree.tree_leaves(first.output)):
        assert torch.equal(a, b)  # no later run writes into what a user holds


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("parts_", [1, 2])
def test_residuals_in_places_are_exact(channels, batch_size, parts_):
    body = [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    point = nn.Conv2d(channels, channels, 1)
    bodies = [chain(2, channels), [*chain(1, channels), point], [*chain(1, channels), point]]
    net = nn.Sequential(*body, *[Residual(*each) for each in bodies], *body)
    batch = batch_size * parts_
    plan = parts(net, channels=channels, batch_size=batch, parts=parts_)
    assert planned(plan)[1].places
    session = spnb.InProcess(plan)
    for _ in range(2):
        assert session.infer().check().passed


def test_what_overwrites_an_addend_takes_its_place_and_outputs_have_none():
    body = [Residual(*chain(1), nn.Conv2d(4, 4, 1)) for _ in range(2)]
    net = nn.Sequential(*chain(1), *body, *chain(1))
    program, found, rank_plan = planned(parts(net))
    over = [s for s in program.steps if isinstance(s, Compute) and s.overwrites]
    assert over
    for step in over:
        node = rank_plan.nodes[step.node]
        assert found.places[node.name] == found.places[node.operands[-1]]
    assert not set(found.places) & {rank_plan.nodes[-1].name}
    ends = Call(lambda layers, x: (y := layers[0](x)) + layers[1](F.relu(y)), *chain(2)[::2])
    _, found, rank_plan = planned(parts(ends))
    assert rank_plan.nodes[-1].name not in found.places


def test_every_place_is_of_a_value_that_is_freed():
    program, found, _ = planned(parts(chain(5)))
    freed = {value for s in program.steps if isinstance(s, Free) for value in s.values}
    assert set(found.places) <= freed


def test_a_call_that_makes_memory_of_its_own_is_copied_to_its_place():
    spot = Arena(4096).tensor(64, (1, 16, 5, 3), torch.float32)[:, :, 1:4]
    x = torch.randn(1, 16, 3, 3)
    assert torch.equal(written_into(torch.relu, spot)(x), torch.relu(x))
    assert torch.equal(spot, torch.relu(x))
    weight = torch.randn(16, 16, 1, 1)
    image = x.to(memory_format=torch.channels_last)
    found = written_into(F.conv2d, spot)(image, weight)
    assert found.data_ptr() == spot.data_ptr()
    assert torch.allclose(found, F.conv2d(x, weight), atol=1e-5)


def test_memory_is_used_again_when_nobody_holds_what_lay_there():
    pool = ArenaPool()
    first = pool.arena(4096).tensor(0, (1, 16, 2, 2), torch.float32)
    where = first.data_ptr()
    second = pool.arena(4096).tensor(0, (1, 16, 2, 2), torch.float32)
    assert second.data_ptr() != where
    view = first[:, :3]
    del first
    assert pool.arena(4096).tensor(0, (1, 16, 2, 2), torch.float32).data_ptr() != where
    del view
    again = [pool.arena(4096).tensor(0, (1, 16, 2, 2), torch.float32) for _ in range(2)]
    assert where in [each.data_ptr() for each in again]
    assert len({each.data_ptr() for each in (*again, second)}) == 3


def test_a_large_output_is_not_written_into_by_the_next_run():
    plan = parts(chain(2, 16), size="192x192", channels=16, num_spatial_parts=2)
    session = spnb.InProcess(plan)
    first = session.infer(torch.randn(1, 16, 192, 192))
    kept = first.output.clone()
    for report in first.reports:
        assert report.pieces[0].tensor.nbytes > 1 << 20
    assert session.infer(torch.randn(1, 16, 192, 192)).check().passed
    del first.__dict__["output"]
    assert torch.equal(first.output, kept)
