"""Certificates for tests of secure lanes."""

from __future__ import annotations

import pytest

from tests.lane_credentials import Pair, make_pair


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two node agents that pin each other; made once, key generation is slow enough."""
    return make_pair(tmp_path_factory.mktemp("keys"))
