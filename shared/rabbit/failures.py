"""Why RabbitMQ cannot be used, in a sentence, and whether trying again can help. Pure; knows the libraries' errors."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from dataclasses import dataclass

from aio_pika.exceptions import AuthenticationError, ProbableAuthenticationError
from pamqp import commands

from shared.config import ENV_DELIMITER, ENV_PREFIX, BusSettings

_NOT_ALLOWED = 530
"""AMQP's reply code for a virtual host that is missing or not the user's; RabbitMQ uses it for limits, too."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt, or the end of a connection."""

    reason: str
    """A clause for logs, health checks and people; without secrets."""
    final: bool = False
    """The same attempt would fail again at once: a person must act. Daemons try again all the same."""


def explain(error: BaseException, settings: BusSettings, *, said: commands.Connection.Close | None = None) -> Failure:
    """What an error of connecting or of a connection means; ``said`` is RabbitMQ's own last word, if it had one."""
    where = f"{settings.host}:{settings.port}"
    if said is not None and said.reply_code == _NOT_ALLOWED and "vhost" in (said.reply_text or ""):
        return _about_vhost(said.reply_text or "", settings)
    match error:
        case ProbableAuthenticationError() | AuthenticationError():
            return Failure(f"RabbitMQ at {where} refuses this user or password: {settings.party}", final=True)
        case TimeoutError():
            return Failure(f"no answer from {where} within {settings.connect_timeout_s:g} s")
        case socket.gaierror():
            return Failure(f"the host name {settings.host} cannot be resolved: {error.strerror}", final=True)
        case ssl.SSLCertVerificationError():
            trust = f"the CA to trust is ca_file in [bus], or {ENV_PREFIX}BUS{ENV_DELIMITER}CA_FILE"
            return Failure(f"the certificate of {where} is not trusted: {error.verify_message}; {trust}")
        case OSError() if _is_refusal(error):
            return Failure(f"nothing listens at {where}: connection refused; does RabbitMQ run there?", final=True)
    if said is not None and said.reply_text:
        return Failure(f"RabbitMQ closed the connection: {said.reply_text}")
    return Failure(f"{error}" or type(error).__name__)


def _about_vhost(text: str, settings: BusSettings) -> Failure:
    if "limit" in text:
        return Failure(f"RabbitMQ refuses another connection: {text}")
    missing = f"no virtual host '{settings.vhost}', or {settings.party} has no right to it"
    return Failure(f"{missing}; it is the last part of the URL", final=True)


def _is_refusal(error: OSError) -> bool:
    """Whether every address of the host refused. asyncio joins several errors into one text, without a number."""
    if error.errno is not None:
        return error.errno == errno.ECONNREFUSED
    numbers = re.findall(r"\[Errno (\d+)\]", str(error))
    return bool(numbers) and all(int(number) == errno.ECONNREFUSED for number in numbers)
