"""The identity of a VM."""

from __future__ import annotations

from shared.domain import identity_snapshot, rewrite_for_host
from tests.support.domain_samples import DOMAIN, MAC, PLACES


def test_the_identity_survives_a_rewrite() -> None:
    """The identity snapshot has no host-side part."""
    assert identity_snapshot(DOMAIN) == identity_snapshot(rewrite_for_host(DOMAIN, PLACES))
    assert identity_snapshot(DOMAIN) != identity_snapshot(DOMAIN.replace(MAC, "52:54:00:00:00:02"))
