"""Secrets at the recipient: made for the port, known to the journal before, gone with a port that fails. And whole
ports of encrypted VMs, in which a planted key must show nowhere.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog

from services.node_agent.hypervisor.interface import SecretError
from services.node_agent.hypervisor.luks import LuksOptions, is_encrypted, luks_options
from services.node_agent.hypervisor.secret_values import SecretSpec, SecretValue, made_by
from services.node_agent.state.journal import Kind, Made, PortRecord, TransferJournal
from services.node_agent.transfers.cleanup import remove_created
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.outbound_result import OutboundResult
from services.node_agent.transfers.outbound_secrets import hand_over_secrets
from services.node_agent.transfers.secret_handover import HandedSecret, hand_over
from shared.domain import SecretUsage, describe
from shared.messages.porting import InboundFinished, OutboundFinished, Side, TransferFailed
from shared.parties import BROKER, donor, recipient
from tests.support.lane_credentials import Pair as CredentialsPair
from tests.support.node_world import ALPHA, BETA, World
from tests.support.transfer_pair import ENCRYPTED_TPM, LUKS_DISK, VM, Pair, made_pair, make_agreement

KEY, DISK_KEY = b"planted-key-of-the-tpm", b"planted-key-of-the-disk"


@pytest.fixture
async def sealed(credentials: CredentialsPair) -> AsyncIterator[Pair]:
    """A port of a VM whose TPM is encrypted."""
    async with made_pair(credentials, keys={"tpm": KEY}) as made:
        yield made


@pytest.fixture
async def encrypted(credentials: CredentialsPair) -> AsyncIterator[Pair]:
    """A port of a VM whose TPM and disk are encrypted."""
    async with made_pair(credentials, keys={"tpm": KEY, LUKS_DISK: DISK_KEY}) as made:
        yield made


def ours(pair: Pair, device: str = "tpm") -> UUID:
    """The secret that the recipient's definition names."""
    return next(UUID(use.uuid) for use in describe(pair.agreement.domain_xml).secrets if use.device == device)


def made(pair: Pair) -> set[str]:
    """Secrets that the recipient's journal lists."""
    return {each.id for each in pair.journals[Side.INBOUND].record.made if each.kind is Kind.SECRET}


def spellings(key: bytes) -> tuple[bytes, ...]:
    """How a key could stand somewhere."""
    return key, base64.b64encode(key), key.hex().encode(), repr(key).encode(), base64.b64encode(key[1:])[:-4]


def assert_shown_nowhere(folder: Path, *texts: str) -> None:
    """No file below the folder and none of these texts has a planted key."""
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    for data in (*contents, *(text.encode() for text in texts)):
        for spelt in (*spellings(KEY), *spellings(DISK_KEY)):
            assert spelt not in data


async def test_the_key_arrives_as_a_secret_of_the_recipients(sealed: Pair) -> None:
    """Of another UUID, with the port in its usage; the donor's stays until its disks are erased."""
    result, failure = await sealed.run()

    assert failure is None
    assert isinstance(result, OutboundResult)
    secret = sealed.recipient.secrets.there[ours(sealed)]
    assert secret.value == SecretValue(KEY)
    assert (secret.spec.usage, secret.private) == (SecretUsage.VTPM, False)
    assert secret.spec.usage_id.startswith(made_by(sealed.agreement.port_id))
    assert ours(sealed) != sealed.secrets["tpm"]
    assert sealed.journals[Side.OUTBOUND].record.secrets == (sealed.secrets["tpm"],)
    assert sealed.secrets["tpm"] in sealed.donor.secrets.there


