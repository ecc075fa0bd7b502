"""Which VM or port a tenant means by a name, an id or the beginning of an id. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from uuid import UUID

from shared.errors import VmportError
from shared.messages.plans import PlanSummary
from shared.messages.queries import PortSummary, RegisteredVm
from shared.messages.vm import VmState

_HEX = re.compile(r"^[0-9a-f-]+$")
MIN_PREFIX = 4
"""A shorter beginning of an id is more likely a typing error than an id."""


class NotFound(VmportError):
    """Nothing of the tenant's has this name or id."""

    code = "not_found"

    def __init__(self, what: str, given: str) -> None:
        self.what = what
        self.given = given
        listing = {"port": "port list", "plan": "plan list"}.get(what, "vm list")
        hint = f"of an id, give at least {MIN_PREFIX} characters; " if _is_short_prefix(given) else ""
        super().__init__(f"you have no {what} {given!r}; {hint}'vmport {listing}' shows yours")


class Ambiguous(VmportError):
    """The name or the beginning of an id fits more than one thing."""

    code = "ambiguous"

    def __init__(self, what: str, given: str, matches: tuple[str, ...]) -> None:
        self.what = what
        self.given = given
        self.matches = matches
        super().__init__(f"{given!r} means more than one {what}: {', '.join(matches)}; give more of the id")


def find_vm(given: str, vms: Iterable[RegisteredVm]) -> RegisteredVm:
    """By exact name, else by id or the beginning of one; raises `NotFound` or `Ambiguous`.

    The registry also remembers VMs that are gone: of several with one name, the only one that runs is meant.
    """
    known = list(vms)
    matches = [vm for vm in known if vm.name == given] or [vm for vm in known if _begins(vm.uuid, given)]
    if not matches:
        raise NotFound("VM", given)
    running = [vm for vm in matches if vm.name == given and vm.state is VmState.RUNNING]
    if len(running) == 1:
        return running[0]
    if len(matches) > 1:
        raise Ambiguous("VM", given, tuple(f"{vm.name} ({vm.uuid})" for vm in matches))
    return matches[0]


def find_port(given: str, ports: Iterable[PortSummary]) -> UUID:
    """By id or the beginning of one; raises `NotFound` or `Ambiguous`."""
    matches = [port for port in ports if _begins(port.port_id, given)]
    if not matches:
        raise NotFound("port", given)
    if len(matches) > 1:
        raise Ambiguous("port", given, tuple(str(port.port_id) for port in matches))
    return matches[0].port_id


def find_plan(given: str, plans: Iterable[PlanSummary]) -> UUID:
    """By name, else by id or the beginning of one; raises `NotFound` or `Ambiguous`."""
    known = list(plans)
    matches = [plan for plan in known if plan.name == given] or [plan for plan in known if _begins(plan.plan_id, given)]
    if not matches:
        raise NotFound("plan", given)
    if len(matches) > 1:
        raise Ambiguous("plan", given, tuple(str(plan.plan_id) for plan in matches))
    return matches[0].plan_id


def whole_id(given: str) -> UUID | None:
    """The id, where all of one is given: no list is needed then."""
    try:
        return UUID(given)
    except ValueError:
        return None


def _is_short_prefix(given: str) -> bool:
    text = given.strip().lower()
    return len(text) < MIN_PREFIX and bool(_HEX.match(text))


def _begins(identifier: UUID, given: str) -> bool:
    text = given.strip().lower()
    if len(text) < MIN_PREFIX or not _HEX.match(text):
        return False
    return str(identifier).startswith(text) or identifier.hex.startswith(text)
