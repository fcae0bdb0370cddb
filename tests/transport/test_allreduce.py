"""Sums over ranks are the same bits on all of them, whatever a rank does with its own."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spnb.transport.allreduce import AllReduce
from spnb.transport.local import LocalTransport, World


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 5), size=st.integers(0, 12), seed=st.integers(0, 99))
def test_every_rank_has_the_sum(count, size, seed):
    values = torch.randn(count, size, generator=torch.Generator().manual_seed(seed)).double()
    ranks = range(count)
    found = World(count).run(lambda t: AllReduce(values[t.rank].clone(), ranks, t).result())
    for each in found:
        assert torch.equal(each, found[0])
        assert torch.allclose(each, values.sum(0), rtol=1e-14, atol=1e-14)


class Late(LocalTransport):
    """Takes its last message when another rank is done with the sum."""

    def __init__(self, transport, waits, done):
        super().__init__(transport.world, transport.rank)
        self.left, self.done = waits, done

    def wait(self, arrivals):
        self.left -= 1
        assert self.left or self.done.wait(10)
        super().wait(arrivals)


@pytest.mark.parametrize("count", [2, 3])
def test_a_rank_may_change_the_sum_while_its_messages_are_on_their_way(count):
    done = threading.Event()
    last = 1  # it receives the last message of rank 0

    def work(transport):
        late = transport.rank == last
        carrier = Late(transport, 2 * (count - 1), done) if late else transport
        found = AllReduce(torch.ones(6), range(count), carrier).result()
        if transport.rank == 0:
            found.zero_()
            done.set()
            return None
        return found.tolist()

    found = World(count, deadline=20).run(work)
    assert found[1:] == [[float(count)] * 6] * (count - 1)
