"""Known bugs, put back by patching, to see that the simulation finds them. Nothing of it is in the product."""

from __future__ import annotations

from collections.abc import Callable

Patch = Callable[[], None]
SERVICES: dict[str, Patch] = {}
CORE: dict[str, Patch] = {}


def plant(name: str, tier: str) -> None:
    """Put a bug into this program, for good."""
    (SERVICES if tier == "services" else CORE)[name]()
