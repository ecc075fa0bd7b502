"""The places of a host."""

from __future__ import annotations

from shared.domain import HostPlaces, NicPlace


def test_a_host_without_places_gives_nothing() -> None:
    """No path, no network, and a server of graphics that only this host can reach."""
    places = HostPlaces()

    assert (places.disks, places.nics, places.firmware, places.logs) == ({}, (), None, {})
    assert places.listen == "127.0.0.1"
    assert NicPlace() == NicPlace(bridge="", network="")
