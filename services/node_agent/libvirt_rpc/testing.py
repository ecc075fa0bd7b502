"""A client of libvirt's RPC over a unix socket, for the fake hypervisor: one call at a time, with its reply."""

from __future__ import annotations

import asyncio

from services.node_agent.libvirt_rpc.messages import (
    REMOTE_PROGRAM,
    Call,
    Frame,
    FrameParser,
    FrameType,
    Status,
    decode_error,
    encode_call,
)
from shared.errors import VmportError

CHUNK_BYTES = 64 * 1024


class RpcFailed(VmportError):
    """The other libvirtd answered with an error, or not at all."""

    code = "rpc_failed"


class RpcClient:
    """One RPC conversation, seen from its caller."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._serial = 0
        self._parser = FrameParser()

    async def call(self, call: Call) -> None:
        """Call and wait for the answer."""
        self._writer.write(encode_call(call, self._serial).to_bytes())
        self._serial += 1
        frames: list[Frame] = []
        while not frames:
            data = await self._reader.read(CHUNK_BYTES)
            if not data:
                raise RpcFailed("client socket is closed")
            frames = self._parser.receive_data(data)
        if frames[0].status == Status.ERROR:
            raise RpcFailed(decode_error(frames[0]).message)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def reply_to(frame: Frame, payload: bytes) -> Frame:
    return Frame(REMOTE_PROGRAM, frame.procedure, FrameType.REPLY, frame.serial, Status.OK, payload)
