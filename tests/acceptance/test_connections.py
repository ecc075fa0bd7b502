"""A client's open connections live on while the guest that they go to moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy.labkit.lab import Lab
from deploy.labkit.port_run import run_port
from deploy.labkit.state import GuestRecord

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


def test_all_connections_live_through_a_port_there_and_back(lab: Lab, start_guest: Callable[..., GuestRecord]) -> None:
    """50 of 50 over IPv4 and IPv6, busy and idle, with every byte right; UDP is answered again in both families."""
    guest = start_guest("talker")
    for recipient in ("beta", "alpha"):
        run = run_port(lab, guest.name, to=recipient, connections=True)
        assert run.outcome == "completed", run.result
        assert run.connections is not None
        assert (run.connections.connections, run.connections.kept) == (50, 50), run.connections
        for family, echoes in run.connections.udp.items():
            assert echoes.answered_again_at is not None, family
