"""What a step of a transfer's machine asks its shell to do, in this order. Plain values.

A command whose result the machine waits for names the events that answer it. The shell gives that event back before it
brings any other, unless the text says that the command runs beside the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.node_agent.state.journal import Phase

# Of both sides


@dataclass(frozen=True, slots=True)
class Store:
    """Write this phase to the journal, durably. Answer: `Stored` or `StoreFailed`."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class AskLedger:
    """Ask the broker who owns the VM, again and again until the machine has decided. Beside the rest: `LedgerSaid`."""


@dataclass(frozen=True, slots=True)
class LookAtGuest:
    """Look for the guest on this host. Beside the rest: `LibvirtSaid`. `again`: not at once, the last look told
    nothing."""

    again: bool = False


@dataclass(frozen=True, slots=True)
class PassFinish:
    """Let Finish go its way: from the donor to the recipient, or from the recipient's gate to its libvirtd."""


# Of the recipient, while libvirt is away


@dataclass(frozen=True, slots=True)
class NoteRan:
    """Write down that the guest ran here, or may have, for the next process. One that cannot be written is logged."""


# Of the donor


@dataclass(frozen=True, slots=True)
class Freeze:
    """Stop the guest's process, so that nobody on this host can run its vCPUs. Answer: `Frozen` or `FreezeFailed`."""


@dataclass(frozen=True, slots=True)
class Thaw:
    """Let the guest's process go on."""


@dataclass(frozen=True, slots=True)
class KillFrozen:
    """Kill the guest's process if it is stopped; asks nothing of libvirtd. Answer: `FrozenKilled`."""


@dataclass(frozen=True, slots=True)
class AbortJob:
    """Have libvirt end a migration that a former process began."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Let the guest's vCPUs run."""


@dataclass(frozen=True, slots=True)
class Destroy:
    """Clear what libvirt still has of the guest that has left, however long it takes. Beside the rest: `Destroyed`."""


@dataclass(frozen=True, slots=True)
class SayPaused:
    """Tell the broker `GuestPaused`, until it has answered. Beside the rest."""


@dataclass(frozen=True, slots=True)
class TellDoubt:
    """Tell the broker that the outcome is not known here, so that it stops the port if it still can."""

    reason: str


@dataclass(frozen=True, slots=True)
class SayCopy:
    """Tell the broker whether the guest was let go here. Beside the rest."""

    let_go: bool


@dataclass(frozen=True, slots=True)
class RefuseFinish:
    """Answer libvirtd's Finish with an error, without passing it on: it runs its own copy again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer libvirtd's Finish, if it still waits: the guest runs at the recipient, or it does not."""

    runs_there: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AskForPostCopy:
    """Have the recipient's node ask the broker. Beside the rest: `PostCopyGranted`, `-Denied` or `-Unanswered`."""

    again: bool = False


@dataclass(frozen=True, slots=True)
class StartPostCopy:
    """Have libvirt start post-copy. Beside the rest: `PostCopyStarted` or `PostCopyFailed`."""


@dataclass(frozen=True, slots=True)
class WantPostCopyAgain:
    """Nothing was said and nothing started. Beside the rest, after a while: `PostCopyWanted`."""


@dataclass(frozen=True, slots=True)
class Left:
    """The end: the guest runs at the recipient, and this host has nothing of it that could run."""


@dataclass(frozen=True, slots=True)
class Stayed:
    """The end: the guest is this host's; `running` is what libvirt said last."""

    running: bool


# Of the recipient


@dataclass(frozen=True, slots=True)
class AskForVm:
    """Ask the broker for the VM until it decides. Beside the rest: `Granted` or `Denied`."""


@dataclass(frozen=True, slots=True)
class GrantPostCopy:
    """Tell the donor's node that the broker has committed. Finish does not pass yet."""


@dataclass(frozen=True, slots=True)
class DenyFinish:
    """Pass Finish to libvirtd as a cancelled one, now or when it comes: it destroys the incomplete guest."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class TellArrived:
    """Store and tell that the guest runs here, however long a full disk makes that take."""


@dataclass(frozen=True, slots=True)
class TellMayHaveRun:
    """Store and tell that the guest is gone, and may have run here. It is this provider's, as it is on its disks."""


@dataclass(frozen=True, slots=True)
class TellNotHere:
    """Tell finally that the guest does not run here. What was made for it stays."""


@dataclass(frozen=True, slots=True)
class Remove:
    """End the incomplete guest and remove what the journal lists. Answer: `Removed`."""


@dataclass(frozen=True, slots=True)
class TellRemoved:
    """The end: nothing of the guest is here, and nothing of it will run here."""


Command = (
    Store
    | AskLedger
    | LookAtGuest
    | PassFinish
    | NoteRan
    | Freeze
    | Thaw
    | KillFrozen
    | AbortJob
    | Resume
    | Destroy
    | SayPaused
    | TellDoubt
    | SayCopy
    | RefuseFinish
    | Answer
    | AskForPostCopy
    | StartPostCopy
    | WantPostCopyAgain
    | Left
    | Stayed
    | AskForVm
    | GrantPostCopy
    | DenyFinish
    | TellArrived
    | TellMayHaveRun
    | TellNotHere
    | Remove
    | TellRemoved
)
