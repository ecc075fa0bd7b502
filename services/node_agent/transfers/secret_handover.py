"""The keys of a VM's encrypted disks and TPM go from node to node, inside the port's own lanes. Both ends.

It uses a stream of the control lane labelled SECRETS, whose frames are sealed from one node agent to the other (TLS
1.3): RabbitMQ, the broker and the providers' agents see none of it. The donor's payloads are one JSON document, up to
the end of the stream; the recipient answers KEPT when its libvirt has the secrets and the encrypted disks are made.
What cannot be read is never repeated in an error.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.node_agent.hypervisor.interface import SecretError
from services.node_agent.hypervisor.luks import LuksOptions
from services.node_agent.hypervisor.secret_values import MAX_SECRET_BYTES, SecretValue
from services.node_agent.lanes.core.errors import QuestionError, StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from shared.domain import SecretUse
from shared.page_stream.bodies import StreamKind

SECRETS: Final = "secrets"
KEPT: Final = b"kept"
_BESIDES_BYTES: Final = 1024
"""Of one secret's JSON, besides its value."""


@dataclass(frozen=True, slots=True)
class HandedSecret:
    """One key. `luks` says how the donor's image is encrypted; None for a TPM."""

    value: SecretValue
    luks: LuksOptions | None = None


async def hand_over(control: LaneSession, secrets: Mapping[str, HandedSecret]) -> None:
    """Send the secrets, by `SecretUse.device`; return when the recipient has them. Raises `SecretError`, LaneError."""
    stream = control.open_stream(StreamKind.CONTROL, SECRETS)
    try:
        await stream.write(_encode(secrets))
        stream.write_eof()
        answer = await stream.read()
    except StreamError as error:
        raise SecretError("hand the VM's secrets over", str(error)) from error
    if answer != KEPT:
        raise SecretError("hand the VM's secrets over", "the recipient does not say that it has them")


async def read_secrets(stream: LaneStream, wanted: Iterable[SecretUse]) -> dict[str, HandedSecret]:
    """The secrets that come on `stream`, by device: all that are wanted, and no other.

    Raises `QuestionError`, LaneError, StreamError.
    """
    uses = {use.device: use for use in wanted}
    most_bytes = max(1, len(uses)) * (4 * MAX_SECRET_BYTES // 3 + _BESIDES_BYTES)
    document = bytearray()
    while payload := await stream.read():
        document += payload
        if len(document) > most_bytes:
            raise QuestionError(f"the donor's secrets have more than {most_bytes} bytes")
    found = _decode(bytes(document))
    if found.keys() != uses.keys():
        raise QuestionError("the donor's secrets are not those of the VM's encrypted disks and TPM")
    if any((found[device].luks is None) is bool(use.target) for device, use in uses.items()):
        raise QuestionError("the donor does not say how its disks are encrypted")
    return found


async def answer_kept(stream: LaneStream) -> None:
    """Say that the secrets are kept. Raises LaneError, StreamError."""
    await stream.write(KEPT)
    stream.write_eof()


def _encode(secrets: Mapping[str, HandedSecret]) -> bytes:
    told = {
        device: {
            "value": base64.b64encode(secret.value.reveal()).decode(),
            "luks": None if secret.luks is None else dict(secret.luks.values),
        }
        for device, secret in secrets.items()
    }
    return json.dumps(told).encode()


def _decode(document: bytes) -> dict[str, HandedSecret]:
    try:
        return {device: _decode_one(told) for device, told in json.loads(document).items()}
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, RecursionError):
        # Neither the text nor the error, which may quote it.
        raise QuestionError("the donor's secrets cannot be read") from None


def _decode_one(told: dict[str, Any]) -> HandedSecret:
    luks = told["luks"]
    return HandedSecret(
        SecretValue(base64.b64decode(told["value"], validate=True)),
        None if luks is None else LuksOptions(dict(luks)),
    )
