"""What the donor hands over: exactly what was agreed, read when the window is open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest

from services.node_agent.hypervisor.interface import SecretError
from services.node_agent.hypervisor.secret_values import SecretValue
from services.node_agent.transfers.outbound_secrets import hand_over_secrets
from shared.messages.service_change import PortLimits
from tests.support.lane_credentials import Pair as CredentialsPair
from tests.support.transfer_pair import ENCRYPTED_TPM, NOW, VM, Pair, made_pair


@pytest.fixture
async def sealed(credentials: CredentialsPair) -> AsyncIterator[Pair]:
    """A VM whose TPM is encrypted; its window opens in an hour."""
    limits = PortLimits(window_start=NOW + timedelta(hours=1), seed=True)
    async with made_pair(credentials, limits=limits, keys={"tpm": b"key"}) as made:
        yield made


async def test_a_key_is_not_read_before_the_window_is_open(sealed: Pair) -> None:
    """Seeding may begin days before."""
    opened: list[bool] = []
    read = sealed.donor.secrets.read

    async def looked_at(uuid: UUID) -> SecretValue:
        opened.append(sealed.now >= sealed.agreement.window_start)
        return await read(uuid)

    sealed.donor.secrets.read = looked_at  # type: ignore[method-assign]
    seed = sealed.outbound._preparation.seed_until_window

    async def until_window() -> None:
        sealed.now = NOW + timedelta(hours=2)
        await seed()

    sealed.outbound._preparation.seed_until_window = until_window  # type: ignore[method-assign]
    await sealed.run()
    assert opened == [True]


async def test_a_vm_without_encryption_hands_nothing_over(pair: Pair) -> None:
    """No stream is opened, so that a recipient of an earlier release takes it."""
    vm = await pair.donor.describe(VM)
    assert await hand_over_secrets(vm, pair.agreement, pair.donor, None) == ()  # type: ignore[arg-type]  # not used


async def test_another_encryption_than_agreed_hands_nothing_over(pair: Pair) -> None:
    """A key that the recipient's definition does not name is nobody's there."""
    xml = pair.domain_xml.replace("<interface", ENCRYPTED_TPM % UUID(int=9) + "<interface")
    pair.donor.vms[VM].domain_xml = xml
    with pytest.raises(SecretError, match="not what was agreed"):
        await hand_over_secrets(await pair.donor.describe(VM), pair.agreement, pair.donor, pair.lanes_a.control)
