"""A secret's value shows itself nowhere."""

from __future__ import annotations

import copy
import json
import pickle
from uuid import UUID

import pytest

from services.node_agent.hypervisor.secret_values import MAX_SECRET_BYTES, SecretValue, made_by, spec_for
from shared.domain import SecretUsage, SecretUse

VALUE = b"correct horse"


def test_a_value_is_shown_to_nobody_by_accident() -> None:
    """Not by any way in which values get into logs, journals and messages."""
    secret = SecretValue(VALUE)

    for shown in (repr(secret), str(secret), f"{secret}", f"{[secret]}", repr({"key": secret})):
        assert "horse" not in shown
        assert "<secret>" in shown
    for lose in (pickle.dumps, json.dumps, hash, copy.deepcopy):
        with pytest.raises(TypeError):
            lose(secret)
    assert secret.reveal() == VALUE
    assert secret == SecretValue(VALUE)
    assert secret != SecretValue(b"another")
    assert secret != VALUE


@pytest.mark.parametrize("size", [0, MAX_SECRET_BYTES + 1])
def test_a_value_has_a_bound(size: int) -> None:
    """An error says how long it is and no more."""
    with pytest.raises(ValueError, match=f"{size} bytes") as caught:
        SecretValue(b"k" * size)
    assert "kkk" not in str(caught.value)


def test_a_ports_secret_is_known_by_its_usage() -> None:
    """Whose it is can be told from it alone."""
    port = UUID(int=5)
    spec = spec_for(SecretUse("disk vda", SecretUsage.VOLUME, "vda", str(UUID(int=6))), port, "web")

    assert (spec.uuid, spec.usage) == (UUID(int=6), SecretUsage.VOLUME)
    assert spec.usage_id.startswith(made_by(port))
    assert not spec.usage_id.startswith(made_by(UUID(int=4)))
    with pytest.raises(ValueError, match="badly formed"):
        spec_for(SecretUse("tpm", SecretUsage.VTPM), port, "web")
