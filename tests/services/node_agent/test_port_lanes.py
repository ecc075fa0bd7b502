from __future__ import annotations

from services.node_agent.port_lanes import LaneTuning
from shared.topology import Lane


def test_only_bulk_follows_the_link() -> None:
    """libvirt's calls and the pages that a guest waits for have their whole window at once."""
    tuning = LaneTuning()
    assert {lane for lane in Lane if tuning.follows_link(lane)} == {Lane.MEMORY, Lane.DISK}
