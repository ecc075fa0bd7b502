"""The faults: what happens, how long it lasts, how it is undone, and which ends of a port are right after it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.labkit import small_disks
from shared.messages.network import NetworkMode
from tests.chaos.cells import SWITCHED, Phase
from tests.chaos.site import REBOOT_S, RESTART_S, Site

Act = Callable[[Site, str], None]
"""Acts on the site and on the guest with this UUID."""

EVERY = frozenset(Phase)
BEFORE_COMMIT = EVERY - SWITCHED
FULL_S = 10.0
STOPPED_S = 60.0


@dataclass(frozen=True)
class Fault:
    """One fault. `survives`: the phases in which the port must complete all the same."""

    text: str
    strike: Act
    heal: Act
    lasts_s: float = RESTART_S
    phases: frozenset[Phase] = EVERY
    survives: frozenset[Phase] = SWITCHED
    ends_guest: frozenset[Phase] = frozenset()
    """Phases in which the fault itself ends the running guest, so that its owner starts it again."""
    stops: tuple[str, ...] = ()
    """Roles that the fault keeps stopped while it lasts."""
    autostart: bool = False
    """Whether the guest is set to start with its host."""
    network: NetworkMode | None = None
    """The only way of keeping addresses in which there is such a thing; None: in all."""

    def allowed(self, phase: Phase) -> tuple[str, ...]:
        """The right ends of the port."""
        return ("completed",) if phase in self.survives else ("completed", "failed")


def _nothing(_site: Site, _vm: str) -> None:
    return None


def _process(role: str) -> Callable[[Site], str]:
    """The name of a process in the lab, from its role at this site: broker, donor, recipient, donor-node ..."""

    def name(site: Site) -> str:
        return {
            "broker": "broker",
            "donor-agent": f"donor-{site.donor}",
            "recipient-agent": f"recipient-{site.recipient}",
            "donor-node": f"node-{site.donor}",
            "recipient-node": f"node-{site.recipient}",
            "gateway": f"node-{site.lab.plan.gateways[0]}" if site.lab.plan.gateways else "",
        }[role]

    return name


ROLES = ("broker", "donor-agent", "recipient-agent", "donor-node", "recipient-node")
AGENTS = frozenset({"broker", "donor-agent", "recipient-agent", "gateway"})
"""Processes that move no page: a port goes on without them."""


def process_name(site: Site, role: str) -> str:
    """The name of a role's process in the lab."""
    return _process(role)(site)


def _survived_without(role: str) -> frozenset[Phase]:
    if role in AGENTS:
        return EVERY
    # libvirt's connection ends with the recipient's node, and with it the copy that has not run yet: the ledger gives
    # the VM back.
    return SWITCHED - {Phase.COMMITTED} if role == "recipient-node" else SWITCHED


def _kill(role: str, *, network: NetworkMode | None = None) -> Fault:
    name = _process(role)
    return Fault(
        f"kill -9 of the {role.replace('-', ' ')}",
        strike=lambda site, _vm: site.kill(name(site)),
        heal=lambda site, _vm: site.start(name(site)),
        survives=_survived_without(role),
        network=network,
    )


def _stop(role: str) -> Fault:
    name = _process(role)
    return Fault(
        f"SIGSTOP of the {role.replace('-', ' ')} for {STOPPED_S:.0f} s",
        strike=lambda site, _vm: site.hold(name(site)),
        heal=lambda site, _vm: site.release([name(site)]),
        lasts_s=STOPPED_S,
        survives=EVERY,
        stops=(role,),
    )


def _side(site: Site, side: str) -> str:
    return site.donor if side == "donor" else site.recipient


def _libvirtd(side: str) -> Fault:
    return Fault(
        f"kill -9 of libvirtd at the {side}",
        strike=lambda site, _vm: site.kill_libvirtd(_side(site, side)),
        heal=lambda site, _vm: site.lab.start_libvirtd(_side(site, side)),
        survives=SWITCHED - {Phase.COMMITTED} if side == "recipient" else SWITCHED,
    )


