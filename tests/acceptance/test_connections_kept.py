"""Each way to keep a VM's addresses between providers that share nothing, in a lab of its own, as a client sees it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.labkit import network
from deploy.labkit.connection_report import Report
from deploy.labkit.guests import GuestSpec
from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.port_run import connection_client, run_port
from shared.messages.network import NetworkMode
from tests.acceptance.conftest import LAB_NAME, Tenant, alone

pytestmark = [pytest.mark.lab, pytest.mark.long, pytest.mark.timeout(900)]

GUEST = "traveller"
LATER_S = 4.0
"""Longer than the routers take to notice that a neighbour is gone, and than an announced address takes to arrive."""


@contextmanager
def _lab(mode: NetworkMode) -> Iterator[Lab]:
    """A routed lab with a guest at alpha that the broker knows."""
    lab = Lab(f"{LAB_NAME}{mode}"[:20])
    with alone(lab):
        lab.down()
        try:
            lab.up(LabOptions(link="100mbit", rtt="20ms", network=mode))
            lab.guest_build()
            record = lab.guest_start(GuestSpec(GUEST, "alpha", memory_mib=192))
            Tenant(lab).wait_until_known(record, "alpha")
            yield lab
        finally:
            lab.down()


@pytest.mark.parametrize("mode", [NetworkMode.ANNOUNCE, NetworkMode.ANCHOR])
def test_every_connection_lives_through_a_port_between_networks(mode: NetworkMode) -> None:
    """50 of 50 in both families. Then whoever is not needed any more may die: the donor, or one gateway of two."""
    with _lab(mode) as lab:
        run = run_port(lab, GUEST, to="beta", options=("--network-mode", mode.value), connections=True)
        assert run.outcome == "completed", (run.result, run.errors)
        assert run.connections is not None
        _assert_whole(run.connections)
        dispensable = {NetworkMode.ANNOUNCE: "alpha", NetworkMode.ANCHOR: "gw-1"}.get(mode)
        if dispensable is not None:
            without = _without(lab, dispensable)
            _assert_whole(without)
            assert all(echoes.outage_ms < 1000 for echoes in without.udp.values()), without.udp


def _assert_whole(fared: Report) -> None:
    assert (fared.connections, fared.kept) == (50, 50), fared
    for family, echoes in fared.udp.items():
        assert echoes.answered_again_at is not None, (family, echoes)


def _without(lab: Lab, host: str) -> Report:
    """How new connections fare while a host's uplink is cut."""
    time.sleep(LATER_S)
    with connection_client(lab, lab.guest(GUEST)) as finish:
        network.cut_uplink(lab.plan, host)
        try:
            time.sleep(LATER_S)
            return finish()
        finally:
            network.join_uplink(lab.plan, host)
