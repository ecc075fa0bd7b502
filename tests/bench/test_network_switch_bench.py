"""tests/bench/network_switch: the host that stands for a guest, what a client has seen, figures, and a short cut."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path

import pytest

from services.node_agent.network.frames import ArpOperation, address_bytes, mac_bytes, parse_arp
from services.node_agent.network.icmpv6 import internet_checksum
from shared.messages.network import NetworkMode
from tests.bench.network_switch_bench.__main__ import Switch, figures, main, parse, table
from tests.bench.network_switch_bench.client import Answer, first_after, seen
from tests.bench.network_switch_bench.guest import MARK, Answers
from tests.support.card_frames import who_has

MAC, PEER = "52:54:00:00:00:10", "02:00:00:00:00:01"
FOUR, SIX = "10.81.1.10", "fd00:81:1::10"
FAR4, FAR6 = "203.0.113.2", "2001:db8:c::2"


def guest() -> Answers:
    """The guest of both addresses; it marks its echoes with 2."""
    return Answers(MAC, (FOUR, SIX), 2)


def udp(source: str, destination: str, payload: bytes) -> bytes:
    """A packet to the echo port with right checksums."""
    from_address, to_address = address_bytes(source), address_bytes(destination)
    length = 8 + len(payload)
    body = struct.pack(">HHHH", 7777, 7, length, 0) + payload
    pseudo = (
        from_address
        + to_address
        + struct.pack(">HH" if len(from_address) == 4 else ">II", *_pseudo(from_address, length))
    )
    checksum = internet_checksum(pseudo + body) or 0xFFFF
    body = body[:6] + checksum.to_bytes(2) + body[8:]
    if len(from_address) == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, 17, 0) + from_address + to_address
        head = head[:10] + internet_checksum(head).to_bytes(2) + head[12:]
        return mac_bytes(MAC) + mac_bytes(PEER) + b"\x08\x00" + head + body
    head = struct.pack(">IHBB", 6 << 28, length, 17, 64) + from_address + to_address
    return mac_bytes(MAC) + mac_bytes(PEER) + b"\x86\xdd" + head + body


def _pseudo(address: bytes, length: int) -> tuple[int, int]:
    return (17, length) if len(address) == 4 else (length, 17)


@pytest.mark.parametrize(("source", "destination"), [(FAR4, FOUR), (FAR6, SIX)])
def test_an_echo_goes_back_marked_with_a_right_checksum(source: str, destination: str) -> None:
    """As the same packet built the other way round would be."""
    for number in (b"\x00" * 8, b"\xff" * 8, b"\x12\x34\x56\x78\x9a\xbc\xde\xf0"):
        answer = guest().answer(udp(source, destination, number + MARK.pack(0)))
        assert answer is not None
        assert (answer[:6], answer[6:12]) == (mac_bytes(PEER), mac_bytes(MAC))
        assert answer[-10:] == number + MARK.pack(2)
        at = 34 if "." in source else 54
        assert answer[at : at + 4] == struct.pack(">HH", 7, 7777)
        addresses = answer[26:34] if "." in source else answer[22:54]
        body = answer[at:]
        pseudo = addresses + struct.pack(">HH" if "." in source else ">II", *_pseudo(address_bytes(source), len(body)))
        assert internet_checksum(pseudo + body) in {0, 0xFFFF}


def test_it_answers_for_its_own_addresses_only() -> None:
    """Questions for its MAC, and echoes."""
    asked = who_has(mac_bytes(PEER), address_bytes("10.81.1.1"), address_bytes(FOUR))
    answer = guest().answer(asked)
    assert answer is not None
    told = parse_arp(answer)
    assert (told.operation, told.sender_mac) == (ArpOperation.REPLY, mac_bytes(MAC))
    for other in (
        who_has(mac_bytes(PEER), address_bytes("10.81.1.1"), address_bytes("10.81.1.11")),
        udp(FAR4, "10.81.1.11", bytes(10)),
        bytes(60),
        mac_bytes(MAC) + mac_bytes(PEER) + b"\x08\x06",
    ):
        assert guest().answer(other) is None


def test_only_packets_that_left_later_count() -> None:
    """An answer that had waited at the old place is none of the switch's; what comes afterwards is watched."""
    answers = [Answer(5, 100, 2), Answer(10, 110, 1), Answer(12, 1_000_130, 2), Answer(13, 9_000_130, 2)]
    assert first_after(answers, 10, 2) == 1_000_130
    found = seen(answers, 10, 2)
    assert found is not None
    assert (found.first_ns, found.silence_ms, found.watched_s) == (1_000_130, 8.0, 0.008)
    assert seen(answers, 14, 2) is None


def test_figures_are_of_each_family() -> None:
    """What was never answered is infinite, not left out."""
    switches = [
        Switch(1.0, {"ipv4": 2.0, "ipv6": 4.0}, {"ipv4": 0.5, "ipv6": 0.75}),
        Switch(3.0, {"ipv4": 4.0, "ipv6": None}, {"ipv4": 0.5}),
    ]
    found = figures(switches)
    assert found["ipv4"] == {"mean_ms": 3.0, "median_ms": 3.0, "p95_ms": 4.0, "max_ms": 4.0}
    assert math.isinf(found["ipv6"]["mean_ms"])
    assert (found["commit"]["max_ms"], found["silence after"]["max_ms"]) == (3.0, 0.8)
    assert table({"extend": {"switch": found}}).row_count == 4


def test_command_line() -> None:
    """20 switches of each mode, as is promised."""
    options = parse([])
    assert (options.switches, len(options.modes)) == (20, 4)
    assert parse(["--quick", "--modes", "anchor"]).modes == [NetworkMode.ANCHOR]
    for wrong in (["--switches", "0"], ["--modes", "joined"]):
        with pytest.raises(SystemExit) as ended:
            parse(wrong)
        assert ended.value.code == 2


@pytest.mark.lab
@pytest.mark.timeout(300)
@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
def test_short_cut(tmp_path: Path) -> None:
    """One switch and rollback of each mode on real networks; no time is asserted here, only that all were answered."""
    main(["--switches", "1", "--lab", "netswitchtest", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "network_switch.json").read_text())
    for mode, directions in found["figures"].items():
        for direction, columns in directions.items():
            for family in ("ipv4", "ipv6"):
                assert columns[family]["max_ms"] < 5000, (mode, direction, family)
