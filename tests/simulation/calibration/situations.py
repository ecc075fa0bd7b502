"""Situations of a migration that both real hypervisors and the core tier's host model are taken through. Pure values.

A situation is a list of steps, `VERB` or `VERB HOST`. The donor is alpha, the recipient beta. Whoever plays a situation
stands for both node agents, too: between `memory` and `answer` Finish is where these steps have brought it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

HOSTS: Final = ("alpha", "beta")

VERBS: Final[Mapping[str, str]] = {
    "start": "libvirt at alpha is told to migrate; the memory is held back when the recipient has prepared itself",
    "memory": "the memory flows; alpha's libvirtd has paused the guest and its Finish is held at alpha's node",
    "gate": "Finish has come to beta's node, which holds it",
    "pass": "beta's libvirtd hears Finish",
    "cancel": "beta's libvirtd hears a cancelled Finish",
    "answer": "alpha's libvirtd hears what came back, or where nothing will come, that Finish has failed",
    "runs_there": "alpha's libvirtd hears that the guest runs at beta",
    "refuse": "alpha's libvirtd hears that Finish has failed; it was not passed on",
    "abort": "somebody at alpha ends the migration's job",
    "post_copy": "libvirt at alpha is told to start post-copy, and the memory flows slowly until `pages`",
    "pages": "the rest of the memory comes",
    "links": "both ends of the memory's connection are closed",
    "wait": "nothing happens for as long as keepalives matter",
    "freeze": "the guest's process is stopped",
    "thaw": "it goes on",
    "kill_frozen": "it is killed while it is stopped",
    "kill_libvirtd": "libvirtd dies",
    "start_libvirtd": "libvirtd is started again",
    "kill_qemu": "the guest's process dies",
    "destroy": "an operator ends the guest",
    "suspend": "an operator pauses the guest",
    "resume": "an operator lets the guest run",
    "node_dies": "the kernel closes the sockets of this host's node agent; the other's has noticed the silence",
    "autostart": "the VM is to start with its host",
    "reboot": "every process of the host is gone",
    "boot": "the host is back",
}
"""What each verb means. Besides these, a situation whose name ends with POWER_OFF has a guest that switches itself off
as soon as it notices that it stood still."""

POWER_OFF: Final = "-power-off"
_PAUSED = ("start", "memory")
_AT_GATE = (*_PAUSED, "gate")
_ARRIVED = (*_AT_GATE, "pass")
_POST_COPY = ("start", "post_copy", "gate", "pass")

SITUATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "good": (*_ARRIVED, "answer"),
    "held": (*_PAUSED, "wait", "gate", "pass", "answer"),
    "fenced": (*_PAUSED, "freeze alpha", "gate", "pass", "kill_frozen alpha", "runs_there"),
    "cancelled": (*_AT_GATE, "cancel", "answer"),
    "refused": (*_PAUSED, "refuse"),
    "refused-while-frozen": (*_PAUSED, "freeze alpha", "refuse", "thaw alpha"),
    "aborted-in-memory": ("start", "abort"),
    "aborted-at-finish": (*_PAUSED, "abort", "refuse"),
    "paused-by-operator": ("suspend alpha", "start", "memory", "gate", "pass", "answer"),
    "paused-in-memory": ("start", "suspend alpha", "memory", "gate", "pass", "answer"),
    "paused-in-memory-refused": ("start", "suspend alpha", "memory", "refuse"),
    # The donor's libvirtd
    "donor-libvirtd-in-memory": ("start", "kill_libvirtd alpha", "start_libvirtd alpha"),
    "donor-libvirtd-at-finish": (*_PAUSED, "kill_libvirtd alpha", "start_libvirtd alpha"),
    "donor-libvirtd-at-gate": (*_AT_GATE, "kill_libvirtd alpha", "start_libvirtd alpha", "cancel"),
    "donor-libvirtd-after-finish": (*_ARRIVED, "kill_libvirtd alpha", "start_libvirtd alpha", "destroy alpha"),
    "donor-libvirtd-while-frozen": (
        *_PAUSED,
        "freeze alpha",
        "kill_libvirtd alpha",
        "start_libvirtd alpha",
        "thaw alpha",
    ),
    "donor-libvirtd-killed-while-frozen": (
        *_PAUSED,
        "freeze alpha",
        "kill_libvirtd alpha",
        "start_libvirtd alpha",
        "kill_frozen alpha",
    ),
    "donor-libvirtd-in-confirm": (
        *_ARRIVED,
        "freeze alpha",
        "runs_there",
        "kill_libvirtd alpha",
        "thaw alpha",
        "start_libvirtd alpha",
    ),
    "donor-libvirtd-in-confirm-cancelled": (
        *_PAUSED,
        "freeze alpha",
        "refuse",
        "kill_libvirtd alpha",
        "thaw alpha",
        "start_libvirtd alpha",
    ),
    # The recipient's libvirtd
    "recipient-libvirtd-in-memory": ("start", "kill_libvirtd beta", "start_libvirtd beta"),
    "recipient-libvirtd-at-gate": (*_AT_GATE, "kill_libvirtd beta", "start_libvirtd beta", "answer"),
    "recipient-libvirtd-before-cont": (
        *_AT_GATE,
        "freeze beta",
        "pass",
        "kill_libvirtd beta",
        "thaw beta",
        "start_libvirtd beta",
        "answer",
    ),
    "recipient-libvirtd-after-cont": (*_ARRIVED, "kill_libvirtd beta", "start_libvirtd beta", "answer"),
    # QEMU
    "donor-qemu-in-memory": ("start", "kill_qemu alpha"),
    "donor-qemu-at-finish": (*_PAUSED, "kill_qemu alpha", "gate", "pass", "runs_there"),
    "donor-qemu-after-finish": (*_ARRIVED, "kill_qemu alpha", "answer"),
    "recipient-qemu-in-memory": ("start", "kill_qemu beta"),
    "recipient-qemu-at-gate": (*_AT_GATE, "kill_qemu beta", "pass", "answer"),
    "recipient-qemu-after-finish": (*_ARRIVED, "kill_qemu beta", "answer"),
    # The guest, and operators
    "arrives-and-power-off": (*_AT_GATE, "wait", "pass", "answer"),
    "returns-and-power-off": (*_PAUSED, "wait", "refuse"),
    "destroyed-in-memory": ("start", "destroy alpha"),
    "destroyed-at-finish": (*_PAUSED, "destroy alpha", "refuse"),
    "recipient-destroyed-in-memory": ("start", "destroy beta"),
    "recipient-destroyed-at-gate": (*_AT_GATE, "destroy beta", "pass", "answer"),
    # Node agents
    "donor-node-in-memory": ("start", "node_dies alpha"),
    "donor-node-at-finish": (*_PAUSED, "node_dies alpha"),
    "donor-node-at-finish-fenced": (*_PAUSED, "freeze alpha", "node_dies alpha", "thaw alpha"),
    "recipient-node-in-memory": ("start", "node_dies beta"),
    "recipient-node-at-gate": (*_AT_GATE, "node_dies beta"),
    # No migration
    "libvirtd-restart-running": ("kill_libvirtd alpha", "start_libvirtd alpha"),
    "libvirtd-restart-paused": ("suspend alpha", "kill_libvirtd alpha", "start_libvirtd alpha", "resume alpha"),
    "reboot-with-autostart": ("autostart alpha", "reboot alpha", "boot alpha"),
    "reboot-without-autostart": ("reboot alpha", "boot alpha"),
    "recipient-reboot-at-gate": (*_AT_GATE, "reboot beta", "boot beta", "answer"),
    # Post-copy
    "post-copy": (*_POST_COPY, "pages", "answer"),
    "post-copy-link-lost": (*_POST_COPY, "links", "answer", "resume alpha"),
    "post-copy-donor-libvirtd": (*_POST_COPY, "kill_libvirtd alpha", "start_libvirtd alpha", "pages"),
    "post-copy-recipient-libvirtd": (*_POST_COPY, "kill_libvirtd beta", "start_libvirtd beta", "pages"),
    "post-copy-donor-qemu": (*_POST_COPY, "kill_qemu alpha", "answer"),
    "post-copy-recipient-qemu": (*_POST_COPY, "kill_qemu beta", "answer"),
    "post-copy-donor-node": (*_POST_COPY, "node_dies alpha"),
    "post-copy-recipient-node": (*_POST_COPY, "node_dies beta"),
}
"""By name."""


def split(step: str) -> tuple[str, str]:
    """The verb of a step and its host, empty where it has none."""
    verb, _, host = step.partition(" ")
    return verb, host
