"""Probes of a path, as bytes and conclusions."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.node_agent.network.paths.probe import (
    HEADERS,
    Datagram,
    Question,
    Target,
    build,
    datagrams,
    findings,
    read,
    sizes,
)

TARGETS = (Target(address="198.51.100.1", port=4000), Target(address="2001:db8::1", port=4000))
QUESTION = Question(nonce="0123456789abcdef", targets=TARGETS)
SOURCES = ("10.81.1.10", "fd00:81:1::10")


def packet(version: int, payload: bytes) -> bytes:
    """With headers of IP and UDP whose fields do not matter here."""
    first = 0x45 if version == 4 else 0x60
    return bytes((first, *bytes(HEADERS[version] - 1))) + payload


def all_of(mtu: int = 1500) -> set[Datagram]:
    return {each for target in TARGETS for each in datagrams(target, mtu, SOURCES)}


def test_every_datagram_is_known_at_the_other_end() -> None:
    for datagram in all_of():
        whole = packet(datagram.version, build(QUESTION, datagram))
        assert len(whole) == datagram.size
        assert read(QUESTION, whole) == datagram
        assert read(QUESTION.model_copy(update={"nonce": "f" * 16}), whole) is None


@given(st.binary(max_size=200))
def test_other_packets_are_none(data: bytes) -> None:
    assert read(QUESTION, data) is None


def test_sizes() -> None:
    assert sizes(4, 1500) == (576, 1280, 1400, 1420, 1450, 1500)
    assert sizes(6, 1280) == (1280,)


def test_all_that_was_sent_has_come() -> None:
    assert findings(all_of(), TARGETS, 1500, SOURCES) == ()


def test_a_path_that_is_narrower_than_the_guests_network() -> None:
    came = {each for each in all_of() if each.size <= 1420 or each.version == 6}
    (finding,) = findings(came, TARGETS, 1500, SOURCES)
    assert finding.startswith("path_black_hole: packets of more than 1420 bytes do not come by IPv4")


def test_a_path_that_is_narrower_than_the_guests_own_network_only() -> None:
    """Its peers elsewhere send no more than 1500 bytes."""
    came = {each for each in all_of(9000) if each.size <= 1500 or each.version == 6}
    (finding,) = findings(came, TARGETS, 9000, SOURCES)
    assert finding.startswith("path_mtu: packets of more than 1500 bytes do not come by IPv4")


def test_a_network_that_lets_no_other_sources_out() -> None:
    came = {each for each in all_of() if each.source is None}
    assert [each.partition(" do ")[0] for each in findings(came, TARGETS, 1500, SOURCES)] == [
        "source_filtered: packets from 10.81.1.10",
        "source_filtered: packets from fd00:81:1::10",
    ]


def test_where_nothing_comes_nothing_is_known() -> None:
    """A donor behind a firewall or a NAT."""
    assert findings((), TARGETS, 1500, SOURCES) == ()


@pytest.mark.parametrize(
    "wrong", [{"nonce": "x"}, {"targets": TARGETS * 2}, {"targets": [{"address": "::", "port": 1}]}]
)
def test_a_question_is_bounded(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Question.model_validate({"nonce": QUESTION.nonce, "targets": TARGETS, **wrong})
    assert struct.calcsize("@HBBI") == 8
