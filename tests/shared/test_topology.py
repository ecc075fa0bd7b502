"""The bus's topology as data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bus import LaneEnds
from shared.messages import MESSAGE_TYPES, Message
from shared.messages.porting import RequestSwitchover, SwitchoverGranted
from shared.messages.service_change import CancelPort
from shared.parties import BROKER, NAME_PATTERN, Party, Role, donor, node, recipient, tenant
from shared.topology import (
    _OPERATOR_POLICIES,
    EXTENSION_EXPIRES_MS,
    LANE_EXPIRES_MS,
    LANE_MAX_BYTES,
    PORT_LANES,
    Binding,
    Credential,
    Lane,
    Permissions,
    dead_exchange,
    dead_queue,
    definitions,
    exchange_for,
    inbox_arguments,
    inbox_queue,
    lane_exchange,
    lane_queue,
    lane_topology,
    party_topology,
    password_hash,
    permissions_of,
    session_queue,
    to_exchange,
    topology_for,
    urgent_exchange,
    urgent_queue,
)

names = st.from_regex(NAME_PATTERN, fullmatch=True)
parties = st.one_of(
    st.just(BROKER),
    names.map(tenant),
    names.map(donor),
    names.map(recipient),
    st.builds(node, names, names),
)


def allows(pattern: str, name: str) -> bool:
    return re.search(pattern, name) is not None


@given(parties)
def test_everybody_reads_its_own_inbox_and_buries_its_own_dead(party: Party) -> None:
    """Reading the inbox, writing the dead letters; not the other way round, and no changing of either."""
    rights = permissions_of(party)
    assert allows(rights.read, inbox_queue(party))
    assert allows(rights.write, dead_exchange(party))
    assert not allows(rights.write, inbox_queue(party))
    assert not allows(rights.read, dead_queue(party))
    assert not allows(rights.configure, inbox_queue(party))
    assert not allows(rights.configure, to_exchange(party))


@given(parties, parties)
def test_nobody_touches_what_is_anothers(party: Party, other: Party) -> None:
    """Inbox, dead letters and sessions belong to one party alone."""
    if party == other:
        return
    for rights in (permissions_of(party).configure, permissions_of(party).write, permissions_of(party).read):
        for name in (inbox_queue(other), dead_queue(other), session_queue(other, "0" * 32)):
            assert not allows(rights, name)


INSIDE = {Role.NODE, Role.DONOR, Role.RECIPIENT}


@given(parties, parties)
def test_right_to_write_has_a_reason_in_the_vocabulary(sender: Party, receiver: Party) -> None:
    """Who may write to another has a message for it, and agents and nodes write only within their provider."""
    if sender == BROKER == receiver or not allows(permissions_of(sender).write, to_exchange(receiver)):
        return
    assert sender.owner == receiver.owner or not {sender.role, receiver.role} <= INSIDE
    assert any(sender.role in kind.SENDERS and receiver.role in kind.RECEIVERS for kind in MESSAGE_TYPES.values())


@pytest.mark.parametrize("kind", MESSAGE_TYPES.values(), ids=lambda kind: kind.__name__)
def test_every_message_can_be_sent_and_received(kind: type[Message]) -> None:
    """Each role that may say it can write to one that may hear it, and the other way round."""
    one = {
        Role.BROKER: BROKER,
        Role.TENANT: tenant("t"),
        Role.DONOR: donor("p"),
        Role.RECIPIENT: recipient("p"),
        Role.NODE: node("p", "n"),
    }
    ways = {
        (sender, receiver)
        for sender in kind.SENDERS
        for receiver in kind.RECEIVERS
        if allows(permissions_of(one[sender]).write, to_exchange(one[receiver]))
    }
    assert {sender for sender, _ in ways} == kind.SENDERS
    assert {receiver for _, receiver in ways} == kind.RECEIVERS


@given(names, names, names, st.sampled_from(Lane))
def test_lane_has_one_writer_and_one_reader(provider: str, ours: str, theirs: str, lane: Lane) -> None:
    """The sending node writes, the receiving node reads; the broker only makes."""
    sender, receiver = node(provider, ours), node(provider, theirs)
    if sender == receiver:
        return
    port = uuid4()
    exchange, queue = lane_exchange(port, lane, sender), lane_queue(port, lane, receiver)
    assert allows(permissions_of(sender).write, exchange)
    assert allows(permissions_of(receiver).read, queue)
    for stranger in (receiver, BROKER, donor(provider), tenant("acme")):
        assert not allows(permissions_of(stranger).write, exchange)
    for stranger in (sender, BROKER, donor(provider), tenant("acme")):
        assert not allows(permissions_of(stranger).read, queue)
    broker = permissions_of(BROKER)
    assert allows(broker.configure, exchange)
    assert allows(broker.configure, queue)
    assert allows(broker.write, queue)
    assert allows(broker.read, exchange)


@pytest.mark.parametrize("party", [donor("a"), recipient("a"), node("a", "b")], ids=str)
def test_agents_may_configure_nothing(party: Party) -> None:
    """RabbitMQ's pattern for nothing."""
    assert permissions_of(party).configure == "^$"


