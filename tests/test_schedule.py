"""The clock table, as it is drawn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnb.schedule import forward_clock, micro_batches


def drawn(parts, stages):
    rows = [["."] * (parts + stages - 1) for _ in range(stages)]
    for tick, tasks in enumerate(forward_clock(parts, stages)):
        for part, stage in tasks:
            rows[stage][tick] = str(part)
    return ["".join(row) for row in rows]


def test_four_micro_batches_through_three_stages():
    assert drawn(4, 3) == [
        "0123..",
        ".0123.",
        "..0123",
    ]


@given(st.integers(1, 9), st.integers(1, 9))
def test_every_task_once_and_in_order(parts, stages):
    tasks = [task for tick in forward_clock(parts, stages) for task in tick]
    assert sorted(tasks) == [(p, s) for p in range(parts) for s in range(stages)]
    tick_of = {t: k for k, tick in enumerate(forward_clock(parts, stages)) for t in tick}
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
