"""Known bugs, put back by patching, to see that the simulation finds them. Nothing of it is in the product.

Each is a window in which the promise once did not hold, or a mistake that any of the services could make again.
"""

from __future__ import annotations

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
)


def plant(name: str, tier: str) -> None:
    """Put a bug into this program, for good."""
    if tier == "core":
        from tests.simulation import planted_core as patches  # noqa: PLC0415  # only one tier is loaded
    else:
        from tests.simulation import planted_services as patches  # type: ignore[no-redef]  # noqa: PLC0415  # as above
    patches.PATCHES[name]()
