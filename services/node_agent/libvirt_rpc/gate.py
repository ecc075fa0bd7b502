"""The RPC gate at the recipient: what a foreign libvirtd may say to ours. Pure; the shell moves the bytes.

Rules
1. Eight procedures, in the order that a peer-to-peer migration has, each once where once is enough; the rest is
   refused, the donor's libvirtd gets an RPC error, and the gate stays shut from then on.
2. The connection is opened to this host's own system driver; no other name, no flags.
3. Prepare carries the VM that was agreed. libvirt 11.3 was watched: when the migration has a `dest_xml`, the donor's
   libvirtd parses it, checks its ABI against the running domain, and sends it on *formatted again* (defaults added,
   order changed), so texts cannot be compared. So the gate compares the guest ABI, and then substitutes the XML that
   the recipient issued, in Prepare and in Finish: no path, bridge or option that the recipient did not choose reaches
   its libvirtd. That XML names no layer below a disk: libvirt reads it from the image, which the recipient made.
4. Sockets are this port's own, disks are the agreed ones with the agreed size, flags are the required ones and any of
   `OPTIONAL_FLAGS`. Flags that define or undefine domains (PERSIST_DEST, UNDEFINE_SOURCE) do not pass: the agents do
   that after the switchover. Where the recipient made overlays, and only there, top layers alone are copied
   (NON_SHARED_INC): any other pairing would lose what lies beneath, or copy it for nothing; and none would leave the
   disks here empty.
5. Finish with `cancelled` passes at once. Finish without it asks for the guest to run: it is held until the broker has
   committed the switchover. A denial turns it into a cancelled Finish, so that libvirt itself cleans up on both sides.
6. Keepalives are answered here, so that neither libvirtd hears the silence of a held call or of a lane that is away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from uuid import UUID

from services.node_agent.libvirt_rpc.gate_terms import (
    PASSED_FEATURES,
    Expected,
    GateRefusal,
    checked_finish,
    checked_open,
    checked_prepare,
)
from services.node_agent.libvirt_rpc.messages import (
    PONG_FRAME,
    REMOTE_PROGRAM,
    Call,
    FeatureCall,
    FinishCall,
    Frame,
    FrameParser,
    FrameType,
    OpenCall,
    PlainCall,
    PrepareCall,
    Procedure,
    RpcError,
    Status,
    decode_call,
    decode_error,
    decode_finish_reply,
    encode_call,
    encode_error,
    encode_feature_reply,
)

MAX_UNANSWERED = 16
"""A migration has one call under way at a time, and a close."""


class Step(StrEnum):
    """How far the conversation is."""

    NEW = "new"
    OPENED = "opened"
    PREPARING = "preparing"
    PREPARED = "prepared"
    FINISH_HELD = "finish_held"
    FINISHING = "finishing"
    FINISHED = "finished"
    SHUT = "shut"


_ALWAYS = frozenset({Procedure.CONNECT_SUPPORTS_FEATURE, Procedure.CONNECT_CLOSE})
_CLOSING = _ALWAYS | {Procedure.UNREGISTER_CLOSE_CALLBACK}
ALLOWED: Mapping[Step, frozenset[Procedure]] = {
    Step.NEW: _ALWAYS | {Procedure.AUTH_LIST, Procedure.CONNECT_OPEN},
    Step.OPENED: _CLOSING | {Procedure.REGISTER_CLOSE_CALLBACK, Procedure.MIGRATE_PREPARE3_PARAMS},
    Step.PREPARING: _CLOSING,
    Step.PREPARED: _CLOSING | {Procedure.MIGRATE_FINISH3_PARAMS},
    Step.FINISH_HELD: _CLOSING,
    Step.FINISHING: _CLOSING,
    Step.FINISHED: _CLOSING,
    Step.SHUT: frozenset(),
}


@dataclass(frozen=True, slots=True)
class ToLibvirtd:
    """Bytes for this host's libvirtd."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ToDonor:
    """Bytes for the donor's libvirtd."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PrepareAnswered:
    """This host's libvirtd made the incoming domain (`error` None), or could not."""

    error: str | None


@dataclass(frozen=True, slots=True)
class SwitchoverWanted:
    """A Finish that would run the guest is held: ask the broker, then call `grant` or `deny`."""


