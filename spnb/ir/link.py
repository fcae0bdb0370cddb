"""A link that is slower than the machine's own, for tests and teaching."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads links before it loads PyTorch
    from .cost import Machine


@dataclass(frozen=True)
class SlowLink:
    """What is added to each message between ranks.

    Attributes
    ----------
    latency
        Seconds that each message takes longer.
    bandwidth
        Most bytes per second from a rank to all others together.
    """

    latency: float
    bandwidth: float

    def on(self, machine: Machine) -> Machine:
        """The machine with this link in place of its own.

        >>> from spnb.ir.cost import Machine
        >>> SlowLink(5e-3, 2.5e7).on(Machine()).link
        25000000.0
        """
        return replace(
            machine,
            latency=machine.latency + self.latency,
            link=min(machine.link, self.bandwidth),
            name=f"{machine.name}, with a slow link",
        )
