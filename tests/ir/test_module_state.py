"""What a network's state is compared by."""

import torch

from spnb.ir.module_state import hash_of


def test_conjugates_are_compared_by_the_numbers_that_they_show():
    numbers = torch.complex(torch.arange(4.0), torch.ones(4))
    conjugate = numbers.conj()
    assert hash_of([conjugate]) == hash_of([conjugate.resolve_conj()]) != hash_of([numbers])
    assert hash_of([conjugate.imag]) == hash_of([-torch.ones(4)])
