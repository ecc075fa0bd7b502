"""The bus's topology as data: names, exchanges, queues, bindings and who may do what. Pure; declares nothing itself.

Each party P has a fanout exchange ``vmport.to.P``, bound to its inbox ``vmport.inbox.P``; a message for P is published
to that exchange. A fanout needs no routing key, so rights on exchange names are a boundary (topic rights are not: a CC
header or a dead-letter key passes them). P's dead letters are in ``vmport.dead.P``. An administrator creates all of it
from `definitions`. No party may declare anything, except a tenant its session queues and the broker a port's lanes.

* Inboxes are quorum queues. A full one refuses messages (the sender keeps them in its outbox); dead-lettering is at
  least once. Their delivery limit counts crashes and lost connections; the consumer counts a handler's failures.
* A tenant's full inbox drops its oldest messages instead: a tenant that never reads must not stop the broker, and
  every event is in the broker's record, which the tenant can ask for.
* Dead letters are evidence, not work: bounded, kept 30 days, oldest dropped first.
* A lane's queue is classic and its frames are transient: the lane protocol resends. Its byte limit only protects the
  RabbitMQ node from a broken sender.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from shared.bus import LaneEnds
from shared.messages import Message
from shared.parties import NAME_PATTERN, Party, Role

DELIVERY_LIMIT = 20
"""Deliveries of one message that may end without an ack before RabbitMQ itself dead-letters it."""

INBOX_MAX_MESSAGES = 100_000
INBOX_MAX_BYTES = 256 * 1024 * 1024
TENANT_MAX_MESSAGES = 10_000
TENANT_MAX_BYTES = 64 * 1024 * 1024
TENANT_TTL_MS = 7 * 24 * 3600 * 1000
DEAD_MAX_MESSAGES = 10_000
DEAD_MAX_BYTES = 64 * 1024 * 1024
DEAD_TTL_MS = 30 * 24 * 3600 * 1000
SESSION_MAX_BYTES = 16 * 1024 * 1024
LANE_EXPIRES_MS = 600_000
"""RabbitMQ removes a lane's queue without a consumer after this long; it is longer than a lane's silence deadline."""
EXTENSION_EXPIRES_MS = 30 * 24 * 3600 * 1000
"""The same for a network extension's lane, which nobody makes again: a host may be away for days, and its VM waits."""
LANE_MAX_BYTES = 64 * 1024 * 1024
"""Eight default windows of 8 MiB: a correct lane never reaches it, and a broken one cannot fill the node's disk."""

Arguments = Mapping[str, str | int]

_HEX = "[0-9a-f]"
UUID_PATTERN = f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"


class Lane(StrEnum):
    """What a lane carries."""

    CONTROL = "control"
    MEMORY = "memory"
    DISK = "disk"
    URGENT = "urgent"
    EXTENSION = "extension"
    """Ethernet frames of the VM's cards. It may outlive its port, and is made and removed by itself."""


PORT_LANES = (Lane.CONTROL, Lane.MEMORY, Lane.DISK, Lane.URGENT)
"""The lanes of every port, made and removed together."""


def to_exchange(party: Party) -> str:
    """The exchange to which messages for a party are published."""
    return f"vmport.to.{party}"


def inbox_queue(party: Party) -> str:
    """The queue that a party reads."""
    return f"vmport.inbox.{party}"


def urgent_exchange(party: Party) -> str:
    """Where to publish what cannot wait behind a party's other messages; see `has_urgent_inbox`."""
    return f"vmport.urgent.{party}"


def urgent_queue(party: Party) -> str:
    """Where a party reads what cannot wait."""
    return f"vmport.urgent.{party}"


def has_urgent_inbox(party: Party) -> bool:
    """Whether a party has an inbox for what cannot wait: the broker has, for nodes whose guest stands still."""
    return party.role is Role.BROKER


def exchange_for(party: Party, kind: type[Message]) -> str:
    """Where to publish a message of this type for a party."""
    return urgent_exchange(party) if kind.URGENT and has_urgent_inbox(party) else to_exchange(party)


def dead_exchange(party: Party) -> str:
    """The exchange to which a party's consumer sends messages that it cannot handle."""
    return f"vmport.dead.{party}"


def dead_queue(party: Party) -> str:
    """The queue in which an operator finds the messages that a party's consumer could not handle."""
    return f"vmport.dead.{party}"


def session_queue(party: Party, session: str) -> str:
    """A tenant session's own queue; ``session`` is random."""
    return f"vmport.session.{party}.{session}"


def lane_exchange(port_id: UUID, lane: Lane, sender: Party) -> str:
    """The exchange to which a node publishes its frames of one lane."""
    return f"vmport.lane.{port_id}.{lane}.from.{sender}"


