"""Connections as values: what is taken from a donor, and what has changed between two looks."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.node_agent.network.tracking.values import TrackedConnection, changes, of_vm


def connection(port: int, **more: object) -> TrackedConnection:
    told = {
        "protocol": "tcp", "source": "203.0.113.5", "source_port": port, "destination": "10.81.1.10",
        "destination_port": 22, "timeout_s": 3600, "state": 3,
    }  # fmt: skip
    return TrackedConnection.model_validate({**told, **more})


def test_what_has_changed() -> None:
    """New and changed ones, and those that are gone; the time that is left is no change."""
    before = {each.key: each for each in (connection(1), connection(2), connection(3))}
    found = changes(before, [connection(1, timeout_s=10), connection(2, state=4), connection(4)])
    assert found.connections == (connection(2, state=4), connection(4))
    assert found.gone == (connection(3).key,)


def test_only_the_vms_own() -> None:
    """A donor cannot open this host's firewall for others."""
    other = connection(1, source="198.51.100.1", destination="10.82.0.1")
    out = connection(2, source="10.81.1.10", destination="203.0.113.5")
    assert of_vm([connection(1), other, out], frozenset({"10.81.1.10"})) == (connection(1), out)


@pytest.mark.parametrize(
    "wrong",
    [
        {"protocol": "icmp"},
        {"source": "fd00::1"},
        {"source": "127.0.0.1"},
        {"source_port": 65_536},
        {"timeout_s": 0},
        {"timeout_s": 432_001},
        {"state": 16},
        {"scales": (15, 0)},
        {"mark": 1},
    ],
)
def test_what_is_no_connection_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        connection(1, **wrong)


@pytest.mark.parametrize(("state", "ended"), [(1, False), (3, False), (6, False), (7, True), (8, True)])
def test_ended(state: int, *, ended: bool) -> None:
    assert connection(1, state=state).has_ended is ended
    assert not connection(1, protocol="udp", state=state).has_ended
