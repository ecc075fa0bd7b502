"""The identity of a VM."""

from __future__ import annotations

from shared.domain import build_for_host, identity_snapshot, portable
from tests.support.domain_samples import DOMAIN, MAC, PLACES


def test_the_identity_is_the_same_on_every_host() -> None:
    """The identity snapshot has no host-side part: it is that of the portable form, too."""
    assert identity_snapshot(DOMAIN) == identity_snapshot(build_for_host(DOMAIN, PLACES))
    assert identity_snapshot(DOMAIN) == identity_snapshot(portable(DOMAIN))
    assert identity_snapshot(DOMAIN) != identity_snapshot(DOMAIN.replace(MAC, "52:54:00:00:00:02"))
