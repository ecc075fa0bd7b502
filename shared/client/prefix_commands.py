"""``vmport prefix``: a holder's authorisation to announce a prefix, made and checked. No broker is asked."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from shared.client import render
from shared.client.session import Format, Session
from shared.client.units import BadValue
from shared.exit_codes import ExitCode
from shared.messages.base import Value
from shared.prefix_authorisation import Authorisation, BadAuthorisation, read_signed, sign

app = typer.Typer(help="Prefixes that you hold: who may announce them.", no_args_is_help=True)
_LARGEST_KEY_BYTES = 64 * 1024


class CheckedDocument(Value):
    """What ``prefix verify`` answers with."""

    authorisation: Authorisation
    signed: bool
    in_force: bool


@app.command("authorise")
def authorise(
    context: typer.Context,
    *,
    prefix: Annotated[str, typer.Option(help="The prefix, such as 198.51.100.0/24.")],
    holder: Annotated[str, typer.Option(help="Your name, as the providers know it.")],
    donor_as: Annotated[int, typer.Option(min=1, max=2**32 - 1, help="The AS that announces it now.")],
    recipient_as: Annotated[int, typer.Option(min=1, max=2**32 - 1, help="The AS that may announce it.")],
    key: Annotated[Path, typer.Option(help="Your private key: Ed25519, PEM, without a password.")],
    days: Annotated[int, typer.Option(min=1, max=3650, help="For how long, from now on.")] = 90,
) -> None:
    """Allow a provider to announce a prefix of yours, and write the signed document to standard output.

    Make a key with 'openssl genpkey -algorithm ed25519', and give the provider its public half, made with
    'openssl pkey -pubout', in a way that proves that it is yours.

    JSON: {text, signature}, always.
    """
    session: Session = context.obj
    now = session.now().replace(microsecond=0)
    try:
        network = str(ipaddress.ip_network(prefix))
    except ValueError as error:
        raise BadValue(prefix, "a prefix without bits of hosts, such as 198.51.100.0/24", option="--prefix") from error
    authorisation = Authorisation(
        prefix=network,
        holder=holder,
        donor_as=donor_as,
        recipient_as=recipient_as,
        not_before=now,
        not_after=now + timedelta(days=days),
    )
    session.write(render.json_text(render.as_json(sign(authorisation, _text(key)))))


@app.command("verify")
def verify(
    context: typer.Context,
    document: Annotated[Path, typer.Argument(metavar="FILE", help="The signed document.")],
    *,
    key: Annotated[Path, typer.Option(help="The holder's public key: Ed25519, PEM.")],
) -> None:
    """Check a holder's authorisation: what it allows, whether this key has signed it, whether it is in force now.

    Exit code 3: it is not signed by this key, or not in force.

    JSON: {authorisation, signed, in_force}.
    """
    session: Session = context.obj
    signed = read_signed(_content(document))
    told = signed.authorisation
    checked = CheckedDocument(
        authorisation=told, signed=signed.is_signed_by(_text(key)), in_force=told.is_in_force(session.now())
    )
    facts = (
        ("prefix", told.prefix),
        ("holder", told.holder),
        ("announced by", f"AS{told.donor_as}"),
        ("may be announced by", f"AS{told.recipient_as}"),
        ("from", render.human_time(told.not_before)),
        ("until", render.human_time(told.not_after)),
        ("signed by this key", "yes" if checked.signed else "no"),
        ("in force", "yes" if checked.in_force else "no"),
    )
    if session.format is Format.JSON:  # Settings, which name a broker, are not needed here.
        session.write(render.json_text(render.as_json(checked)))
    else:
        session.show(render.facts_table(None, facts))
    if not (checked.signed and checked.in_force):
        raise typer.Exit(ExitCode.REFUSED)


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_LARGEST_KEY_BYTES)
    except OSError as error:
        raise BadAuthorisation(f"{file} cannot be read: {error.strerror}") from error


def _text(file: Path) -> str:
    try:
        return _content(file).decode("ascii")
    except UnicodeDecodeError as error:
        raise BadAuthorisation(f"{file} is no key in PEM") from error
