"""The RPC gate: the eight procedures in their order pass, the agreed VM only, and Finish waits for the broker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.libvirt_rpc.gate import (
    Action,
    FinishAnswered,
    PrepareAnswered,
    Refused,
    RpcGate,
    Step,
    SwitchoverWanted,
    ToDonor,
    ToLibvirtd,
)
from services.node_agent.libvirt_rpc.gate_terms import NON_SHARED_DISK, NON_SHARED_INC, POSTCOPY, Expected
from services.node_agent.libvirt_rpc.messages import (
    KEEPALIVE_PROGRAM,
    PING,
    PONG_FRAME,
    REMOTE_PROGRAM,
    Call,
    FeatureCall,
    FinishCall,
    Frame,
    FrameParser,
    FrameType,
    OpenCall,
    ParamType,
    PlainCall,
    PrepareCall,
    Procedure,
    Status,
    TypedParam,
    decode_call,
    decode_error,
    encode_call,
    encode_error,
    encode_finish_reply,
)

VM = UUID("11111111-2222-3333-4444-555555555501")
SIZE = 256 * 1024 * 1024
FLAGS = 0x43
DOMAIN = f"""<domain type='qemu'><name>web</name><uuid>{VM}</uuid><memory>262144</memory><vcpu>1</vcpu>
<os><type machine='pc-q35-10.0'>hvm</type></os><devices><disk type='file' device='disk'>
<source file='%s'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""
ISSUED, FORMATTED_ANEW = DOMAIN % "/beta/web.raw", DOMAIN % "/whatever/the/donor/says.raw"
COOKIE = (
    f"""<qemu-migration><name>web</name><uuid>{VM}</uuid><hostname>h</hostname>
<nbd><disk target='vda' capacity='{SIZE}'/></nbd></qemu-migration>""".encode()
    + b"\0"
)
EXPECTED = Expected(
    vm_uuid=VM,
    vm_name="web",
    domain_xml=ISSUED,
    disks={"vda": SIZE},
    memory_uri="unix:///run/vmport/p/mem.sock",
    disks_uri="unix:///run/vmport/p/nbd.sock",
)
PARAMS = (
    TypedParam("destination_xml", ParamType.STRING, FORMATTED_ANEW),
    TypedParam("migrate_uri", ParamType.STRING, EXPECTED.memory_uri),
    TypedParam("disks_uri", ParamType.STRING, EXPECTED.disks_uri),
    TypedParam("migrate_disks", ParamType.STRING, "vda"),
)
PREPARE = PrepareCall(PARAMS, COOKIE, FLAGS)
FINISH = FinishCall((*PARAMS, TypedParam("destination_name", ParamType.STRING, "web")), COOKIE, FLAGS, cancelled=False)


class Conversation:
    """A donor's libvirtd and ours, with the gate between them."""

    def __init__(self, expected: Expected = EXPECTED) -> None:
        self.gate = RpcGate(expected)
        self.serial = 0

    def say(self, call: Call) -> list[Action]:
        """The donor calls."""
        frame = encode_call(call, self.serial)
        self.serial += 1
        return self.gate.receive_from_donor(frame.to_bytes())

    def answer(self, call: Call, *, error: str | None = None, payload: bytes = b"") -> list[Action]:
        """Our libvirtd answers the call that was said last."""
        asked = encode_call(call, self.serial - 1)
        frame = Frame(REMOTE_PROGRAM, asked.procedure, FrameType.REPLY, asked.serial, Status.OK, payload)
        return self.gate.receive_from_libvirtd((encode_error(asked, error) if error else frame).to_bytes())

    def until_prepared(self, prepare: PrepareCall = PREPARE) -> list[Action]:
        """Everything that comes before Finish."""
        for call in (PlainCall(Procedure.AUTH_LIST), FeatureCall(10), OpenCall("qemu:///system", 0)):
            assert passed(self.say(call)) == call
            self.answer(call)
        closing = PlainCall(Procedure.REGISTER_CLOSE_CALLBACK)
        assert passed(self.say(closing)) == closing
        self.answer(closing)
        self.say(prepare)
        return self.answer(prepare)


