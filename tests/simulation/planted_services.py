"""The known bugs in the services tier: patches at the seams that every release has, not in its decisions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text

from services.broker.service import BrokerService
from services.node_agent import quarantine, vm_commands
from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.state.journal import Journal, Phase, PortRecord
from services.node_agent.transfers.gate_proxy import GateProxy
from shared.consumer import Consumer
from shared.messages.porting import Side
from shared.messages.vm import VmState
from tests.simulation import parties, services_world
from tests.simulation.parties import BETA_NODE, HostPort
from tests.simulation.process import Process
from tests.simulation.services_world import VM

_HOST_PORT: Any = HostPort


def _commit_after_finish() -> None:
    decide = GateProxy._decide

    async def grant_first(self: Any) -> None:
        await self._perform(self._gate.grant(), None)
        self._gate.deny = self._gate.grant = list
        await decide(self)

    GateProxy._decide = grant_first  # type: ignore[method-assign]  # planted


class _Settled:
    def __init__(self, settle: Any) -> None:
        self.bury = settle.bury

    async def acknowledge(self, _token: object) -> None:
        """It was before."""


def _ack_before_store() -> None:
    handle = Consumer._handle

    async def acknowledge_first(self: Any, waiting: Any) -> None:
        settle = self._settle
        await settle.acknowledge(waiting.delivery.token)
        self._settle = _Settled(settle)
        try:
            await handle(self, waiting)
        finally:
            self._settle = settle

    Consumer._handle = acknowledge_first  # type: ignore[method-assign]  # planted


def _disconnected_twice() -> None:
    commands: Any = vm_commands
    move = quarantine.move_away

    def again(plan: Any) -> None:
        folder = services_world.current_world().folder / "alpha" / "images"
        for image in folder.glob("*.quarantine"):
            image.unlink()
        move(plan)

    quarantine.move_away = again
    if hasattr(commands, "move_away"):
        commands.move_away = again


def _host() -> Any:
    world = services_world.current_world()
    return world.host("beta")


def _remove_arrived() -> None:
    """The guest at beta is ended, and its disk is removed."""
    world = services_world.current_world()
    if VM in world.host("beta").vms:
        world.host("beta").stop(VM)
        world.host("beta").vms.pop(VM, None)
    for image in (world.folder / "beta" / "images").glob("*"):
        image.unlink()


def _arrival_undone() -> None:
    store = Journal.store

    def undo_where_full(self: Journal, record: PortRecord) -> None:
        try:
            store(self, record)
        except OSError:
            if record.side is Side.INBOUND and record.phase is Phase.DONE:
                _remove_arrived()
            raise

    Journal.store = undo_where_full  # type: ignore[method-assign]  # planted


def _unknown_is_no() -> None:
    by_name = HostPort.__getattr__

    def getattr_(self: HostPort, name: str) -> Any:
        call = by_name(self, name)
        if name != "state" or self._host is not _host():
            return call

        async def state(uuid: UUID) -> VmState | None:
            with contextlib.suppress(HypervisorError):
                found: VmState | None = await call(uuid)
                return found
            return None

        return state

    _HOST_PORT.__getattr__ = getattr_


def _no_fence() -> None:
    no_hook: Any = lambda _self, _name, _uuid: None  # noqa: E731  # planted
    services_world.World.fence = no_hook  # type: ignore[method-assign]  # planted
    by_name = HostPort.__getattr__

    def getattr_(self: HostPort, name: str) -> Any:
        if name != "set_autostart":
            return by_name(self, name)

        async def set_autostart(_uuid: UUID, *, enabled: bool) -> None:
            if enabled:
                await by_name(self, name)(_uuid, enabled=True)

        return set_autostart

    _HOST_PORT.__getattr__ = getattr_


def _recovery_removes() -> None:
    run_node = parties.run_node

    async def remove_first(world: Any, process: Process, party: Any) -> None:
        if party == BETA_NODE:
            records, _ = Journal(world.folder / "beta" / "state" / "ports").load()
            vm = world.host("beta").vms.get(VM)
            passed = any(record.phase is Phase.FINISH_PASSED for record in records)
            if passed and (vm is None or vm.state is not VmState.RUNNING):
                _remove_arrived()
        await run_node(world, process, party)

    parties.run_node = remove_first


def _thawed() -> None:
    by_name = HostPort.__getattr__

    def getattr_(self: HostPort, name: str) -> Any:
        if name != "kill_frozen":
            return by_name(self, name)

        async def kill_frozen(uuid: UUID) -> bool:
            await by_name(self, "thaw")(uuid)
            return True

        return kill_frozen

    _HOST_PORT.__getattr__ = getattr_


def _stale_timers() -> None:
    start = BrokerService.start

    async def forget(self: BrokerService) -> None:
        await start(self)
        async with self.store.transaction() as tx:
            await tx.execute(text("DELETE FROM timers WHERE key LIKE 'port:%:deadline'"))

    BrokerService.start = forget  # type: ignore[method-assign]  # planted


def _restart_not_noticed() -> None:
    def same(_: parties._BootId) -> str:
        return "always the same"

    parties._BootId.read_text = same  # type: ignore[method-assign, assignment]  # planted


def _shutting_down_runs() -> None:
    by_name = HostPort.__getattr__

    def getattr_(self: HostPort, name: str) -> Any:
        call = by_name(self, name)
        if name != "state":
            return call

        async def state(uuid: UUID) -> VmState | None:
            found: VmState | None = await call(uuid)
            return VmState.RUNNING if found is VmState.OTHER else found

        return state

    _HOST_PORT.__getattr__ = getattr_


PATCHES: Final[dict[str, Callable[[], None]]] = {
    "commit after Finish": _commit_after_finish,
    "ack before store": _ack_before_store,
    "disconnect is not idempotent": _disconnected_twice,
    "arrival that cannot be stored is undone": _arrival_undone,
    "unknown counts as not running": _unknown_is_no,
    "no fence against a boot": _no_fence,
    "recovery removes what may have run": _recovery_removes,
    "thawed instead of killed": _thawed,
    "stale timers after a restart": _stale_timers,
    "a restart of the host is not noticed": _restart_not_noticed,
    "shutting down counts as running": _shutting_down_runs,
}
