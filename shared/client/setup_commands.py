"""``vmport schema`` and ``vmport topology``, for programmers and RabbitMQ's administrator. They connect to nothing."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from shared import schema, topology
from shared.client.render import json_text
from shared.client.session import Session
from shared.config import ConfigError, Problem
from shared.parties import BadPartyName, Party


def print_schema(
    context: typer.Context,
    *,
    asyncapi: Annotated[
        bool, typer.Option("--asyncapi", help="AsyncAPI 3.0: channels and operations as well.")
    ] = False,
) -> None:
    """Print the JSON Schema (2020-12) of every message, so that any AMQP client can speak to the broker."""
    session: Session = context.obj
    session.write(json_text(schema.asyncapi() if asyncapi else schema.json_schema()))


def print_topology(
    context: typer.Context,
    parties: Annotated[
        list[str],
        typer.Argument(
            metavar="PARTY...",
            help="All parties: broker tenant.acme donor.alpha recipient.alpha node.alpha.alpha-1 …",
        ),
    ],
    passwords: Annotated[
        Path,
        typer.Option(
            metavar="DIRECTORY",
            help="One file PARTY.password per party: read where it exists, made (mode 0600) where not.",
        ),
    ],
    vhost: Annotated[str, typer.Option(help="RabbitMQ's virtual host.")] = "vmport",
) -> None:
    """Print RabbitMQ definitions: a user per party with its rights, exchanges, queues and policies.

    Load them with 'rabbitmqctl import_definitions FILE'. Run again with more parties to add some.
    """
    session: Session = context.obj
    try:
        named = [Party.parse(name) for name in parties]
    except BadPartyName as error:
        raise typer.BadParameter(str(error)) from error
    passwords.mkdir(mode=0o700, parents=True, exist_ok=True)
    users = {
        party: topology.Credential(_password(passwords / f"{party}.password"), secrets.token_bytes(4))
        for party in named
    }
    session.write(json_text(topology.definitions(users, vhost=vhost)))


def _password(file: Path) -> str:
    if file.exists():
        password = file.read_text(encoding="utf-8").partition("\n")[0].strip()
        if not password:
            raise ConfigError((Problem(str(file), "", "has no password in its first line"),))
        return password
    password = secrets.token_urlsafe(32)
    file.touch(mode=0o600, exist_ok=False)
    file.write_text(password + "\n", encoding="utf-8")
    return password
