"""Questions between two node agents: what was asked arrives as it was, and silence is never taken for an answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from services.node_agent.base_images import BaseImage
from services.node_agent.signals import (
    MAX_DISKS,
    OVERLAYS,
    SWITCHOVER,
    SignalError,
    answer,
    ask_for_overlays,
    ask_for_switchover,
    hear_wanted_overlays,
)
from shared.page_stream.bodies import StreamKind

if TYPE_CHECKING:
    from tests.services.node_agent.conftest import Pair

IMAGE = BaseImage(blake3="ab" * 32, size_bytes=2 << 30, format="raw")


@pytest.mark.parametrize("refusal", [None, "no such base image here"])
async def test_a_question_for_overlays_is_answered(pair: Pair, refusal: str | None) -> None:
    """Images arrive as they were asked for; yes is None, no is its reason."""
    asking = asyncio.ensure_future(ask_for_overlays(pair.lanes_a.control, {"vda": IMAGE, "vdb": IMAGE}))
    stream = await pair.lanes_b.control.accept()
    assert stream.label == OVERLAYS
    assert await hear_wanted_overlays(stream) == {"vda": IMAGE, "vdb": IMAGE}
    await answer(stream, refusal)
    assert await asking == refusal


async def test_a_recipient_that_knows_no_overlays_makes_none(pair: Pair) -> None:
    """An older node agent resets a stream whose label it does not know."""
    asking = asyncio.ensure_future(ask_for_overlays(pair.lanes_a.control, {"vda": IMAGE}))
    (await pair.lanes_b.control.accept()).reset("no stream is expected")
    assert await asking == "no stream is expected"


async def test_silence_about_disks_is_no_answer(pair: Pair) -> None:
    """Nobody may guess what they are."""
    with pytest.raises(SignalError, match="not known"):
        await ask_for_overlays(pair.lanes_a.control, {"vda": IMAGE}, within_s=0.05)


async def test_too_many_disks_are_not_asked_for(pair: Pair) -> None:
    """The question would not fit."""
    refusal = await ask_for_overlays(pair.lanes_a.control, dict.fromkeys(map(str, range(MAX_DISKS + 1)), IMAGE))
    assert refusal is not None
    assert str(MAX_DISKS) in refusal


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"{",
        b'{"disks": {}}',
        b'{"disks": {"/etc/passwd": {"blake3": "%s", "size_bytes": 1, "format": "raw"}}}' % (b"ab" * 32),
        b'{"disks": {"vda": {"blake3": "/etc/passwd", "size_bytes": 1, "format": "raw"}}}',
        b'{"disks": {"vda": {"blake3": "%s", "size_bytes": 1, "format": "vmdk"}}}' % (b"ab" * 32),
        b'{"disks": {"vda": {"blake3": "%s", "size_bytes": 1, "format": "raw", "path": "/x"}}}' % (b"ab" * 32),
    ],
)
async def test_a_question_that_is_none_is_refused(pair: Pair, question: bytes) -> None:
    """No path, no other format, no name that is no disk's."""
    stream = pair.lanes_a.control.open_stream(StreamKind.CONTROL, OVERLAYS)
    if question:
        await stream.write(question)
    stream.write_eof()
    with pytest.raises(SignalError, match="cannot be read"):
        await hear_wanted_overlays(await pair.lanes_b.control.accept())


async def test_a_switchover_is_granted_or_not(pair: Pair) -> None:
    """The reason of a refusal arrives."""
    for refusal in (None, "cancelled: by the tenant"):
        asking = asyncio.ensure_future(ask_for_switchover(pair.lanes_a.control))
        stream = await pair.lanes_b.control.accept()
        assert stream.label == SWITCHOVER
        await answer(stream, refusal)
        if refusal is None:
            await asking
        else:
            with pytest.raises(SignalError, match=refusal):
                await asking
