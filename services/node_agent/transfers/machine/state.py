"""The state of a transfer's machine, one value for each side, and what a step returns. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from services.node_agent.switchover.verdict import Reply
from shared.errors import VmportError
from shared.messages.porting import SwitchoverState
from shared.messages.vm import VmState

if TYPE_CHECKING:
    from services.node_agent.transfers.machine.commands import Command


class MachineBug(VmportError):
    """A handler did something that the table does not allow; the step is not taken."""

    code = "transfer_machine_bug"


class Guest(StrEnum):
    """What is known of the guest on one host. `UNKNOWN` is never "no": libvirt did not answer."""

    RUNNING = "running"
    PAUSED = "paused"
    LEFT_BEHIND = "left_behind"
    """Paused for good: post-copy had begun, and QEMU does not let it run again."""
    NOT_THERE = "not_there"
    UNKNOWN = "unknown"

    @classmethod
    def of(cls, state: VmState | None) -> Guest:
        """What libvirt's answer means; None is "no such VM". What is neither on nor off is not known."""
        match state:
            case VmState.RUNNING:
                return cls.RUNNING
            case VmState.PAUSED:
                return cls.PAUSED
            case None | VmState.SHUT_OFF:
                return cls.NOT_THERE
            case _:
                return cls.UNKNOWN


class DonorPhase(StrEnum):
    """How far the guest's leaving is."""

    MOVING = "moving"
    """The guest is this host's, and no other may run it."""
    DECLARING_POST_COPY = "declaring_post_copy"
    POST_COPY_WANTED = "post_copy_wanted"
    """The broker may commit although the guest still runs here; post-copy has not started."""
    STARTING_POST_COPY = "starting_post_copy"
    POST_COPY = "post_copy"
    DECLARING = "declaring"
    """The journal is told that Finish goes out."""
    FREEZING = "freezing"
    UNDECIDED = "undecided"
    """The guest stands still; only the ledger decides."""
    KILLING = "killing"
    LEAVING = "leaving"
    """The guest runs at the recipient; libvirt's view of the copy here is being cleared."""
    LEFT = "left"
    GIVING_BACK = "giving_back"
    """The ledger says that the guest is this host's; the journal is told."""
    RETURNING = "returning"
    """The guest is this host's, and is not yet seen running."""
    STAYED = "stayed"


class RecipientPhase(StrEnum):
    """How far the guest's arrival is."""

    WAITING = "waiting"
    """The guest has never run here, and cannot."""
    DECLARING = "declaring"
    ASKED = "asked"
    """The broker is asked; Finish is held, or in post-copy not there yet."""
    GRANTED = "granted"
    """The broker has committed, and Finish has not come: in post-copy the guest still runs at the donor."""
    ACCEPTING = "accepting"
    """The broker has committed; the journal is told."""
    STARTING = "starting"
    """Finish was passed to libvirt: the guest may run, and may have run."""
    ARRIVED = "arrived"
    KEEPING = "keeping"
    """The guest is proven not to run here after a grant; the journal is told."""
    KEPT = "kept"
    """The broker was told so, finally. Everything stays until its AbortTransfer."""
    REFUSING = "refusing"
    """Finish goes to libvirt as a cancelled one."""
    REMOVING = "removing"
    GONE = "gone"


S = TypeVar("S", "Donor", "Recipient")


@dataclass(frozen=True, slots=True)
class Donor:
    """The donor's side. `provider` is this side's name in the ledger."""

    provider: str
    phase: DonorPhase = DonorPhase.MOVING
    was_running: bool = False
    """Whether the guest ran before the migration paused it. One that an operator has paused is not resumed by us."""
    post_copy_wanted: bool = False
    """The broker was told that only the ledger lets the guest run here, and may have committed since."""
    post_copy: bool = False
    """Post-copy has started: the guest's process must go on, to send pages."""
    finish_waits: bool = False
    """libvirtd waits for an answer to Finish."""
    migration_over: bool = False
    aborted: bool = False
    doubted: bool = False
    pledged: bool = False
    """The broker was told that the guest was not let go: only the broker's word ends the copy now."""
    reply: Reply = Reply.NONE
    ledger: SwitchoverState | None = None
    heard_epoch: int = 0
    """The newest epoch that the broker has told. What it says of an older one is old, or a restored ledger's."""
    reason: str = ""
    """Why the guest stays."""

    def with_(self, **changes: Any) -> Self:
        """A changed copy."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Recipient:
    """The recipient's side. `provider` is this side's name in the ledger."""

    provider: str
    phase: RecipientPhase = RecipientPhase.WAITING
    epoch: int = 0
    """What the grant commits. Only a newer one takes the VM back."""
    may_have_run: bool = False
    """It was seen starting, its process has used its vCPUs or ended without libvirt, or the host was restarted after
    Finish had been passed: that there is no guest does not prove that it never ran."""
    started: bool = False
    """It was seen starting, by this process."""
    finish_held: bool = False
    """libvirt's Finish is here."""
    gone: bool = False
    """The last look found no guest. What libvirt had to say of it before may still be on its way."""
    aborted: bool = False
    connection_over: bool = False
    """No answer of libvirtd's to a Finish will come any more."""
    trouble: tuple[str, str] | None = None
    """The first reason why the guest does not arrive: code and detail."""

    def with_(self, **changes: Any) -> Self:
        """A changed copy."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Decision(Generic[S]):
    """The result of a step. The new state is valid at once; its commands are carried out in their order."""

    state: S
    commands: tuple[Command, ...] = field(default=())