async def test_a_planted_key_shows_nowhere(sealed: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a log, a journal, a message to the broker, a file of either node, or what crosses the lanes."""
    frames: list[bytes] = []
    for route in sealed.routes.values():
        for link in (route.a, route.b):
            _overhear(link, frames)
    caplog.set_level("DEBUG")
    with structlog.testing.capture_logs() as lines:
        await sealed.run()

    assert any(line["event"] == "secrets kept" for line in lines)
    assert frames
    messages = [message.model_dump_json() for message in sealed.broker.asked]
    assert_shown_nowhere(sealed.tmp, repr(lines), caplog.text, *messages, b"".join(frames).decode("latin-1"))


def _overhear(link: Any, frames: list[bytes]) -> None:
    send = link.send

    async def heard(frame: Any, *more: Any, **named: Any) -> Any:
        frames.append(bytes(frame))
        return await send(frame, *more, **named)

    link.send = heard


@pytest.mark.servers
async def test_an_encrypted_disk_is_made_like_the_donors_and_nothing_is_kept_in_clear(
    encrypted: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """The image at the recipient has LUKS inside; neither node stores a block or page of the VM besides."""
    caplog.set_level("DEBUG")
    with structlog.testing.capture_logs() as lines:
        result, failure = await encrypted.run()

    assert failure is None
    assert isinstance(result, OutboundResult)
    assert is_encrypted(str(encrypted.image))
    assert (await luks_options(str(encrypted.image))).values["cipher-alg"] == "aes-128"
    assert encrypted.recipient.secrets.there[ours(encrypted, LUKS_DISK)].value == SecretValue(DISK_KEY)
    assert encrypted.cached(Side.INBOUND) == encrypted.cached(Side.OUTBOUND) == set()
    assert_shown_nowhere(encrypted.tmp, repr(lines), caplog.text)
    for path in encrypted.tmp.rglob("*-state/**/*"):
        assert path.is_dir() or b"page" not in path.read_bytes(), path


@pytest.mark.servers
async def test_a_medium_comes_along_with_an_encrypted_disk(credentials: CredentialsPair) -> None:
    """As a file, whole, though nothing of it is stored to be referred to."""
    iso = bytes(range(256)) * 64 * 3
    async with made_pair(credentials, keys={LUKS_DISK: DISK_KEY}, medium=iso) as pair:
        _, failure = await pair.run()
        assert failure is None
        assert pair.arrived_medium.read_bytes() == iso
        assert pair.cached(Side.INBOUND) == set()


@pytest.mark.servers
async def test_a_failed_port_leaves_no_key_and_no_disk(encrypted: Pair) -> None:
    """Whatever was made; and nothing is kept of what was sent."""
    encrypted.broker.denies = "the tenant cancelled"
    await encrypted.run()

    assert encrypted.recipient.secrets.there == {}
    assert len(encrypted.recipient.secrets.kept) == 2
    assert not encrypted.image.exists()
    assert encrypted.journals[Side.INBOUND].record.made == ()
    assert set(encrypted.donor.secrets.there) == set(encrypted.secrets.values())


async def test_the_journal_knows_a_secret_before_it_is_made(sealed: Pair) -> None:
    """With its UUID, and never with its value."""
    known: list[set[str]] = []
    keep = sealed.recipient.secrets.keep

    async def looked_at(spec: SecretSpec, value: SecretValue) -> None:
        known.append(made(sealed))
        await keep(spec, value)

    sealed.recipient.secrets.keep = looked_at  # type: ignore[method-assign]
    await sealed.run()
    assert known == [{str(ours(sealed))}]


async def test_a_secret_of_somebody_else_is_neither_overwritten_nor_removed(sealed: Pair) -> None:
    """The port fails by name, and the guest runs on at the donor."""
    theirs = SecretSpec(ours(sealed), SecretUsage.VTPM, "another VM's TPM")
    sealed.recipient.secrets.add(theirs, b"theirs")

    result, failure = await sealed.run()

    assert isinstance(result, TransferError)
    assert isinstance(failure, TransferError)
    assert (failure.code, result.guest_running) == ("secret", True)
    assert sealed.recipient.secrets.there[ours(sealed)].value == SecretValue(b"theirs")


@pytest.mark.parametrize("at", ["listed", "kept"])
async def test_a_crash_leaves_no_secret_behind(sealed: Pair, at: str) -> None:
    """The next process finds it in the journal, whether it had been made or not."""
    keep = sealed.recipient.secrets.keep
    died = asyncio.Event()

    async def dies(spec: SecretSpec, value: SecretValue) -> None:
        if at == "kept":
            await keep(spec, value)
        died.set()
        await asyncio.Event().wait()

    sealed.recipient.secrets.keep = dies  # type: ignore[method-assign]
    await sealed.inbound.open()
    running = [asyncio.ensure_future(sealed.run_inbound()), asyncio.ensure_future(sealed.run_outbound())]
    await asyncio.wait_for(died.wait(), 10)
    stored = PortRecord.model_validate_json(sealed.journals[Side.INBOUND].record.model_dump_json())
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)

    assert bool(sealed.recipient.secrets.there) is (at == "kept")
    journal = TransferJournal(sealed.journals[Side.INBOUND]._journal, stored)
    assert await remove_created(journal, sealed.recipient) == ()
    assert sealed.recipient.secrets.there == {}
    assert Made(kind=Kind.SECRET, id=str(ours(sealed))) not in journal.record.made


async def test_without_its_key_no_domain_is_made(sealed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A donor that hands none over cannot let the definition name a secret that happens to be there."""
    sealed.recipient.secrets.add(SecretSpec(ours(sealed), SecretUsage.VTPM, "another VM's TPM"), b"theirs")

    async def none(_: object) -> tuple[UUID, ...]:
        return ()

    monkeypatch.setattr(sealed.outbound._preparation, "hand_over_secrets", none)
    _, failure = await sealed.run()

    assert isinstance(failure, TransferError)
    assert failure.code == "secret"
    assert "have not come" in failure.detail
    assert VM not in sealed.recipient.vms


async def test_secrets_come_once_and_not_after_the_domain(sealed: Pair) -> None:
    """A second handover changes nothing; nor does one when what was made is being removed."""
    await sealed.inbound.open()
    running = asyncio.ensure_future(sealed.run_inbound())
    await sealed.lanes_a.wait_ready(5)
    await sealed.inbound._secrets.settle()
    with pytest.raises(SecretError, match="too late"):
        await hand_over(sealed.lanes_a.control, {"tpm": HandedSecret(SecretValue(KEY))})
    assert sealed.recipient.secrets.there == {}
    assert isinstance(await running, TransferError)


def _private(pair: Pair) -> None:
    spec = pair.donor.secrets.there[pair.secrets["tpm"]].spec
    pair.donor.secrets.add(spec, KEY, private=True)


def _gone(pair: Pair) -> None:
    pair.donor.secrets.there.clear()


@pytest.mark.parametrize(("spoil", "reason"), [(_private, "private"), (_gone, "not there")])
async def test_a_key_that_cannot_be_told_is_named_before_anything_moves(
    sealed: Pair, spoil: Callable[[Pair], None], reason: str
) -> None:
    """As an obstacle of the VM; and where it comes up later, as the end of the port."""
    spoil(sealed)
    (obstacle,) = await sealed.donor.obstacles(VM)
    assert str(obstacle).startswith("secret: the secret of tpm")
    assert reason in obstacle.detail
    with pytest.raises(SecretError):
        await hand_over_secrets(await sealed.donor.describe(VM), sealed.agreement, sealed.donor, sealed.lanes_a.control)


@pytest.mark.servers
async def test_a_disk_that_is_agreed_otherwise_is_not_made(encrypted: Pair) -> None:
    """An encrypted disk is QCOW2; nothing encrypted becomes a plain file."""
    disks = tuple(disk.model_copy(update={"format": "raw"}) for disk in encrypted.agreement.disks)
    encrypted.inbound._disks._agreement = encrypted.agreement.model_copy(update={"disks": disks})
    _, failure = await encrypted.run()

    assert isinstance(failure, TransferError)
    assert "not agreed as LUKS" in failure.detail
    assert encrypted.recipient.secrets.there == {}


async def test_an_encrypted_disk_is_no_overlay(sealed: Pair) -> None:
    """Even if the donor asks for it: what lies beneath would be read without its key."""
    sealed.inbound._disks._encrypted = frozenset({"vda"})
    assert not await sealed.inbound._disks._make_overlays(None)  # type: ignore[arg-type]  # it is not looked at


def test_options_are_compared_by_value() -> None:
    """Two images made alike are alike."""
    assert LuksOptions({"hash-alg": "sha256"}) == LuksOptions({"hash-alg": "sha256"})


@pytest.fixture
def sealed_world(world: World) -> World:
    """Two whole nodes, and a VM whose TPM is encrypted."""
    secret = UUID(int=77)
    world.alpha.hypervisor.secrets.add(SecretSpec(secret, SecretUsage.VTPM, "web's TPM"), KEY)
    world.domain_xml = world.domain_xml.replace("<interface", ENCRYPTED_TPM % secret + "<interface")
    world.alpha.hypervisor.vms[VM].domain_xml = world.domain_xml
    world.agreement = make_agreement(
        world.beta.settings.image_dir / "web.raw",
        domain_xml=world.domain_xml,
        donor_lane=world.alpha.keys.endpoint,
        recipient_lane=world.beta.keys.endpoint,
    )
    world.ledger.port_id = world.agreement.port_id
    return world


async def test_whole_nodes_tell_nobody_a_key(sealed_world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Not the broker, not their agents, in no message; and no file of theirs has it, during the port and after it."""
    world = sealed_world
    caplog.set_level("DEBUG")
    with structlog.testing.capture_logs() as lines:
        world.alpha.hypervisor.memory_flows.clear()
        await world.start_port()
        await asyncio.wait_for(world.beta.hypervisor.prepared.wait(), 10)
        assert len(world.beta.hypervisor.secrets.there) == 1
        assert_shown_nowhere(world.tmp)
        world.alpha.hypervisor.memory_flows.set()
        await world.hear(recipient("beta"), InboundFinished)
        await world.hear(donor("alpha"), OutboundFinished)
    parties = (BROKER, ALPHA, BETA, donor("alpha"), recipient("beta"))
    told = [repr(envelope) for party in parties for envelope in world.broker.received(party)]
    assert len(told) > 4
    assert_shown_nowhere(world.tmp, repr(lines), caplog.text, *told)
    assert world.beta.hypervisor.secrets.there[ours_of(world)].value == SecretValue(KEY)


async def test_an_agent_that_dies_leaves_no_key_behind(sealed_world: World) -> None:
    """Its successor removes it with all else, by the journal."""
    world = sealed_world
    world.alpha.hypervisor.memory_flows.clear()
    await world.start_port()
    await asyncio.wait_for(world.beta.hypervisor.prepared.wait(), 10)
    await world.beta.kill()
    assert set(world.beta.hypervisor.secrets.there) == {ours_of(world)}
    world.alpha.hypervisor.memory_flows.set()
    await world.beta.start()
    await world.hear(recipient("beta"), TransferFailed)
    assert world.beta.hypervisor.secrets.there == {}
    assert len(world.alpha.hypervisor.secrets.there) == 1


def ours_of(world: World) -> UUID:
    """The secret that beta's definition names."""
    (use,) = describe(world.agreement.domain_xml).secrets
    return UUID(use.uuid)
