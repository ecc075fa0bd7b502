"""The device in memory behaves as a real one where it matters."""

from __future__ import annotations

import pytest

from services.node_agent.network.extension.offload import PLAIN
from services.node_agent.network.extension.testing import MemoryTap
from services.node_agent.network.tap import TapError


def test_frames_go_both_ways_until_it_is_removed() -> None:
    """One frame per read, none when there is none; after the removal reading raises and writing says no."""
    tap, room = MemoryTap(), memoryview(bytearray(100))
    assert tap.read_into(room) == 0
    tap.host_send(b"one")
    tap.host_send(b"two")
    assert [bytes(room[: tap.read_into(room)]) for _ in range(2)] == [PLAIN + b"one", PLAIN + b"two"]
    assert tap.write(PLAIN + b"back")
    assert tap.host_receive() == [b"back"]
    tap.takes = False
    assert not tap.write(PLAIN)
    tap.takes = True
    tap.remove()
    assert not tap.write(PLAIN)
    with pytest.raises(TapError):
        tap.read_into(room)
    tap.close()
    assert not tap.write(PLAIN)


def test_its_host_hears_nothing_when_it_is_closed() -> None:
    """As when a device has gone from the host."""
    tap = MemoryTap()
    tap.close()
    assert tap.host_receive() == []
    tap.remove()
