"""What RabbitMQ lets each party do, tried with a client library that is not ours: ways past the rights are refused."""

from __future__ import annotations

from uuid import uuid4

import pika
import pika.exceptions
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exchange_type import ExchangeType

from shared.parties import BROKER, Party, donor, node, recipient, tenant
from shared.topology import (
    Lane,
    dead_exchange,
    inbox_queue,
    lane_exchange,
    lane_queue,
    session_queue,
    to_exchange,
    urgent_exchange,
)
from tests.support.rabbitmq_node import RabbitNode

pytestmark = pytest.mark.servers

ACME, GLOBEX = tenant("acme"), tenant("globex")
ALPHA_NODE, BETA_NODE = node("alpha", "alpha-1"), node("beta", "beta-1")
PORT = uuid4()

ADDRESSES = [
    (ACME, BROKER),
    (BROKER, ACME),
    (BROKER, donor("alpha")),
    (BROKER, recipient("beta")),
    (BROKER, ALPHA_NODE),
    (donor("alpha"), BROKER),
    (donor("alpha"), ALPHA_NODE),
    (recipient("beta"), BETA_NODE),
    (ALPHA_NODE, BROKER),
    (ALPHA_NODE, donor("alpha")),
    (ALPHA_NODE, recipient("alpha")),
]
STRANGERS = [
    (ACME, GLOBEX),
    (ACME, donor("alpha")),
    (ACME, ALPHA_NODE),
    (donor("alpha"), donor("beta")),
    (donor("alpha"), recipient("alpha")),
    (donor("alpha"), BETA_NODE),
    (donor("alpha"), ACME),
    (ALPHA_NODE, BETA_NODE),
    (ALPHA_NODE, donor("beta")),
    (ALPHA_NODE, ACME),
]


def publish(rabbitmq: RabbitNode, sender: Party, exchange: str, *, user_id: str | None = None) -> None:
    connection = rabbitmq.connect(sender)
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(exchange, "", b"{}", pika.BasicProperties(user_id=user_id), mandatory=True)
    finally:
        if connection.is_open:
            connection.close()


@pytest.mark.parametrize(("sender", "to"), ADDRESSES, ids=str)
def test_who_has_business_may_write(rabbitmq: RabbitNode, sender: Party, to: Party) -> None:
    """Every pair of parties that must talk can talk."""
    publish(rabbitmq, sender, to_exchange(to), user_id=str(sender))


@pytest.mark.parametrize(("sender", "to"), STRANGERS, ids=str)
def test_who_has_no_business_may_not_write(rabbitmq: RabbitNode, sender: Party, to: Party) -> None:
    """No party can write to another provider's agents, to other tenants, or around the broker."""
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        publish(rabbitmq, sender, to_exchange(to))


def test_only_nodes_may_write_what_cannot_wait(rabbitmq: RabbitNode) -> None:
    """The broker's urgent inbox is for nodes, whose guests stand still."""
    host = node("alpha", "alpha-1")
    publish(rabbitmq, host, urgent_exchange(BROKER), user_id=str(host))
    for sender in (ACME, donor("alpha"), recipient("alpha")):
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            publish(rabbitmq, sender, urgent_exchange(BROKER))


def test_sender_cannot_be_forged(rabbitmq: RabbitNode) -> None:
    """RabbitMQ refuses a user_id that is not the login."""
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="user_id"):
        publish(rabbitmq, ACME, to_exchange(BROKER), user_id="broker")


@pytest.mark.parametrize("exchange", ["", "amq.fanout", "amq.topic", dead_exchange(BROKER)])
def test_no_other_exchange_may_be_written(rabbitmq: RabbitNode, exchange: str) -> None:
    """A tenant can publish to the exchange of the broker only."""
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        publish(rabbitmq, ACME, exchange)


def declare_queue(channel: BlockingChannel) -> None:
    channel.queue_declare("mine")


def declare_unnamed(channel: BlockingChannel) -> None:
    channel.queue_declare("")


def declare_foreign_session(channel: BlockingChannel) -> None:
    channel.queue_declare(session_queue(GLOBEX, "0" * 32), exclusive=True)


def declare_exchange(channel: BlockingChannel) -> None:
    channel.exchange_declare("mine", ExchangeType("fanout"))


def bind_own_session_to_others(channel: BlockingChannel) -> None:
    queue = session_queue(ACME, "0" * 32)
    channel.queue_declare(queue, exclusive=True)
    channel.queue_bind(queue, to_exchange(BROKER))


def bind_broker_inbox(channel: BlockingChannel) -> None:
    channel.queue_bind(inbox_queue(BROKER), to_exchange(ACME))


def read_broker_inbox(channel: BlockingChannel) -> None:
    channel.basic_get(inbox_queue(BROKER))


def purge_broker_inbox(channel: BlockingChannel) -> None:
    channel.queue_purge(inbox_queue(BROKER))


def delete_own_inbox(channel: BlockingChannel) -> None:
    channel.queue_delete(inbox_queue(ACME))


def dead_letter_elsewhere(channel: BlockingChannel) -> None:
    arguments = {"x-dead-letter-exchange": to_exchange(donor("alpha"))}
    channel.queue_declare(session_queue(ACME, "0" * 32), exclusive=True, arguments=arguments)


@pytest.mark.parametrize(
    "attempt",
    [
        declare_queue,
        declare_unnamed,
        declare_foreign_session,
        declare_exchange,
        bind_own_session_to_others,
        bind_broker_inbox,
        read_broker_inbox,
        purge_broker_inbox,
        delete_own_inbox,
        dead_letter_elsewhere,
    ],
)
def test_tenant_may_not(rabbitmq: RabbitNode, attempt: object) -> None:
    """A tenant can change nothing, and can read no other party's messages."""
    connection = rabbitmq.connect(ACME)
    assert callable(attempt)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        attempt(connection.channel())
    connection.close()


def test_tenant_may_listen_in_a_session(rabbitmq: RabbitNode) -> None:
    """An exclusive queue of its own, bound to its own exchange, is a tenant's right."""
    connection = rabbitmq.connect(ACME)
    channel = connection.channel()
    queue = session_queue(ACME, "0" * 32)
    channel.queue_declare(queue, exclusive=True, auto_delete=True)
    channel.queue_bind(queue, to_exchange(ACME))
    connection.close()


def test_lane_can_be_used_by_its_two_nodes_only(rabbitmq: RabbitNode) -> None:
    """The broker makes a lane and can neither read nor write it; each node writes one end and reads the other."""
    exchange = lane_exchange(PORT, Lane.MEMORY, ALPHA_NODE)
    queue = lane_queue(PORT, Lane.MEMORY, BETA_NODE)
    maker = rabbitmq.connect(BROKER)
    channel = maker.channel()
    channel.exchange_declare(exchange, ExchangeType("fanout"), durable=True)
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, exchange)
    publish(rabbitmq, ALPHA_NODE, exchange)
    for stranger in (BROKER, BETA_NODE, donor("alpha"), ACME):
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            publish(rabbitmq, stranger, exchange)
    for stranger in (BROKER, ALPHA_NODE, recipient("beta"), ACME):
        connection = rabbitmq.connect(stranger)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            connection.channel().basic_get(queue)
        connection.close()
    reader = rabbitmq.connect(BETA_NODE)
    assert reader.channel().basic_get(queue, auto_ack=True)[0] is not None
    reader.close()
    channel.queue_delete(queue)
    channel.exchange_delete(exchange)
    maker.close()
