"""The events of a transfer's machine: what a shell has heard, or what became of a command. Plain values."""

from __future__ import annotations

from dataclasses import dataclass

from services.node_agent.state.journal import Phase
from services.node_agent.transfers.machine.state import Guest
from shared.messages.porting import SwitchoverState

# Of both sides


@dataclass(frozen=True, slots=True)
class Restarted:
    """This process is new; a former one stored this phase last. `rebooted`: the host was restarted since, or may have
    been. `ran`: it has noted that the guest ran, or may have."""

    phase: Phase
    rebooted: bool = False
    ran: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """The journal's write is durable."""


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The journal could not be written: what it said before still stands."""

    reason: str


@dataclass(frozen=True, slots=True)
class LedgerSaid:
    """The broker has told who owns the VM, asked or not."""

    state: SwitchoverState


@dataclass(frozen=True, slots=True)
class LibvirtSaid:
    """Somebody looked for the guest on this host. `ran`: it may have run here. Its process shows that, where libvirt
    did not answer; or libvirt has told its hook that the guest ended by itself."""

    guest: Guest
    ran: bool = False


@dataclass(frozen=True, slots=True)
class Aborted:
    """The broker's AbortTransfer for this side."""


@dataclass(frozen=True, slots=True)
class FinishAnswered:
    """Donor: the recipient's answer came back. Recipient: this host's libvirtd answered, or can no longer answer.

    Without an error the guest runs at the recipient.
    """

    error: str | None


# Of the donor


@dataclass(frozen=True, slots=True)
class GuestSuspended:
    """An operator, not the migration, has paused the guest."""


@dataclass(frozen=True, slots=True)
class GuestResumed:
    """The guest's vCPUs run: at the donor before its Finish, at the recipient since Finish was passed."""


@dataclass(frozen=True, slots=True)
class FinishWanted:
    """This host's libvirtd has sent everything, and asks the recipient to run the guest."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """The guest's process was stopped; `fenced` false: this host cannot do that."""

    fenced: bool


@dataclass(frozen=True, slots=True)
class FreezeFailed:
    """Whether the guest's process is stopped is not known."""

    reason: str


@dataclass(frozen=True, slots=True)
class FrozenKilled:
    """No stopped process of the guest is left."""


@dataclass(frozen=True, slots=True)
class Destroyed:
    """This host's libvirt has no running copy of the guest any more."""


@dataclass(frozen=True, slots=True)
class CopyAsked:
    """The broker asks whether the guest was let go here: none runs at the recipient."""


@dataclass(frozen=True, slots=True)
class LaneLost:
    """The way to the recipient is gone while its answer to Finish is outstanding."""

    reason: str


@dataclass(frozen=True, slots=True)
class MigrationEnded:
    """libvirt's migrate call has returned, or was never made. Without an error libvirt counts the guest as gone."""

    error: str | None


@dataclass(frozen=True, slots=True)
class PostCopyWanted:
    """The guest writes too fast: switch to post-copy."""


@dataclass(frozen=True, slots=True)
class PostCopyGranted:
    """The recipient's node says that the broker has committed."""


@dataclass(frozen=True, slots=True)
class PostCopyUnanswered:
    """The question for post-copy was lost or not answered: the commit may have been made."""


@dataclass(frozen=True, slots=True)
class PostCopyDenied:
    """The broker said no."""


@dataclass(frozen=True, slots=True)
class PostCopyStarted:
    """From now on neither side holds the whole guest."""


@dataclass(frozen=True, slots=True)
class PostCopyFailed:
    """libvirt did not start post-copy."""


# Of the recipient


@dataclass(frozen=True, slots=True)
class PostCopyAsked:
    """The donor's node wants the commit before its guest stops; Finish comes later, or never."""


@dataclass(frozen=True, slots=True)
class SwitchoverWanted:
    """A Finish is held, or post-copy is asked for: may the guest run here?"""


@dataclass(frozen=True, slots=True)
class Granted:
    """The broker has committed the epoch to this side."""


@dataclass(frozen=True, slots=True)
class Denied:
    """The VM stays at the donor."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """The transfer cannot go on: a lane, a stream, or the donor is gone. Nothing is in flight to this libvirtd."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """This process is asked to end."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What the transfer had made is removed, but for what `left_overs` names."""

    left_overs: tuple[str, ...] = ()


Event = (
    Restarted
    | Stored
    | StoreFailed
    | LedgerSaid
    | LibvirtSaid
    | Aborted
    | FinishAnswered
    | GuestSuspended
    | GuestResumed
    | FinishWanted
    | Frozen
    | FreezeFailed
    | FrozenKilled
    | Destroyed
    | CopyAsked
    | LaneLost
    | MigrationEnded
    | PostCopyWanted
    | PostCopyGranted
    | PostCopyUnanswered
    | PostCopyDenied
    | PostCopyStarted
    | PostCopyFailed
    | PostCopyAsked
    | SwitchoverWanted
    | Granted
    | Denied
    | Trouble
    | Stopping
    | Removed
)
