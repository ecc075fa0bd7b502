"""Steps as files: read back as they were written; names that are none are refused."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from services.node_agent.network.steps import (
    Address,
    Bridge,
    Neighbour,
    NftTable,
    ProxyNeighbour,
    Queue,
    Route,
    Setting,
    Step,
)

STEPS: dict[str, Step] = {
    "bridge vmp0": Bridge(name="vmp0", mac="02:00:00:00:00:01", mtu=1400),
    "address 192.0.2.1 on vmp0": Address(device="vmp0", address="192.0.2.1"),
    "route to 192.0.2.7/32 over vmp0 in table 7070": Route(destination="192.0.2.7/32", device="vmp0", table=7070),
    "route to 2001:db8::/64 by fe80::1 in table 254": Route(destination="2001:db8::/64", via="fe80::1"),
    "answers for 192.0.2.7 on br0": ProxyNeighbour(device="br0", address="192.0.2.7"),
    "neighbour 192.0.2.7 is 02:00:00:00:00:02 on vmp0": Neighbour(
        device="vmp0", address="192.0.2.7", mac="02:00:00:00:00:02"
    ),
    "ipv6 accept_ra=0 on vmp0": Setting(device="vmp0", family="ipv6", name="accept_ra", value="0"),
    "queue of 128 frames at vnet7": Queue(device="vnet7", frames=128),
    "nftables table inet vmport_a": NftTable(family="inet", name="vmport_a", objects=({"set": {"elem": [1]}},)),
}


@pytest.mark.parametrize(("text", "step"), STEPS.items())
def test_written_and_read(text: str, step: Step) -> None:
    adapter: TypeAdapter[Step] = TypeAdapter(Step)
    assert adapter.validate_json(adapter.dump_json(step)) == step
    assert str(step) == text


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "bridge", "name": "a-name-of-16-let"},
        {"kind": "bridge", "name": "../x"},
        {"kind": "setting", "device": "vmp0", "family": "ipv4", "name": "../../kernel", "value": "1"},
        {"kind": "nft_table", "family": "inet", "name": "filter", "objects": []},
        {"kind": "command", "argv": ["reboot"]},
    ],
)
def test_what_could_reach_elsewhere_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Step).validate_python(wrong)
