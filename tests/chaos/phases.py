"""Brings a port to an exact instant and holds it there: by watching, and by SIGSTOP of whoever would go on.

From the frozen guest on, instants are shorter than a look at them. So whoever takes the next step is stopped, a step
ahead each time: the broker before its commit, the recipient's node before it hears of it, the donor's node before it
hears of the arrival, the recipient's agent before it provisions. The fault happens then, and the held go on after it.
"""

from __future__ import annotations

import time

from tests.chaos.cells import Phase
from tests.chaos.faults import process_name
from tests.chaos.observe import BrokerLog, NotReached, Tenant, domain_state, is_stopped, wait_for
from tests.chaos.site import Site

WINDOW_AHEAD = "+6s"
_QUEUED_S = 0.3
"""Longer than what two nodes need to tell a stopped broker that the guest is frozen and that Finish waits."""
_STEP_S = 30.0
_FROZEN_S = 240.0
"""For a transfer of memory on a machine that does much else."""


class MissedInstant(NotReached):
    """The port went past the instant before it could be held; another port may be luckier."""


def window(phase: Phase) -> tuple[str, ...]:
    """Options of `port create` for a port that is to be met at this instant."""
    return ("--window", WINDOW_AHEAD) if phase is Phase.BEFORE_WINDOW else ()


def reach(site: Site, log: BrokerLog, tenant: Tenant, vm_uuid: str, phase: Phase) -> None:
    """Wait until the port is there, and hold it. Raises `NotReached`, with nothing held."""
    try:
        _reach(site, log, tenant, vm_uuid, phase)
    except BaseException:
        site.release()
        raise


def _reach(site: Site, log: BrokerLog, tenant: Tenant, vm_uuid: str, phase: Phase) -> None:
    port_id = tenant.port_id
    match phase:
        case Phase.BEFORE_WINDOW:
            wait_for("the agreement", lambda: log.phase(port_id) == "scheduled", _STEP_S)
        case Phase.DISKS:
            _wait_for_data(tenant, "disk")
        case Phase.MEMORY:
            _wait_for_data(tenant, "memory")
        case Phase.FINISH_ASKED:
            _hold_frozen(site, log, tenant, vm_uuid)
        case Phase.COMMITTED:
            _hold_frozen(site, log, tenant, vm_uuid)
            _hold_committed(site, log, port_id)
        case Phase.ARRIVED:
            _hold_frozen(site, log, tenant, vm_uuid)
            _hold_committed(site, log, port_id)
            _hold_arrived(site, vm_uuid)
        case Phase.FINISHING:
            _hold_frozen(site, log, tenant, vm_uuid)
            _hold_committed(site, log, port_id)
            _hold_arrived(site, vm_uuid)
            _hold_finishing(site, log, port_id)


def _wait_for_data(tenant: Tenant, kind: str) -> None:
    def flows() -> bool:
        if tenant.outcome is not None:
            raise NotReached(f"the port ended before its {kind} moved: {tenant.outcome}")
        phase, percent = tenant.progress()
        return phase == kind and (kind != "disk" or percent > 0)

    wait_for(f"the {kind}", flows, 90)


def _hold_frozen(site: Site, log: BrokerLog, tenant: Tenant, vm_uuid: str) -> None:
    _wait_for_data(tenant, "memory")
    (pid,) = site.qemus(vm_uuid)[site.donor]

    def frozen() -> bool:
        if tenant.outcome is not None:
            raise NotReached(f"the port ended before its guest was frozen: {tenant.outcome}")
        return is_stopped(pid)

    wait_for("the frozen guest", frozen, _FROZEN_S, poll_s=0.0005)
    site.hold("broker")
    time.sleep(_QUEUED_S)
    if log.committed(tenant.port_id):
        raise MissedInstant("the broker committed before it was stopped")


def _hold_committed(site: Site, log: BrokerLog, port_id: str) -> None:
    site.hold(process_name(site, "recipient-node"))
    site.release(["broker"])
    wait_for("the commit", lambda: log.committed(port_id), _STEP_S)


def _hold_arrived(site: Site, vm_uuid: str) -> None:
    site.hold(process_name(site, "donor-node"))
    site.release([process_name(site, "recipient-node")])
    wait_for("the guest at the recipient", lambda: domain_state(site, site.recipient, vm_uuid) == "running", _STEP_S)


def _hold_finishing(site: Site, log: BrokerLog, port_id: str) -> None:
    wait_for("the news of the arrival", lambda: log.heard(port_id, "InboundFinished"), _STEP_S)
    site.hold(process_name(site, "recipient-agent"))
    site.release([process_name(site, "donor-node")])
    wait_for("the port's last phase", lambda: log.phase(port_id) == "finishing", 2 * _STEP_S)
