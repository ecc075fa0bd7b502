"""Who may run the guest after Finish went out: the donor's decision table. Pure.

The ledger of the broker decides, never a guess, and never the recipient's word alone; where nothing is known, both
copies stay paused. The rows, in order:

| what is known                                                                       | verdict    |
|-------------------------------------------------------------------------------------|------------|
| the broker aborted this side: before the commit, or after it took the commit back   | runs here  |
| the broker has not answered                                                         | wait       |
| the recipient owns it, and runs it by the broker's word or its own, or the port is over | runs there |
| the recipient owns it, and nobody says that it runs: it may yet fail                | wait       |
| the donor owns it, and the port is over                                             | runs here  |
| the donor owns it, the recipient's hypervisor said no, and the broker would not commit now | runs here  |
| the donor owns it, the outcome is unknown, or a commit may follow                   | wait       |

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


class Reply(StrEnum):
    """What the recipient's hypervisor answered to Finish, as its node passed it on."""

    NONE = "none"
    RUNS = "runs"
    FAILED = "failed"


def donor_verdict(state: SwitchoverState | None, *, donor: str, reply: Reply, aborted: bool) -> Verdict:
    """Decide. `state` is the broker's newest word, `reply` the recipient's answer to Finish."""
    if aborted:
        return Verdict.RUNS_HERE
    if state is None:
        return Verdict.WAIT
    if state.committed and state.owner != donor:
        runs = state.arrived or state.ended or reply is Reply.RUNS
        return Verdict.RUNS_THERE if runs else Verdict.WAIT
    if state.ended or (reply is Reply.FAILED and not state.ready):
        return Verdict.RUNS_HERE
    return Verdict.WAIT