def passed(actions: list[Action]) -> Call:
    """The one call that went on to our libvirtd."""
    (action,) = actions
    assert isinstance(action, ToLibvirtd)
    (frame,) = FrameParser().receive_data(action.data)
    return decode_call(frame)


def refusal(actions: list[Action]) -> str:
    """The code of a refusal that the donor was told, too."""
    told, refused = actions
    assert isinstance(told, ToDonor)
    (frame,) = FrameParser().receive_data(told.data)
    assert frame.status == Status.ERROR
    assert isinstance(refused, Refused)
    assert decode_error(frame).message == str(refused.refusal)
    return refused.refusal.code


def test_a_whole_migration_passes_with_our_xml_in_it() -> None:
    """The donor's text of the XML is replaced by ours in Prepare and Finish; answers go back unchanged."""
    talk = Conversation()
    talk.until_prepared()
    assert talk.say(FINISH) == [SwitchoverWanted()]
    finish = passed(talk.gate.grant())
    assert isinstance(finish, FinishCall)
    assert not finish.cancelled
    assert finish.params[0].value == ISSUED
    reply = encode_finish_reply(talk.serial - 1, "web", VM.bytes)
    assert talk.gate.receive_from_libvirtd(reply.to_bytes()) == [
        FinishAnswered(running=True, cancelled=False, error=None),
        ToDonor(reply.to_bytes()),
    ]
    assert talk.gate.step is Step.FINISHED
    close = PlainCall(Procedure.CONNECT_CLOSE)
    assert passed(talk.say(close)) == close


def test_prepare_is_passed_on_with_the_issued_xml() -> None:
    """Not the donor's paths reach our libvirtd, but the ones that were issued."""
    talk = Conversation()
    talk.gate.step = Step.OPENED
    prepare = passed(talk.say(PREPARE))
    assert isinstance(prepare, PrepareCall)
    assert prepare.params[0].value == ISSUED
    assert prepare.params[1:] == PARAMS[1:]
    assert talk.answer(prepare)[0] == PrepareAnswered(None)


def test_a_denied_finish_is_passed_as_a_cancelled_one() -> None:
    """libvirt then cleans up on both sides by itself."""
    talk = Conversation()
    talk.until_prepared()
    talk.say(FINISH)
    finish = passed(talk.gate.deny())
    assert isinstance(finish, FinishCall)
    assert finish.cancelled
    assert talk.answer(finish, error="migration successfully aborted")[0] == FinishAnswered(
        running=False, cancelled=True, error="migration successfully aborted"
    )


def test_a_cancelled_finish_passes_at_once() -> None:
    """Nobody is asked whether a guest may not run."""
    talk = Conversation()
    talk.until_prepared()
    cancelled = passed(talk.say(replace(FINISH, cancelled=True)))
    assert isinstance(cancelled, FinishCall)
    assert cancelled.cancelled


def test_a_grant_before_finish_lets_it_pass() -> None:
    """Post-copy asks the broker first."""
    talk = Conversation()
    talk.until_prepared(replace(PREPARE, flags=FLAGS | POSTCOPY))
    assert talk.gate.grant() == []
    assert isinstance(passed(talk.say(replace(FINISH, flags=FLAGS | POSTCOPY))), FinishCall)


