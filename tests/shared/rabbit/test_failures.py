"""Why RabbitMQ cannot be used, in a sentence."""

from __future__ import annotations

import socket
import ssl

import pytest
from aio_pika.exceptions import AMQPConnectionError, ProbableAuthenticationError
from pamqp.commands import Connection

from shared.config import BusSettings
from shared.rabbit.failures import explain

SETTINGS = BusSettings.model_validate({"url": "amqp://tenant.acme:hush@rabbit:5673/there"})
REFUSED = "nothing listens at rabbit:5673: connection refused; does RabbitMQ run there?"


@pytest.mark.parametrize(
    ("error", "said", "expected", "final"),
    [
        (ConnectionRefusedError(111, "Connect call failed"), None, REFUSED, True),
        (
            OSError("Multiple exceptions: [Errno 111] Connect ('::1'), [Errno 111] Connect ('127.0.0.1')"),
            None,
            REFUSED,
            True,
        ),
        (
            OSError("Multiple exceptions: [Errno 111] a, [Errno 113] b"),
            None,
            "Multiple exceptions: [Errno 111] a, [Errno 113] b",
            False,
        ),
        (OSError(113, "No route to host"), None, "[Errno 113] No route to host", False),
        (
            ProbableAuthenticationError("ACCESS_REFUSED"),
            None,
            "RabbitMQ at rabbit:5673 refuses this user or password: tenant.acme",
            True,
        ),
        (TimeoutError(), None, "no answer from rabbit:5673 within 10 s", False),
        (
            socket.gaierror(-2, "Name or service not known"),
            None,
            "the host name rabbit cannot be resolved: Name or service not known",
            True,
        ),
        (
            RuntimeError("<object at 0x1>"),
            Connection.Close(530, "NOT_ALLOWED - vhost there not found"),
            "no virtual host 'there', or tenant.acme has no right to it; it is the last part of the URL",
            True,
        ),
        (
            RuntimeError("<object at 0x1>"),
            Connection.Close(530, "NOT_ALLOWED - access to vhost 'there' refused for user 'tenant.acme'"),
            "no virtual host 'there', or tenant.acme has no right to it; it is the last part of the URL",
            True,
        ),
        (
            RuntimeError("x"),
            Connection.Close(530, "NOT_ALLOWED - access to vhost 'there' refused: limit (1) is reached"),
            "RabbitMQ refuses another connection: NOT_ALLOWED - access to vhost 'there' refused: limit (1) is reached",
            False,
        ),
        (
            RuntimeError("x"),
            Connection.Close(320, "CONNECTION_FORCED - broker forced"),
            "RabbitMQ closed the connection: CONNECTION_FORCED - broker forced",
            False,
        ),
        (AMQPConnectionError("lost"), None, "lost", False),
        (EOFError(), None, "EOFError", False),
    ],
)
def test_sentences(error: Exception, said: Connection.Close | None, expected: str, *, final: bool) -> None:
    """What happened, without a guess at where the URL was written; final where trying again cannot help."""
    failure = explain(error, SETTINGS, said=said)
    assert (failure.reason, failure.final) == (expected, final)
    assert "hush" not in failure.reason
    assert "bus.url" not in failure.reason


def test_untrusted_certificate_names_the_setting() -> None:
    """A CA can be given."""
    error = ssl.SSLCertVerificationError()
    error.verify_message = "self-signed certificate"
    assert explain(error, SETTINGS).reason == (
        "the certificate of rabbit:5673 is not trusted: self-signed certificate; "
        "the CA to trust is ca_file in [bus], or VMPORT_BUS__CA_FILE"
    )