def _qemu(side: str) -> Fault:
    def strike(site: Site, vm_uuid: str) -> None:
        for pid in site.qemus(vm_uuid)[_side(site, side)]:
            os.kill(pid, signal.SIGKILL)

    donor = side == "donor"
    return Fault(
        f"kill -9 of the guest's QEMU at the {side}",
        strike=strike,
        heal=_nothing,
        phases=EVERY - {Phase.FINISHING} if donor else EVERY - {Phase.BEFORE_WINDOW},
        survives=SWITCHED if donor else SWITCHED - {Phase.COMMITTED},
        ends_guest=BEFORE_COMMIT if donor else frozenset({Phase.ARRIVED, Phase.FINISHING}),
    )


def _cut(side: str, seconds: float) -> Fault:
    return Fault(
        f"the {side}'s link is cut for {seconds:.0f} s, to RabbitMQ and to the other host",
        strike=lambda site, _vm: site.cut(_side(site, side)),
        heal=lambda site, _vm: site.join(_side(site, side)),
        lasts_s=seconds,
        survives=EVERY,
    )


def _full(text: str, folder: Callable[[Site], Path], *, survives: frozenset[Phase] = SWITCHED) -> Fault:
    return Fault(
        text,
        strike=lambda site, _vm: small_disks.fill(folder(site)),
        heal=lambda site, _vm: small_disks.free(folder(site)),
        lasts_s=FULL_S,
        survives=survives,
    )


def _reboot(side: str) -> Fault:
    donor = side == "donor"
    return Fault(
        f"the {side}'s host reboots: all its processes and QEMUs end, /run is empty, autostart runs",
        strike=lambda site, _vm: site.reboot(_side(site, side)),
        heal=lambda site, _vm: site.boot(_side(site, side)),
        lasts_s=REBOOT_S,
        survives=SWITCHED if donor else SWITCHED - {Phase.COMMITTED},
        ends_guest=BEFORE_COMMIT if donor else frozenset({Phase.ARRIVED, Phase.FINISHING}),
        autostart=True,
    )


FAULTS: Mapping[str, Fault] = {
    **{f"kill-{role}": _kill(role) for role in ROLES},
    "kill-gateway": _kill("gateway", network=NetworkMode.ANCHOR),
    **{f"libvirtd-{side}": _libvirtd(side) for side in ("donor", "recipient")},
    **{f"qemu-{side}": _qemu(side) for side in ("donor", "recipient")},
    "cut-5s": _cut("donor", 5),
    "cut-30s": _cut("donor", 30),
    "cut-recipient-30s": _cut("recipient", 30),
    "rabbitmq": Fault(
        "RabbitMQ is restarted",
        strike=lambda site, _vm: site.stop_rabbitmq(),
        heal=lambda site, _vm: site.lab.start_rabbitmq(),
        survives=EVERY,
    ),
    "full-images": _full("the recipient's image folder is full", lambda site: site.images(site.recipient)),
    "full-state-donor": _full("the donor's node cannot write its state_dir", lambda site: site.state(site.donor)),
    "full-state-recipient": _full(
        "the recipient's node cannot write its state_dir",
        lambda site: site.state(site.recipient),
        # A grant that cannot be recorded is not taken: the ledger gives the VM back.
        survives=SWITCHED - {Phase.COMMITTED},
    ),
    "reboot-donor": _reboot("donor"),
    "reboot-recipient": _reboot("recipient"),
    **{f"stop-{role}": _stop(role) for role in ROLES},
    "cut-120s": _cut("donor", 120),
}
"""By name, the quick ones first."""


def matrix(
    only: Collection[str] = (), phases: Collection[str] = (), *, network: NetworkMode = NetworkMode.JOINED
) -> list[tuple[str, Phase]]:
    """All cells of a network, or those of some faults (by name, or by the beginning of their names) and phases."""
    return [
        (name, instant)
        for name, fault in FAULTS.items()
        if fault.network in {None, network}
        if not only or any(name == wanted or (wanted not in FAULTS and name.startswith(wanted)) for wanted in only)
        for instant in Phase
        if instant in fault.phases and (not phases or instant in phases)
    ]
