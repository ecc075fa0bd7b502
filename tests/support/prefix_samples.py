"""A prefix with all its proofs, and keys of its holder and of a stranger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.prefix_authorisation import Authorisation

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PREFIX, DONOR_AS, OUR_AS = "198.51.100.0/24", 65_001, 65_002


@dataclass(frozen=True)
class Keys:
    """PEM."""

    private: str
    public: str


def _keys() -> Keys:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Keys(private.decode(), public.decode())


HOLDER, STRANGER = _keys(), _keys()


def authorisation(**changes: Any) -> Authorisation:
    """Acme's word about its prefix, from yesterday for ninety days."""
    facts: dict[str, Any] = {
        "prefix": PREFIX,
        "holder": "acme",
        "donor_as": DONOR_AS,
        "recipient_as": OUR_AS,
        "not_before": NOW - timedelta(days=1),
        "not_after": NOW + timedelta(days=89),
    }
    return Authorisation.model_validate(facts | changes)