def test_names_that_begin_alike_are_apart() -> None:
    """A dot and a longer name are no way into a neighbour's rights."""
    rights = permissions_of(node("alpha", "a"))
    assert not allows(rights.read, inbox_queue(node("alpha", "ab")))
    assert not allows(rights.write, to_exchange(donor("alphabet")))
    assert not allows(permissions_of(tenant("a")).read, "vmport.inbox.tenantXa")


def test_tenant_session_needs_a_random_name() -> None:
    """Only 32 hexadecimal digits make a session queue."""
    rights = permissions_of(tenant("acme"))
    assert allows(rights.configure, session_queue(tenant("acme"), "0123456789abcdef" * 2))
    assert not allows(rights.configure, session_queue(tenant("acme"), "x"))


@pytest.mark.parametrize("party", [BROKER, donor("a"), recipient("a"), node("a", "b")], ids=str)
def test_inbox_loses_nothing(party: Party) -> None:
    """Quorum, refusing when full, dead-lettering at least once, with a delivery limit."""
    arguments = inbox_arguments(party)
    assert arguments["x-queue-type"] == "quorum"
    assert arguments["x-overflow"] == "reject-publish"
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
    assert arguments["x-dead-letter-exchange"] == dead_exchange(party)
    assert "x-delivery-limit" in arguments
    assert "x-message-ttl" not in arguments


def test_tenant_that_never_reads_stops_nobody() -> None:
    """A tenant's inbox is bounded, ages, and drops the oldest; what it drops is not kept elsewhere."""
    arguments = inbox_arguments(tenant("acme"))
    assert arguments["x-overflow"] == "drop-head"
    assert {"x-message-ttl", "x-max-length", "x-max-length-bytes"} <= set(arguments)
    assert "x-dead-letter-exchange" not in arguments


def test_topology_is_the_sum_of_its_parties() -> None:
    """Sorted by name, whatever the order of asking."""
    some = [tenant("b"), BROKER, tenant("a")]
    assert topology_for(some) == topology_for(reversed(some))
    assert topology_for([BROKER]) == party_topology(BROKER)
    assert len(topology_for(some).queues) == 7  # the broker has an urgent inbox, too


def test_lane_topology_has_all_lanes_both_ways() -> None:
    """An exchange and a queue per lane and direction, each exchange bound to the other node's queue."""
    ends = LaneEnds(uuid4(), node("a", "one"), node("b", "two"))
    topology = lane_topology(ends)
    assert len(topology.exchanges) == len(topology.queues) == len(topology.bindings) == 2 * len(PORT_LANES)
    for binding in topology.bindings:
        lane = binding.exchange.split(".")[3]
        assert binding.queue.split(".")[3] == lane
        assert binding.exchange.endswith("node.a.one") == binding.queue.endswith("node.b.two")
    for queue in topology.queues:
        assert queue.arguments["x-overflow"] == "reject-publish"
        assert "x-expires" in queue.arguments


