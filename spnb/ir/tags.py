"""Every message tag: ranges of numbers that tell apart the messages from one rank to another.

The messages of one tag arrive in the order in which they were sent, so a tag is one stream from
rank to rank.  A pipeline has the tags below `MIRROR_SHIFT`; the pipeline that runs the other way on
the same ranks (GEMS) adds `MIRROR_SHIFT` to them.  The other tags belong to all ranks together::

    0         8,192      16,384    16,392     24,584      32,776   32,784            65,535
    │ FORWARD │ BACKWARD │ SAVE …  │ FORWARD  │ BACKWARD  │ SAVE … │ BARRIER SUM …   │ FAILURE
    │ a pipeline                   │ its mirrored pipeline         │ all ranks

When a call fails, ranks begin a new *generation*: the same tags again, `GENERATION` higher, so that
a message of the failed call is never taken for one of a later call.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import PlanError

GENERATION = 1 << 16
"""Tags between the beginnings of two generations."""


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
        What the tags are numbered by, in the plural, as an error message names it.
    advice
        What the user can do where the tags do not suffice.

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
        """Return the tag of a number.

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
        """Refuse more numbers than the range has tags.

        Raises
        ------
        PlanError
            If there are more; with the number of tags and a way out.
        """
        if count > self.count:
            advice = f": {self.advice}" if self.advice else ""
            raise PlanError(
                f"more than {self.count} {self.messages}, and messages have no tags for"
                f" more{advice}"
            )


# --- of a pipeline, and once more of its mirrored pipeline ----------------------------------------

FORWARD = TagRange(0, 1 << 13, "exchanges", "fuse halos (halo_D2 and fused_layers)")
"""Exchanges of a plan, by their number."""

BACKWARD = TagRange(FORWARD.stop, FORWARD.count, FORWARD.messages, FORWARD.advice)
"""Gradients of the values that exchanges moved, by the exchange's number."""

SAVE = TagRange(BACKWARD.stop, 1, "saved outputs")
"""Pieces of an output, from the ranks that computed them to those that write their chunk."""

CELL = TagRange(SAVE.stop, 1, "exchanges in a cell")
"""A halo that a notebook's cell exchanges by hand."""

TIMED = TagRange(CELL.stop, 1, "timed exchanges")
"""A halo whose exchange is timed, and the messages that it is compared with."""

PIPELINE = (FORWARD, BACKWARD, SAVE, CELL, TIMED)
"""Ranges that a mirrored pipeline has once more, `MIRROR_SHIFT` higher."""

MIRROR_SHIFT = (1 << 14) + 8
"""Added to each tag of a mirrored pipeline."""

# --- of all ranks ---------------------------------------------------------------------------------

BARRIER = TagRange(2 * MIRROR_SHIFT, 1, "barriers")
"""Tokens by which ranks wait for each other."""

OVERFLOW = TagRange(BARRIER.stop, 1, "sums of overflows")
"""The sum that tells every rank whether any gradient is infinite."""

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
"""News that a rank has failed; of the first generation always, for any generation to receive."""

WORLD = (BARRIER, OVERFLOW, SUM, FAILURE)
"""Ranges of all ranks together."""


def backward(tag: int) -> int:
    """Return the tag of the gradients of what an exchange moved.

    Parameters
    ----------
    tag
        Of the exchange, in `FORWARD`.

    Examples
    --------
    >>> backward(FORWARD.tag(5)) == BACKWARD.tag(5)
    True
    """
    return BACKWARD.tag(tag - FORWARD.first)


def in_generation(generation: int, tag: int) -> int:
    """Return a tag as messages have it after so many failures."""
    return generation * GENERATION + tag
