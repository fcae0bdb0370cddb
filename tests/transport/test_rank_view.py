"""Several replicas of a plan on one carrier."""

import torch

from spnb.transport.local import World
from spnb.transport.rank_view import RankView


def test_replicas_have_their_own_ranks_and_messages():
    def work(transport):
        straight = RankView(transport, (0, 1))
        mirrored = RankView(transport, (1, 0), shift=100)
        assert (straight.rank, mirrored.rank) == (transport.rank, 1 - transport.rank)
        if transport.rank == 0:
            mirrored.send(0, 7, torch.tensor([2.0]))
            straight.send(1, 7, torch.tensor([1.0]))
            return None
        of_straight, of_mirrored = torch.empty(1), torch.empty(1)
        straight.wait([straight.receive(0, 7, of_straight)])
        mirrored.wait([mirrored.receive(1, 7, of_mirrored)])
        return of_straight.item(), of_mirrored.item()

    assert World(2, deadline=10).run(work) == [None, (1.0, 2.0)]
