"""The donor's relay: Finish is noticed and kept, its answer kept back until somebody knows who runs the guest."""

from __future__ import annotations

from uuid import UUID

from services.node_agent.libvirt_rpc.messages import (
    ERR_OPERATION_DENIED,
    KEEPALIVE_PROGRAM,
    PING,
    PONG_FRAME,
    REMOTE_PROGRAM,
    FeatureCall,
    FinishCall,
    Frame,
    FrameParser,
    FrameType,
    PlainCall,
    Procedure,
    Status,
    decode_error,
    decode_finish_reply,
    encode_call,
    encode_error,
    encode_finish_reply,
)
from services.node_agent.libvirt_rpc.relay import (
    DonorAction,
    DonorRelay,
    FinishAnswered,
    FinishWanted,
    Prepared,
    ToLane,
    ToLocal,
    local_answer,
)

VM = UUID("11111111-2222-3333-4444-555555555501")
FEATURE = encode_call(FeatureCall(10), 1).to_bytes()
FINISH = encode_call(FinishCall((), b"", 0x43, cancelled=False), 9)
CANCELLED = encode_call(FinishCall((), b"", 0x43, cancelled=True), 9).to_bytes()
GOOD = encode_finish_reply(9, "web", VM.bytes).to_bytes()
BAD = encode_error(FINISH, "no").to_bytes()


def relay_in_finish() -> DonorRelay:
    """A relay whose Finish has gone out."""
    relay = DonorRelay(VM, "web")
    relay.receive_from_local(FINISH.to_bytes())
    relay.pass_finish()
    return relay


def told(actions: list[DonorAction]) -> Frame:
    """The one frame for this host's libvirtd."""
    (action,) = actions
    assert isinstance(action, ToLocal)
    (frame,) = FrameParser().receive_data(action.data)
    return frame


def test_other_calls_pass_both_ways() -> None:
    """What is not Finish is not touched."""
    relay = DonorRelay(VM, "web")
    reply = Frame(REMOTE_PROGRAM, 60, FrameType.REPLY, 1, Status.OK, b"\0\0\0\1").to_bytes()
    assert relay.receive_from_local(FEATURE) == [ToLane(FEATURE)]
    assert relay.receive_from_lane(reply) == [ToLocal(reply)]
    assert relay.receive_from_local(CANCELLED) == [ToLane(CANCELLED)]
    assert relay.receive_from_lane(BAD) == [ToLocal(BAD)]
    assert not relay.finish_open


def test_the_shell_knows_when_the_recipient_is_prepared() -> None:
    """It has until then to learn what the recipient knows; a refusal is held no less."""
    for status in (Status.OK, Status.ERROR):
        reply = Frame(REMOTE_PROGRAM, Procedure.MIGRATE_PREPARE3_PARAMS, FrameType.REPLY, 4, status, b"").to_bytes()
        assert DonorRelay(VM, "web").receive_from_lane(reply) == [Prepared(reply)]


def test_keepalives_are_answered_at_the_donor() -> None:
    """A lane that is away is not heard by libvirtd."""
    ping = Frame(KEEPALIVE_PROGRAM, PING, FrameType.MESSAGE, 0, Status.OK, b"").to_bytes()
    assert DonorRelay(VM, "web").receive_from_local(ping) == [ToLocal(PONG_FRAME.to_bytes())]


def test_finish_waits_until_it_is_passed() -> None:
    """It goes out when the guest is fenced, and is open until libvirtd has an answer."""
    relay = DonorRelay(VM, "web")
    assert relay.receive_from_local(FINISH.to_bytes()) == [FinishWanted()]
    assert not relay.finish_open
    assert relay.pass_finish() == [ToLane(FINISH.to_bytes())]
    assert relay.finish_open
    assert relay.pass_finish() == []


def test_a_good_answer_is_kept_until_confirmed() -> None:
    """The shell hears it first."""
    relay = relay_in_finish()
    assert relay.receive_from_lane(GOOD) == [FinishAnswered(None)]
    assert relay.confirm() == [ToLocal(GOOD)]
    assert not relay.finish_open
    assert relay.confirm() == []


def test_a_bad_answer_is_kept_too() -> None:
    """Its reason is told to the shell."""
    relay = relay_in_finish()
    assert relay.receive_from_lane(BAD) == [FinishAnswered("no")]
    assert relay.refuse("the port failed") == [ToLocal(BAD)]


def test_an_answer_that_is_not_the_ledgers_is_replaced() -> None:
    """libvirtd hears the verdict, whatever the recipient said."""
    relay = relay_in_finish()
    relay.receive_from_lane(BAD)
    assert told(relay.confirm()).status == Status.OK
    relay = relay_in_finish()
    relay.receive_from_lane(GOOD)
    assert decode_error(told(relay.refuse("given back"))).message == "given back"


def test_a_lost_answer_can_be_made_up() -> None:
    """`confirm` is an answer that libvirt believes, `refuse` an error with our reason."""
    good = told(relay_in_finish().confirm())
    assert (good.serial, good.status) == (9, Status.OK)
    assert decode_finish_reply(good) == ("web", VM.bytes)
    bad = told(relay_in_finish().refuse("the port failed"))
    assert (bad.serial, decode_error(bad).message) == (9, "the port failed")


def test_nothing_is_made_up_without_a_finish() -> None:
    """No answer to a question that was not asked."""
    relay = DonorRelay(VM, "web")
    assert relay.confirm() == relay.refuse("x") == []


def test_goodbyes_can_be_answered_here() -> None:
    """When the lane is gone libvirtd still ends politely; other calls get no answer."""
    close = encode_call(PlainCall(Procedure.CONNECT_CLOSE), 4)
    answer = local_answer(close)
    assert answer is not None
    assert (answer.serial, answer.type, answer.status) == (4, FrameType.REPLY, Status.OK)
    assert local_answer(FINISH) is None
    assert (answer.program, answer.procedure, answer.payload) == (REMOTE_PROGRAM, Procedure.CONNECT_CLOSE, b"")
    unregister = local_answer(encode_call(PlainCall(Procedure.UNREGISTER_CLOSE_CALLBACK), 5))
    assert unregister is not None
    assert (unregister.procedure, unregister.serial) == (Procedure.UNREGISTER_CLOSE_CALLBACK, 5)


def test_a_keepalive_of_the_recipient_hides_no_reply() -> None:
    """What comes behind it in the same bytes is taken."""
    reply = Frame(REMOTE_PROGRAM, 60, FrameType.REPLY, 1, Status.OK, b"\0\0\0\1").to_bytes()
    assert DonorRelay(VM, "web").receive_from_lane(PONG_FRAME.to_bytes() + reply) == [ToLocal(reply)]


def test_libvirtd_hears_that_the_operation_was_denied() -> None:
    """VIR_ERR_OPERATION_DENIED: not an internal error, for which it would blame itself."""
    relay = relay_in_finish()
    assert relay.refuse("no") == [ToLocal(encode_error(FINISH, "no", ERR_OPERATION_DENIED).to_bytes())]


def test_only_a_call_is_a_finish() -> None:
    """A message of the same number is not."""
    message = Frame(REMOTE_PROGRAM, Procedure.MIGRATE_FINISH3_PARAMS, FrameType.MESSAGE, 3, Status.OK, b"").to_bytes()
    assert DonorRelay(VM, "web").receive_from_local(message) == [ToLane(message)]
