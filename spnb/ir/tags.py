"""Every message tag: a number that distinguishes the messages from one rank to another.

The messages of one tag arrive in the order in which they were sent, so a tag is one stream from
rank to rank.  A pipeline has the tags below `MIRROR_SHIFT`; the mirrored pipeline on the same ranks
(GEMS) adds `MIRROR_SHIFT` to them.  The other tags belong to all ranks together::

    0         8,192      16,384    16,392     24,584      32,776   32,784            65,535
    │ FORWARD │ BACKWARD │ SAVE …  │ FORWARD  │ BACKWARD  │ SAVE … │ BARRIER SUM …   │ FAILURE
    │ a pipeline                   │ its mirrored pipeline         │ all ranks

When a call fails, ranks begin a new *generation*: all tags are `GENERATION` higher.  So a message
of the failed call is never received in place of one of a later call.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import PlanError

GENERATION = 1 << 16
"""Number of tags of a generation."""


@dataclass(frozen=True)
class TagRange:
    """Consecutive tags for messages of one kind.

    Attributes
    ----------
    first
        The first tag.
    count
        Number of tags.
    messages
        Name of the numbered things, in the plural, for error messages.
    advice
        Advice to the user if there are too few tags, for error messages.

    Examples
    --------
    >>> FORWARD.tag(3), BACKWARD.tag(3)
    (3, 8195)
    """

    first: int
    count: int
    messages: str
    advice: str = ""

    @property
    def stop(self) -> int:
        """The first tag past the range."""
        return self.first + self.count

    def tag(self, number: int = 0) -> int:
        """Return the tag with a number in this range.

        Raises
        ------
        PlanError
            If the range has no such number.
        """
        if number < 0:
            raise PlanError(f"messages of {self.messages} are numbered from 0, not {number}")
        self.require(number + 1)
        return self.first + number

    def require(self, count: int) -> None:
        """Refuse a plan that needs more tags than the range has.

        Raises
        ------
        PlanError
            If it needs more; the message has the number of tags and the advice.
        """
        if count > self.count:
            advice = f": {self.advice}" if self.advice else ""
            raise PlanError(
                f"more than {self.count} {self.messages}, and messages have no tags for"
                f" more{advice}"
            )


# --- a pipeline's; its mirrored pipeline has each once more ---------------------------------------

FORWARD = TagRange(0, 1 << 13, "exchanges", "fuse halos (halo_D2 and fused_layers)")
"""Exchanges of a plan, by their number."""

BACKWARD = TagRange(FORWARD.stop, FORWARD.count, FORWARD.messages, FORWARD.advice)
"""Gradients of the values that exchanges moved, by the exchange's number."""

SAVE = TagRange(BACKWARD.stop, 1, "saved outputs")
"""Pieces of an output, from the ranks that computed them to those that write their chunk."""

CELL = TagRange(SAVE.stop, 1, "exchanges in a cell")
"""A halo that a cell of a notebook exchanges."""

TIMED = TagRange(CELL.stop, 1, "timed exchanges")
"""A halo exchange that is timed, and the messages that it is compared with."""

PIPELINE = (FORWARD, BACKWARD, SAVE, CELL, TIMED)
"""Ranges that a mirrored pipeline has too, `MIRROR_SHIFT` higher."""

MIRROR_SHIFT = (1 << 14) + 8
"""Added to each tag of a mirrored pipeline."""

# --- all ranks' -----------------------------------------------------------------------------------

BARRIER = TagRange(2 * MIRROR_SHIFT, 1, "barriers")
"""Messages without content, by which ranks wait for each other."""

OVERFLOW = TagRange(BARRIER.stop, 1, "sums of overflows")
"""A sum over all ranks from which each learns whether any gradient is infinite."""

NORM = TagRange(OVERFLOW.stop, 1, "norms of gradients")
"""A sum over all ranks of the squares of gradients."""

OBJECT = TagRange(NORM.stop, 1, "objects")
"""Objects of Python that rank 0 sends to the others."""

COLLECT = TagRange(OBJECT.stop, 1, "collected values")
"""Values, sums of values and weights that every rank collects from all."""

_FIRST_SUM = 2 * MIRROR_SHIFT + 8
_LAST = GENERATION - 1

SUM = TagRange(
    _FIRST_SUM,
    _LAST - _FIRST_SUM,
    "weights and buffers in training",
    "merge weights into fewer tensors",
)
"""Sums of gradients and statistics over ranks, by the number of the first weight in the sum."""

FAILURE = TagRange(_LAST, 1, "failures")
"""Reports that a rank has failed; they have the tags of generation 0 in every generation."""

WORLD = (BARRIER, OVERFLOW, NORM, OBJECT, COLLECT, SUM, FAILURE)
"""Ranges that all ranks have together, not each pipeline."""


def backward(tag: int) -> int:
    """Return the tag for the gradients of the value that an exchange moved.

    Parameters
    ----------
    tag
        Tag of the exchange, in `FORWARD`.

    Examples
    --------
    >>> backward(FORWARD.tag(5)) == BACKWARD.tag(5)
    True
    """
    return BACKWARD.tag(tag - FORWARD.first)


def in_generation(generation: int, tag: int) -> int:
    """Return the tag of messages in a generation."""
    return generation * GENERATION + tag
