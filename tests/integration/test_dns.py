"""DNS over real name servers: a primary that takes updates, a secondary that answers when the primary is dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from services.broker.dns import DnsChanged, DnsRefused, DnsUnavailable
from services.broker.dns_keeper import DnsKeeper
from services.broker.dns_records import DnsMark, DnsRecords
from services.broker.metrics import BrokerMetrics
from services.broker.settings import DnsSettings
from shared.backoff import Backoff
from shared.parties import BROKER
from shared.store import Store
from shared.testing import ManualClock
from tests.support.broker_ledger import open_ledger
from tests.support.broker_samples import NOW, PORT, VM, plan
from tests.support.knot_server import ALGORITHM, KEY_NAME, SECRET, ZONE, KnotServer
from tests.support.ported_vms import port_vm

pytestmark = pytest.mark.servers

BACK = UUID(int=77)
QUICK = Backoff(min_s=0.05, max_s=0.2)


@pytest.fixture
def servers() -> Iterator[tuple[KnotServer, KnotServer]]:
    """A primary and its secondary."""
    primary = KnotServer()
    secondary = KnotServer(primary=primary)
    try:
        primary.start()
        secondary.start()
        yield primary, secondary
    finally:
        secondary.close()
        primary.close()


def settings(primary: KnotServer, tmp_path: Path, *, secret: str = SECRET) -> DnsSettings:
    """As an operator writes them."""
    key = tmp_path / "dns.key"
    key.write_text(f"{secret}\n")
    return DnsSettings(
        server="127.0.0.1",
        port=primary.port,
        zone=ZONE,
        key_name=KEY_NAME,
        key_file=key,
        algorithm=ALGORITHM,
        ttl_s=5,
        timeout_s=2.0,
    )


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """A ledger with a VM of acme at alpha."""
    async with open_ledger(store_url, ManualClock(NOW)) as opened:
        yield opened


def keeper(store: Store, primary: KnotServer, tmp_path: Path) -> DnsKeeper:
    """As the broker has it."""
    server = settings(primary, tmp_path).name_server()
    return DnsKeeper(store, server, BrokerMetrics(CollectorRegistry()), poll_s=0.1, backoff=QUICK)


def mark(epoch: int, provider: str) -> tuple[str, ...]:
    """As a resolver shows it."""
    return (f'"epoch={epoch} provider={provider} vm={VM}"',)


async def until(server: KnotServer, name: str, kind: str, wanted: tuple[str, ...]) -> None:
    await asyncio.to_thread(server.until, name, kind, wanted)


async def test_a_port_is_seen_at_both_servers(
    store: Store, servers: tuple[KnotServer, KnotServer], tmp_path: Path
) -> None:
    """Addresses and mark; the secondary goes on answering when the primary was killed."""
    primary, secondary = servers
    await port_vm(store, VM, epoch=2, to="beta", port_id=PORT, planned=plan("extend"))
    assert await keeper(store, primary, tmp_path).work()
    for server in servers:
        await until(server, f"_vmport.web.{ZONE}", "TXT", mark(2, "beta"))
        await until(server, f"web.{ZONE}", "A", ("192.0.2.7",))
        await until(server, f"web.{ZONE}", "AAAA", ("2001:db8::7",))
    primary.kill()
    assert secondary.texts(f"_vmport.web.{ZONE}", "TXT") == mark(2, "beta")
    assert secondary.texts(f"web.{ZONE}", "A") == ("192.0.2.7",)


async def test_a_primary_that_comes_back_is_told_what_it_missed(
    store: Store, servers: tuple[KnotServer, KnotServer], tmp_path: Path
) -> None:
    """The port back does not wait for it; the keeper does, and both servers end with the newest epoch."""
    primary, secondary = servers
    names = keeper(store, primary, tmp_path)
    running = asyncio.get_running_loop().create_task(names.run())
    try:
        await port_vm(store, VM, epoch=2, to="beta", port_id=PORT, planned=plan("extend"))
        names.wake()
        await until(secondary, f"_vmport.web.{ZONE}", "TXT", mark(2, "beta"))
        primary.kill()
        await port_vm(store, VM, epoch=3, to="alpha", port_id=BACK, planned=plan("extend"))
        names.wake()
        await asyncio.sleep(0.5)
        assert secondary.texts(f"_vmport.web.{ZONE}", "TXT") == mark(2, "beta")
        await asyncio.to_thread(primary.start)
        for server in servers:
            await until(server, f"_vmport.web.{ZONE}", "TXT", mark(3, "alpha"))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_server_itself_refuses_an_older_epoch(servers: tuple[KnotServer, KnotServer], tmp_path: Path) -> None:
    """An update that was decided before a newer one was written comes too late."""
    primary, _ = servers
    server = settings(primary, tmp_path).name_server()
    old, new = DnsMark(VM, 2, "beta"), DnsMark(VM, 3, "alpha")
    await server.write("web", (), DnsRecords(old, ("192.0.2.7",)))
    with pytest.raises(DnsChanged):
        await server.write("web", (), DnsRecords(old, ("192.0.2.7",)))
    assert await server.marks("web") == (str(old),)
    await server.write("web", (str(old),), DnsRecords(new, ("192.0.2.7",)))
    with pytest.raises(DnsChanged):
        await server.write("web", (str(old),), DnsRecords(old, ("192.0.2.9",)))
    assert await server.marks("web") == (str(new),)
    assert primary.texts(f"web.{ZONE}", "A") == ("192.0.2.7",)
    await server.write("web", (str(new),), None)
    assert (await server.marks("web"), primary.texts(f"web.{ZONE}", "A")) == ((), ())
    await server.write("web", (), DnsRecords(old))


async def test_names_of_the_operators_stay(
    store: Store, servers: tuple[KnotServer, KnotServer], tmp_path: Path
) -> None:
    """A VM named like the name server gets its id, and the name server keeps its address."""
    primary, _ = servers
    server = settings(primary, tmp_path).name_server()
    with pytest.raises(DnsChanged):
        await server.write("ns1", (), DnsRecords(DnsMark(VM, 2, "beta"), ("192.0.2.7",)))
    assert primary.texts(f"ns1.{ZONE}", "A") == ("127.0.0.1",)
    assert store.party == BROKER


async def test_two_brokers_write_at_once(
    store: Store, store_url: str, servers: tuple[KnotServer, KnotServer], tmp_path: Path
) -> None:
    """On one ledger: both end without an error, and neither turns the other's back."""
    primary, _ = servers
    async with Store(store_url, BROKER, clock=ManualClock(NOW)) as second:
        both = [keeper(each, primary, tmp_path) for each in (store, second)]
        for epoch, provider, port_id in ((2, "beta", PORT), (3, "alpha", BACK), (4, "beta", UUID(int=78))):
            await port_vm(store, VM, epoch=epoch, to=provider, port_id=port_id, planned=plan("extend"))
            assert all(await asyncio.gather(*(each.work() for each in both)))
            assert primary.texts(f"_vmport.web.{ZONE}", "TXT") == mark(epoch, provider)


async def test_a_wrong_key_is_told(servers: tuple[KnotServer, KnotServer], tmp_path: Path) -> None:
    """As a refusal, which no waiting mends; a server that is gone is another matter."""
    primary, _ = servers
    wrong = settings(primary, tmp_path, secret="MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=").name_server()
    with pytest.raises(DnsRefused):
        await wrong.write("web", (), DnsRecords(DnsMark(VM, 2, "beta")))
    right = settings(primary, tmp_path).name_server()
    primary.kill()
    with pytest.raises(DnsUnavailable):
        await right.write("web", (), DnsRecords(DnsMark(VM, 2, "beta")))