def test_top_layers_pass_where_the_disks_are_overlays() -> None:
    """And only they: neither a whole copy nor none is what waits there."""
    top_layers = replace(PREPARE, flags=FLAGS ^ NON_SHARED_DISK ^ NON_SHARED_INC)
    talk = Conversation(replace(EXPECTED, overlays=True))
    talk.until_prepared(top_layers)
    assert talk.gate.step is Step.PREPARED
    for flags in (FLAGS, FLAGS ^ NON_SHARED_DISK):
        other = Conversation(replace(EXPECTED, overlays=True))
        other.gate.step = Step.OPENED
        assert refusal(other.say(replace(PREPARE, flags=flags))) == "rpc_flags"


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (replace(PREPARE, flags=FLAGS ^ NON_SHARED_DISK ^ NON_SHARED_INC), "rpc_flags"),  # the disks here are whole
        (replace(PREPARE, flags=FLAGS | NON_SHARED_INC), "rpc_flags"),
        (replace(PREPARE, flags=FLAGS ^ NON_SHARED_DISK), "rpc_flags"),  # no disk comes
        (replace(PREPARE, flags=FLAGS | 8), "rpc_flags"),  # PERSIST_DEST
        (replace(PREPARE, flags=FLAGS | 16), "rpc_flags"),  # UNDEFINE_SOURCE
        (replace(PREPARE, flags=FLAGS | 4), "rpc_flags"),  # TUNNELLED
        (replace(PREPARE, flags=0x42), "rpc_flags"),  # not live
        (replace(PREPARE, params=PARAMS[1:]), "rpc_parameter"),
        (replace(PREPARE, params=PARAMS[:1] + PARAMS[2:]), "rpc_parameter"),
        (replace(PREPARE, params=(*PARAMS, TypedParam("migrate_disks", ParamType.STRING, "vdb"))), "rpc_parameter"),
        (replace(PREPARE, params=(*PARAMS, TypedParam("persistent_xml", ParamType.STRING, ISSUED))), "rpc_parameter"),
        (replace(PREPARE, params=(*PARAMS, TypedParam("listen_address", ParamType.STRING, "::"))), "rpc_parameter"),
        (replace(PREPARE, params=(*PARAMS, TypedParam("destination_name", ParamType.STRING, "x"))), "rpc_parameter"),
        (
            replace(PREPARE, params=(PARAMS[0], replace(PARAMS[1], value="unix:///run/other.sock"), *PARAMS[2:])),
            "rpc_parameter",
        ),
        (
            replace(PREPARE, params=(replace(PARAMS[0], value=ISSUED.replace("262144", "999")), *PARAMS[1:])),
            "rpc_domain_xml",
        ),
        (replace(PREPARE, params=(replace(PARAMS[0], value="<domain"), *PARAMS[1:])), "rpc_domain_xml"),
        (replace(PREPARE, cookie=b"nonsense"), "rpc_cookie"),
        (replace(PREPARE, cookie=COOKIE.replace(b"5501", b"5502")), "rpc_cookie"),
        (replace(PREPARE, cookie=COOKIE.replace(str(SIZE).encode(), b"4096")), "rpc_cookie"),
        (replace(PREPARE, cookie=COOKIE.replace(b"<nbd>", b"<domain/><nbd>")), "rpc_cookie"),
    ],
)
def test_a_prepare_that_was_not_agreed_is_refused(prepare: PrepareCall, code: str) -> None:
    """Flags, sockets, disks, VM and cookie are the agreed ones, or the port ends."""
    talk = Conversation()
    talk.gate.step = Step.OPENED
    assert refusal(talk.say(prepare)) == code
    assert talk.gate.step is Step.SHUT


@pytest.mark.parametrize("call", [OpenCall("qemu:///session", 0), OpenCall(None, 0), OpenCall("qemu:///system", 1)])
def test_only_the_system_driver_is_opened(call: OpenCall) -> None:
    """No other driver, no read-only trick."""
    assert refusal(Conversation().say(call)) == "rpc_open"


@pytest.mark.parametrize("procedure", [10, 7, 23, 234, 305, 999])
def test_any_other_procedure_is_refused(procedure: int) -> None:
    """DOMAIN_CREATE_XML, DOMAIN_DESTROY and the like end the port."""
    talk = Conversation()
    frame = Frame(REMOTE_PROGRAM, procedure, FrameType.CALL, 1, Status.OK, b"")
    assert refusal(talk.gate.receive_from_donor(frame.to_bytes())) == "rpc_not_allowed"
    assert talk.gate.receive_from_donor(encode_call(FeatureCall(10), 2).to_bytes()) == []