def test_an_extensions_lane_is_apart() -> None:
    """It has the port's id and its own names, so that it can outlive the port's lanes."""
    ends = LaneEnds(uuid4(), node("a", "one"), node("b", "two"))
    port, extension = lane_topology(ends), lane_topology(ends, (Lane.EXTENSION,))
    assert len(extension.queues) == len(extension.exchanges) == len(extension.bindings) == 2
    assert {queue.name for queue in port.queues}.isdisjoint(queue.name for queue in extension.queues)
    broker, one = permissions_of(BROKER), permissions_of(node("a", "one"))
    for exchange, queue in zip(extension.exchanges, extension.queues, strict=True):
        assert re.search(broker.configure, exchange.name)
        assert re.search(broker.configure, queue.name)
        assert bool(re.search(one.write, exchange.name)) == exchange.name.endswith("node.a.one")


def test_an_extensions_queue_waits_for_a_host_that_is_away_for_days() -> None:
    """Nobody would make it again. Its policy goes before that for ports' lanes, and leaves theirs as they are."""
    ends = LaneEnds(uuid4(), node("a", "one"), node("b", "two"))
    policies = _OPERATOR_POLICIES.values()
    for lanes, expires_ms in (((Lane.EXTENSION,), EXTENSION_EXPIRES_MS), (PORT_LANES, LANE_EXPIRES_MS)):
        for queue in lane_topology(ends, lanes).queues:
            assert queue.arguments["x-expires"] == expires_ms
            fitting = [each for each in policies if re.search(each["pattern"], queue.name)]
            chosen = max(fitting, key=lambda each: each["priority"])
            assert chosen["definition"] == {"max-length-bytes": LANE_MAX_BYTES, "expires": expires_ms}
    assert EXTENSION_EXPIRES_MS < 2**32


def test_password_hash_is_rabbitmqs() -> None:
    """Base64 of salt and sha256(salt + password), as RabbitMQ documents it."""
    salt = bytes.fromhex("908dc60a")
    assert password_hash(Credential("test12", salt)) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
    digest = hashlib.sha256(salt + b"other").digest()
    assert base64.b64decode(password_hash(Credential("other", salt))) == salt + digest


def test_bad_salt_is_refused() -> None:
    """Four bytes, no more, no less."""
    with pytest.raises(ValueError, match="four bytes"):
        Credential("x", b"12345")


def test_credential_hides_its_secret() -> None:
    """A password does not appear in a repr."""
    assert "geheim" not in repr(Credential("geheim", b"1234"))


def test_definitions_are_json_and_hold_no_password() -> None:
    """Users, permissions, queues and bindings of each party; only hashes of passwords."""
    users = {party: Credential("geheim", b"1234") for party in (BROKER, tenant("acme"))}
    document = definitions(users, vhost="there")
    text = json.dumps(document)
    assert "geheim" not in text
    assert [user["name"] for user in document["users"]] == ["broker", "tenant.acme"]
    assert {entry["vhost"] for key in ("permissions", "queues", "bindings") for entry in document[key]} == {"there"}
    rights = permissions_of(BROKER)
    assert rights == Permissions(*(document["permissions"][0][key] for key in ("configure", "write", "read")))
    assert document["users"][1]["limits"]["max-connections"] > 0


def test_urgent_inbox() -> None:
    """The broker has one; nodes, whose guests stand still, may write to it, and only the broker may read it."""
    exchange, queue = urgent_exchange(BROKER), urgent_queue(BROKER)
    assert Binding(exchange, queue) in party_topology(BROKER).bindings
    assert exchange_for(BROKER, RequestSwitchover) == exchange
    assert exchange_for(BROKER, CancelPort) == to_exchange(BROKER)
    assert exchange_for(node("alpha", "a"), SwitchoverGranted) == to_exchange(node("alpha", "a"))
    for party in (BROKER, tenant("a"), donor("a"), recipient("a"), node("a", "b")):
        rights = permissions_of(party)
        assert allows(rights.write, exchange) == (party.role is Role.NODE)
        assert allows(rights.read, queue) == (party == BROKER)
        assert not allows(rights.configure, queue)
