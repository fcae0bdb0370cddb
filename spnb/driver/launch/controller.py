"""Starts ipyparallel's controller, whose hub does not remember each message that was ever answered.

Used as a script, as `spnb.driver.launch.watchdog` is, so that it imports nothing else of spnb.
"""

from __future__ import annotations

from typing import Any

from ipyparallel.controller import app, hub

REMEMBERED = 1000
"""Ids of answered messages that the hub holds at most; it needs them for answers that come twice.
"""


class ForgettingHub(hub.Hub):
    """A hub that forgets answered messages: ipyparallel's holds their ids until its end."""

    def dispatch_monitor_traffic(self, msg: Any) -> None:
        super().dispatch_monitor_traffic(msg)
        if len(self.all_completed) > REMEMBERED:
            for completed in (self.all_completed, *self.completed.values()):
                completed.clear()


if __name__ == "__main__":
    app.Hub = ForgettingHub
    app.main()