@pytest.mark.parametrize("program", [0x20008087, 0x20008088, 0x20008089])
def test_other_programs_are_refused(program: int) -> None:
    """The QEMU monitor and lock programs of libvirt do not exist here."""
    frame = Frame(program, 1, FrameType.CALL, 1, Status.OK, b"")
    assert refusal(RpcGate(EXPECTED).receive_from_donor(frame.to_bytes())) == "rpc_not_allowed"


@pytest.mark.parametrize("calls", [[PREPARE], [FINISH], [PlainCall(Procedure.REGISTER_CLOSE_CALLBACK)]])
def test_calls_out_of_order_are_refused(calls: list[Call]) -> None:
    """Nothing is prepared on a connection that is not open, nothing finished that was not prepared."""
    talk = Conversation()
    assert refusal(talk.say(calls[0])) == "rpc_out_of_order"


def test_prepare_and_finish_pass_only_once() -> None:
    """A second guest, or a second start, is refused."""
    talk = Conversation()
    talk.until_prepared()
    assert refusal(talk.say(PREPARE)) == "rpc_out_of_order"
    again = Conversation()
    again.until_prepared()
    again.say(FINISH)
    again.gate.deny()
    assert refusal(again.say(FINISH)) == "rpc_out_of_order"


def test_unknown_features_are_denied_here() -> None:
    """A feature that needs more than the gate knows does not exist for the donor."""
    (action,) = Conversation().say(FeatureCall(3))
    assert isinstance(action, ToDonor)
    (frame,) = FrameParser().receive_data(action.data)
    assert frame.payload == b"\0\0\0\0"


def test_keepalives_are_answered_on_both_sides() -> None:
    """Neither libvirtd hears the silence of a held call."""
    ping = Frame(KEEPALIVE_PROGRAM, PING, FrameType.MESSAGE, 0, Status.OK, b"").to_bytes()
    gate = RpcGate(EXPECTED)
    assert gate.receive_from_donor(ping) == [ToDonor(PONG_FRAME.to_bytes())]
    assert gate.receive_from_libvirtd(ping) == [ToLibvirtd(PONG_FRAME.to_bytes())]
    assert gate.receive_from_donor(PONG_FRAME.to_bytes()) == []


def test_a_flood_of_calls_is_refused() -> None:
    """Unanswered calls are bounded."""
    talk = Conversation()
    for _ in range(16):
        passed(talk.say(FeatureCall(10)))
    assert refusal(talk.say(FeatureCall(10))) == "rpc_flood"


def test_a_prepare_that_failed_leaves_nothing_to_finish() -> None:
    """After libvirt's own refusal only goodbyes pass."""
    talk = Conversation()
    talk.gate.step = Step.OPENED
    talk.say(PREPARE)
    assert talk.answer(PREPARE, error="no room")[0] == PrepareAnswered("no room")
    assert refusal(talk.say(FINISH)) == "rpc_out_of_order"


@given(st.binary(max_size=300))
def test_any_bytes_end_in_actions(data: bytes) -> None:
    """Nothing that a donor sends raises, and nothing of it reaches our libvirtd unread."""
    for action in RpcGate(EXPECTED).receive_from_donor(data):
        assert not isinstance(action, SwitchoverWanted | FinishAnswered)


def test_frames_that_come_together_are_all_judged() -> None:
    """One read of a socket may bring several; a keepalive among them hides none."""
    talk = Conversation()
    ping = Frame(KEEPALIVE_PROGRAM, PING, FrameType.MESSAGE, 0, Status.OK, b"").to_bytes()
    first, second = encode_call(PlainCall(Procedure.AUTH_LIST), 1), encode_call(FeatureCall(10), 2)
    actions = talk.gate.receive_from_donor(first.to_bytes() + ping + second.to_bytes())
    assert [type(action) for action in actions] == [ToLibvirtd, ToDonor, ToLibvirtd]
    replies = [
        Frame(REMOTE_PROGRAM, frame.procedure, FrameType.REPLY, frame.serial, Status.OK, b"").to_bytes()
        for frame in (first, second)
    ]
    answered = talk.gate.receive_from_libvirtd(replies[0] + ping + replies[1])
    assert answered == [ToDonor(replies[0]), ToLibvirtd(PONG_FRAME.to_bytes()), ToDonor(replies[1])]


