"""The donor's side of the driver connection: keepalives answered, Finish noticed, its answer kept back. Pure.

The donor's libvirtd resumes its copy of the guest when Finish fails *or when its connection breaks*, and kills it when
Finish succeeds. So neither an answer nor an end of the connection reaches it from here before the shell knows who owns
the VM: after a Finish call went out, the shell hears `FinishAnswered` (or of the lane's end) and decides with
`confirm` or `refuse`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from services.node_agent.libvirt_rpc.messages import (
    ERR_OPERATION_DENIED,
    PONG_FRAME,
    FinishCall,
    Frame,
    FrameParser,
    FrameType,
    PlainCall,
    Procedure,
    Status,
    decode_call,
    decode_error,
    encode_call,
    encode_error,
    encode_finish_reply,
)


@dataclass(frozen=True, slots=True)
class ToLane:
    """Bytes for the recipient."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ToLocal:
    """Bytes for this host's libvirtd."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Prepared:
    """The recipient has prepared itself; this host's libvirtd begins to move the guest when it has these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FinishWanted:
    """This host's libvirtd has sent everything and asks the recipient to run the guest. Not passed on before
    `pass_finish`."""


@dataclass(frozen=True, slots=True)
class FinishAnswered:
    """The recipient's answer to a Finish that was not cancelled; kept back until `confirm` or `refuse`."""

    error: str | None


DonorAction = ToLane | ToLocal | Prepared | FinishWanted | FinishAnswered


@dataclass(slots=True)
class DonorRelay:
    """One driver connection, seen from the donor."""

    vm_uuid: UUID
    vm_name: str
    _from_local: FrameParser = field(default_factory=FrameParser)
    _from_lane: FrameParser = field(default_factory=FrameParser)
    _finish: Frame | None = None
    _waiting: Frame | None = None
    _answer: Frame | None = None

    @property
    def finish_open(self) -> bool:
        """Whether a Finish went to the recipient and this host's libvirtd has had no answer."""
        return self._finish is not None and self._waiting is None

    def receive_from_local(self, data: bytes) -> list[DonorAction]:
        """Take what this host's libvirtd sent. Raises `RpcError`."""
        actions: list[DonorAction] = []
        for frame in self._from_local.receive_data(data):
            if frame.is_keepalive:
                if frame.is_ping:
                    actions.append(ToLocal(PONG_FRAME.to_bytes()))
            elif self._is_finish(frame):
                self._finish = self._waiting = frame
                actions.append(FinishWanted())
            else:
                actions.append(ToLane(frame.to_bytes()))
        return actions

    def receive_from_lane(self, data: bytes) -> list[DonorAction]:
        """Take what the recipient answered. Raises `RpcError`."""
        actions: list[DonorAction] = []
        for frame in self._from_lane.receive_data(data):
            if frame.is_keepalive:
                continue
            if self._finish is not None and frame.serial == self._finish.serial and frame.type == FrameType.REPLY:
                self._answer = frame
                error = decode_error(frame).message if frame.status == Status.ERROR else None
                actions.append(FinishAnswered(error))
            elif frame.procedure == Procedure.MIGRATE_PREPARE3_PARAMS and frame.type == FrameType.REPLY:
                actions.append(Prepared(frame.to_bytes()))
            else:
                actions.append(ToLocal(frame.to_bytes()))
        return actions

    def pass_finish(self) -> list[DonorAction]:
        """Pass the waiting Finish on."""
        frame, self._waiting = self._waiting, None
        return [] if frame is None else [ToLane(frame.to_bytes())]

    def confirm(self) -> list[DonorAction]:
        """Tell this host's libvirtd that the guest runs at the recipient, in its own words if they came: the copy here
        is killed."""
        if self._finish is None:
            return []
        if self._answer is not None and self._answer.status == Status.OK:
            return self._reply(self._answer)
        return self._reply(encode_finish_reply(self._finish.serial, self.vm_name, self.vm_uuid.bytes))

    def refuse(self, message: str) -> list[DonorAction]:
        """Tell this host's libvirtd that the guest does not run at the recipient, in its own words if they came: the
        copy here is resumed."""
        if self._finish is None:
            return []
        if self._answer is not None and self._answer.status == Status.ERROR:
            return self._reply(self._answer)
        return self._reply(encode_error(self._finish, message, ERR_OPERATION_DENIED))

    def _reply(self, frame: Frame) -> list[DonorAction]:
        self._finish = self._waiting = self._answer = None
        return [ToLocal(frame.to_bytes())]

    @staticmethod
    def _is_finish(frame: Frame) -> bool:
        if frame.procedure != Procedure.MIGRATE_FINISH3_PARAMS or frame.type != FrameType.CALL:
            return False
        call = decode_call(frame)
        return isinstance(call, FinishCall) and not call.cancelled


def local_answer(frame: Frame) -> Frame | None:
    """Return the answer that lets this host's libvirtd end its connection politely once the lane is gone; None if
    unknown."""
    closing = {Procedure.CONNECT_CLOSE, Procedure.UNREGISTER_CLOSE_CALLBACK}
    if frame.type != FrameType.CALL or frame.procedure not in closing:
        return None
    answered = encode_call(PlainCall(Procedure(frame.procedure)), frame.serial)
    return Frame(answered.program, answered.procedure, FrameType.REPLY, frame.serial, Status.OK, b"")
