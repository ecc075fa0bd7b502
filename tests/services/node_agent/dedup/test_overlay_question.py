"""The question about overlays: asked and answered over a lane, and safe whatever is said."""

from __future__ import annotations

import asyncio

import pytest

from services.node_agent.dedup.base_images import BaseImage, OverlaysWanted
from services.node_agent.dedup.overlay_request import (
    MAX_QUESTION_BYTES,
    OVERLAYS,
    answer_overlays,
    ask_for_overlays,
    read_overlays_wanted,
)
from services.node_agent.lanes.core.errors import QuestionError
from services.node_agent.lanes.stream import LaneStream
from shared.page_stream.bodies import StreamKind
from tests.support.control_lane import lane

WANTED = OverlaysWanted(
    bases={f"vd{letter}": BaseImage(blake3="5" * 64, size_bytes=1 << 40, format="qcow2") for letter in "abcdefgh"}
)


@pytest.mark.parametrize("made", [True, False])
async def test_the_donor_learns_what_was_made(made: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """The question arrives as it was asked, the answer as it was given."""
    heard: list[OverlaysWanted] = []

    async def answer(stream: LaneStream) -> None:
        assert stream.label == OVERLAYS
        heard.append(await read_overlays_wanted(stream))
        await answer_overlays(stream, made=made)

    async with lane(answer) as control:
        assert made is await ask_for_overlays(control, WANTED)
    assert heard == [WANTED]


async def test_a_recipient_that_knows_no_such_question_makes_none() -> None:
    """The disks are copied whole."""

    async def refuse(stream: LaneStream) -> None:
        stream.reset("no stream is expected")

    async with lane(refuse) as control:
        assert not await ask_for_overlays(control, WANTED)


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"{",
        b'{"bases": {}}',
        b'{"bases": {"vda": {"blake3": "5", "size_bytes": 1, "format": "raw"}}}',
        WANTED.model_dump_json().replace("qcow2", "vmdk").encode(),
        WANTED.model_dump_json().replace("vda", "../../vda").encode(),
        WANTED.model_dump_json().replace('"size_bytes"', '"path": "/etc/shadow", "size_bytes"', 1).encode(),
        b" " * (MAX_QUESTION_BYTES + 1),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(question: bytes) -> None:
    """A donor names contents and nothing else: no path can be said at all."""
    refused = asyncio.get_running_loop().create_future()

    async def read(stream: LaneStream) -> None:
        with pytest.raises(QuestionError) as caught:
            await read_overlays_wanted(stream)
        refused.set_result(str(caught.value))

    async with lane(read) as control:
        stream = control.open_stream(StreamKind.CONTROL, OVERLAYS)
        await stream.write(question)
        stream.write_eof()
        assert "overlays" in await refused