def lane_queue(port_id: UUID, lane: Lane, receiver: Party) -> str:
    """The queue from which a node reads the other node's frames of one lane."""
    return f"vmport.lane.{port_id}.{lane}.to.{receiver}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable fanout exchange."""

    name: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue with its declare arguments."""

    name: str
    arguments: Arguments


@dataclass(frozen=True, slots=True)
class Binding:
    """Every message of the exchange is put into the queue."""

    exchange: str
    queue: str


@dataclass(frozen=True, slots=True)
class Topology:
    """Exchanges, queues and bindings, in the order in which they can be declared."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()

    def __add__(self, other: Topology) -> Topology:
        return Topology(self.exchanges + other.exchanges, self.queues + other.queues, self.bindings + other.bindings)


@dataclass(frozen=True, slots=True)
class Permissions:
    """RabbitMQ's three regular expressions; ``^$`` matches nothing that has a name."""

    configure: str
    write: str
    read: str


def inbox_arguments(party: Party) -> Arguments:
    """How a party's inbox is declared."""
    if party.role is Role.TENANT:
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-max-length": TENANT_MAX_MESSAGES,
            "x-max-length-bytes": TENANT_MAX_BYTES,
            "x-message-ttl": TENANT_TTL_MS,
            "x-overflow": "drop-head",
        }
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": dead_exchange(party),
        "x-dead-letter-strategy": "at-least-once",
        "x-max-length": INBOX_MAX_MESSAGES,
        "x-max-length-bytes": INBOX_MAX_BYTES,
        "x-overflow": "reject-publish",
    }


DEAD_ARGUMENTS: Arguments = {
    "x-queue-type": "quorum",
    "x-max-length": DEAD_MAX_MESSAGES,
    "x-max-length-bytes": DEAD_MAX_BYTES,
    "x-message-ttl": DEAD_TTL_MS,
    "x-overflow": "drop-head",
}
SESSION_ARGUMENTS: Arguments = {"x-max-length-bytes": SESSION_MAX_BYTES, "x-overflow": "drop-head"}
LANE_ARGUMENTS: Arguments = {
    "x-queue-type": "classic",
    "x-expires": LANE_EXPIRES_MS,
    "x-max-length-bytes": LANE_MAX_BYTES,
    "x-overflow": "reject-publish",
}
EXTENSION_ARGUMENTS: Arguments = {**LANE_ARGUMENTS, "x-expires": EXTENSION_EXPIRES_MS}


def party_topology(party: Party) -> Topology:
    """Exchanges and queues of one party."""
    inbox = (Exchange(to_exchange(party)), Queue(inbox_queue(party), inbox_arguments(party)))
    urgent = (Exchange(urgent_exchange(party)), Queue(urgent_queue(party), inbox_arguments(party)))
    dead = (Exchange(dead_exchange(party)), Queue(dead_queue(party), DEAD_ARGUMENTS))
    pairs = (inbox, urgent, dead) if has_urgent_inbox(party) else (inbox, dead)
    return Topology(
        exchanges=tuple(exchange for exchange, _ in pairs),
        queues=tuple(queue for _, queue in pairs),
        bindings=tuple(Binding(exchange.name, queue.name) for exchange, queue in pairs),
    )


def topology_for(parties: Iterable[Party]) -> Topology:
    """Exchanges and queues of these parties, ordered by the parties' names."""
    return sum((party_topology(party) for party in sorted(parties, key=str)), Topology())


def lane_topology(ends: LaneEnds, lanes: Iterable[Lane] = PORT_LANES) -> Topology:
    """Lanes of one port, both directions."""
    exchanges, queues, bindings = [], [], []
    for lane in lanes:
        for sender, receiver in ((ends.donor_node, ends.recipient_node), (ends.recipient_node, ends.donor_node)):
            exchange = lane_exchange(ends.port_id, lane, sender)
            queue = lane_queue(ends.port_id, lane, receiver)
            exchanges.append(Exchange(exchange))
            queues.append(Queue(queue, EXTENSION_ARGUMENTS if lane is Lane.EXTENSION else LANE_ARGUMENTS))
            bindings.append(Binding(exchange, queue))
    return Topology(tuple(exchanges), tuple(queues), tuple(bindings))


NOTHING = "^$"


def _exactly(*patterns: str) -> str:
    return f"^({'|'.join(patterns)})$"


