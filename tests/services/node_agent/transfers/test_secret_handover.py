"""The handover on the wire: exactly the wanted secrets, within bounds, and errors that repeat nothing."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.hypervisor.interface import SecretError
from services.node_agent.hypervisor.luks import LuksOptions
from services.node_agent.hypervisor.secret_values import MAX_SECRET_BYTES, SecretValue
from services.node_agent.lanes.core.errors import QuestionError, StreamError
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.transfers import secret_handover
from services.node_agent.transfers.secret_handover import HandedSecret, answer_kept, hand_over, read_secrets
from shared.domain import SecretUsage, SecretUse
from shared.page_stream.bodies import StreamKind
from tests.support.control_lane import lane

TPM = SecretUse("tpm", SecretUsage.VTPM, uuid="x")
DISK = SecretUse("disk vda", SecretUsage.VOLUME, target="vda", uuid="y")
SECRETS = {
    "tpm": HandedSecret(SecretValue(b"planted-tpm-key")),
    "disk vda": HandedSecret(SecretValue(b"\0\xff" * (MAX_SECRET_BYTES // 2)), LuksOptions({"cipher-alg": "aes-256"})),
}


def value(data: bytes = b"planted") -> str:
    """As it is on the wire."""
    return base64.b64encode(data).decode()


async def test_secrets_arrive_as_they_were() -> None:
    """The donor goes on when the recipient has them."""
    got: dict[str, HandedSecret] = {}

    async def receive(stream: LaneStream) -> None:
        got.update(await read_secrets(stream, (TPM, DISK)))
        await answer_kept(stream)

    async with lane(receive) as control, asyncio.timeout(10):
        await hand_over(control, SECRETS)
    assert got == SECRETS
    assert "planted" not in repr(got)


BAD: list[Any] = [
    "planted",
    ["planted"],
    {"tpm": "planted"},
    {"tpm": {"value": "planted!", "luks": None}},
    {"tpm": {"value": value(b""), "luks": None}},
    {"tpm": {"value": value(b"k" * (MAX_SECRET_BYTES + 1)), "luks": None}},
    {"tpm": {"value": value()}},
    {"tpm": {"value": value(), "luks": {"cipher-alg": "planted,x=y"}}},
    {"tpm": {"value": value(), "luks": {"cipher-alg": "aes-256"}}},
    {"disk vda": {"value": value(), "luks": None}},
    {},
    {"tpm": {"value": value(), "luks": None}, "disk vda": {"value": value(), "luks": {}}},
]


@pytest.mark.parametrize("document", [*map(json.dumps, BAD), "{planted", "[" * 50_000])
async def test_what_cannot_be_taken_is_refused_and_not_repeated(document: str) -> None:
    """Neither in the error, nor in what led to it, nor to the donor."""
    errors: list[QuestionError] = []

    async def receive(stream: LaneStream) -> None:
        with pytest.raises(QuestionError) as caught:
            await read_secrets(stream, (TPM,))
        errors.append(caught.value)
        stream.reset(str(caught.value))

    async with lane(receive) as control, asyncio.timeout(10):
        stream = control.open_stream(StreamKind.CONTROL, "secrets")
        await stream.write(document.encode())
        stream.write_eof()
        with pytest.raises(StreamError) as told:
            await stream.read()
    (error,) = errors
    assert error.__cause__ is None
    for planted in ("planted", value()):
        assert planted not in f"{error} {told.value}"


async def test_more_than_can_be_is_not_read() -> None:
    """A donor cannot fill this node's memory."""

    async def receive(stream: LaneStream) -> None:
        with pytest.raises(QuestionError, match="more than"):
            await read_secrets(stream, (TPM,))
        stream.reset("too much")

    async with lane(receive) as control, asyncio.timeout(10):
        stream = control.open_stream(StreamKind.CONTROL, "secrets")
        with suppress(StreamError):
            for _ in range(100):
                await stream.write(b" " * 65_536)
        with pytest.raises(StreamError):
            await stream.read()


@pytest.mark.parametrize("answer", [b"", b"no", None])
async def test_without_a_yes_the_port_does_not_go_on(answer: bytes | None) -> None:
    """An agent without this request resets the stream."""

    async def receive(stream: LaneStream) -> None:
        await stream.read()
        if answer is None:
            stream.reset("no stream 'secrets' is expected")
            return
        if answer:
            await stream.write(answer)
        stream.write_eof()

    async with lane(receive) as control, asyncio.timeout(10):
        with pytest.raises(SecretError, match="hand the VM's secrets over"):
            await hand_over(control, SECRETS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(value()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["tpm", "value", "luks", "cipher-alg"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=200))
def test_any_document_is_read_or_refused(document: bytes) -> None:
    """By no other error."""
    with suppress(QuestionError):
        found = secret_handover._decode(document)
        assert all(isinstance(secret, HandedSecret) for secret in found.values())
