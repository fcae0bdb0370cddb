"""Message tags: each belongs to one kind of message, and numbers past a range are refused."""

import itertools

import pytest

from spnb.errors import PlanError
from spnb.ir import tags


def ranges():
    """Every range of a generation as ``(first, stop)``, the mirrored pipeline's included."""
    shift = tags.MIRROR_SHIFT
    own = [(each.first, each.stop) for each in (*tags.PIPELINE, *tags.WORLD)]
    return own + [(each.first + shift, each.stop + shift) for each in tags.PIPELINE]


def test_no_tag_belongs_to_two_kinds_of_messages():
    for (_, stop), (following, _) in itertools.pairwise(sorted(ranges())):
        assert stop <= following


def test_all_tags_fit_in_a_generation():
    assert all(0 <= first < stop <= tags.GENERATION for first, stop in ranges())


def test_every_range_of_the_module_is_listed():
    found = {id(each) for each in vars(tags).values() if isinstance(each, tags.TagRange)}
    assert found == {id(each) for each in (*tags.PIPELINE, *tags.WORLD)}


def test_generations_do_not_share_tags():
    last = tags.in_generation(0, max(stop for _, stop in ranges()) - 1)
    assert last < tags.in_generation(1, 0)


def test_each_exchange_has_a_tag_for_its_gradients():
    numbers = (0, 1, tags.FORWARD.count - 1)
    assert [tags.backward(tags.FORWARD.tag(n)) for n in numbers] == list(
        map(tags.BACKWARD.tag, numbers)
    )


@pytest.mark.parametrize("each", (*tags.PIPELINE, *tags.WORLD), ids=lambda each: each.messages)
def test_a_number_past_its_range_is_refused(each):
    assert each.tag(each.count - 1) == each.stop - 1
    with pytest.raises(PlanError, match=f"more than {each.count} {each.messages}"):
        each.tag(each.count)
    with pytest.raises(PlanError, match="numbered from 0"):
        each.tag(-1)