def permissions_of(party: Party) -> Permissions:
    """What a party may do. The patterns name roles, so a new node or tenant changes no other party's rights."""
    me = re.escape(str(party)).replace(r"\-", "-")
    any_name = NAME_PATTERN
    inbox, dead = rf"vmport\.inbox\.{me}", rf"vmport\.dead\.{me}"
    to_broker = r"vmport\.to\.broker"
    lane = rf"vmport\.lane\.{UUID_PATTERN}\.({'|'.join(Lane)})"
    any_node = rf"node\.{any_name}\.{any_name}"
    match party.role:
        case Role.TENANT:
            # Binding a session queue writes to the queue and reads from the exchange.
            session = rf"vmport\.session\.{me}\.[0-9a-f]{{32}}"
            return Permissions(
                _exactly(session), _exactly(to_broker, dead, session), _exactly(inbox, session, rf"vmport\.to\.{me}")
            )
        case Role.BROKER:
            # It declares lanes, yet can neither write a frame (no write on "from") nor read one (no read on "to").
            ends = rf"{lane}\.(from|to)\.{any_node}"
            everybody = rf"vmport\.to\.(broker|(tenant|donor|recipient)\.{any_name}|{any_node})"
            return Permissions(
                _exactly(ends),
                _exactly(everybody, dead, rf"{lane}\.to\.{any_node}"),
                _exactly(inbox, r"vmport\.urgent\.broker", rf"{lane}\.from\.{any_node}"),
            )
        case Role.DONOR | Role.RECIPIENT:
            own_nodes = rf"vmport\.to\.node\.{party.owner}\.{any_name}"
            return Permissions(NOTHING, _exactly(to_broker, own_nodes, dead), _exactly(inbox))
        case Role.NODE:
            own_agents = rf"vmport\.to\.(donor|recipient)\.{party.owner}"
            return Permissions(
                NOTHING,
                _exactly(to_broker, r"vmport\.urgent\.broker", own_agents, dead, rf"{lane}\.from\.{me}"),
                _exactly(inbox, rf"{lane}\.to\.{me}"),
            )


@dataclass(frozen=True, slots=True)
class Credential:
    """A user's password and the salt of its hash. The salt (four random bytes) is an input, so rendering stays pure."""

    password: str = field(repr=False)
    salt: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.salt) != 4:
            raise ValueError("RabbitMQ's salted hash takes a salt of four bytes")


def password_hash(credential: Credential) -> str:
    """RabbitMQ's salted SHA-256: base64 of salt + sha256(salt + password)."""
    digest = hashlib.sha256(credential.salt + credential.password.encode()).digest()
    return base64.b64encode(credential.salt + digest).decode()


def definitions(users: Mapping[Party, Credential], *, vhost: str = "vmport") -> dict[str, Any]:
    """A definitions document, as ``rabbitmqctl import_definitions`` and ``definitions.local.path`` read it."""
    parties = sorted(users, key=str)
    topology = topology_for(parties)
    return {
        "vhosts": [{"name": vhost}],
        "users": [_user(party, users[party]) for party in parties],
        "permissions": [_permission(party, vhost) for party in parties],
        "parameters": [
            {"vhost": vhost, "component": "operator_policy", "name": name, "value": value}
            for name, value in _OPERATOR_POLICIES.items()
        ],
        "exchanges": [
            {
                "vhost": vhost,
                "name": exchange.name,
                "type": "fanout",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for exchange in topology.exchanges
        ],
        "queues": [
            {
                "vhost": vhost,
                "name": queue.name,
                "durable": True,
                "auto_delete": False,
                "arguments": dict(queue.arguments),
            }
            for queue in topology.queues
        ],
        "bindings": [
            {
                "vhost": vhost,
                "source": binding.exchange,
                "destination": binding.queue,
                "destination_type": "queue",
                "routing_key": "",
                "arguments": {},
            }
            for binding in topology.bindings
        ],
    }


_OPERATOR_POLICIES: dict[str, dict[str, Any]] = {
    # The client that declares a queue chooses its arguments; an operator policy limits them, whatever it chose.
    "vmport-sessions": {
        "pattern": r"^vmport\.session\.",
        "apply-to": "queues",
        "priority": 10,
        "definition": {"max-length-bytes": SESSION_MAX_BYTES, "expires": 3_600_000},
    },
    "vmport-lanes": {
        "pattern": r"^vmport\.lane\.",
        "apply-to": "queues",
        "priority": 10,
        "definition": {"max-length-bytes": LANE_MAX_BYTES, "expires": LANE_EXPIRES_MS},
    },
    "vmport-extensions": {
        "pattern": rf"^vmport\.lane\.{UUID_PATTERN}\.{Lane.EXTENSION}\.",
        "apply-to": "queues",
        "priority": 20,
        "definition": {"max-length-bytes": LANE_MAX_BYTES, "expires": EXTENSION_EXPIRES_MS},
    },
}

_TENANT_LIMITS = {"max-connections": 64, "max-channels": 256}


def _user(party: Party, credential: Credential) -> dict[str, Any]:
    return {
        "name": str(party),
        "password_hash": password_hash(credential),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": [],
        "limits": dict(_TENANT_LIMITS) if party.role is Role.TENANT else {},
    }


def _permission(party: Party, vhost: str) -> dict[str, str]:
    rights = permissions_of(party)
    return {
        "user": str(party),
        "vhost": vhost,
        "configure": rights.configure,
        "write": rights.write,
        "read": rights.read,
    }
