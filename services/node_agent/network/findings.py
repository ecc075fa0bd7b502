"""What is found about a port's network, and which of it stops the port. Pure.

A finding is a sentence that begins with its code. It refuses the port where connections would be lost for certain; else
it is told, with the state of the port's network, and the port goes on. None changes the mode: the agreement has named
it, with its price and its end, and without a wish translation is chosen only where an extension is impossible.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shared.messages.network import NetworkMode, NetworkPlan

_UNTUNNELLED: Final = frozenset({NetworkMode.TRANSLATE, NetworkMode.ANCHOR})

REFUSED_IN: Final[dict[str, frozenset[NetworkMode]]] = {
    "address_taken": frozenset(NetworkMode),
    "source_filtered": _UNTUNNELLED,
    "path_black_hole": _UNTUNNELLED,
    "path_mtu": frozenset(),
    "path_not_probed": frozenset(),
    "address_not_probed": frozenset(),
    "address_claimed": frozenset(),
    "claims_everything": frozenset(),
    "bridge_netfilter": frozenset(),
}
"""In which carrying modes a finding refuses the port. While extended, packets cross the path within a lane."""


def code_of(finding: str) -> str:
    """Its first word."""
    return finding.partition(":")[0]


def refusing(findings: Iterable[str], plan: NetworkPlan) -> str | None:
    """The first finding by which this port must not go on; None: there is none."""
    return next((each for each in findings if plan.terms.carry in REFUSED_IN.get(code_of(each), ())), None)
