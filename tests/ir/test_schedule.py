"""The clock table, as it is drawn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnb.ir.replicas import Replicas, turns_of
from spnb.ir.schedule import at_once, clock, forward_only, micro_batches


def ticks_of(parts, stages, replicas=None):
    """The clock of so many stages of a rank each."""
    replicas = replicas or Replicas(stages, parts)
    last = stages - 1
    rows = [
        turns_of(replicas.of(0), [k, last - k] if replicas.times else [k]) for k in range(stages)
    ]
    return clock(forward_only, stages, [at_once(turns) for turns in rows])


def drawn(parts, stages, replicas=None):
    ticks = ticks_of(parts, stages, replicas)
    cells = ([tick.get(row, ("", "."))[1] for tick in ticks] for row in range(stages))
    return ["".join(map(str, row)) for row in cells]


def test_four_micro_batches_through_three_stages():
    assert drawn(4, 3) == [
        "0123..",
        ".0123.",
        "..0123",
    ]


def test_mirrored_micro_batches_fill_the_gaps():
    assert drawn(2, 2, Replicas(2, micro_batches=2, times=1)) == [
        "0123",
        "2031",
    ]


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3))
def test_mirrored_pipelines_never_wait_for_each_other_in_a_circle(parts, stages, times):
    replicas = Replicas(stages, parts, times=times)
    ticks = ticks_of(parts, stages, replicas)
    tasks = [(n, row) for tick in ticks for row, (_, n) in tick.items()]
    assert sorted(tasks) == [
        (n, s) for n in range(replicas.num_micro_batches) for s in range(stages)
    ]
    assert len(ticks) <= replicas.num_micro_batches + 2 * (stages - 1)


@given(st.integers(1, 9), st.integers(1, 9))
def test_every_task_once_and_in_order(parts, stages):
    ticks = ticks_of(parts, stages)
    tick_of = {(n, s): k for k, tick in enumerate(ticks) for s, (_, n) in tick.items()}
    tasks = [(n, s) for tick in ticks for s, (_, n) in tick.items()]
    assert sorted(tasks) == [(p, s) for p in range(parts) for s in range(stages)]
    assert len(ticks) == parts + stages - 1
    for part, stage in tasks:
        if stage:
            assert tick_of[part, stage] > tick_of[part, stage - 1]


@given(st.integers(1, 50), st.data())
def test_micro_batches_hold_every_image(batch, data):
    parts = data.draw(st.integers(1, batch))
    sizes = micro_batches(batch, parts)
    assert sum(sizes) == batch
    assert len(sizes) == parts
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("parts", "sizes"), [(1, (5,)), (2, (2, 3)), (3, (1, 2, 2))])
def test_five_images(parts, sizes):
    assert micro_batches(5, parts) == sizes