@dataclass(frozen=True, slots=True)
class FinishAnswered:
    """This host's libvirtd answered Finish. `running` true: the guest's first run here is known."""

    running: bool
    cancelled: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The gate is shut; the port ends."""

    refusal: GateRefusal


Action = ToLibvirtd | ToDonor | PrepareAnswered | SwitchoverWanted | FinishAnswered | Refused


@dataclass(slots=True)
class RpcGate:
    """One driver connection, seen from the recipient."""

    expected: Expected
    step: Step = Step.NEW
    granted: bool = False
    _from_donor: FrameParser = field(default_factory=FrameParser)
    _from_libvirtd: FrameParser = field(default_factory=FrameParser)
    _calls: dict[int, Call] = field(default_factory=dict)
    _held: tuple[Frame, FinishCall] | None = None

    def receive_from_donor(self, data: bytes) -> list[Action]:
        """Judge what the donor's libvirtd sent."""
        if self.step is Step.SHUT:
            return []
        actions: list[Action] = []
        try:
            for frame in self._from_donor.receive_data(data):
                actions += self._judge(frame)
        except RpcError as error:
            self.step = Step.SHUT
            actions.append(Refused(GateRefusal("rpc_unreadable", str(error))))
        return actions

    def receive_from_libvirtd(self, data: bytes) -> list[Action]:
        """Watch what this host's libvirtd answers. Raises `RpcError` where it is no RPC: our own side is broken."""
        actions: list[Action] = []
        for frame in self._from_libvirtd.receive_data(data):
            if frame.is_keepalive:
                if frame.is_ping:
                    actions.append(ToLibvirtd(PONG_FRAME.to_bytes()))
                continue
            actions += self._watch_reply(frame)
            actions.append(ToDonor(frame.to_bytes()))
        return actions

    def grant(self) -> list[Action]:
        """Let Finish pass, the held one or the one to come: the broker has committed the switchover."""
        self.granted = True
        return self._release(cancelled=False)

    def deny(self) -> list[Action]:
        """Pass the held Finish as a cancelled one: the VM stays at the donor."""
        return self._release(cancelled=True)

    def _release(self, *, cancelled: bool) -> list[Action]:
        if self._held is None:
            return []
        frame, call = self._held
        self._held = None
        return [self._pass_finish(frame, replace(call, cancelled=cancelled))]

    # ---- the donor's calls ----

    def _judge(self, frame: Frame) -> list[Action]:
        if self.step is Step.SHUT:
            return []
        if frame.is_keepalive:
            return [ToDonor(PONG_FRAME.to_bytes())] if frame.is_ping else []
        try:
            return self._judge_call(frame)
        except GateRefusal as refusal:
            self.step = Step.SHUT
            return [ToDonor(encode_error(frame, str(refusal)).to_bytes()), Refused(refusal)]

    def _judge_call(self, frame: Frame) -> list[Action]:
        if frame.program != REMOTE_PROGRAM or frame.version != 1 or frame.type != FrameType.CALL:
            raise GateRefusal(
                "rpc_not_allowed", f"program {frame.program:#x} version {frame.version}, message type {frame.type}"
            )
        try:
            call = decode_call(frame)
        except RpcError as error:
            raise GateRefusal("rpc_not_allowed", str(error)) from error
        procedure = Procedure(frame.procedure)
        if procedure not in ALLOWED[self.step]:
            raise GateRefusal("rpc_out_of_order", f"{procedure.name} while the connection is {self.step}")
        match call:
            case OpenCall():
                return [self._pass(frame, checked_open(call))]
            case FeatureCall(feature) if feature not in PASSED_FEATURES:
                # Answered here: this host's libvirtd must not begin what the gate cannot read.
                return [ToDonor(encode_feature_reply(frame, supported=False).to_bytes())]
            case PrepareCall():
                prepare = checked_prepare(call, self.expected)
                self.step = Step.PREPARING
                return [self._pass(frame, prepare)]
            case FinishCall():
                finish = checked_finish(call, self.expected)
                # Whoever decides may have granted it before it came.
                if call.cancelled or self.granted:
                    return [self._pass_finish(frame, finish)]
                self.step = Step.FINISH_HELD
                self._held = (frame, finish)
                return [SwitchoverWanted()]
            case FeatureCall() | PlainCall():
                return [self._pass(frame, call)]

    def _pass(self, frame: Frame, call: Call) -> ToLibvirtd:
        if len(self._calls) >= MAX_UNANSWERED:
            raise GateRefusal("rpc_flood", f"{len(self._calls)} calls are unanswered")
        # The frame is written again from the parsed call: no byte passes that the gate did not understand.
        self._calls[frame.serial] = call
        return ToLibvirtd(encode_call(call, frame.serial).to_bytes())

    def _pass_finish(self, frame: Frame, call: FinishCall) -> ToLibvirtd:
        self.step = Step.FINISHING
        return self._pass(frame, call)

    # ---- this host's answers ----

    def _watch_reply(self, frame: Frame) -> list[Action]:
        if frame.program != REMOTE_PROGRAM or frame.type != FrameType.REPLY:
            return []
        call = self._calls.pop(frame.serial, None)
        error = decode_error(frame).message if frame.status == Status.ERROR else None
        match call:
            case OpenCall() if error is None:
                self.step = Step.OPENED
            case PrepareCall():
                # A Prepare that failed left nothing that could be finished; only closing may follow.
                self.step = Step.PREPARED if error is None else Step.FINISHED
                return [PrepareAnswered(error)]
            case FinishCall(cancelled=cancelled):
                self.step = Step.FINISHED
                running = error is None and not cancelled
                if running:
                    self._check_who_runs(frame)
                return [FinishAnswered(running=running, cancelled=cancelled, error=error)]
            case _:
                pass
        return []

    def _check_who_runs(self, frame: Frame) -> None:
        name, uuid = decode_finish_reply(frame)
        if UUID(bytes=uuid) != self.expected.vm_uuid:
            raise RpcError(f"libvirt says that {name} ({UUID(bytes=uuid)}) runs, not {self.expected.vm_uuid}")
