"""The donor's node asks the recipient's to send probes over the path between them. Both ends.

It uses a stream of the control lane labelled PATHS: the question is one payload of JSON, and the answer one, when all
is sent. Nothing of the port depends on it, and it takes a second at most.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from pydantic import ValidationError

from services.node_agent.lanes.core.errors import LaneError, QuestionError, StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.network.paths.probe import Datagram, Question, Target, datagrams, findings
from services.node_agent.network.paths.sockets import PathListener, send_datagrams
from shared.logs import get_logger
from shared.page_stream.bodies import StreamKind

log = get_logger(__name__)

PATHS: Final = "paths"
ROUNDS: Final = 3
ROUND_S: Final = 0.15
LAST_S: Final = 0.3
"""How long it is waited for what is still on its way."""
WITHIN_S: Final = 5.0
"""For the stream itself; the lane may be busy."""
SENT: Final = b"sent"


class Listener(Protocol):
    """What hears; a `PathListener` is one."""

    port: int

    def heard(self, question: Question) -> set[Datagram]: ...
    def close(self) -> None: ...


async def probe_paths(
    control: LaneSession,
    own_addresses: Iterable[str],
    *,
    mtu: int,
    sources: Iterable[str],
    listen: Callable[[], Listener] = PathListener,
    last_s: float = LAST_S,
) -> tuple[str, ...]:
    """Donor: have the recipient send to these addresses of this host; return findings. Raises nothing of the lane."""
    try:
        listener = listen()
    except OSError as error:
        return (f"path_not_probed: {error.strerror}",)
    try:
        targets = tuple(Target(address=address, port=listener.port) for address in own_addresses)
        question = Question(nonce=secrets.token_hex(8), targets=targets)
        async with asyncio.timeout(WITHIN_S):
            stream = control.open_stream(StreamKind.CONTROL, PATHS)
            await stream.write(question.model_dump_json().encode())
            stream.write_eof()
            await stream.read()
        await asyncio.sleep(last_s)
        return findings(listener.heard(question), targets, mtu, sources)
    except (LaneError, StreamError, ValidationError, TimeoutError) as error:
        return (f"path_not_probed: {error or 'the recipient did not answer'}",)
    finally:
        listener.close()


async def answer_paths(
    stream: LaneStream,
    *,
    mtu: int,
    sources: Iterable[str],
    send: Callable[[Question, Target, Iterable[Datagram]], tuple[str, ...]] = send_datagrams,
    round_s: float = ROUND_S,
) -> None:
    """Recipient: send what the donor asks for, by the VM's addresses too. Raises `QuestionError`, LaneError,
    StreamError.
    """
    try:
        question = Question.model_validate_json(await stream.read())
    except ValidationError as error:
        raise QuestionError(f"a question about paths cannot be read: {error.error_count()} errors") from error
    wanted, refused = tuple(sources), set[str]()
    for number in range(ROUNDS):
        if number:
            await asyncio.sleep(round_s)
        for target in question.targets:
            refused.update(send(question, target, datagrams(target, mtu, wanted)))
    if refused:
        log.info("path probes not sent", reason="; ".join(sorted(refused)))
    await stream.write(SENT)
    stream.write_eof()
