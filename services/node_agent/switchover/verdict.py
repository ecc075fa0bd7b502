"""Who may run the guest after Finish went out: the donor's decision table. Pure.

The ledger of the broker decides, never a guess; where nothing is known, both copies stay paused. The rows, in order:

| what is known                                                                   | verdict    |
|---------------------------------------------------------------------------------|------------|
| the broker aborted this side: before the commit, or after it took the commit back | runs here  |
| the broker has not answered                                                     | wait       |
| the recipient owns it, and runs it by its own word, or the port is over         | runs there |
| the recipient owns it, and has not said that it runs: it may yet fail           | wait       |
| the donor owns it, and the recipient's hypervisor said no                       | runs here  |
| the donor owns it, and the port is over                                         | runs here  |
| the donor owns it, the outcome is unknown (a lane broke): a commit may follow   | wait       |

"Wait" is safe: the guest is paused and its process frozen, so that not even this host's libvirtd can run it.
"""

from __future__ import annotations

from enum import StrEnum

from shared.messages.porting import SwitchoverState


class Verdict(StrEnum):
    """Where the guest runs from now on."""

    WAIT = "wait"
    RUNS_HERE = "runs_here"
    RUNS_THERE = "runs_there"


def donor_verdict(state: SwitchoverState | None, *, donor: str, recipient_failed: bool, aborted: bool) -> Verdict:
    """Decide. `state` is the broker's newest word, `recipient_failed` an error in the recipient's answer to Finish."""
    if aborted:
        return Verdict.RUNS_HERE
    if state is None:
        return Verdict.WAIT
    if state.committed and state.owner != donor:
        return Verdict.RUNS_THERE if state.arrived or state.ended else Verdict.WAIT
    if recipient_failed or state.ended:
        return Verdict.RUNS_HERE
    return Verdict.WAIT
