"""Question and answer about a path, over a control lane."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from services.node_agent.lanes.core.errors import QuestionError
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.network.paths.exchange import PATHS, answer_paths, probe_paths
from services.node_agent.network.paths.probe import Datagram, Question, Target
from shared.page_stream.bodies import StreamKind
from tests.support.control_lane import lane

SOURCES = ("10.81.1.10",)
HERE = ("198.51.100.1", "2001:db8::1")


class Path:
    """Carries what is sent to who listens, up to a size, and by own sources only if `filtered`."""

    def __init__(self, *, most: int = 9000, filtered: bool = False) -> None:
        self.port = 4000
        self.most, self.filtered = most, filtered
        self.came: set[Datagram] = set()
        self.closed = False

    def send(self, question: Question, target: Target, wanted: Iterable[Datagram]) -> tuple[str, ...]:
        assert (target.port, target.address in HERE, len(question.nonce)) == (4000, True, 16)
        self.came |= {
            each for each in wanted if each.size <= self.most and not (self.filtered and each.source is not None)
        }
        return ("1500 bytes by its own address: Message too long",)

    def heard(self, question: Question) -> set[Datagram]:
        assert question.targets
        return self.came

    def close(self) -> None:
        self.closed = True

    async def serve(self, stream: LaneStream) -> None:
        await answer_paths(stream, mtu=1500, sources=SOURCES, send=self.send, round_s=0)


@pytest.mark.parametrize(
    ("path", "codes"),
    [
        (Path(), []),
        (Path(most=1400), ["path_black_hole", "path_black_hole"]),
        (Path(filtered=True), ["source_filtered"]),
    ],
)
async def test_what_is_found(path: Path, codes: list[str]) -> None:
    async with lane(path.serve) as control:
        found = await probe_paths(control, HERE, mtu=1500, sources=SOURCES, listen=lambda: path, last_s=0)
    assert [each.partition(":")[0] for each in found] == codes
    assert path.closed


async def test_a_recipient_that_knows_no_such_stream_and_a_host_without_the_right() -> None:
    async def reset(stream: LaneStream) -> None:
        stream.reset("no stream 'paths' is expected")

    def refused() -> Path:
        raise PermissionError(1, "Operation not permitted")

    async with lane(reset) as control:
        (finding,) = await probe_paths(control, HERE, mtu=1500, sources=SOURCES, listen=Path)
        assert finding.startswith("path_not_probed")
        (finding,) = await probe_paths(control, HERE, mtu=1500, sources=SOURCES, listen=refused)
        assert finding == "path_not_probed: Operation not permitted"


async def test_a_question_that_is_none() -> None:
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(stream: LaneStream) -> None:
        with pytest.raises(QuestionError) as raised:
            await answer_paths(stream, mtu=1500, sources=SOURCES)
        told.set_result(str(raised.value))

    async with lane(serve) as control:
        stream = control.open_stream(StreamKind.CONTROL, PATHS)
        await stream.write(b"?")
        assert "cannot be read" in await told
