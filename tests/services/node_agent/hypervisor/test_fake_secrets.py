"""What the fake's secrets can besides the contract: fail, and be private."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.node_agent.hypervisor.fake_secrets import FakeSecrets
from services.node_agent.hypervisor.interface import ObstacleCode, SecretError
from services.node_agent.hypervisor.secret_values import SecretSpec, SecretValue
from shared.domain import SecretUsage, SecretUse, describe
from tests.support.domain_samples import with_device

SPEC = SecretSpec(UUID(int=1), SecretUsage.VTPM, "a key")


def secrets() -> FakeSecrets:
    """Of a host without VMs."""
    return FakeSecrets(lambda: None, lambda: iter(()))


async def test_a_private_secret_is_told_to_nobody() -> None:
    """And it speaks against moving its VM."""
    store = secrets()
    store.add(SPEC, b"key", private=True)
    with pytest.raises(SecretError, match="private"):
        await store.read(SPEC.uuid)
    tpm = f"<tpm model='tpm-crb'><backend type='emulator'><encryption secret='{SPEC.uuid}'/></backend></tpm>"
    (obstacle,) = store.obstacles(describe(with_device(tpm)))
    assert obstacle.code is ObstacleCode.SECRET


async def test_none_can_be_made_where_that_fails() -> None:
    """By the reason that a test gave."""
    store = secrets()
    store.fail_keep = "no space"
    with pytest.raises(SecretError, match="no space"):
        await store.keep(SPEC, SecretValue(b"key"))
    assert store.kept == []


async def test_the_usage_counts() -> None:
    """libvirt opens no disk with the secret of a TPM."""
    store = secrets()
    store.add(SPEC, b"key")
    with pytest.raises(SecretError):
        await store.find(SecretUse("disk vda", SecretUsage.VOLUME, "vda", str(SPEC.uuid)))
