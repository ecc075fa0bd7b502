"""The client and its values."""

from __future__ import annotations

import vmport
from shared.client.sdk import TenantClient
from vmport import client


def test_names() -> None:
    """The package has them, and they are the ones that the command line uses."""
    assert vmport.Client is client.Client is TenantClient
    for name in client.__all__:
        assert getattr(vmport, name) is getattr(client, name)
