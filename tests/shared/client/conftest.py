"""A broker that answers from a script, on a bus without a server."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from rich.console import Console

from shared.bus import BusDown, DeadLetter, Handler
from shared.client.cli import run
from shared.client.session import Session
from shared.client.settings import ClientSettings
from shared.messages import AnyEnvelope, Message, seal
from shared.messages.queries import (
    ListPorts,
    ListProviders,
    ListVms,
    PortShown,
    PortsListed,
    PortSummary,
    ProvidersListed,
    ProviderStatus,
    QueryFailed,
    RegisteredVm,
    ShowPort,
    VmsListed,
)
from shared.messages.service_change import PortPhase, PortRequested
from shared.messages.vm import VmState
from shared.parties import BROKER, Party, tenant

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ACME = tenant("acme")
WEB = RegisteredVm(
    uuid=UUID("aaaa1111-0000-4000-8000-000000000001"),
    name="web",
    state=VmState.RUNNING,
    memory_bytes=512 * 2**20,
    vcpus=1,
    disk_bytes=2 * 2**30,
    provider="alpha",
    node="alpha-1",
    epoch=1,
)
SHOP = WEB.model_copy(update={"uuid": UUID("aaaa2222-0000-4000-8000-000000000002"), "name": "shop"})

Script = Callable[["ScriptedBroker", AnyEnvelope], None]


@dataclass
class ScriptedBroker:
    """One tenant's bus, at whose other end a broker follows a script: it may answer at once, later, or not at all."""

    vms: tuple[RegisteredVm, ...] = (WEB, SHOP)
    ports: dict[UUID, PortShown] = field(default_factory=dict)
    on_command: Script | None = None
    after_record: tuple[Callable[[UUID], Message], ...] = ()
    silent: bool = False
    down: bool = False
    heard: list[AnyEnvelope] = field(default_factory=list)
    closed: bool = False
    _listening: bool = False
    _inbox: asyncio.Queue[AnyEnvelope] = field(default_factory=asyncio.Queue)

    @property
    def party(self) -> Party:
        return ACME

    async def publish(self, to: Party, envelope: AnyEnvelope) -> None:
        assert to == BROKER
        if self.down:
            raise BusDown("RabbitMQ at nowhere cannot be used")
        self.heard.append(envelope)
        if self.silent:
            return
        answer = self._answer(envelope.data)
        if answer is not None:
            self.say(answer, cause=envelope)
            if isinstance(answer, PortShown):
                for make in self.after_record:
                    self.say(make(answer.summary.port_id))
        elif self.on_command:
            self.on_command(self, envelope)

    def _answer(self, question: Message) -> Message | None:
        match question:
            case ListVms():
                return VmsListed(vms=self.vms)
            case ListProviders():
                beta = ProviderStatus(
                    name="beta", last_seen=NOW, nodes=2, nodes_healthy=1, memory_free_bytes=2**33, disk_free_bytes=2**40
                )
                return ProvidersListed(providers=(beta,))
            case ListPorts(limit=limit):
                return PortsListed(ports=tuple(shown.summary for shown in self.ports.values())[:limit])
            case ShowPort(port_id=port_id):
                return self.ports.get(port_id) or QueryFailed(code="not_found", detail=f"there is no port {port_id}")
            case _:
                return None

    def say(self, message: Message, *, cause: AnyEnvelope | None = None) -> None:
        self._inbox.put_nowait(seal(message, source=BROKER, message_id=uuid4(), now=NOW, cause=cause))

    async def consume(
        self, handler: Handler, *, on_dead: Callable[[DeadLetter], Awaitable[None]] | None = None
    ) -> None:
        assert on_dead is None, "a tenant's client has nobody to tell of dead letters"
        self._inbox = asyncio.Queue()
        self._listening = not self.down
        while True:
            await handler(await self._inbox.get())

    async def ready(self) -> bool:
        return not self.down

    async def wait_listening(self) -> int:
        while not self._listening:  # noqa: ASYNC110  # an Event would belong to one loop; each command line has its own
            await asyncio.sleep(0)
        return 1

    async def close(self) -> None:
        self.closed = True
        self._listening = False


def shown_port(port_id: UUID, phase: PortPhase = PortPhase.APPROVAL, **changes: Any) -> PortShown:
    """The broker's record of a port of WEB."""
    summary = PortSummary(
        port_id=port_id,
        vm_uuid=WEB.uuid,
        vm_name=WEB.name,
        donor="alpha",
        recipient="beta",
        phase=phase,
        requested_at=NOW,
        updated_at=NOW,
    )
    request = PortRequested(port_id=port_id, vm_uuid=WEB.uuid, donor="alpha", recipient="beta")
    return PortShown.model_validate({"summary": summary, "request": request, "events": ()} | changes)


@dataclass
class Cli:
    """The command line against a scripted broker."""

    broker: ScriptedBroker
    home: Path
    out: str = ""
    err: str = ""

    def __call__(self, *arguments: str) -> int:
        """Run one command line; returns its exit code and keeps what it wrote."""
        out, err = io.StringIO(), io.StringIO()

        async def connect(_: ClientSettings) -> ScriptedBroker:
            return self.broker

        session = Session(
            connect=connect, out=Console(file=out, width=200), err=Console(file=err, width=200), home=self.home
        )
        code = run(["--url", "amqp://tenant.acme:secret@localhost/vmport", *arguments], session)
        self.out, self.err = out.getvalue(), err.getvalue()
        return code


@pytest.fixture
def broker() -> ScriptedBroker:
    """A broker that answers questions and takes commands."""
    return ScriptedBroker()


@pytest.fixture
def record() -> Callable[..., PortShown]:
    """Makes a port's record."""
    return shown_port


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A run of the command line sets up logging of its process, which here is pytest's."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def vmport(broker: ScriptedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, away from the user's own settings."""
    for name in ("VMPORT_CONFIG", "VMPORT_BUS__URL"):
        monkeypatch.delenv(name, raising=False)
    return Cli(broker, tmp_path)
