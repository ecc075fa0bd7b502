"""Known bugs, put back by patching, to see that the simulation finds them. Nothing of it is in the product.

Each is a window in which the promise once did not hold, or a mistake that any of the services could make again.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

BUGS: Final = (
    "commit after Finish",
    "ack before store",
    "disconnect is not idempotent",
    "arrival that cannot be stored is undone",
    "unknown counts as not running",
    "no fence against a boot",
    "recovery removes what may have run",
    "thawed instead of killed",
    "stale timers after a restart",
    "a restart of the host is not noticed",
    "shutting down counts as running",
    "a network is made before it is stored",
    "an announcement before the ledger",
)


def plant(name: str, tier: str) -> None:
    """Put a bug into this program, for good."""
    # Only one tier is loaded: the other one changes what time is.
    import_module(f"tests.simulation.planted_{tier}").PATCHES[name]()