def test_what_cannot_be_read_shuts_the_gate() -> None:
    """What came before it is still judged; nothing after it passes."""
    gate = RpcGate(EXPECTED)
    sound = encode_call(PlainCall(Procedure.AUTH_LIST), 1).to_bytes()
    *before, last = gate.receive_from_donor(sound + b"\xff" * 64)
    assert len(before) <= 1
    assert isinstance(last, Refused)
    assert last.refusal.code == "rpc_unreadable"
    assert last.refusal.detail not in {"", "None", None}
    assert gate.step is Step.SHUT
    assert gate.receive_from_donor(sound) == []


@pytest.mark.parametrize(
    "change",
    [
        {"program": 0x20008087},
        {"version": 2},
        {"type": FrameType.MESSAGE},
        {"version": 2, "type": FrameType.MESSAGE},
    ],
)
def test_program_version_and_type_must_all_be_the_calls(change: dict[str, Any]) -> None:
    """One that is wrong is enough."""
    frame = replace(encode_call(FeatureCall(10), 1), **change)
    assert refusal(RpcGate(EXPECTED).receive_from_donor(frame.to_bytes())) == "rpc_not_allowed"


def test_a_procedure_that_is_not_known_is_named() -> None:
    """The donor's operator reads why."""
    frame = Frame(REMOTE_PROGRAM, 999, FrameType.CALL, 1, Status.OK, b"")
    _, refused = RpcGate(EXPECTED).receive_from_donor(frame.to_bytes())
    assert isinstance(refused, Refused)
    assert "999" in refused.refusal.detail


def test_each_step_is_told_by_the_gate() -> None:
    """The shell asks it whether a Finish is in flight."""
    talk = Conversation()
    talk.gate.step = Step.OPENED
    talk.say(PREPARE)
    steps = [talk.gate.step]
    talk.answer(PREPARE)
    steps.append(talk.gate.step)
    talk.say(FINISH)
    steps.append(talk.gate.step)
    talk.gate.grant()
    steps.append(talk.gate.step)
    assert steps == [Step.PREPARING, Step.PREPARED, Step.FINISH_HELD, Step.FINISHING]
    assert talk.gate.grant() == []
    assert talk.gate.deny() == []


def test_another_programs_reply_answers_nothing() -> None:
    """Nor does an event of the same program: both go on to the donor."""
    talk = Conversation()
    talk.gate.step = Step.OPENED
    talk.say(PREPARE)
    serial = talk.serial - 1
    for frame in (
        Frame(0x20008087, Procedure.MIGRATE_PREPARE3_PARAMS, FrameType.REPLY, serial, Status.OK, b""),
        Frame(REMOTE_PROGRAM, Procedure.MIGRATE_PREPARE3_PARAMS, FrameType.MESSAGE, serial, Status.OK, b""),
    ):
        assert talk.gate.receive_from_libvirtd(frame.to_bytes()) == [ToDonor(frame.to_bytes())]
    assert talk.gate.step is Step.PREPARING
    unasked = Frame(REMOTE_PROGRAM, 60, FrameType.REPLY, 77, Status.OK, b"")
    assert talk.gate.receive_from_libvirtd(unasked.to_bytes()) == [ToDonor(unasked.to_bytes())]


def test_a_cancelled_finish_never_runs_a_guest() -> None:
    """Though libvirt answers it without an error; nor does one that failed."""
    talk = Conversation()
    talk.until_prepared()
    cancelled = replace(FINISH, cancelled=True)
    talk.say(cancelled)
    assert talk.answer(cancelled)[0] == FinishAnswered(running=False, cancelled=True, error=None)
    failed = Conversation()
    failed.until_prepared()
    failed.say(FINISH)
    failed.gate.grant()
    assert failed.answer(FINISH, error="no")[0] == FinishAnswered(running=False, cancelled=False, error="no")
