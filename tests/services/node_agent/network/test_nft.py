"""One batch is made whole or not at all, in a network namespace of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.node_agent.network.nft import Nft, NftError
from tests.support.own_network import needs_root, own_network


@pytest.fixture
def _network() -> Iterator[None]:
    with own_network():
        yield


CHAIN = {"chain": {"family": "inet", "table": "vmport_t", "name": "c"}}


@needs_root
@pytest.mark.usefixtures("_network")
async def test_a_table_is_made_replaced_and_removed() -> None:
    nft = Nft()
    for _ in range(2):
        await nft.replace_table("inet", "vmport_t", [CHAIN])
    assert await nft.tables() == (("inet", "vmport_t"),)
    for _ in range(2):
        await nft.delete_table("inet", "vmport_t")
    assert await nft.tables() == ()


@needs_root
@pytest.mark.usefixtures("_network")
async def test_a_batch_with_an_error_changes_nothing() -> None:
    nft = Nft()
    bad = {"rule": {"family": "inet", "table": "vmport_t", "chain": "missing", "expr": [{"drop": None}]}}
    with pytest.raises(NftError, match="No such file"):
        await nft.replace_table("inet", "vmport_t", [CHAIN, bad])
    assert await nft.tables() == ()


async def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(NftError, match="install nftables"):
        await Nft("no-such-nft").tables()


async def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "nft"
    program.write_text("#!/bin/sh\nexec sleep 60\n", encoding="ascii")
    program.chmod(0o755)
    with pytest.raises(NftError, match="has not answered"):
        await Nft(str(program), timeout_s=0.2).apply([])
