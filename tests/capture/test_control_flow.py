"""Networks drawn from a grammar of control flow: an exact answer, or one line of ours."""

import pytest
from control_flow import outcome

SEEDS = range(60)


@pytest.mark.slow(but_each=6)
@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_a_drawn_network_is_equal_or_refused_in_one_line(seed):
    outcome(seed)


@pytest.mark.long
def test_the_grammar_is_not_all_refused():
    assert [outcome(seed) for seed in range(6)].count("equal") >= 3
