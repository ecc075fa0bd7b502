"""A gateway of a neutral prefix is killed between any two of its deeds: in the end it serves as it was told last."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.network.served import ServedVms
from shared.messages.addresses import ServeAddresses
from shared.messages.network import CareOf
from tests.services.node_agent.network.plans import CARE_OF, PORT
from tests.services.node_agent.network.test_keeper import LATER
from tests.support.mortal_keeper import Fuse, FusedMaker, in_a_process
from tests.support.network_shot import differences, network_shot
from tests.support.own_network import needs_root, own_network

pytestmark = [pytest.mark.servers, needs_root]

VM = UUID(int=7)
ELSEWHERE = (CareOf(address="10.81.1.10", real="10.82.3.1"),)


def word(port_id: UUID, epoch: int, care_of: tuple[CareOf, ...]) -> ServeAddresses:
    return ServeAddresses(port_id=port_id, vm_uuid=VM, epoch=epoch, owner="beta", care_of=care_of)


WORDS = (
    word(PORT, 1, CARE_OF),
    # The next port goes to a provider with one family only, and is taken back; then it goes there after all.
    word(LATER, 2, ELSEWHERE),
    word(LATER, 3, ()),
    word(UUID(int=9), 4, ELSEWHERE),
)


def serve(folder: Path, *, dies_at: int | None = None) -> int | None:
    """A process that hears what has not been answered yet, as the broker says it again."""

    async def go_on(fuse: Fuse) -> None:
        served = ServedVms(folder / "served", FusedMaker(fuse))
        assert await served.restore() == ()
        answered = folder / "answered"
        for number in range(int(answered.read_text("ascii")) if answered.exists() else 0, len(WORDS)):
            epoch = await served.serve(WORDS[number])
            fuse.burn()
            assert epoch == WORDS[number].epoch
            answered.write_text(str(number + 1), "ascii")
            fuse.burn()

    folder.mkdir(exist_ok=True)
    return in_a_process(go_on, folder, dies_at=dies_at)


def test_a_gateway_serves_as_it_was_told_last_whenever_it_dies(tmp_path: Path) -> None:
    """Nothing of what it was told before is left, and a word that came twice does no harm."""
    folder = tmp_path / "gateway"
    with own_network():
        deeds = serve(folder)
        wanted = network_shot()
        assert deeds is not None
        assert deeds > 2 * len(WORDS)
        for number in range(1, deeds + 1):
            subprocess.run(["nft", "flush", "ruleset"], check=True, timeout=10)
            shutil.rmtree(folder)
            assert serve(folder, dies_at=number) is None
            serve(folder)
            assert differences(wanted, network_shot()) == [], f"killed at deed {number}"
