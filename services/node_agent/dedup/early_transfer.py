"""Early transfer: disk contents cross while both hypervisors prepare and the link would be idle. Both ends.

It uses a stream of the disk lane labelled EARLY (format: `page_codec.disk.early_stream`). It ends when libvirt begins
to copy a disk: from then on the link is busy, and contents that were sent early go as references. Images are read as
files, in the order in which they will be copied. Only raw images: a QCOW2 file may hold clusters that its disk no
longer has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from services.node_agent.dedup.blocks import read_piece
from services.node_agent.lanes.arrivals import Arrivals
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES
from services.node_agent.page_codec.disk.early_stream import EarlyDecoder, EarlyEncoder
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from shared.logs import get_logger
from shared.page_stream.bodies import StreamKind

log = get_logger(__name__)

EARLY: Final = "early"


async def send_early(lane: LaneSession, port: PortEncoder, images: Sequence[Path], *, over: Callable[[], bool]) -> None:
    """The donor's side: send until `over()` is true, or everything is sent. Raises LaneError, StreamError.

    Do not cancel it: a content that has a number must be sent, or references to it would fail.
    """
    encoder = EarlyEncoder(port)
    if not images or not encoder.takes or over():
        return
    stream = lane.open_stream(StreamKind.DISK, EARLY)
    await stream.write(encoder.greet())
    for image in images:
        await _send_image(stream, encoder, image, over)
    stream.write_eof()
    log.info("early transfer sent", contents=encoder.sent)


async def _send_image(stream: LaneStream, encoder: EarlyEncoder, image: Path, over: Callable[[], bool]) -> None:
    at = 0
    while encoder.takes and not over():
        try:
            at, data = await asyncio.to_thread(read_piece, image, at, MAX_CHUNK_BYTES)
        except OSError as error:
            log.info("early transfer skipped an image", file=str(image), reason=str(error))
            return
        if not data:
            return
        if payload := encoder.encode(data):
            # A disk stream may refer to it at once: the lane serves writers in order, so this payload leaves first.
            await stream.write(payload)


async def receive_early(stream: LaneStream, port: PortDecoder, arrivals: Arrivals) -> None:
    """The recipient's side: store what arrives until the donor ends the stream.

    Raises LaneError and StreamError, CodecError for damaged payloads, OSError if contents cannot be stored.
    """
    decoder = EarlyDecoder(port)
    while payload := await stream.read_view():
        decoder.receive(payload)
        arrivals.tell()
    stream.write_eof()
    log.info("early transfer received", contents=decoder.stored)
