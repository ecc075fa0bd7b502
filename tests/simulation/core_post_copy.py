"""The core tier's post-copy: what QEMU does with a guest whose memory follows it, and how the nodes ask for it. Pure.

libvirt is told to start it; at QEMU's next round the guest stops at the donor, its disks are complete at the recipient,
and Finish is sent at once. The recipient's guest runs when its libvirtd hears Finish, and stands as soon as it
touches a page that stays away for good: where one of the QEMUs or of the node agents ends before all came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from services.node_agent.transfers.machine import DonorPhase
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from tests.simulation.faults import Stage

if TYPE_CHECKING:
    from tests.simulation.core_nodes import DonorNode, RecipientNode
    from tests.simulation.core_world import CoreWorld

PAGES_S = 3.0
"""How long the rest of the memory takes, while there are lanes."""
PAGES_STEPS = 6
CONVERGES = 0.05
"""The share of rounds after which a guest stops by itself, although post-copy is wanted."""
RUNS_ON = 0.3
"""The share of guests that do not touch a missing page."""
ASK_AGAIN_S = 5.0
ANSWER_WITHIN_S = 30.0


class PostCopy:
    """QEMU's side of one migration."""

    def __init__(self, world: CoreWorld) -> None:
        self._world = world
        self.wanted = False
        """libvirt was told to start it."""
        self.began = False
        """The guest stands at the donor, and runs at the recipient with what it has as soon as Finish is heard."""
        self.whole = False
        self.broken = False
        self.ran = False
        self.slow = False
        """Pages do not come, for no fault of anybody's."""
        self._number = 0

    def begin(self) -> None:
        """Another migration."""
        self._number += 1
        self.wanted = self.began = self.whole = self.broken = self.ran = False

    def start(self) -> bool:
        """libvirt's call; False where it refuses."""
        migration, alpha = self._world.migration, self._world.hosts["alpha"]
        if not migration.runs or migration.waits or alpha.reachable is None:
            return False
        self.wanted = True
        return True

    @property
    def under_way(self) -> bool:
        """Whether pages are still to come."""
        return self.began and not self.whole and not self.broken

    @property
    def lost(self) -> bool:
        """Whether nobody can run the guest on: it stood at the donor for good, and never ran at the recipient."""
        return self.began and not self.ran

    @property
    def is_slow(self) -> bool:
        """Whether the guest writes faster than its memory moves."""
        return self._world.plan.post_copy and not self._world.happens(CONVERGES)

    def take_over(self) -> None:
        """QEMU has stopped the guest at the donor; the rest of its memory follows."""
        self.began = True
        alpha = self._world.hosts["alpha"]
        if alpha.vm is not None:
            alpha.vm.left_behind = True
            alpha.event("suspended")  # once more, for post-copy
        self._world.advance(Stage.POST_COPY)
        number = self._number
        self._world.after(PAGES_S / PAGES_STEPS, lambda: self._pages(number, PAGES_STEPS))

    def _pages(self, number: int, left: int) -> None:
        world = self._world
        if number != self._number or not self.under_way:
            return
        world.step("alpha-host", "pages")
        alpha, beta = world.hosts["alpha"].vm, world.hosts["beta"].vm
        if alpha is None or alpha.off or beta is None or beta.off:
            self.end()
        elif left == 0:
            self.whole = True
            world.hosts["beta"].event("resumed")
        else:
            flows = world.lanes_up and not (alpha.frozen or self.slow)
            world.after(PAGES_S / PAGES_STEPS, lambda: self._pages(number, left - flows))

    def end(self) -> None:
        """No more pages come: a guest that has not got them stands still."""
        if not self.under_way:
            return
        self.broken = True
        world, beta = self._world, self._world.hosts["beta"]
        world.may_be_off = True  # its memory is lost
        world.say("beta", "pages are missing")
        left = world.hosts["alpha"]
        if left.vm is not None and not left.vm.off:
            left.event("suspended")
        if beta.vm is not None and not beta.vm.off:
            beta.event("resumed")
            beta.vm.stalled = not world.happens(RUNS_ON)
        world.vcpus("beta")


class DonorAsks:
    """How the donor's node comes to post-copy."""

    def __init__(self, node: DonorNode) -> None:
        self._node = node
        self._question = 0

    def want(self) -> None:
        """The guest does not converge: said until it has begun."""
        node = self._node
        if node.alive and node.active and node.machine.phase is DonorPhase.MOVING:
            node.world.in_node(node.name, lambda: node.tell(ev.PostCopyWanted()))

    def perform(self, command: do.Command) -> None:
        """Carry out one of its commands, beside the rest."""
        node = self._node
        match command:
            case do.AskForPostCopy(again):
                node.later(ASK_AGAIN_S if again else 0.0, self._ask)
            case do.StartPostCopy():
                node.later(0.0, self._start)
            case do.WantPostCopyAgain():
                node.later(ASK_AGAIN_S, lambda: node.tell(ev.PostCopyWanted()))

    def _ask(self) -> None:
        node, world = self._node, self._node.world
        self._question += 1
        number, life = self._question, node.life

        def hear(granted: bool | None) -> None:  # noqa: FBT001  # None: no answer
            if node.life != life or self._question != number:
                return
            self._question += 1
            node.tell(_ANSWERS[granted]())

        def answer(granted: bool | None) -> None:  # noqa: FBT001
            world.over_lane(lambda: world.in_node("alpha", lambda: hear(granted)))

        world.over_lane(lambda: world.in_node("beta", lambda: world.nodes["beta"].post_copy.asked(answer)))
        node.later(ANSWER_WITHIN_S, lambda: hear(None))

    def _start(self) -> None:
        started = self._node.world.migration.post_copy.start()
        self._node.tell(ev.PostCopyStarted() if started else ev.PostCopyFailed())


_ANSWERS: dict[bool | None, Callable[[], ev.Event]] = {
    True: ev.PostCopyGranted,
    False: ev.PostCopyDenied,
    None: ev.PostCopyUnanswered,
}


class RecipientAnswers:
    """What the recipient's node does with the donor's question."""

    def __init__(self, node: RecipientNode) -> None:
        self._node = node
        self._question: Callable[[bool | None], None] | None = None
        self._granted: bool | None = None

    def asked(self, answer: Callable[[bool | None], None]) -> None:
        """The donor's node asks for the switchover before the guest stops."""
        node = self._node
        if not node.active or not node.world.migration.connected_to_recipient:
            answer(None)
        elif self._granted is not None:
            answer(self._granted)
        else:
            self._question = answer
            node.tell(ev.PostCopyAsked())

    def answer(self, *, granted: bool) -> None:
        """The broker has decided."""
        self._granted = granted
        if self._question is not None:
            question, self._question = self._question, None
            question(granted)

    def deny(self) -> None:
        """A Finish is cancelled, whether it is here or comes later."""
        migration = self._node.world.migration
        comes_later = self._question is not None and not migration.at_gate and migration.connected_to_recipient
        self.answer(granted=False)
        if not comes_later:
            migration.cancel_at_recipient()

    def finish_denied(self) -> bool:
        """Finish comes: whether it was denied before."""
        if self._granted is False:
            self._node.world.migration.cancel_at_recipient()
            return True
        return False
